"""Time columns in any of the formats that people use."""
