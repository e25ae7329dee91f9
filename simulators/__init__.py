"""Simulated sensor fleets with labelled faults: `python -m simulators --help`."""
