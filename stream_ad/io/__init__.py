"""Bytes and files: transports, wire formats, Parquet, checkpoints, bundles."""
