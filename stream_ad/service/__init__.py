"""Long-running roles and what they share."""
