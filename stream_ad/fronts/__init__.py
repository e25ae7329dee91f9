"""Kinds of input: each turns a stream's records into scored rows."""
