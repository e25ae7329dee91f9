"""Anomaly detection for sensor fleets on Kafka."""

__version__ = "0.2.0"
