"""Checkpoint + input + journal -> step results: the one code path for live work, recovery, audit and verification.

State is a cache of the log. Owning a partition means to load a checkpoint, read on from its offset with the journal
merged in, and drop what is already public.
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
