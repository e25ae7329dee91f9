"""`stream-ad swap`: put another bundle into service without stopping the stream."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stream_ad.cli.output import print_json

if TYPE_CHECKING:
    from stream_ad.config import Settings
    from stream_ad.io.transport import Partition, Transport

WAIT_S = 60.0
POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class InForce:
    """The model in force in a partition, according to its committed position."""

    partition: Partition
    model_id: str


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "swap",
        help="put another bundle into service while the stream runs",
        description="Check a bundle (digests, probe, same windows as the one in service), then command the scorers "
        "through the control topic. Each scorer loads and probes the bundle in the background and switches between two "
        "records: no window is lost or scored twice. Limits restart from the bundle's calibration; open incidents end. "
        "Waits until every partition with scores has switched. Also set stream.bundle, or the old bundle returns when "
        "other settings change.",
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder; every scorer must find it at the same path")
    parser.add_argument(
        "--wait", type=float, default=WAIT_S, metavar="S", help=f"seconds to wait for the scorers ({WAIT_S:g}; 0: none)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Send the command and wait; return 0 if every partition has switched (or `--wait 0`), else 1.

    Raises:
        BundleError: the bundle cannot be used.
        TransportError: the log does not answer or refuses the command.
    """
    from stream_ad import pretrained
    from stream_ad.assembly import load_model, open_transport
    from stream_ad.config import load
    from stream_ad.errors import BundleMismatchError
    from stream_ad.fronts.table import front
    from stream_ad.io.wire import control as control_messages

    settings = load(args.config)
    name = str(args.bundle)
    folder = (
        pretrained.path(name.removeprefix(pretrained.PREFIX))
        if name.startswith(pretrained.PREFIX)
        else args.bundle.expanduser().resolve()
    )
    model = load_model(settings, folder)
    if differences := front(settings).differences(load_model(settings), model):
        raise BundleMismatchError(
            f"{folder}: expected the windows of {settings.stream.bundle}, found {'; '.join(differences)}; set "
            "stream.bundle to it and restart: state is then rebuilt from recent input"
        )
    with contextlib.closing(open_transport(settings)) as transport:
        command = control_messages.SwapCommand(stream=settings.stream.name, bundle=str(folder), model_id=model.model_id)
        transport.append(settings.stream.control_topic, [control_messages.encode(command)])
        found = await_swap(settings, transport, model.model_id, args.wait) if args.wait > 0 else []
    behind = [one.partition.number for one in found if one.model_id != model.model_id]
    gone_over = [one.partition.number for one in found if one.model_id == model.model_id]
    print_outcome(args, f"{model.name} ({model.model_id[:16]})", gone_over, behind)
    return 1 if behind else 0


def await_swap(settings: Settings, transport: Transport, model_id: str, wait_s: float) -> list[InForce]:
    """Wait until a model is in force in every partition with scores; return what is in force at the end."""
    deadline = time.monotonic() + wait_s
    while True:
        found = in_force(settings, transport)
        if all(one.model_id == model_id for one in found) or time.monotonic() > deadline:
            return found
        time.sleep(POLL_S)


def in_force(settings: Settings, transport: Transport) -> list[InForce]:
    """Return the model in force in each partition with a committed position."""
    from stream_ad.io.transport import Partition
    from stream_ad.replaying import Marker
    from stream_ad.role_table import deciding_group

    readings = settings.stream.readings_topic
    found = []
    for number in range(transport.topic(readings).partitions):
        partition = Partition(readings, number)
        position = transport.committed(deciding_group(settings), partition)
        if position is not None:
            found.append(InForce(partition, Marker.from_text(position.metadata).model_id))
    return found


def print_outcome(args: argparse.Namespace, name: str, gone_over: list[int], behind: list[int]) -> None:
    """Print the outcome."""
    if args.json:
        print_json({"bundle": name, "waited": args.wait > 0, "gone_over": gone_over, "behind": behind})
    elif args.wait <= 0:
        print(f"requested {name}; `stream-ad status` shows when it is in service")
    elif behind:
        print(
            f"stream-ad: requested {name}; after {args.wait:g} s not in service in partition(s) "
            f"{', '.join(map(str, behind))}: check that the scorers run, and look for `swap_refused` in their logs",
            file=sys.stderr,
        )
    elif not gone_over:
        print(f"requested {name}; no partition has scores yet: scorers use it from their start")
    else:
        print(f"{name} is in service")
