from __future__ import annotations

import inspect

import pytest
from kafka import errors as kafka

from stream_ad import errors as ours
from stream_ad.io.kafka.errors import BASES, DECIDED, TABLE, meaning, translating

KAFKAS = sorted(
    {kind for kind in vars(kafka).values() if inspect.isclass(kind) and issubclass(kind, kafka.KafkaError)},
    key=lambda kind: kind.__name__,
)


UNDECIDED = {
    "BrokerResponseError",
    "CorruptRecordError",
    "DuplicateBrokerRegistrationError",
    "DuplicateResourceError",
    "DuplicateSequenceNumberError",
    "DuplicateVoterError",
    "FeatureUpdateFailedError",
    "FencedStateEpochError",
    "GroupIdNotFoundError",
    "GroupMaxSizeReachedError",
    "GroupSubscribedToTopicError",
    "IllegalStateError",
    "IncompatibleBrokerVersion",
    "InconsistentClusterIdError",
    "InconsistentGroupProtocolError",
    "InconsistentVoterSetError",
    "IneligibleReplicaError",
    "InvalidFetchRequestError",
    "InvalidReceiveError",
    "InvalidRecordError",
    "InvalidRecordStateError",
    "InvalidRegistrationError",
    "InvalidRequestError",
    "InvalidRequiredAcksError",
    "InvalidTxnStateError",
    "InvalidUpdateVersionError",
    "InvalidVoterKeyError",
    "KafkaError",
    "KafkaProtocolError",
    "LogDirNotFoundError",
    "MemberIdRequiredError",
    "MismatchedEndpointTypeError",
    "NewLeaderElectedError",
    "NoError",
    "NoReassignmentInProgressError",
    "NonEmptyGroupError",
    "OperationNotAttemptedError",
    "OutOfOrderSequenceNumberError",
    "QuotaViolationError",
    "ReassignmentInProgressError",
    "SnapshotNotFoundError",
    "StaleBrokerEpochError",
    "StaleControllerEpochError",
    "TelemetryTooLargeError",
    "TransactionAbortableError",
    "TransactionAbortedError",
    "TransactionalIdNotFoundError",
    "UnknownError",
    "UnknownProducerIdError",
    "UnknownSubscriptionIdError",
    "UnrecognizedBrokerVersion",
    "UnsupportedAssignorError",
    "UnsupportedCompressionTypeError",
    "UnsupportedEndpointTypeError",
    "UnsupportedForMessageFormatError",
    "UnsupportedVersionError",
    "VoterNotFoundError",
}
"""What neither a user nor a retry can mend: damage, protocol mismatches, answers to requests that are never sent."""


@pytest.mark.parametrize("kind", KAFKAS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_client_is_decided(kind: type[Exception]) -> None:
    is_decided = kind in TABLE or issubclass(kind, tuple(BASES))
    assert is_decided != (kind.__name__ in UNDECIDED)


def test_no_decision_is_made_twice_or_for_nothing() -> None:
    names = [name for group in DECIDED.values() for name in group]
    assert len(names) == len(set(names))
    assert {*names, *UNDECIDED} <= set(vars(kafka))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (kafka.TopicAuthorizationFailedError("t"), ours.RightsError),
        (kafka.SaslAuthenticationFailedError(), ours.AccessError),
        (kafka.KafkaTimeoutError(), ours.UnreachableError),
        (kafka.NotLeaderForPartitionError(), ours.UnreachableError),
        (kafka.UnknownTopicOrPartitionError(), ours.TopicError),
        (kafka.ProducerFencedError(), ours.FencedError),
        (kafka.OffsetOutOfRangeError(), ours.PositionError),
        (kafka.MessageSizeTooLargeError(), ours.RecordTooLargeError),
        (kafka.for_code(9_999)(), ours.TransportError),
        (kafka.KafkaConfigurationError(), ours.ConfigError),
        (ConnectionRefusedError(), ours.UnreachableError),
    ],
)
def test_the_most_derived_decision_wins(error: Exception, expected: type[ours.StreamAdError]) -> None:
    assert meaning(error) is expected


def test_the_cause_is_kept_and_the_place_is_named() -> None:
    with (
        pytest.raises(ours.TopicError, match=r"topic t on host:9092: InvalidTopicError") as caught,
        translating("topic t on host:9092"),
    ):
        raise kafka.InvalidTopicError("bad name")
    assert isinstance(caught.value.__cause__, kafka.InvalidTopicError)
