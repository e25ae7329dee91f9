"""The stream as Python programs see it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import stream_ad
from stream_ad.core.batches import Alert, AlertPhase
from stream_ad.errors import ConfigError, ScoreLogError, UnreachableError
from stream_ad.io.wire.alerts import decode
from tests.crashes.conftest import make_stream, pump_bundle
from tests.docs.pages import examples
from tests.support.e2e import Stream, fleet_records
from tests.support.roles import archive_all, open_scorer, work_off

__all__ = ["make_stream", "pump_bundle"]

ROOT = Path(__file__).parents[2]
PUMP = "pump-0004"


@pytest.fixture
def worked(make_stream: Callable[..., Stream]) -> Stream:
    """A stream whose readings, with faults in them, are all scored and archived."""
    stream = make_stream(partitions=1)
    scorer = open_scorer(stream)
    stream.send(list(fleet_records(duration_s=400)))
    work_off(scorer, stream)
    archive_all(stream)
    return stream


def everything_in(stream: Stream) -> dict[Path, bytes]:
    """Return the stream's files but the log's index of its own journal, which readers share."""
    files = (path for path in sorted(stream.folder.rglob("*")) if path.is_file() and not path.name.endswith("-shm"))
    return {path: path.read_bytes() for path in files}


def test_scores_alerts_and_status_are_those_of_the_stream(worked: Stream) -> None:
    published = [decode(value).alert() for _, _, value, _ in worked.read(worked.settings.stream.alerts_topic)]
    opened = stream_ad.open_stream(str(worked.config))

    assert opened.name == worked.settings.stream.name
    assert list(opened.alerts()) == published
    assert len(published) > 1

    device = published[0].device
    of_one = [alert for alert in published if alert.device == device]
    assert list(opened.alerts(device)) == of_one
    assert len(of_one) < len(published)
    assert list(opened.alerts("pump-*", since=datetime.now(UTC) + timedelta(hours=1))) == []

    scores = opened.scores(device)
    openings = [alert for alert in of_one if alert.phase is AlertPhase.OPENED]
    assert openings
    assert {alert.opened_end_ns for alert in openings} == {one.opened_ns for one in scores.incidents}
    assert len(opened.scores(device, last=timedelta(seconds=60))) == int(
        np.sum(scores.end_ns > scores.end_ns[-1] - 60_000_000_000)
    )

    status = opened.status()
    (part,) = status.partitions
    assert [part.scoring.committed] == list(worked.ends().values())
    assert (part.scoring.lag.records, part.archiving.lag.records) == (0, 0)
    assert opened.warnings(status) == ["no owner: no archiver has any of the 1 partition"]


def test_following_yields_what_comes_later(worked: Stream) -> None:
    following = stream_ad.open_stream(worked.config).alerts(follow=True)
    first = next(following)
    assert isinstance(first, Alert)
    more = [next(following) for _ in range(3)]
    assert len({(alert.id, alert.version) for alert in (first, *more)}) == 4


def test_looking_changes_nothing(worked: Stream) -> None:
    before = everything_in(worked)
    opened = stream_ad.open_stream(worked.config)
    opened.status()
    list(opened.alerts())
    opened.scores(PUMP)

    assert everything_in(worked) == before


@pytest.mark.process
def test_the_example_of_the_page_runs(worked: Stream) -> None:
    program = examples((ROOT / "docs" / "tutorial.md").read_text())["from Python"]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=worked.folder, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("opened pump-")
    # The scorer's own lease may have run out meanwhile: nothing polls it.
    assert "no owner: no archiver has any of the 1 partition" in done.stdout.splitlines()[-1]
    assert done.stderr == ""


def test_what_is_wrong_is_refused(make_stream: Callable[..., Stream], tmp_path: Path) -> None:
    stream = stream_ad.open_stream(make_stream().config)
    with pytest.raises(ScoreLogError, match="start the archiver with `stream-ad run`"):
        stream.scores(PUMP)
    with pytest.raises(ConfigError, match="since: expected a time with a time zone, found 2026-01-01T00:00:00"):
        stream.alerts(since=datetime(2026, 1, 1))
    with pytest.raises(ConfigError, match="last: expected a positive time span, found 0:00:00"):
        stream.scores(PUMP, last=timedelta())
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        stream_ad.open_stream(tmp_path / "missing.toml")


def test_a_stream_without_a_log_is_not_made(make_stream: Callable[..., Stream], tmp_path: Path) -> None:
    config = tmp_path / "stream.toml"
    config.write_text(make_stream().config.read_text().replace("log.sqlite", "none.sqlite"))
    with pytest.raises(UnreachableError, match="the log does not exist yet"):
        stream_ad.open_stream(config).status()
    assert not (tmp_path / "none.sqlite").exists()
