"""Every error that this package raises, one tree.

::

    StreamAdError
    ├── ConfigError             a setting is wrong, unknown or does not fit another
    ├── ContractError           a batch, array or plug-in breaks its declared shape, dtype or protocol
    ├── RecordingError          a recording (CSV, Parquet, JSONL) cannot be read as one
    ├── TrainingError           a model cannot be fitted or calibrated on the data given
    ├── BundleError             a bundle cannot be used
    │   ├── BundleFormatError       missing file, unknown format version, malformed content
    │   ├── BundleDigestError       a file differs from the digest in the manifest
    │   ├── BundleProbeError        the model does not reproduce its stored probe scores
    │   └── BundleMismatchError     channels, units or shape do not fit the stream
    ├── TransportError          the log cannot be read or written
    │   ├── UnreachableError        no answer from the broker or the log file within the deadline
    │   ├── TopicError              a topic is missing, has another partition count or other settings
    │   ├── RecordTooLargeError     a record exceeds what the topic takes
    │   ├── PositionError           a position cannot be read from: none, out of range, not ours
    │   │   └── OffsetsError            a group's offsets were deleted or moved by somebody else than its role
    │   ├── JournalError            an entry of the journal is missing, malformed or out of order
    │   ├── FencedError             a newer owner took over; this process must publish nothing more
    │   └── AccessError             the broker refused who we are, or we its certificate
    │       └── RightsError             it knows us, and grants too few rights
    ├── DeadlineError           a blocking call did not return within its deadline
    └── StorageError            a folder or file cannot be written or read
        ├── CheckpointError         a checkpoint is unusable
        └── ScoreLogError           the Parquet score log is broken or another process owns the span
            ├── PartsGoneError          parts that were there are gone, or the archiver's offset was moved
            ├── PartExistsError         a part with this start is already linked
            ├── PartMovedError          a part was merged into another since the folder was listed
            └── BusyError               another compaction is running
"""


class StreamAdError(Exception):
    """Base of all errors of this package; the message says what was expected and what was found."""


class ConfigError(StreamAdError):
    """A setting is wrong, unknown or does not fit another."""


class ContractError(StreamAdError):
    """A batch, array or plug-in breaks its declared shape, dtype or protocol."""


class RecordingError(StreamAdError):
    """A recording cannot be read as one."""


class TrainingError(StreamAdError):
    """A model cannot be fitted or calibrated on the data given."""


class BundleError(StreamAdError):
    """A bundle cannot be used."""


class BundleFormatError(BundleError):
    """A file of the bundle is missing or malformed, or its format version is unknown."""


class BundleDigestError(BundleError):
    """A file differs from the digest in the manifest."""


class BundleProbeError(BundleError):
    """The loaded model does not reproduce the scores stored with it."""


class BundleMismatchError(BundleError):
    """Channels, units or shape do not fit the stream."""


class TransportError(StreamAdError):
    """The log cannot be read or written."""


class UnreachableError(TransportError):
    """No answer from the broker or the log file within the deadline."""


class TopicError(TransportError):
    """A topic is missing, has another partition count or other settings than needed."""


class RecordTooLargeError(TransportError):
    """A record exceeds what the topic takes."""


class PositionError(TransportError):
    """A position cannot be read from: none committed, out of range, or the partition is not ours."""


class OffsetsError(PositionError):
    """A group's offsets are not those that its role committed: they were deleted or moved."""


class JournalError(TransportError):
    """An entry of the journal is missing, malformed or out of order."""


class FencedError(TransportError):
    """A newer owner took over; this process must publish nothing more."""


class AccessError(TransportError):
    """The broker refused who we are or what we may do, or we refused the broker's certificate."""


class RightsError(AccessError):
    """The broker knows us, and grants too few rights on a topic, group or transactional id."""


class DeadlineError(StreamAdError):
    """A blocking call did not return within its deadline."""


class StorageError(StreamAdError):
    """A folder or file cannot be written or read."""


class CheckpointError(StorageError):
    """A checkpoint is unusable."""


class ScoreLogError(StorageError):
    """The Parquet score log is broken or another process owns the span."""


class PartsGoneError(ScoreLogError):
    """Parts that were there are gone, or the archiver's offset was moved: a person must decide."""


class PartExistsError(ScoreLogError):
    """A part with this start is already linked."""


class PartMovedError(ScoreLogError):
    """A part is not where it was listed: a compaction merged it into another, or somebody took it away."""


class BusyError(ScoreLogError):
    """Another compaction of this score log is running."""
