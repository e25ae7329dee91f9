"""A real Apache Kafka for tests, the demo and the benchmarks."""
