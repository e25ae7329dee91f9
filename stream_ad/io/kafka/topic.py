"""Verifies a topic's identity: a topic that was deleted and recreated is another one.

Fetches of kafka-python 3 and committed positions identify a topic only by name: if the new topic has as many records
as the old one, reading silently continues in it. So positions are committed only after a broker has confirmed, later
than the records were read, that the topic is still the one that was joined.
"""

from __future__ import annotations

import threading
import time

from kafka import errors as kafka_errors
from kafka.cluster import ClusterMetadata

from stream_ad.errors import PositionError


class TopicWatch:
    """Queries a client's metadata for a topic's id, in the background.

    Args:
        cluster: the client's metadata; the topic is added to them.
        topic: its name.
        topic_id: the expected id.
        where: the reader, for messages.
        wait_s: timeout of `confirm`.
    """

    def __init__(self, cluster: ClusterMetadata, topic: str, topic_id: str, where: str, *, wait_s: float) -> None:
        self.asked_at = time.monotonic()
        self._cluster = cluster
        self._topic = topic
        self._topic_id = topic_id
        self._where = where
        self._wait_s = wait_s
        cluster.add_topic(topic)
        self.ask()

    def ask(self) -> None:
        """Request the id without waiting."""
        self.asked_at = time.monotonic()
        # A request in progress may have been answered before this call.
        self._is_late = not self._cluster.metadata_refresh_in_progress
        self._answer = self._cluster.request_update()

    def is_known(self) -> bool:
        """Return whether the topic exists according to the last answer.

        Raises:
            PositionError: it exists with another id.
        """
        found = self._cluster.topic_id(self._topic)
        if found is None or found.int == 0:
            return False
        if str(found) != self._topic_id:
            raise PositionError(
                f"{self._topic} for {self._where}: the topic was recreated, and its offsets start again"
            )
        return True

    def confirm(self) -> None:
        """Wait until the last request is answered and confirms the expected id.

        A broker that does not know the topic may only lag behind, and is asked again.

        Raises:
            PositionError: the id differs.
            kafka.errors.KafkaTimeoutError: no answer, or no such topic.
        """
        deadline = time.monotonic() + self._wait_s
        while True:
            self._await(deadline - time.monotonic())
            if self._answer.succeeded() and self.is_known() and self._is_late:
                return
            if time.monotonic() >= deadline:
                raise kafka_errors.KafkaTimeoutError(
                    f"{self._topic} for {self._where}: topic not found within {self._wait_s:g} s"
                )
            self.ask()

    def _await(self, wait_s: float) -> None:
        done = threading.Event()
        self._answer.add_both(lambda _: done.set())
        done.wait(wait_s)
