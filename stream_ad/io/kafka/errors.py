"""kafka-python's errors in the words of `stream_ad.errors`: one table, walked by a test.

An error is looked up along its class's bases, so the most derived decision wins. `AuthorizationError` and
`RetriableError` decide for the classes below them that have no line of their own: who may do what, and what a broker
that is there would answer on a second try. Everything else is a `TransportError`, which neither a user nor a retry
can mend; the test lists those classes, so that a new one in the client is decided and not overlooked.
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
"""Decisions on one class each, by its name in `kafka.errors`; a name that an older client lacks is skipped."""

TABLE: dict[type[Exception], type[StreamAdError]] = BASES | {
    vars(kafka)[name]: ours for ours, names in DECIDED.items() for name in names if name in vars(kafka)
}


class Refusal(kafka.AuthorizationError):  # type: ignore[misc]  # kafka-python is untyped
    """A broker refused us, or we its certificate: trying again is of no use.

    One of the client's own family, which it keeps for the broker and raises instead of trying for ever.
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
"""What lacks, in words; `docs/security.md` has a table of what each role needs."""


def meaning(error: BaseException) -> type[StreamAdError]:
    """Return the class of ours that says what a client's error means; `TransportError` for one nobody decided."""
    if isinstance(error, OSError):
        return UnreachableError
    if isinstance(error, Refusal):
        return error.kind
    return next((TABLE[base] for base in type(error).__mro__ if base in TABLE), TransportError)


def translated(error: BaseException, where: str) -> StreamAdError:
    """Return an error of ours for a client's.

    Args:
        error: what kafka-python raised.
        where: what was tried and on which servers, for the message.
    """
    if isinstance(error, Refusal):
        return error.kind(error.text if error.text.startswith(where) else f"{where}: {error.text}")
    said = f"{type(error).__name__}: {error}"
    if type(error) in RIGHTS:
        names = " ".join(["", *sorted(set(_names(error.args)))])
        said = f"{RIGHTS[type(error)]}{names}; docs/security.md lists those needed ({type(error).__name__})"
    return meaning(error)(f"{where}: {said}")


def _names(values: Iterable[object]) -> Iterator[str]:
    """Yield the names of what is refused: the client gives a text, a set or none."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Iterable):
            yield from _names(value)


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
