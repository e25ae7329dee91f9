"""The chaos run: a stream on three brokers, a seeded schedule of disturbances, and the proof of what came out."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stream_ad.assembly import ensure_topics
from stream_ad.identity import group, member
from stream_ad.io.score_log import log as score_log
from stream_ad.io.state import journal
from stream_ad.io.transport import Partition
from tests.chaos import ledger, proof, schedule
from tests.chaos.cluster import Cluster
from tests.chaos.disk import CheckpointDisk
from tests.chaos.report import Log, Report
from tests.chaos.roles import Crew
from tests.chaos.schedule import ARCHIVERS, SCORERS, Act, Disturbance, Plan
from tests.chaos.verbs import Verbs
from tests.chaos.watch import Death, Watch, spread
from tests.support.e2e import Stream, train_bundle

UP_S = 120.0
"""A killed process runs again, and a stopped one has ended, within this."""
AT_WORK_S = 20.0
"""A victim is given so long to own partitions; a spare one may never."""
DRAIN_S = 900.0
SILENCE = 2.0
"""Times `idle_close_s` that scorers live on without input: what is open closes by the clock."""
STUCK_S = 180.0
"""Without a step towards the end for so long, waiting for it is given up."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is sent, to what.

    Attributes:
        readings: sent at least.
        rate: messages of 64 readings a second.
        devices, partitions: of the stream.
    """

    readings: int
    rate: float
    devices: int = 120
    partitions: int = 6


class Run:
    """One run in a folder.

    Args:
        plan: what is done.
        size: what is sent.
        folder: for brokers, stream and logs; must be empty or missing.
    """

    def __init__(self, plan: Plan, size: Size, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._plan, self._size, self._folder = plan, size, folder
        self._say = Log(folder / "chaos.jsonl")
        self._report = Report(plan.seed)
        self._deaths: list[Death] = []
        self._in_sync_s: list[float] = []
        self._lane_error: BaseException | None = None
        self._sleeper: tuple[str, int] | None = None
        self._swapping: threading.Thread | None = None
        self._disk_until = 0.0
        self._calm = threading.Lock()
        """Held while a broker is down, or a process is stopped: a new coordinator gives every member a new session."""
        self._cleanup: list[Callable[[], object]] = [self._say.close]

    def go(self) -> Report:
        """Run, prove, report."""
        begun = time.monotonic()
        try:
            self._set_up()
            self._disturb()
            self._drain()
            self._prove()
        finally:
            for clean in reversed(self._cleanup):
                clean()
        self._report.minutes = round((time.monotonic() - begun) / 60, 1)
        return self._report

    # -- setting up -------------------------------------------------------------------------------

    def _set_up(self) -> None:
        plan, size, folder = self._plan, self._size, self._folder
        self._say("seed", seed=plan.seed, kills=plan.kills, broker_kills=plan.broker_kills, readings=size.readings)
        self._cluster = Cluster(folder / "kafka")
        self._cleanup.append(self._cluster.close)
        self._bundles = [train_bundle(folder / "bundle-a")]
        if plan.swaps:
            self._bundles.append(train_bundle(folder / "bundle-b", "mahalanobis"))
        self._disk = CheckpointDisk(folder / "stream" / "checkpoints")
        self._cleanup.append(self._disk.close)
        self._report.checkpoint_disk = self._disk.how
        self._stream = Stream(
            folder / "stream",
            self._bundles[0],
            self._cluster.servers,
            size.partitions,
            commit={"every_s": 0.5, "poll_records": 500},
            store={"checkpoint_every_s": 4.0, "part_max_age_s": 5.0},
            transport={
                "kind": "kafka",
                "servers": self._cluster.servers,
                "session_timeout_s": plan.session_s,
            },
        )
        self._cleanup.append(self._stream.close)
        settings = self._stream.settings
        ensure_topics(settings, self._stream.log)
        self._groups = {role: group(settings, role) for role in ("scorer", "archiver")}
        self._crew = Crew(
            self._stream,
            folder / "roles",
            self._say,
            plan.seed,
            lambda role: self._cluster.coordinator(self._groups[role]),
        )
        self._cleanup.append(self._crew.close)
        self._verbs = Verbs(self._stream, self._say)
        self._watch = Watch(self._cluster.servers, self._groups)
        fleet = ledger.fleet(size.devices, size.readings, plan.seed)
        self._producer = ledger.Producer(
            self._cluster.servers, settings.stream.readings_topic, ledger.records(fleet), size.rate, size.readings
        )
        for role, count in (("scorer", SCORERS), ("archiver", ARCHIVERS)):
            for index in range(count):
                self._crew.add(role, index)

    # -- disturbing -------------------------------------------------------------------------------

    def _disturb(self) -> None:
        drawn = schedule.draw(self._plan)
        self._wait(self._crew.all_opened, UP_S, "all roles to open")
        self._watch.start()
        self._cleanup.append(self._watch.stop)
        self._producer.start()
        self._say("begun", processes=len(drawn.processes), brokers=len(drawn.brokers))
        self._wait(lambda: self._watch.scored() > 0, UP_S, "the first commit")
        brokers = threading.Thread(target=self._broker_lane, args=(drawn.brokers,), name="brokers", daemon=True)
        brokers.start()
        for disturbance in drawn.processes:
            self._pause(disturbance.after_s)
            self._do(disturbance)
        self._wait(lambda: not brokers.is_alive(), 60.0 + 4 * self._plan.spread_s, "the last broker")
        self._pause(max(0.0, self._disk_until - time.monotonic()))
        self._wait(lambda: self._producer.has_enough, 4 * self._size.readings / 64 / self._size.rate, "the producer")
        self._ended_at = time.monotonic()
        self._producer.stop()
        self._wait(lambda: not self._producer.is_alive(), 330.0, "the last acknowledgement")

    def _do(self, disturbance: Disturbance) -> None:
        """Carry out one entry of the lane of processes."""
        act, role, index = disturbance.act, disturbance.role, disturbance.index
        fields: dict[str, object] = {}
        if act in (Act.KILL, Act.STOP, Act.LEAVE):
            patient_until = time.monotonic() + (AT_WORK_S if disturbance.at_work else 0.0)
            while time.monotonic() < patient_until and not self._crew.is_at_work(role, index):
                self._pause(0.2)
            self._wait(lambda: self._crew.is_up(role, index), UP_S, f"{role}-{index} to be up")
        if act is Act.KILL:
            owned = self._crew.partitions(role, index)
            self._crew.kill(role, index, disturbance.lasts_s)
            self._deaths.append(Death(time.monotonic(), role, owned))
            fields["owned"] = sorted(owned)
        elif act is Act.STOP:
            self._wait(lambda: self._calm.acquire(blocking=False), 4 * UP_S, "all brokers to be up")
            self._wait(lambda: self._crew.is_at_work(role, index), UP_S, f"{role}-{index} to have a place to lose")
            self._crew.stop(role, index, disturbance.lasts_s)
            self._sleeper = role, index
        elif act is Act.JOIN:
            self._crew.add(role, index)
        elif act is Act.LEAVE:
            self._crew.leave(role, index)
        elif act is Act.DISK:
            self._pause(max(0.0, self._disk_until - time.monotonic()))
            self._disk.fill()
            self._disk_until = time.monotonic() + disturbance.lasts_s
        elif act is Act.SWAP:
            self._swap()
        self._count(str(act))
        self._say(str(disturbance), number=disturbance.number, scored=self._watch.scored(), **fields)

    def _swap(self) -> None:
        """Ask for the other bundle; scorers go over to it while other disturbances go on."""
        self._wait(lambda: not (self._swapping and self._swapping.is_alive()), UP_S, "the swap before")
        self._bundles.reverse()

        def swap() -> None:
            said = self._verbs.call("swap", str(self._bundles[0]), "--wait", "45")
            self._count(f"swaps {'ok' if said == 'ok' else 'not in force in time'}")

        self._swapping = threading.Thread(target=swap, name="swap", daemon=True)
        self._swapping.start()

    def _lose_broker(self, disturbance: Disturbance) -> None:
        self._cluster.await_in_sync()
        stream, scorers = self._stream.settings, self._groups["scorer"]
        transaction = f"{scorers}.{member(stream, 'scorer', disturbance.index)}"
        aim = disturbance.aim or schedule.Aim.LEADER
        index = self._cluster.aimed_at(aim, stream.stream.readings_topic, disturbance.index, scorers, transaction)
        self._cluster.kill(index)
        self._say(str(disturbance), number=disturbance.number, broker=index)
        time.sleep(disturbance.lasts_s)
        self._cluster.start(index)
        took_s = self._cluster.await_in_sync()
        self._in_sync_s.append(took_s)
        self._report.broker_kills[str(aim)] = self._report.broker_kills.get(str(aim), 0) + 1
        self._say("in sync", broker=index, after_s=round(took_s, 1))

    def _broker_lane(self, lane: Iterable[Disturbance]) -> None:
        try:
            for disturbance in lane:
                time.sleep(disturbance.after_s)
                with self._calm:
                    self._lose_broker(disturbance)
        except BaseException as error:  # raised again by the main thread
            self._lane_error = error

    def _count(self, what: str) -> None:
        self._report.done[what] = self._report.done.get(what, 0) + 1

    def _tend(self) -> None:
        """Do what is due, and end the run where a part of it has failed."""
        self._crew.tend()
        if self._sleeper is not None and not self._crew.is_asleep(*self._sleeper):
            self._sleeper = None
            self._calm.release()
        if self._disk_until and time.monotonic() > self._disk_until:
            self._disk_until = 0.0
            self._disk.free()
            self._say("disk free")
        for error in (self._lane_error, self._producer.error):
            if error is not None:
                raise RuntimeError(f"the run itself failed: {error!r}") from error

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._tend()
            time.sleep(0.05)

    def _wait(self, what: Callable[[], bool], seconds: float, name: str) -> None:
        end = time.monotonic() + seconds
        while not what():
            self._tend()
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:.0f} s for {name}")
            time.sleep(0.05)

    # -- the end ----------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Wait until all input is scored and all scores are in files, ending scorers, then archivers, in order."""
        self._wait(lambda: not (self._swapping and self._swapping.is_alive()), UP_S, "the last swap")
        self._wait(self._crew.all_opened, UP_S, "all roles to be up")
        self._await_end("scored", "scorer", {k.number: end for k, end in self._stream.ends().items()})
        self._pause(SILENCE * self._stream.settings.time.idle_close_s)
        self._crew.finish("scorer")
        scores = [Partition(self._stream.settings.stream.scores_topic, k) for k in range(self._size.partitions)]
        self._await_end("archived", "archiver", {partition.number: self._last(partition) for partition in scores})
        self._crew.finish("archiver")
        ends = self._crew.ends
        self._report.kills = dict(ends.killed)
        self._report.fenced, self._report.slept_on = ends.fenced, ends.slept_on
        self._report.ended_by_themselves = ends.by_themselves
        self._report.problems += ends.wrong

    def _await_end(self, what: str, role: str, wanted: dict[int, int]) -> None:
        """Wait until a role has got to given offsets; give up where it does not move."""
        begun = moved = told = time.monotonic()
        before = -1
        while True:
            self._tend()
            left = {number: end - self._at(role, number) for number, end in wanted.items()}
            now, total = time.monotonic(), sum(max(0, count) for count in left.values())
            if total == 0:
                self._say(what, after_s=round(now - begun, 1))
                return
            if total != before:
                before, moved = total, now
            if now - told > 5.0:
                told = now
                self._say(f"to be {what}", left=total)
            if now - moved > STUCK_S or now - begun > DRAIN_S:
                self._report.problems.append(f"not {what} after {now - begun:.0f} s: {left}")
                return
            time.sleep(0.3)

    def _at(self, role: str, number: int) -> int:
        if role == "archiver":
            last = score_log.last_part(self._stream.settings.store.scores, number)
            return 0 if last is None else last.span.end
        seen = self._watch.looks[-1][1] if self._watch.looks else {}
        return seen.get((role, number), 0)

    def _last(self, partition: Partition) -> int:
        """Return the offset after the newest record, of a topic that nobody writes to any more."""
        start, end = self._stream.log.bounds(partition)
        width = 200
        while True:
            low = max(start, end - width)
            found = [int(raw.offset[-1]) + 1 for raw in self._stream.log.read(partition, low, end) if len(raw)]
            if found or low == start:
                return found[-1] if found else start
            width *= 4

    def _prove(self) -> None:
        report, producer = self._report, self._producer
        report.problems += [f"topic {line}" for line in self._cluster.unsafe_topics()]
        report.readings, report.messages = producer.readings, len(producer.acknowledged)
        readings = self._stream.settings.stream.readings_topic
        places = (
            (partition.number, offset, ledger.digest(value))
            for partition, offset, value, _ in self._stream.read(readings)
        )
        report.problems += ledger.compare(producer.acknowledged, producer.given_up, places)
        self._say("ledger", messages=report.messages, readings=report.readings, problems=len(report.problems))
        report.journal = self._journal()
        compared = proof.prove(self._stream, self._say)
        report.rows, report.alerts, report.dead_letters = compared.rows, compared.alerts, compared.letters
        report.missing, report.repeated = compared.missing, compared.repeated
        report.problems += compared.wrong
        for verb in (["verify", "--topics"], ["audit"]):
            report.verbs[" ".join(verb)] = said = self._verbs.call(*verb)
            if said != "ok":
                report.problems.append(f"stream-ad {' '.join(verb)}: {said}")
        silence_s = self._watch.longest_silence_s(self._ended_at)
        report.longest_without_commit_s, report.longest_partition_without_commit_s = (round(s, 1) for s in silence_s)
        report.first_commit_after_kill_s = spread(self._watch.recoveries_s(self._deaths))
        report.in_sync_after_broker_s = spread(self._in_sync_s)
        self._expect()

    def _journal(self) -> dict[str, int]:
        """Return how many entries of each kind the journal holds."""
        topic = self._stream.settings.stream.journal_topic
        places = [Partition(topic, number) for number in range(self._size.partitions)]
        return dict(Counter(entry.kind for place in places for entry in journal.read(self._stream.log, place)))

    def _expect(self) -> None:
        """Note what the plan wanted and did not come to pass: a run that disturbed less proves less."""
        report, plan = self._report, self._plan
        if sum(report.kills.values()) != plan.kills:
            report.problems.append(f"{report.kills} killed, {plan.kills} planned")
        if sum(report.broker_kills.values()) != plan.broker_kills:
            report.problems.append(f"{report.broker_kills} brokers killed, {plan.broker_kills} planned")
        if report.readings < self._size.readings:
            report.problems.append(f"{report.readings} readings, {self._size.readings} planned")
        if plan.swaps and not report.journal.get("swap"):
            report.problems.append("no swap took effect, so nothing is proven of them")
        if report.journal.get("restart"):
            # The proof reads the journal too: it would begin again where the run did, and compare equal.
            report.problems.append(f"{report.journal['restart']} states began again, and a checkpoint was always there")
        if not report.alerts or not report.dead_letters:
            report.problems.append("no alert or no dead letter came, so nothing is proven of them")
