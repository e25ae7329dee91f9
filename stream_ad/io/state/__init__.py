"""Checkpoints and journal, from which a partition's state is rebuilt together with its input."""
