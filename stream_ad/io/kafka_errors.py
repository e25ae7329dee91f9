"""kafka-python's errors in the words of `stream_ad.errors`: one table, walked by a test.

An error is looked up along its class's bases, so the most derived decision wins. `AuthorizationError` and
`RetriableError` decide for the classes below them that have no line of their own: who may do what, and what a broker
that is there would answer on a second try.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import errors as kafka

from stream_ad.errors import (
    AccessError,
    ConfigError,
    FencedError,
    PositionError,
    RecordTooLargeError,
    StreamAdError,
    TopicError,
    TransportError,
    UnreachableError,
)

BASES: dict[type[Exception], type[StreamAdError]] = {
    kafka.AuthorizationError: AccessError,
    kafka.RetriableError: UnreachableError,
}
"""Decisions that hold for all classes below."""

DECIDED: dict[type[StreamAdError], tuple[str, ...]] = {
    AccessError: (
        "DelegationTokenAuthDisabledError",
        "DelegationTokenExpiredError",
        "DelegationTokenNotFoundError",
        "DelegationTokenOwnerMismatchError",
        "DelegationTokenRequestNotAllowedError",
        "IllegalSaslStateError",
        "InvalidPrincipalTypeError",
        "PrincipalDeserializationFailureError",
        "SaslAuthenticationFailedError",
        "SecurityDisabledError",
        "UnacceptableCredentialError",
        "UnsupportedSaslMechanismError",
    ),
    ConfigError: (
        "IllegalArgumentError",
        "InvalidGroupIdError",
        "InvalidSessionTimeoutError",
        "InvalidTransactionTimeoutError",
        "KafkaConfigurationError",
        "UnsupportedCodecError",
    ),
    FencedError: (
        "CommitFailedError",
        "FencedInstanceIdError",
        "FencedMemberEpochError",
        "IllegalGenerationError",
        "InvalidProducerEpochError",
        "InvalidProducerIdMappingError",
        "ProducerFencedError",
        "RebalanceInProgressError",
        "StaleMemberEpochError",
        "TransactionCoordinatorFencedError",
        "UnknownMemberIdError",
        "UnreleasedInstanceIdError",
    ),
    PositionError: (
        "LogTruncationError",
        "NoOffsetForPartitionError",
        "OffsetMovedToTieredStorageError",
        "OffsetOutOfRangeError",
        "PositionOutOfRangeError",
    ),
    RecordTooLargeError: (
        "InvalidCommitOffsetSizeError",
        "MessageSizeTooLargeError",
        "OffsetMetadataTooLargeError",
        "RecordListTooLargeError",
    ),
    TopicError: (
        "InconsistentTopicIdError",
        "InvalidConfigurationError",
        "InvalidPartitionsError",
        "InvalidReplicationAssignmentError",
        "InvalidReplicationFactorError",
        "InvalidTimestampError",
        "InvalidTopicError",
        "PolicyViolationError",
        "ResourceNotFoundError",
        "TopicAlreadyExistsError",
        "TopicDeletionDisabledError",
        "UnknownTopicIdError",
        "UnknownTopicOrPartitionError",
    ),
    UnreachableError: (
        "BrokerIdNotRegisteredError",
        "BrokerNotAvailableError",
        "UnknownBrokerIdError",
        "UnknownControllerIdError",
    ),
    # What neither a user nor another try can mend: damage, a protocol that the two sides read differently, answers to
    # requests that this package never sends.
    TransportError: (
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
    ),
}
"""Decisions on one class each, by its name in `kafka.errors`; a name that an older client lacks is skipped."""

TABLE: dict[type[Exception], type[StreamAdError]] = BASES | {
    vars(kafka)[name]: ours for ours, names in DECIDED.items() for name in names if name in vars(kafka)
}


def meaning(error: BaseException) -> type[StreamAdError]:
    """Return the class of ours that says what a client's error means; `TransportError` for one nobody decided."""
    if isinstance(error, OSError):
        return UnreachableError
    return next((TABLE[base] for base in type(error).__mro__ if base in TABLE), TransportError)


def translated(error: BaseException, where: str) -> StreamAdError:
    """Return an error of ours for a client's.

    Args:
        error: what kafka-python raised.
        where: what was tried and on which servers, for the message.
    """
    return meaning(error)(f"{where}: {type(error).__name__}: {error}")


@contextmanager
def translating(where: str) -> Iterator[None]:
    """Raise a client's errors from the block as ours, with the cause kept.

    Raises:
        StreamAdError: of the class that `meaning` tells.
    """
    try:
        yield
    except (kafka.KafkaError, OSError) as error:
        raise translated(error, where) from error
