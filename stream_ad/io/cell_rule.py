"""What a cell of a reading is, wherever it comes from."""

from __future__ import annotations

import math

LARGEST = math.nextafter(2.0**128 - 2.0**103, 0.0)
"""Whatever is larger is infinite in single precision: no measurement but a bad value."""
