"""Translates kafka-python's errors to `stream_ad.errors`: one table, checked by a test.

An error is looked up along its class's bases, so the most derived decision applies. `AuthorizationError` and
`RetriableError` decide for subclasses without an entry: missing rights, and errors that a retry can resolve.
Everything else is a `TransportError`, which neither a user nor a retry can resolve; the test lists those classes, so
that a new one in the client gets a decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kafka import errors as kafka

from stream_ad.errors import (
    AccessError,
    ConfigError,
    FencedError,
    PositionError,
    RecordTooLargeError,
    RightsError,
    StreamAdError,
    TopicError,
    TransportError,
    UnreachableError,
)

BASES: dict[type[Exception], type[StreamAdError]] = {
    kafka.AuthorizationError: AccessError,
    kafka.RetriableError: UnreachableError,
}
"""Decisions for a class and all its subclasses."""

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
    RightsError: (
        "ClusterAuthorizationFailedError",
        "GroupAuthorizationFailedError",
        "TopicAuthorizationFailedError",
        "TransactionalIdAuthorizationFailedError",
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
}
"""Decisions for single classes, by name in `kafka.errors`; names missing from an older client are skipped."""

TABLE: dict[type[Exception], type[StreamAdError]] = BASES | {
    vars(kafka)[name]: ours for ours, names in DECIDED.items() for name in names if name in vars(kafka)
}


class Refusal(kafka.AuthorizationError):  # type: ignore[misc]  # kafka-python is untyped
    """A broker refused the client, or the client its certificate: retrying is useless.

    A subclass of the client's own error, which it raises instead of retrying for ever.
    """

    def __init__(self, text: str, kind: type[StreamAdError] = AccessError) -> None:
        super().__init__(text)
        self.text = text
        self.kind = kind

    def __str__(self) -> str:
        return self.text


RIGHTS: dict[type[BaseException], str] = {
    kafka.TopicAuthorizationFailedError: "the broker grants too few rights on the topic",
    kafka.GroupAuthorizationFailedError: "the broker grants too few rights on the consumer group",
    kafka.TransactionalIdAuthorizationFailedError: "the broker grants too few rights on the transactional id",
    kafka.ClusterAuthorizationFailedError: "the broker grants too few rights on the cluster",
}
"""Messages for missing rights; `docs/security.md` has a table of the rights that each role needs."""


def meaning(error: BaseException) -> type[StreamAdError]:
    """Return our error class for a client's error; `TransportError` if none is listed."""
    if isinstance(error, OSError):
        return UnreachableError
    if isinstance(error, Refusal):
        return error.kind
    return next((TABLE[base] for base in type(error).__mro__ if base in TABLE), TransportError)


def translated(error: BaseException, where: str) -> StreamAdError:
    """Return our error for a client's.

    Args:
        error: what kafka-python raised.
        where: operation and servers, for the message.
    """
    if isinstance(error, Refusal):
        return error.kind(error.text if error.text.startswith(where) else f"{where}: {error.text}")
    text = f"{type(error).__name__}: {error}"
    if type(error) in RIGHTS:
        names = " ".join(["", *sorted(set(_names(error.args)))])
        text = f"{RIGHTS[type(error)]}{names}; grant those listed in docs/security.md ({type(error).__name__})"
    return meaning(error)(f"{where}: {text}")


def _names(values: Iterable[object]) -> Iterator[str]:
    """Yield the names of the refused resources: the client gives a text, a set or none."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Iterable):
            yield from _names(value)


@contextmanager
def translating(where: str) -> Iterator[None]:
    """Translate the client's errors raised in the block, keeping the cause.

    Raises:
        StreamAdError: of the class given by `meaning`.
    """
    try:
        yield
    except (kafka.KafkaError, OSError) as error:
        raise translated(error, where) from error
