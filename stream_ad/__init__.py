"""Anomaly detection for sensor fleets on Kafka."""

__version__ = "0.1.0"
