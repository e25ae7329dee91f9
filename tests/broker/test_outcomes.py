"""What a commit says of itself is true: the broker's errors are injected into every step of a transaction.

LANDED: all of it is public. REJECTED: nothing is, nor will be. UNKNOWN and the errors: all or nothing, and what the
next committer of the member finds is final. Read through connections that nobody disturbs.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from kafka import errors as kafka_errors

from stream_ad.errors import AccessError, FencedError, StreamAdError
from stream_ad.io.kafka.log import KafkaLog
from stream_ad.io.kafka.source import KafkaSource
from stream_ad.io.transport import Commit, Committer, Partition, Position, Record
from tests.support.e2e import wait_until
from tests.support.kafka_proxy import EVER, Act, Api, Proxied, Rule, behind_proxy

pytestmark = pytest.mark.broker

DEADLINE_S = 10.0
SHORT_S = 1.5
"""The deadline of a commit that cannot end by itself."""
TRANSACTION_S = 5.0

PASSING = (
    "CoordinatorLoadInProgressError",
    "CoordinatorNotAvailableError",
    "NotCoordinatorError",
    "ConcurrentTransactionsError",
    "NotLeaderForPartitionError",
    "RequestTimedOutError",
    "NotEnoughReplicasError",
    "NotEnoughReplicasAfterAppendError",
)
"""Another try mends them: the commit lands, whether or not the broker had done the step already."""

LASTING = (
    "OutOfOrderSequenceNumberError",
    "UnknownProducerIdError",
    "InvalidProducerEpochError",
    "InvalidProducerIdMappingError",
    "ProducerFencedError",
    "InvalidTxnStateError",
    "TransactionAbortableError",
    "TransactionalIdAuthorizationFailedError",
    "TopicAuthorizationFailedError",
    "GroupAuthorizationFailedError",
    "IllegalGenerationError",
    "UnknownMemberIdError",
    "FencedInstanceIdError",
    "RebalanceInProgressError",
    "MessageSizeTooLargeError",
    "UnknownError",
)

USUAL: dict[Api, tuple[str, ...]] = {
    Api.PRODUCE: (
        "NotLeaderForPartitionError",
        "RequestTimedOutError",
        "NotEnoughReplicasError",
        "OutOfOrderSequenceNumberError",
        "UnknownProducerIdError",
        "InvalidProducerEpochError",
        "ProducerFencedError",
        "InvalidTxnStateError",
        "TopicAuthorizationFailedError",
        "MessageSizeTooLargeError",
    ),
    Api.ADD_PARTITIONS: (
        "NotCoordinatorError",
        "ConcurrentTransactionsError",
        "InvalidProducerEpochError",
        "ProducerFencedError",
        "InvalidTxnStateError",
        "TransactionalIdAuthorizationFailedError",
        "TopicAuthorizationFailedError",
    ),
    Api.ADD_OFFSETS: (
        "NotCoordinatorError",
        "ConcurrentTransactionsError",
        "ProducerFencedError",
        "InvalidTxnStateError",
        "UnknownProducerIdError",
        "GroupAuthorizationFailedError",
    ),
    Api.TXN_OFFSET_COMMIT: (
        "CoordinatorLoadInProgressError",
        "NotCoordinatorError",
        "RequestTimedOutError",
        "IllegalGenerationError",
        "UnknownMemberIdError",
        "FencedInstanceIdError",
        "RebalanceInProgressError",
        "ProducerFencedError",
        "GroupAuthorizationFailedError",
    ),
    Api.END_TXN: (
        "CoordinatorLoadInProgressError",
        "NotCoordinatorError",
        "ConcurrentTransactionsError",
        "RequestTimedOutError",
        "InvalidProducerEpochError",
        "ProducerFencedError",
        "InvalidTxnStateError",
        "TransactionalIdAuthorizationFailedError",
        "UnknownError",
    ),
}
"""What a broker answers to these requests; the other pairs are tried in the thorough run."""

SAID: dict[tuple[Api, str], str] = {
    (Api.PRODUCE, "InvalidProducerEpochError"): "REJECTED",
    (Api.PRODUCE, "TransactionalIdAuthorizationFailedError"): "RightsError",
    (Api.PRODUCE, "TopicAuthorizationFailedError"): "RightsError",
    (Api.PRODUCE, "GroupAuthorizationFailedError"): "RightsError",
    (Api.PRODUCE, "FencedInstanceIdError"): "FencedError",
    (Api.PRODUCE, "MessageSizeTooLargeError"): "RecordTooLargeError",
    (Api.ADD_PARTITIONS, "TransactionalIdAuthorizationFailedError"): "RightsError",
    (Api.ADD_PARTITIONS, "TopicAuthorizationFailedError"): "RightsError",
    (Api.ADD_OFFSETS, "TransactionalIdAuthorizationFailedError"): "RightsError",
    (Api.ADD_OFFSETS, "GroupAuthorizationFailedError"): "RightsError",
    (Api.TXN_OFFSET_COMMIT, "TransactionalIdAuthorizationFailedError"): "RightsError",
    (Api.TXN_OFFSET_COMMIT, "GroupAuthorizationFailedError"): "RightsError",
    (Api.TXN_OFFSET_COMMIT, "FencedInstanceIdError"): "FencedError",
}
"""Where another word is said than the rule of `said`."""

NEXT = {
    "LANDED": "LANDED",
    "REJECTED": "LANDED",
    "RightsError": "LANDED",
    "RecordTooLargeError": "LANDED",
    "UNKNOWN": "TransportError",
    "FencedError": "FencedError",
    "DeadlineError": "DeadlineError",
}
"""What the same committer says to the commit after."""

Hit = tuple[Api, Act, str, int]
"""Which request, what happens to it, the error or "", how often."""


def said(api: Api, error: str) -> str:
    """Return what a commit says whose step was answered with an error that no other try mends."""
    if error in ("ProducerFencedError", "InvalidProducerEpochError"):
        return SAID.get((api, error), "FencedError")
    return SAID.get((api, error), "UNKNOWN" if api is Api.END_TXN else "REJECTED")


@dataclass(frozen=True)
class Case:
    """Something injected into a commit.

    Attributes:
        hits: what happens to which requests.
        says: the outcome or the error's class; several with " or ".
        usual: run always, not only in the thorough run.
    """

    hits: tuple[Hit, ...]
    says: str
    usual: bool = True

    @property
    def name(self) -> str:
        return "+".join(
            "-".join(filter(None, (api.name, act.name, error.removesuffix("Error"), "" if times == 1 else "again")))
            for api, act, error, times in self.hits
        )

    @property
    def is_endless(self) -> bool:
        return "DeadlineError" in self.says


STEPS = tuple(USUAL)


def cases() -> Iterator[Case]:
    """Yield every step with every error, every cut and every silence."""
    for api in STEPS:
        yield Case(((api, Act.CUT_BEFORE, "", 1),), "LANDED")
        yield Case(((api, Act.CUT_AFTER, "", 1),), "LANDED")
        yield Case(((api, Act.CUT_AFTER, "", 3),), "LANDED", usual=api is Api.END_TXN)
        yield Case(((api, Act.SWALLOW, "", 1),), "DeadlineError", usual=api is Api.END_TXN)
        yield Case(((api, Act.SILENCE, "", 1),), "DeadlineError", usual=api in (Api.PRODUCE, Api.END_TXN))
        for act in (Act.ANSWER, Act.REPLACE):
            for error in PASSING:
                usual = error in USUAL[api] and act is Act.REPLACE
                yield Case(((api, act, error, 1),), "LANDED", usual)
                yield Case(((api, act, error, 4),), "LANDED", usual=False)
            for error in LASTING:
                usual = error in USUAL[api] and (act is Act.REPLACE or api is Api.END_TXN)
                yield Case(((api, act, error, 1),), said(api, error), usual)
    yield Case(((Api.PRODUCE, Act.ANSWER, "DuplicateSequenceNumberError", 1),), "REJECTED")
    yield Case(((Api.PRODUCE, Act.ANSWER, "NotEnoughReplicasError", EVER),), "DeadlineError")
    yield Case(((Api.ADD_PARTITIONS, Act.ANSWER, "ConcurrentTransactionsError", EVER),), "DeadlineError", usual=False)
    yield Case(((Api.ADD_OFFSETS, Act.ANSWER, "NotCoordinatorError", EVER),), "DeadlineError", usual=False)
    yield Case(
        ((Api.TXN_OFFSET_COMMIT, Act.ANSWER, "CoordinatorLoadInProgressError", EVER),), "DeadlineError", usual=False
    )
    yield Case(((Api.END_TXN, Act.REPLACE, "NotCoordinatorError", EVER),), "DeadlineError", usual=False)
    # A step fails, and then what takes it back fails as well.
    failed: Hit = (Api.TXN_OFFSET_COMMIT, Act.REPLACE, "IllegalGenerationError", 1)
    yield Case((failed, (Api.END_TXN, Act.CUT_BEFORE, "", 1)), "REJECTED")
    yield Case((failed, (Api.END_TXN, Act.CUT_AFTER, "", 1)), "REJECTED")
    yield Case((failed, (Api.END_TXN, Act.ANSWER, "InvalidTxnStateError", 1)), "REJECTED")
    yield Case((failed, (Api.END_TXN, Act.ANSWER, "ProducerFencedError", 1)), "FencedError")
    yield Case((failed, (Api.END_TXN, Act.SWALLOW, "", 1)), "UNKNOWN")
    broken: Hit = (Api.PRODUCE, Act.REPLACE, "IllegalGenerationError", 1)
    yield Case((broken, (Api.INIT_PRODUCER_ID, Act.ANSWER, "NotCoordinatorError", 2)), "REJECTED")
    yield Case((broken, (Api.INIT_PRODUCER_ID, Act.CUT_AFTER, "", 1)), "REJECTED")
    yield Case((broken, (Api.INIT_PRODUCER_ID, Act.ANSWER, "ProducerFencedError", 1)), "REJECTED")
    yield Case((broken, (Api.INIT_PRODUCER_ID, Act.SWALLOW, "", 1)), "REJECTED")
    moved: Hit = (Api.END_TXN, Act.REPLACE, "NotCoordinatorError", 1)
    yield Case((moved, (Api.FIND_COORDINATOR, Act.ANSWER, "CoordinatorNotAvailableError", 2)), "LANDED")
    yield Case((moved, (Api.FIND_COORDINATOR, Act.CUT_AFTER, "", 1)), "LANDED")


def parameters() -> list[object]:
    found = {case.name: case for case in cases()}
    return [
        pytest.param(case, id=name, marks=() if case.usual else pytest.mark.thorough) for name, case in found.items()
    ]


class Reader:
    """An owner that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        self.told.append("gained")
        return None

    def leaving(self, partition: Partition) -> None:
        self.told.append("leaving")

    def lost(self, partition: Partition) -> None:
        self.told.append("lost")


class Bench:
    """A member whose connections lead through the proxy, and a log that reads around it."""

    def __init__(self, broker: Proxied, transaction_s: float = TRANSACTION_S, request_s: float = DEADLINE_S) -> None:
        self.proxy = broker.proxy
        self.direct = KafkaLog(broker.direct, request_timeout_s=DEADLINE_S)
        name = f"outcomes-{uuid.uuid4().hex[:8]}"
        self.input = Partition(name, 0)
        self.group = f"{name}.group"
        self.outputs = [Partition(f"{name}-scores", 0), Partition(f"{name}-scores", 1), Partition(f"{name}-alerts", 0)]
        self._read_to = dict.fromkeys(self.outputs, 0)
        self._public: Counter[tuple[Partition, bytes]] = Counter()
        for topic, partitions in ((name, 1), (f"{name}-scores", 2), (f"{name}-alerts", 1)):
            self.direct.ensure_topic(topic, partitions)
        self.log = KafkaLog(
            broker.servers,
            session_timeout_s=30.0,
            transaction_timeout_s=transaction_s,
            request_timeout_s=request_s,
            commit_deadline_s=DEADLINE_S,
        )
        self.reader = Reader()
        self.source = self.log.join(name, self.group, self.reader, "a-0")
        wait_until(self.owns)
        self.offset = 0

    def owns(self) -> bool:
        """Poll; return whether the input is owned."""
        self.source.poll(10, 0.05)
        return bool(self.source.assignment())

    def commit(self, committer: Committer) -> tuple[str, bytes, int]:
        """Commit a record in each output and a position; return what was said, the records' value and the offset."""
        self.offset += 1
        value = b"%d" % self.offset
        records: dict[str, list[Record]] = {}
        for partition in self.outputs:
            records.setdefault(partition.topic, []).append(Record(value, partition=partition.number))
        try:
            outcome = committer.commit(Commit(records, {self.input: (self.offset, f"at {self.offset}")}))
        except StreamAdError as error:
            return type(error).__name__, value, self.offset
        return outcome.name, value, self.offset

    def position(self) -> int:
        """Return the committed offset; waits for a transaction that is being ended."""
        found = self.direct.committed(self.group, self.input)
        assert found is None or found.metadata == f"at {found.offset}"
        return 0 if found is None else found.offset

    def counts(self, value: bytes) -> list[int]:
        """Return how often a value is public in each output, after reading on to their ends."""
        for partition in self.outputs:
            end = self.direct.bounds(partition)[1]
            for raw in self.direct.read(partition, self._read_to[partition], end):
                self._public.update((partition, one) for one in raw.values)
            self._read_to[partition] = end
        return [self._public[partition, value] for partition in self.outputs]

    def await_all(self, value: bytes) -> None:
        """Check that a value is in each output once; it may show a moment after the coordinator's answer."""
        wait_until(lambda: min(self.counts(value)) > 0, 10.0)
        assert self.counts(value) == [1, 1, 1]

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """Give commits less time."""
        self.log.commit_deadline_s = seconds
        yield
        self.log.commit_deadline_s = DEADLINE_S

    def close(self) -> None:
        self.log.close()
        self.direct.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    with behind_proxy(tmp_path_factory.mktemp("kafka")) as found:
        yield found


@pytest.fixture(scope="module")
def shared(broker: Proxied) -> Iterator[Bench]:
    bench = Bench(broker)
    yield bench
    bench.close()


@pytest.fixture
def bench(broker: Proxied) -> Iterator[Bench]:
    """A member of its own, for what is done to members."""
    bench = Bench(broker)
    yield bench
    bench.close()


def code(error: str) -> int:
    return int(getattr(kafka_errors, error).errno) if error else 0


@pytest.mark.parametrize("case", parameters())
def test_a_commit_tells_the_truth(shared: Bench, case: Case) -> None:
    bench = shared
    assert bench.owns()  # polled often enough to stay a member
    committer = bench.log.committer(bench.source, "a-0")
    before = bench.position()
    rules = [Rule(api, act, code(error), times=times) for api, act, error, times in case.hits]
    with bench.deadline(SHORT_S if case.is_endless or "SWALLOW" in case.name else DEADLINE_S):
        with bench.proxy.rules(*rules):
            word, value, offset = bench.commit(committer)
            assert all(rule.hits for rule in rules), rules
        assert word in case.says.split(" or ")
        if word == "LANDED":
            assert bench.position() == offset
            bench.await_all(value)
        elif word in ("REJECTED", "RightsError", "RecordTooLargeError"):
            assert bench.position() == before
            assert bench.counts(value) == [0, 0, 0]
        later, later_value, later_offset = bench.commit(committer)
    committer.close()
    if len(rules) == 1:
        assert later == NEXT[word]
    if later == "LANDED":
        bench.await_all(later_value)
    bench.log.committer(bench.source, "a-0").close()  # the successor, which ends what is open
    final = bench.position()
    if word in ("LANDED", "REJECTED") or later == "LANDED":
        assert final == (later_offset if later == "LANDED" else offset if word == "LANDED" else before)
    assert final in (before, offset, later_offset)
    was_public = word == "LANDED" or final == offset
    if was_public:
        bench.await_all(value)
    else:
        assert bench.counts(value) == [0, 0, 0]
    if later != "LANDED":
        assert bench.counts(later_value) == [0, 0, 0]


@pytest.mark.parametrize(
    ("act", "error", "times", "may_say"),
    [
        (Act.CUT_BEFORE, "", 1, "LANDED"),
        (Act.CUT_AFTER, "", 1, "LANDED"),
        (Act.CUT_AFTER, "", 3, "LANDED"),
        (Act.REPLACE, "UnknownTopicOrPartitionError", 3, "LANDED"),
        (Act.SWALLOW, "", 1, "LANDED REJECTED"),
        (Act.SILENCE, "", 1, "LANDED REJECTED"),
        (Act.REPLACE, "UnknownTopicOrPartitionError", EVER, "REJECTED"),
    ],
)
def test_no_position_is_committed_unless_its_topic_is_known_to_be_the_same(
    broker: Proxied, act: Act, error: str, times: int, may_say: str
) -> None:
    """A question that gets no answer is asked again, and that one may be answered in time.

    It is where the records took as long: they wait behind the question, on the same connection.
    """
    bench = Bench(broker, request_s=2.0)
    try:
        committer = bench.log.committer(bench.source, "a-0")
        assert bench.commit(committer)[0] == "LANDED"
        before = bench.position()
        names = {bench.input.topic, *(partition.topic for partition in bench.outputs)}
        rule = Rule(
            Api.METADATA,
            act,
            code(error),
            times=times,
            where=lambda request: {topic.name for topic in request.topics or ()} == names,
        )
        with broker.proxy.rules(rule):
            word, value, offset = bench.commit(committer)
        assert rule.hits >= min(times, 2)
        assert word in may_say.split()
        if word == "LANDED":
            assert bench.position() == offset
            bench.await_all(value)
        else:
            assert bench.position() == before
            assert bench.counts(value) == [0, 0, 0]
        word, value, offset = bench.commit(committer)
        assert word == "LANDED"
        assert bench.position() == offset
        bench.await_all(value)
        committer.close()
    finally:
        bench.close()


# Appending, opening, reading back, membership


def appends() -> Iterator[object]:
    for act in (Act.CUT_BEFORE, Act.CUT_AFTER):
        yield pytest.param(act, "", id=act.name)
    for act in (Act.ANSWER, Act.REPLACE):
        for error in (*PASSING, *LASTING):
            usual = act is Act.REPLACE and error in USUAL[Api.PRODUCE]
            yield pytest.param(act, error, id=f"{act.name}-{error}", marks=() if usual else pytest.mark.thorough)


@pytest.mark.parametrize(("act", "error"), list(appends()))
def test_what_was_appended_is_there(broker: Proxied, shared: Bench, act: Act, error: str) -> None:
    """Outside of transactions: once, where `append` returned; and an error does not harm the next records."""
    rule = Rule(Api.PRODUCE, act, code(error))
    values = [b"appended %d %d" % (shared.offset, k) for k in range(3)]
    shared.offset += 1
    topic = shared.outputs[0].topic
    log = KafkaLog(broker.servers, request_timeout_s=DEADLINE_S)  # whose producer has nothing acknowledged yet
    for value in values:
        returned = True
        with broker.proxy.rules(rule):
            try:
                log.append(topic, [Record(value, partition=partition) for partition in (0, 1)])
            except StreamAdError:
                returned = False
        if returned:
            wait_until(lambda value=value: min(shared.counts(value)[:2]) > 0, 10.0)  # type: ignore[misc]
            assert shared.counts(value) == [1, 1, 0]
        else:
            assert max(shared.counts(value)) <= 1
            assert value == values[0]
    assert rule.hits == 1
    log.close()


OPENING: dict[tuple[Api, Act, str, int], str] = {
    (Api.INIT_PRODUCER_ID, Act.CUT_BEFORE, "", 1): "",
    (Api.INIT_PRODUCER_ID, Act.CUT_AFTER, "", 1): "",
    (Api.INIT_PRODUCER_ID, Act.REPLACE, "ConcurrentTransactionsError", 2): "",
    (Api.INIT_PRODUCER_ID, Act.ANSWER, "CoordinatorLoadInProgressError", 2): "",
    (Api.INIT_PRODUCER_ID, Act.ANSWER, "NotCoordinatorError", 1): "",
    (Api.INIT_PRODUCER_ID, Act.ANSWER, "ProducerFencedError", 1): "FencedError",
    (Api.INIT_PRODUCER_ID, Act.ANSWER, "InvalidProducerEpochError", 1): "FencedError",
    (Api.INIT_PRODUCER_ID, Act.ANSWER, "TransactionalIdAuthorizationFailedError", 1): "RightsError",
    (Api.INIT_PRODUCER_ID, Act.ANSWER, "UnknownError", 1): "TransportError",
    (Api.INIT_PRODUCER_ID, Act.SWALLOW, "", 1): "DeadlineError or UnreachableError",
    (Api.FIND_COORDINATOR, Act.CUT_AFTER, "", 1): "",
    (Api.FIND_COORDINATOR, Act.ANSWER, "CoordinatorNotAvailableError", 2): "",
    (Api.FIND_COORDINATOR, Act.ANSWER, "TransactionalIdAuthorizationFailedError", 1): "RightsError",
}


@pytest.mark.parametrize("hit", OPENING, ids=lambda hit: f"{hit[0].name}-{hit[1].name}-{hit[2]}")
def test_a_committer_opens_or_says_why_not(shared: Bench, hit: Hit) -> None:
    bench, (api, act, error, times) = shared, hit
    rule = Rule(api, act, code(error), times=times)
    with bench.proxy.rules(rule), bench.deadline(SHORT_S if act is Act.SWALLOW else DEADLINE_S):
        try:
            bench.log.committer(bench.source, "a-0").close()
            found = ""
        except StreamAdError as failure:
            found = type(failure).__name__
    assert rule.hits
    assert found in OPENING[hit].split(" or ")
    committer = bench.log.committer(bench.source, "a-0")
    word, value, offset = bench.commit(committer)
    assert word == "LANDED"
    assert bench.position() == offset
    bench.await_all(value)
    committer.close()


@pytest.mark.parametrize(
    ("act", "error", "times"),
    [
        (Act.CUT_BEFORE, "", 1),
        (Act.CUT_AFTER, "", 1),
        (Act.SWALLOW, "", 1),
        (Act.ANSWER, "UnstableOffsetCommitError", 3),
        (Act.ANSWER, "CoordinatorLoadInProgressError", 3),
        (Act.ANSWER, "NotCoordinatorError", 1),
        (Act.ANSWER, "GroupAuthorizationFailedError", 1),
    ],
)
def test_a_position_is_read_right_or_not_at_all(
    broker: Proxied, shared: Bench, act: Act, error: str, times: int
) -> None:
    """What a recovery goes on from: None would start the stream over."""
    committer = shared.log.committer(shared.source, "a-0")
    word, _, offset = shared.commit(committer)
    assert word == "LANDED"
    committer.close()
    log = KafkaLog(broker.servers, transaction_timeout_s=TRANSACTION_S, request_timeout_s=2.0)
    rule = Rule(Api.OFFSET_FETCH, act, code(error), times=times)
    try:
        with broker.proxy.rules(rule):
            if error == "GroupAuthorizationFailedError":
                with pytest.raises(AccessError):
                    log.committed(shared.group, shared.input)
            else:
                found = log.committed(shared.group, shared.input)
                assert found is not None
                assert (found.offset, found.metadata) == (offset, f"at {offset}")
        assert rule.hits >= min(times, 2)
    finally:
        log.close()


@pytest.mark.parametrize(
    "error",
    [
        "UnknownMemberIdError",
        pytest.param("IllegalGenerationError", marks=pytest.mark.thorough),
        pytest.param("FencedInstanceIdError", marks=pytest.mark.thorough),
    ],
)
def test_a_member_that_hears_it_is_none_publishes_nothing_more(bench: Bench, error: str) -> None:
    committer = bench.log.committer(bench.source, "a-0")
    word, value, offset = bench.commit(committer)
    assert word == "LANDED"
    source = bench.source
    assert isinstance(source, KafkaSource)
    rule = Rule(Api.HEARTBEAT, Act.ANSWER, code(error), times=EVER)
    with bench.proxy.rules(rule):
        wait_until(lambda: rule.hits > 0)
        wait_until(lambda: not source.is_member())
        later, later_value, _ = bench.commit(committer)
        assert later in ("REJECTED", "FencedError")
        with pytest.raises(FencedError):
            wait_until(lambda: not bench.owns())
    assert bench.reader.told == ["gained", "lost"]
    assert bench.position() == offset
    bench.await_all(value)
    assert bench.counts(later_value) == [0, 0, 0]
    committer.close()


def test_a_rebalance_that_changes_nothing_stops_no_commit(bench: Bench) -> None:
    committer = bench.log.committer(bench.source, "a-0")
    rule = Rule(Api.HEARTBEAT, Act.ANSWER, code("RebalanceInProgressError"))
    with bench.proxy.rules(rule):
        wait_until(lambda: rule.hits > 0)
    word, value, offset = bench.commit(committer)
    assert word in ("LANDED", "REJECTED")
    for _ in range(20):
        assert bench.owns()
    if word == "REJECTED":
        assert bench.position() == 0
        assert bench.counts(value) == [0, 0, 0]
        word, value, offset = bench.commit(committer)
    assert word == "LANDED"
    assert bench.position() == offset
    bench.await_all(value)
    assert bench.reader.told == ["gained"]
    committer.close()


def test_a_transaction_that_the_broker_has_given_up_is_not_said_to_have_landed(broker: Proxied) -> None:
    """The coordinator is busy for longer than the transaction may last."""
    bench = Bench(broker, transaction_s=1.5)
    try:
        committer = bench.log.committer(bench.source, "a-0")
        until = time.monotonic() + 4.5
        busy = code("ConcurrentTransactionsError")
        rule = Rule(Api.END_TXN, Act.ANSWER, busy, times=EVER, where=lambda _: time.monotonic() < until)
        with bench.proxy.rules(rule):
            word, value, _ = bench.commit(committer)
        assert rule.hits > 1
        assert word in ("UNKNOWN", "FencedError")
        committer.close()
        committer = bench.log.committer(bench.source, "a-0")
        assert bench.position() == 0
        assert bench.counts(value) == [0, 0, 0]
        assert bench.commit(committer)[0] == "LANDED"
        assert bench.counts(value) == [0, 0, 0]
        committer.close()
    finally:
        bench.close()


def test_a_new_topic_that_a_broker_has_not_heard_of_is_asked_for_again(broker: Proxied) -> None:
    """Settings may be asked of another broker than the one that has just described the topic."""
    log = KafkaLog(broker.servers, request_timeout_s=10.0)
    rule = Rule(Api.DESCRIBE_CONFIGS, Act.ANSWER, code("UnknownTopicOrPartitionError"), times=3)
    try:
        with broker.proxy.rules(rule):
            assert log.ensure_topic("just-made", 2, {"max.message.bytes": "2000000"}).max_record_bytes == 2_000_000
        assert rule.hits == 3
    finally:
        log.close()
