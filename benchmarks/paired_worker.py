"""One side of a paired measurement: a scorer of the `stream_ad` that PYTHONPATH names works off an embedded log.

Run as a script. Of the checkout it measures it needs only what has stayed in place. Prints where the package was found,
the processor time in seconds from the first poll to the last commit, and the process's peak of memory in MB.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

TURNS = 10
"""Between two looks at how far is committed."""


def main(config: str) -> None:
    import stream_ad
    from stream_ad.assembly import open_transport
    from stream_ad.config import load
    from stream_ad.io.transport import Partition
    from stream_ad.service.roles import scorer
    from stream_ad.service.roles.catalog import RoleContext

    settings = load(Path(config), {})
    log = open_transport(settings)
    partition = Partition(settings.stream.readings_topic, 0)
    group, end = f"stream-ad.{settings.stream.name}.scorer", log.bounds(partition)[1]
    role = scorer.build(RoleContext(settings, 0, lambda: None))
    role.open()
    start = time.process_time()
    while (position := log.committed(group, partition)) is None or position.offset < end:
        for _ in range(TURNS):
            role.turn(0.05)
    took_s = time.process_time() - start
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(stream_ad.__file__, took_s, int(peak) / 1_024, sep="\t", flush=True)
    role.close()
    log.close()


if __name__ == "__main__":
    main(sys.argv[1])
