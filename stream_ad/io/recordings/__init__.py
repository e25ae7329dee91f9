"""Recordings: CSV, Parquet, JSONL -> readings."""
