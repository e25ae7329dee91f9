"""Thresholds: limits that adapt to quiet rows; one file each."""
