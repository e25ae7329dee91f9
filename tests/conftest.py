"""Fixtures of the whole test tree and the profile of hypothesis."""

from __future__ import annotations

import os

from hypothesis import settings

from tests.support.broker import kafka_broker

__all__ = ["kafka_broker"]

# Derandomised, so that a red build is red again; the deadline is off because machines differ.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
