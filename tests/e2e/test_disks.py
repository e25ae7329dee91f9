"""Disks that are full or read-only, real ones: what can wait does, what cannot says so; nothing is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

from stream_ad.errors import TransportError
from stream_ad.io.state import checkpoints
from stream_ad.io.transport import Partition
from stream_ad.service.roles import archiver as archiving
from tests.support.e2e import LONG_S, Stream, fleet_records, wait_until
from tests.support.roles import archive_all, kill, open_archiver, open_scorer, work_off
from tests.support.supervised import Supervised, a_port


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, size: str) -> None:
        """Mount it.

        Raises:
            OSError: the machine does not let us.
        """
        self.path.mkdir(parents=True)
        self._run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.path))

    def change(self, *options: str) -> None:
        self._run("mount", "-o", ",".join(("remount", *options)), str(self.path))

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)

    @staticmethod
    def _run(*command: str) -> None:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise OSError(ended.stderr.strip())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 32 kB, mounted in `disk`."""
    disk = Disk(tmp_path / "disk")
    try:
        disk.mount("32k")
    except OSError as error:
        pytest.skip(f"this machine does not let us mount a small disk: {error}")
    yield disk
    disk.unmount()


TROUBLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "full": (("size=4k",), ("size=64m",)),
    "read-only": (("size=64m", "ro"), ("size=64m", "rw")),
}
"""What the disk is like at first, and then."""


def events(caplog: pytest.LogCaptureFixture, *wanted: str) -> list[str]:
    return [entry.message for entry in caplog.records if entry.message in wanted]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_scorer_goes_on_without_checkpoints_and_says_so(
    make_stream: Callable[..., Stream], disk: Disk, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    caplog.set_level("INFO", "stream_ad")
    first, then = TROUBLES[trouble]
    disk.change(*first)
    stream = make_stream(store={"checkpoints": str(disk.path), "checkpoint_every_s": 0.01})
    records = fleet_records(duration_s=600)
    role = open_scorer(stream)
    stream.send(list(islice(records, 300)))
    work_off(role, stream)
    wait_until(lambda: "checkpoint_failed" in caplog.messages, each=lambda: role.turn(0.01))
    for _ in range(3):
        stream.send(list(islice(records, 50)))
        work_off(role, stream)
    assert role.metrics.registry.get_sample_value("stream_ad_checkpoint_failures_total") > 1  # type: ignore[operator]
    assert events(caplog, "checkpoint_failed", "checkpoints_again") == ["checkpoint_failed"]  # once, not each time
    assert role.ready()[0]  # results flow

    disk.change(*then)

    def more() -> None:
        stream.send(list(islice(records, 20)))
        role.turn(0.01)

    wait_until(lambda: "checkpoints_again" in caplog.messages, each=more)
    stream.send(list(islice(records, 100)))
    work_off(role, stream)
    kill(role)
    stream.send(list(islice(records, 50)))
    last = open_scorer(stream)
    last.turn(0.0)
    assert any(owned.checkpoint for owned in last._owned.values())
    work_off(last, stream)
    last.close()
    archive_all(stream)
    stream.prove()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_archiver_waits_unready_and_catches_up(
    make_stream: Callable[..., Stream],
    disk: Disk,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    caplog.set_level("INFO", "stream_ad")
    monkeypatch.setattr(archiving, "RETRY_S", (0.05, 0.2))
    first, then = TROUBLES[trouble]
    disk.change(*first)
    stream = make_stream(store={"scores": str(disk.path), "part_max_age_s": 0.001})
    records = fleet_records(duration_s=600)
    scorer = open_scorer(stream)
    role = open_archiver(stream)

    def go_on() -> None:
        stream.send(list(islice(records, 40)))
        work_off(scorer, stream)
        role.turn(0.01)

    wait_until(lambda: "storage_failed" in caplog.messages, each=go_on)
    for _ in range(3):
        go_on()
    ready, why = role.ready()
    assert not ready
    assert {"full": "No space left", "read-only": "Read-only file system"}[trouble] in why
    assert events(caplog, "storage_failed", "storage_recovered") == ["storage_failed"]
    assert role._buffered_bytes() > 0
    assert role.metrics.registry.get_sample_value("stream_ad_storage_failures_total") > 0  # type: ignore[operator]

    disk.change(*then)
    wait_until(stream.archived, each=lambda: role.turn(0.02))
    assert role.ready()[0]
    assert "storage_recovered" in caplog.messages
    scorer.close()
    role.close()
    stream.prove(at_least_alerts=0)


def fill(disk: Disk) -> Path:
    """Fill the disk to its last byte; return the file that does."""
    filler = disk.path / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4_096)):
            pass
    return filler


def test_a_scorer_killed_on_a_full_disk_goes_on_from_an_older_checkpoint(
    make_stream: Callable[..., Stream], disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "stream_ad")
    disk.change("size=8m")
    stream = make_stream(partitions=1, store={"checkpoints": str(disk.path), "checkpoint_every_s": 0.01})
    partition = Partition(stream.settings.stream.readings_topic, 0)
    records = fleet_records(duration_s=600)
    role = open_scorer(stream)
    stream.send(list(islice(records, 300)))
    work_off(role, stream)
    wait_until(lambda: bool(role._checkpointer.newest(partition)), each=lambda: role.turn(0.01))
    filler = fill(disk)

    def more() -> None:
        stream.send(list(islice(records, 20)))
        role.turn(0.01)

    wait_until(lambda: "checkpoint_failed" in caplog.messages, each=more)
    for _ in range(5):
        more()
    work_off(role, stream)
    older = set(checkpoints.names(disk.path, stream.settings.stream.name, 0))
    kill(role)
    stream.send(list(islice(records, 100)))
    role = open_scorer(stream)  # the disk is as full as before
    wait_until(lambda: bool(role._owned), each=lambda: role.turn(0.0))
    assert role._owned[partition].checkpoint in older
    work_off(role, stream)
    assert role.metrics.registry.get_sample_value("stream_ad_replayed_records_total") > 0  # type: ignore[operator]
    assert role.ready()[0]

    filler.unlink()
    wait_until(lambda: role._checkpointer.newest(partition) not in {"", *older}, each=more)
    work_off(role, stream)
    role.close()
    archive_all(stream)
    stream.prove()


def test_a_running_stream_says_on_its_pages_that_the_score_log_is_full(
    make_stream: Callable[..., Stream], run_stream: Callable[[Stream], Supervised], disk: Disk
) -> None:
    disk.change("size=1m")
    stream = make_stream(store={"scores": str(disk.path), "part_max_age_s": 0.3}, service={"http_port": a_port()})
    records = fleet_records(duration_s=3_600)
    service = run_stream(stream)
    wait_until(service.are_ready)
    stream.send(list(islice(records, 300)))
    wait_until(stream.archived)
    filler = fill(disk)
    stream.send(list(islice(records, 300)))
    wait_until(lambda: service.readiness(0)[0] == 503)
    assert "No space left" in service.readiness(0)[1]
    assert service.metric(0, "stream_ad_storage_failures_total") > 0
    assert service.lines("storage_failed")
    wait_until(stream.scored)  # the scorer does not care
    assert service.readiness(1)[0] == 200

    disk.change("size=64m")
    filler.unlink()
    wait_until(stream.archived, 2 * LONG_S)
    wait_until(service.are_ready)
    assert service.lines("storage_recovered")
    assert not service.lines("role_ended")  # both lived through it
    service.stop()
    stream.prove(at_least_alerts=0)


def test_a_full_disk_under_the_log_ends_the_scorer_which_then_goes_on(
    make_stream: Callable[..., Stream], disk: Disk
) -> None:
    disk.change("size=2m")
    stream = make_stream(transport={"path": str(disk.path / "log.sqlite")}, commit={"every_s": 0.001})
    records = fleet_records(duration_s=3_600)
    role = open_scorer(stream)

    def fill() -> None:
        while True:
            stream.send(list(islice(records, 20)))
            role.turn(0.01)

    with pytest.raises(TransportError, match=r"full|commit failed|outcome of a commit"):
        fill()
    kill(role)
    with pytest.raises(TransportError, match=r"full|commit failed"):
        stream.send(list(islice(records, 100)))
    disk.change("size=64m")
    stream.send(list(islice(records, 600)))
    last = open_scorer(stream)
    work_off(last, stream)
    last.close()
    archive_all(stream)
    stream.prove()


def test_a_file_in_place_of_the_folder_is_waited_out(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(store={"checkpoint_every_s": 0.01})
    blocker = stream.settings.store.checkpoints
    blocker.touch()
    records = fleet_records(duration_s=600)
    role = open_scorer(stream)
    stream.send(list(islice(records, 100)))
    work_off(role, stream)
    wait_until(
        lambda: bool(role.metrics.registry.get_sample_value("stream_ad_checkpoint_failures_total")),
        each=lambda: role.turn(0.01),
    )
    blocker.unlink()

    def more() -> None:
        stream.send(list(islice(records, 20)))
        role.turn(0.01)

    wait_until(lambda: any(owned.checkpoint for owned in role._owned.values()), each=more)
    work_off(role, stream)
    role.close()
    archive_all(stream)
    stream.prove(at_least_alerts=0)
