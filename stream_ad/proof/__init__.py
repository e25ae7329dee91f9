"""Proofs that the published rows are those that the input gives."""
