"""Apache Kafka; the only modules that see kafka-python."""
