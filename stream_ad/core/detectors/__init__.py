"""Detectors: one file each with fit, score and load; `catalog` names them."""
