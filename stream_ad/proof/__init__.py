"""Whether the rows that were published are the ones that the input gives."""
