"""Training, calibration, evaluation and reports."""
