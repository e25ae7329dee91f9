"""One side of a paired measurement: decodes on command with the `stream_ad` of PYTHONPATH.

It is a script, so that it needs only the decoder of the measured checkout. The first line of output is the package's
location; for each line of input, which names a case, it prints the processor seconds.
"""

from __future__ import annotations

import pickle
import sys
import time

import numpy as np


def main(path: str) -> None:
    import stream_ad
    from stream_ad.io.transport import Partition, RawBatch

    try:
        from stream_ad.io.wire.readings import Decoder
    except ImportError:  # an older checkout
        from stream_ad.io.wire import Decoder  # type: ignore[attr-defined,no-redef]

    print(stream_ad.__file__, flush=True)
    with open(path, "rb") as file:
        cases = pickle.load(file)
    work = {}
    for name, (values, channels, headers) in cases.items():
        n = len(values)
        raw = RawBatch(
            partition=Partition("readings", 0),
            offset=np.arange(n, dtype=np.int64),
            log_ns=np.arange(n, dtype=np.int64),
            keys=[None] * n,
            values=values,
            headers=[headers] * n,
            next_offset=n,
        )
        work[name] = Decoder(channels), raw
    for line in sys.stdin:
        decoder, raw = work[line.rstrip("\n")]
        start = time.process_time()
        found = decoder.decode(raw)
        took = time.process_time() - start
        print(took, len(found.readings.device), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
