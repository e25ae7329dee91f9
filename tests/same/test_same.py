"""The comparison must be able to fail: one altered bit, one alert, one missing letter is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from stream_ad.core.batches import Alert, AlertKind, AlertPhase, Reason, Refused, VerdictBatch
from stream_ad.io.score_log import log as score_log
from stream_ad.io.spans import Span, Spans
from stream_ad.io.transport import Partition, Record
from stream_ad.io.wire import alerts as alert_messages
from stream_ad.io.wire import dead_letters
from stream_ad.io.wire import scores as score_messages
from tests.same import fleet
from tests.same.command import main
from tests.same.outcome import FLAGS, REASONS
from tests.same.side import EVICT_AFTER_S, IDLE_CLOSE_S, plain
from tests.support.scores import READINGS, START_NS, STRIDE_NS, messages, verdicts

SOURCE = Partition(READINGS, 0)


@dataclass
class Results:
    """What a side leaves, small: its two models and generations, all flags, phases and reasons."""

    batches: list[VerdictBatch]
    archived: list[VerdictBatch]
    alerts: list[Alert]
    letters: list[Refused]
    config_digest: str = "c0ffee"
    cut: int = 1
    """Score messages for each batch."""
    scores: list[Record] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Write them as a side does; return the folder."""
        folder.mkdir()
        records = {
            "scores": [one for number, batch in enumerate(self.batches) for one in self._messages(batch, number)],
            "alerts": [alert_messages.encode(alert, SOURCE, self.config_digest) for alert in self.alerts],
            "dead_letters": [
                dead_letters.encode(letter, b"rubbish", b"pump", (), SOURCE, log_ns=START_NS) for letter in self.letters
            ],
        }
        with (folder / "topics.jsonl").open("w") as file:
            for what, some in records.items():
                for one in some:
                    file.write(json.dumps(plain(what, 0, one.key, one.value, one.headers)) + "\n")
        kept = [one for number, batch in enumerate(self.archived) for one in self._messages(batch, number)]
        if kept:
            tables = [score_messages.decode(one.value, one.headers).table for one in kept]
            score_log.write_part(
                folder / "scores", 0, Span(0, len(kept)), tables, START_NS, "topic", Spans(Span(0, 9)), {}
            )
        return folder

    def _messages(self, batch: VerdictBatch, number: int) -> list[Record]:
        rows = np.array_split(np.arange(len(batch)), self.cut)
        return [
            one
            for k, some in enumerate(rows)
            for one in messages(batch.take(some), (10 * number + k, 10 * number + k + 1), generation=number)
        ]


def results() -> Results:
    quality = np.bitwise_or.reduce(np.array(list(FLAGS.values()), np.uint32))
    batches = []
    for number, model_id in enumerate(("first", "second")):
        batch = verdicts(4 * number, 4, devices=2, score=np.linspace(0.1, 0.8, 8).tolist())
        flags = np.full(8, quality, np.uint32)
        batches.append(replace(batch, scores=replace(batch.scores, quality=flags, model_id=model_id)))
    opened = Alert(
        id="1" * 32,
        version=0,
        phase=AlertPhase.OPENED,
        kind=AlertKind.PROCESS,
        stream="pumps",
        device="pump-0-0",
        opened_end_ns=START_NS,
        end_ns=START_NS,
        opened_offset=3,
        offset=3,
        score=2.5,
        limit=1.0,
        peak=2.5,
        channels=(("current", 0.75), ("pressure", 0.25)),
        model_id="first",
        reason="score 2.5 is 2.5 times its limit",
    )
    resolved = replace(opened, version=1, phase=AlertPhase.RESOLVED, end_ns=START_NS + STRIDE_NS, offset=5)
    letters = [Refused(number, Reason(reason), "found rubbish") for number, reason in enumerate(REASONS)]
    return Results(batches, list(batches), [opened, resolved], letters)


def compared(tmp_path: Path, other: Results) -> int:
    old, new = results().write(tmp_path / "old"), other.write(tmp_path / "new")
    return main(["--results", str(old), str(new)])


def with_bit(batch: VerdictBatch) -> VerdictBatch:
    """Return rows in which one score differs by its last bit."""
    score = batch.scores.score.copy()
    score[5] = np.nextafter(score[5], np.inf)
    return replace(batch, scores=replace(batch.scores, score=score))


def test_equal_results_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(tmp_path, results()) == 0
    shown = capsys.readouterr().out
    assert "16 score rows compared with 16" in shown
    assert "results: THE SAME" in shown


def test_models_digests_sentences_and_cuts_of_commits_do_not_count(tmp_path: Path) -> None:
    other = results()
    for batches in (other.batches, other.archived):
        batches[:] = [
            replace(one, scores=replace(one.scores, model_id=f"new {one.scores.model_id}")) for one in batches
        ]
    other.alerts = [replace(one, model_id="new", reason="put in other words") for one in other.alerts]
    other.letters = [replace(one, detail="put in other words") for one in other.letters]
    other.config_digest, other.cut = "0ther", 3
    assert compared(tmp_path, other) == 0


def score_bit(found: Results) -> None:
    found.batches[1] = with_bit(found.batches[1])


def archived_bit(found: Results) -> None:
    found.archived[0] = with_bit(found.archived[0])


def alert_peak(found: Results) -> None:
    found.alerts[0] = replace(found.alerts[0], peak=float(np.nextafter(2.5, 3.0)))


def alert_channel(found: Results) -> None:
    found.alerts[1] = replace(found.alerts[1], channels=found.alerts[1].channels[::-1])


def missing_alert(found: Results) -> None:
    del found.alerts[1]


def missing_letter(found: Results) -> None:
    del found.letters[2]


def repeated_letter(found: Results) -> None:
    found.letters.insert(2, found.letters[2])


def letter_rows(found: Results) -> None:
    found.letters[4] = replace(found.letters[4], rows=7)


def order_of_letters(found: Results) -> None:
    found.letters.reverse()


def order_of_rows(found: Results) -> None:
    found.batches[0] = found.batches[0].take(np.array([1, 0, 2, 3, 4, 5, 6, 7]))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (score_bit, "score rows, partition 0, row 13 (pump-0-1"),
        (archived_bit, "1 differ in rows of the score log: score"),
        (alert_peak, "1 differ in alerts: peak"),
        (alert_channel, "1 differ in alerts: channels[0].share"),
        (missing_alert, "alerts, partition 0: 1 only in the old results: (pump-0-0, resolved"),
        (missing_letter, "dead letters, partition 0: 1 only in the old results: (wrong_type)"),
        (repeated_letter, "dead letters, partition 0: 1 only in the new results: (wrong_type)"),
        (letter_rows, "header stream-ad-rows: '0' -> '7'"),
        (order_of_letters, "results: DIFFERENT: 6 rows"),
        (order_of_rows, "score rows, partition 0, row 0 (pump-0-0"),
    ],
)
def test_one_change_is_found_and_named(
    change: Callable[[Results], None], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = results()
    change(other)
    assert compared(tmp_path, other) == 1
    shown = capsys.readouterr().out
    assert named in shown
    assert "results: DIFFERENT" in shown


def test_nothing_compared_with_nothing_is_no_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [Results([], [], [], []).write(tmp_path / name) for name in ("old", "new")]
    assert main(["--results", *map(str, folders)]) == 1
    shown = capsys.readouterr().out
    assert "the new results have no score rows" in shown
    assert "results: INCOMPLETE" in shown


def test_equal_results_that_saw_no_swap_are_no_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = []
    for name in ("old", "new"):
        found = results()
        first = found.batches[0].scores.model_id
        found.batches = [replace(one, scores=replace(one.scores, model_id=first)) for one in found.batches]
        folders.append(found.write(tmp_path / name))
    assert main(["--results", *map(str, folders)]) == 1
    assert "the new results have no swap" in capsys.readouterr().out


def test_the_input_is_the_same_bytes_each_time_and_its_log_times_divide_what_silence_ends() -> None:
    parts = fleet.parts(pumps=8, duration_s=1_200.0)
    assert parts == fleet.parts(pumps=8, duration_s=1_200.0)
    chunks = [chunk for part in parts for chunk in part]
    assert [log_ms for log_ms, _ in chunks] == sorted({log_ms for log_ms, _ in chunks})
    assert all(log_ms % fleet.CHUNK_MS == 0 for log_ms, _ in chunks)
    assert all(1_000 * span_s % fleet.CHUNK_MS == 0 for span_s in (IDLE_CLOSE_S, EVICT_AFTER_S))
    assert len(parts) == 5
    assert all(parts)


@pytest.mark.process
def test_a_commit_that_git_does_not_know_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--old", "no-such-commit", "--broker", "local"]) == 2
    assert "--old no-such-commit" in capsys.readouterr().err


@pytest.mark.thorough
@pytest.mark.timeout(960)
def test_this_commit_gives_the_results_of_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--old", "HEAD", "--broker", "local"]) == 0
    assert "the embedded log: THE SAME" in capsys.readouterr().out
