"""Apache Kafka; the only modules that import kafka-python."""
