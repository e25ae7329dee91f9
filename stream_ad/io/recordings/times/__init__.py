"""Columns of times, in any of the ways people write them."""
