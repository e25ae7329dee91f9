"""Which topic it is that has a name: one that was deleted and made anew is another.

Fetches of kafka-python 3 and committed positions name a topic by its name alone: where the new topic has as many
records as the old one, they go on with it. So positions are committed only after a broker has said, later than the
records were read, that the topic is still the one that was joined.
"""

from __future__ import annotations

import threading
import time

from kafka import errors as kafka_errors
from kafka.cluster import ClusterMetadata

from stream_ad.errors import PositionError


class TopicWatch:
    """Asks a client's metadata for a topic's identity, in the background.

    Args:
        cluster: metadata of the client; the topic is added to what it asks for.
        topic: its name.
        topic_id: of the topic that is meant.
        where: who reads it, for messages.
        wait_s: for an answer that is needed.
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
        """Have the identity asked for; do not wait."""
        self.asked_at = time.monotonic()
        # An answer under way may be from before.
        self._is_late = not self._cluster.metadata_refresh_in_progress
        self._answer = self._cluster.request_update()

    def is_known(self) -> bool:
        """Say whether a topic of this name was there, as far as the last answer tells.

        Raises:
            PositionError: one is there, and it is another than the one that is meant.
        """
        found = self._cluster.topic_id(self._topic)
        if found is None or found.int == 0:
            return False
        if str(found) != self._topic_id:
            raise PositionError(
                f"{self._topic} for {self._where}: the topic was made anew meanwhile, and its offsets with it"
            )
        return True

    def confirm(self) -> None:
        """Wait until what was last asked is answered: the topic is still the one that is meant.

        A broker that knows of no such topic may only be behind, and is asked again.

        Raises:
            PositionError: it is another.
            kafka.errors.KafkaTimeoutError: no answer, or no such topic.
        """
        deadline = time.monotonic() + self._wait_s
        while True:
            self._await(deadline - time.monotonic())
            if self._answer.succeeded() and self.is_known() and self._is_late:
                return
            if time.monotonic() >= deadline:
                raise kafka_errors.KafkaTimeoutError(
                    f"{self._topic} for {self._where}: not found within {self._wait_s:g} s"
                )
            self.ask()

    def _await(self, wait_s: float) -> None:
        done = threading.Event()
        self._answer.add_both(lambda _: done.set())
        done.wait(wait_s)
