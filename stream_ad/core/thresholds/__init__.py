"""Thresholds: limits that recalibrate themselves on quiet rows; one file each."""
