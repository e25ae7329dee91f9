"""Recordings -> bundles."""
