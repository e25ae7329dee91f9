"""Text files from any program: gzip, UTF-8, UTF-16 or Windows code page, any line ends, NUL bytes."""

from __future__ import annotations

import codecs
import gzip
import io
from pathlib import Path
from typing import IO, cast

from stream_ad.errors import RecordingError

GZIP = b"\x1f\x8b"
OTHERS = (
    (b"PK\x03\x04", "an Excel workbook or a zip archive: export it as CSV, or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook: export it as CSV"),
    (b"PAR1", "Parquet: give the file a name that ends in .parquet"),
    (b"ARROW1", "an Arrow file: convert it to Parquet"),
    (b"\x89HDF", "HDF5: convert it to CSV or Parquet"),
    (b"SQLite format 3", "a SQLite database: export the table as CSV"),
)
"""First bytes of other file formats, with advice."""
SNIFF_BYTES = 4_096


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, decompressed if it is gzipped (by name or first bytes)."""
    with path.open("rb") as stream:
        packed = stream.read(2) == GZIP
    if packed or path.name.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


class TextFile:
    """A file read as text in pieces, with normalised line ends, without NUL bytes and byte order mark.

    Attributes:
        nul: NUL bytes skipped so far.
    """

    def __init__(self, path: Path) -> None:
        self.nul = 0
        self._path = path
        self._stream = open_bytes(path)
        try:
            self._head = self._stream.read(SNIFF_BYTES)
            for magic, what in OTHERS:
                if self._head.startswith(magic):
                    raise RecordingError(f"{path}: expected text, found {what}")
        except BaseException:
            self._stream.close()
            raise
        self._decode = _decoder(self._head)
        self._line = 1
        self._plain = True
        self._newlines = io.IncrementalNewlineDecoder(None, translate=True)
        self._ended = False

    def read(self, size: int) -> str:
        """Return about `size` more characters, "" only at the end.

        Raises:
            RecordingError: bytes that are invalid in any encoding.
        """
        while not self._ended:
            raw = self._head + self._stream.read(max(size - len(self._head), 0))
            self._head = b""
            self._ended = not raw
            text = self._newlines.decode(self._text(raw), final=self._ended)
            self._line += text.count("\n")
            if "\0" in text:
                self.nul += text.count("\0")
                text = text.replace("\0", "")
            if text:
                return text
        return ""

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _text(self, raw: bytes) -> str:
        try:
            text = self._decode.decode(raw, final=self._ended)
        except UnicodeDecodeError as error:
            # The text so far is equal in both encodings, so nothing was misread; `object` has bytes of the last piece.
            if not (self._plain and error.object[: error.start].isascii()):
                line = self._line + error.object[: error.start].count(b"\n")
                raise RecordingError(
                    f"{self._path}: line {line}: expected UTF-8, as in the lines before, found byte "
                    f"0x{error.object[error.start]:02X}; convert the file to UTF-8"
                ) from error
            self._decode = codecs.getincrementaldecoder("cp1252")("replace")
            return self._decode.decode(error.object, final=self._ended)
        self._plain = self._plain and text.isascii()
        return text


def _decoder(head: bytes) -> codecs.IncrementalDecoder:
    """Return the decoder according to the byte order mark or the NULs of UTF-16; else UTF-8."""
    name, errors = "utf-8-sig", "strict"
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        name, errors = "utf-32", "replace"
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name, errors = "utf-16", "replace"
    elif len(head) >= 4:
        even, odd = (head[start::2].count(0) / len(head[start::2]) for start in (0, 1))
        if odd > 0.4 and even < 0.1:
            name, errors = "utf-16-le", "replace"
        elif even > 0.4 and odd < 0.1:
            name, errors = "utf-16-be", "replace"
    return codecs.getincrementaldecoder(name)(errors)
