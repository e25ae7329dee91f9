"""Long-running roles and the infrastructure they share."""
