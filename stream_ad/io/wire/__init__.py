"""Encoding and decoding of records."""
