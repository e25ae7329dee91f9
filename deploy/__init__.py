"""What runs beside the package: brokers, containers, dashboards. Not part of the wheel."""
