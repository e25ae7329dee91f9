"""The Parquet score log."""
