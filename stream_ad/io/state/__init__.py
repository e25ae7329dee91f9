"""What a partition's state is rebuilt from, besides its input."""
