"""Kinds of input: what turns the records of a stream into scored rows."""
