"""Checkpoint + input + journal -> step results: one way for live work, recovery, audit and verification.

State is a cache of the log. To own a partition is to load a checkpoint, read on from its offset with the journal
merged in, and drop what is public already.
"""

from stream_ad.replaying.lineage import LOST_KEPT, Lineage, Marker
from stream_ad.replaying.recompute import Recomputed, Recomputing
from stream_ad.replaying.recovery import Recovery, recover
from stream_ad.replaying.replay import PartitionReplay, Stepped

__all__ = [
    "LOST_KEPT",
    "Lineage",
    "Marker",
    "PartitionReplay",
    "Recomputed",
    "Recomputing",
    "Recovery",
    "Stepped",
    "recover",
]
