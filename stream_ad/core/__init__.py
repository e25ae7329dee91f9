"""The functional core: no input or output, no clock, no unseeded randomness."""
