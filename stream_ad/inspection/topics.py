"""Checks that the topics are as a run needs them; creates or extends them on request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from stream_ad.errors import RightsError, TopicError
from stream_ad.inspection.finding import Finding
from stream_ad.inspection.formatting import count_text

if TYPE_CHECKING:
    from stream_ad.config import Settings
    from stream_ad.io.transport import TopicInfo, Transport

PARTITIONS = 4
"""Partitions of topics created here: enough to add scorers later."""


def check_topics(transport: Transport, settings: Settings, create: bool, partitions: int | None) -> Iterator[Finding]:
    """Check that the topics exist, have append times, matching partition counts and sufficient record sizes."""
    from stream_ad.assembly import is_growth
    from stream_ad.io.state.journal import KEEP_FOR_EVER

    stream = settings.stream
    try:
        readings = find_topic(transport, stream.readings_topic, create, partitions or PARTITIONS)
        create_more = create and is_growth(transport, stream.journal_topic, readings)
        scores = find_output(transport, stream.scores_topic, create, create_more, readings)
        journal = find_output(transport, stream.journal_topic, create, create_more, readings, KEEP_FOR_EVER)
        others = [
            find_topic(transport, name, create, partitions or readings.partitions)
            for name in (stream.alerts_topic, stream.dead_letters_topic)
        ]
        control = find_topic(transport, stream.control_topic, create, 1)
    except (TopicError, RightsError) as error:
        yield Finding("topics", False, str(error))
        return
    wrong = list(topic_faults(settings, readings, scores, journal, others))
    good = (
        f"{readings.name}: {count_text(readings.partitions, 'partition')}, append times; "
        f"{scores.name}, {journal.name}: the same; {'; '.join(other.name for other in (*others, control))}"
    )
    if not wrong and not readings.append_time:
        good = good.replace("append times", "producers' times, trusted")
    yield Finding("topics", not wrong, "\n".join(wrong) or good)


def find_topic(
    transport: Transport, name: str, create: bool, partitions: int, made_with: Mapping[str, str] | None = None
) -> TopicInfo:
    """Return a topic, created if it is missing and `create` is set.

    Raises:
        TopicError: it is missing or cannot be created.
    """
    try:
        return transport.topic(name)
    except TopicError as error:
        if not create:
            raise TopicError(f"{error}; create it with `stream-ad check --create`") from error
        return transport.ensure_topic(name, partitions, made_with)


def find_output(
    transport: Transport,
    name: str,
    create: bool,
    extend: bool,
    readings: TopicInfo,
    made_with: Mapping[str, str] | None = None,
) -> TopicInfo:
    """Return a topic that needs as many partitions as the readings; created or extended on request.

    Raises:
        TopicError: it is missing, or cannot be created or extended.
        RightsError: the rights to do so are missing.
    """
    found = find_topic(transport, name, create, readings.partitions, made_with)
    if extend and found.partitions < readings.partitions:
        return transport.extend_topic(name, readings.partitions)
    return found


def topic_faults(
    settings: Settings, readings: TopicInfo, scores: TopicInfo, journal: TopicInfo, others: list[TopicInfo]
) -> Iterator[str]:
    """Yield the reasons why a run would fail."""
    from stream_ad.config import KafkaTransport

    if not readings.append_time and not settings.time.trust_producer_clocks:
        yield (
            f"{readings.name} has producers' times; set message.timestamp.type=LogAppendTime "
            "or time.trust_producer_clocks = true"
        )
    for topic in (scores, journal):
        if topic.partitions < readings.partitions:
            added = ", ".join(map(str, range(topic.partitions, readings.partitions)))
            yield (
                f"{topic.name} has {count_text(topic.partitions, 'partition')}, {readings.name} has "
                f"{readings.partitions}: partition {added} of the readings is not scored; `stream-ad check --create` "
                "adds the missing ones, and running scorers then pick them up"
            )
        elif topic.partitions > readings.partitions:
            yield (
                f"{topic.name} has {count_text(topic.partitions, 'partition')}, {readings.name} has "
                f"{readings.partitions}: they must be equal, and cannot be changed once scores exist"
            )
    if isinstance(settings.transport, KafkaTransport):
        limit = settings.transport.max_record_bytes
        for topic in (scores, journal, *others):
            if topic.max_record_bytes is not None and topic.max_record_bytes < limit:
                yield (
                    f"{topic.name} accepts records of up to {topic.max_record_bytes} bytes, but "
                    f"transport.max_record_bytes is {limit}: lower it, or raise the topic's max.message.bytes"
                )
