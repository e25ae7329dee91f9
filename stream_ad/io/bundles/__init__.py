"""Models stored as folders."""
