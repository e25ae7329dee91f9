"""Roles of a stream as objects in this process, driven turn by turn."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from stream_ad.io.bundles import bundles
from stream_ad.io.transport import Partition
from stream_ad.io.wire import control as control_messages
from stream_ad.service.roles import archiver, scorer
from stream_ad.service.roles.archiver import Archiver
from stream_ad.service.roles.catalog import RoleContext
from stream_ad.service.roles.scorer import Scorer
from tests.support.e2e import Stream, fleet_records, wait_until


def open_scorer(stream: Stream, index: int = 0) -> Scorer:
    role = scorer.build(RoleContext(stream.settings, index, lambda: None))
    role.open()
    return role


def open_archiver(stream: Stream) -> Archiver:
    role = archiver.build(RoleContext(stream.settings, 0, lambda: None))
    role.open()
    return role


def kill(role: Scorer | Archiver) -> None:
    """Close its connections, as the end of its process would."""
    if isinstance(role, Scorer):
        role._checkpointer.close()
    role._transport.close()


def work_off(role: Scorer, stream: Stream) -> None:
    wait_until(stream.scored, each=lambda: role.turn(0.02))


def archive_all(stream: Stream) -> None:
    role = open_archiver(stream)
    wait_until(stream.archived, each=lambda: role.turn(0.02))
    role.close()


def ask_for(stream: Stream, bundle: Path) -> str:
    """Give the command to swap; return the bundle's digest."""
    model_id = bundles.load(bundle).model_id
    command = control_messages.SwapCommand(stream=stream.settings.stream.name, bundle=str(bundle), model_id=model_id)
    stream.log.append(stream.settings.stream.control_topic, [control_messages.encode(command)])
    return model_id


def worked_off(stream: Stream, records: int = 300) -> tuple[Scorer, Archiver]:
    """Send readings and let both roles work until all is archived."""
    scorer, archiver = open_scorer(stream), open_archiver(stream)
    stream.send(list(islice(fleet_records(duration_s=600), records)))
    work_off(scorer, stream)
    wait_until(stream.archived, each=lambda: (scorer.turn(0.01), archiver.turn(0.01)))
    wait_until(lambda: bool(scorer._checkpointer.newest(Partition(stream.settings.stream.readings_topic, 0))))
    return scorer, archiver
