"""All errors that this package raises, in one tree.

::

    StreamAdError
    ├── ConfigError             a setting is wrong, unknown or conflicts with another
    ├── ContractError           a batch, array or plug-in breaks its declared shape, dtype or protocol
    ├── RecordingError          a recording (CSV, Parquet, JSONL) cannot be read
    ├── TrainingError           a model cannot be fitted or calibrated on the given data
    ├── BundleError             a bundle cannot be used
    │   ├── BundleFormatError       missing file, unknown format version, malformed content
    │   ├── BundleDigestError       a file differs from the digest in the manifest
    │   ├── BundleProbeError        the model does not reproduce its stored probe scores
    │   └── BundleMismatchError     channels, units or shape do not match the stream
    ├── TransportError          the log cannot be read or written
    │   ├── UnreachableError        no answer from the broker or the log file within the deadline
    │   ├── TopicError              a topic is missing, or its partition count or settings are wrong
    │   ├── RecordTooLargeError     a record exceeds the topic's size limit
    │   ├── PositionError           a position cannot be read: none committed, out of range, not assigned
    │   │   └── OffsetsError            a group's offsets were deleted or changed outside its role
    │   ├── JournalError            a journal entry is missing, malformed or out of order
    │   ├── FencedError             a newer owner took over; this process must not publish again
    │   └── AccessError             authentication failed, or the broker's certificate was rejected
    │       └── RightsError             authenticated, but with too few rights
    ├── DeadlineError           a blocking call did not return within its deadline
    └── StorageError            a folder or file cannot be written or read
        ├── CheckpointError         a checkpoint is unusable
        └── ScoreLogError           the Parquet score log is broken, or another process owns the span
            ├── PartsGoneError          existing parts disappeared, or the archiver's offset was changed
            ├── PartExistsError         a part with this start is already linked
            ├── PartMovedError          a part was merged into another after the folder was listed
            └── BusyError               another compaction is running
"""


class StreamAdError(Exception):
    """Base of all errors of this package; the message states what was expected and what was found."""


class ConfigError(StreamAdError):
    """A setting is wrong, unknown or conflicts with another."""


class ContractError(StreamAdError):
    """A batch, array or plug-in breaks its declared shape, dtype or protocol."""


class RecordingError(StreamAdError):
    """A recording (CSV, Parquet, JSONL) cannot be read."""


class TrainingError(StreamAdError):
    """A model cannot be fitted or calibrated on the given data."""


class BundleError(StreamAdError):
    """A bundle cannot be used."""


class BundleFormatError(BundleError):
    """A file of the bundle is missing or malformed, or its format version is unknown."""


class BundleDigestError(BundleError):
    """A file differs from the digest in the manifest."""


class BundleProbeError(BundleError):
    """The loaded model does not reproduce the scores stored with it."""


class BundleMismatchError(BundleError):
    """Channels, units or shape do not match the stream."""


class TransportError(StreamAdError):
    """The log cannot be read or written."""


class UnreachableError(TransportError):
    """No answer from the broker or the log file within the deadline."""


class TopicError(TransportError):
    """A topic is missing, or its partition count or settings are wrong."""


class RecordTooLargeError(TransportError):
    """A record exceeds the topic's size limit."""


class PositionError(TransportError):
    """A position cannot be read: none is committed, it is out of range, or the partition is not assigned."""


class OffsetsError(PositionError):
    """A group's offsets differ from what its role committed: they were deleted or changed."""


class JournalError(TransportError):
    """A journal entry is missing, malformed or out of order."""


class FencedError(TransportError):
    """A newer owner took over; this process must not publish again."""


class AccessError(TransportError):
    """Authentication failed, the broker denied an operation, or its certificate was rejected."""


class RightsError(AccessError):
    """The broker authenticated us but grants too few rights on a topic, group or transactional id."""


class DeadlineError(StreamAdError):
    """A blocking call did not return within its deadline."""


class StorageError(StreamAdError):
    """A folder or file cannot be written or read."""


class CheckpointError(StorageError):
    """A checkpoint is unusable."""


class ScoreLogError(StorageError):
    """The Parquet score log is broken, or another process owns the span."""


class PartsGoneError(ScoreLogError):
    """Existing parts disappeared, or the archiver's offset was changed. An operator must decide."""


class PartExistsError(ScoreLogError):
    """A part with this start is already linked."""


class PartMovedError(ScoreLogError):
    """A part is no longer where it was listed: a compaction merged it, or it was removed."""


class BusyError(ScoreLogError):
    """Another compaction of this score log is running."""
