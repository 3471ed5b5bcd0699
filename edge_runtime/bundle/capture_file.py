"""Segments of captured exchanges: the file format that the daemon writes and distilling reads.

Rules
- A segment is a header and records, each encrypted and authenticated (AES-256-GCM) with a key of
  the segment's own, derived from the operator's key and the segment's random id (HKDF-SHA256).
- A record's nonce is its number, so a segment is written by one process, front to back, and
  never appended to again: a number used twice would undo the encryption.
- Header, order and content cannot be altered unseen, nor can a record be taken out of the middle.
  A segment may end early: the last records of a daemon that died are lost, and a record that is
  there in part is left out, or refused by a reader that asks for whole segments.
- `TRAINING_ALLOWED` is true in every record: who trains on one can see that it was allowed.
- A record is one JSON object of at most `MAX_RECORD_BYTES`; a key file holds 64 hex digits.

Layout::

    8 bytes   EDGECAP1
    16 bytes  id of the segment
    8 bytes   id of the key: the first bytes of its sha256
    then, for each record:
    4 bytes   length of what follows, big-endian
    n bytes   ciphertext and tag

Example::

    for record in read_segment(path, read_key(key_file)):
        record["messages"], record["answer"]
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge_runtime.errors import BundleError, ConfigError

MAGIC = b"EDGECAP1"
ID_BYTES = 16
KEY_ID_BYTES = 8
KEY_BYTES = 32
HEADER_BYTES = len(MAGIC) + ID_BYTES + KEY_ID_BYTES
LENGTH_BYTES = 4
TAG_BYTES = 16
MAX_RECORD_BYTES = 16 * 1024 * 1024
SUFFIX = ".capture"
TRAINING_ALLOWED = "training_allowed"
ANSWER_LOGPROB = "answer_logprob"
"""Natural logarithm of the probability of the whole answer, where the frontier told it."""


def new_key() -> str:
    """The text of a new key file."""
    return secrets.token_hex(KEY_BYTES) + "\n"


def read_key(path: Path) -> bytes:
    """The key in a file. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            text = file.read(4 * KEY_BYTES).decode("ascii").strip()
        key = bytes.fromhex(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name the file with the key") from error
    except ValueError as error:
        raise ConfigError(f"{path}: holds no key; it must be {2 * KEY_BYTES} hex digits") from error
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path}: holds no key; it must be {2 * KEY_BYTES} hex digits")
    return key


def key_id(key: bytes) -> bytes:
    """Tells keys apart without telling them."""
    return hashlib.sha256(b"edge-capture-key" + key).digest()[:KEY_ID_BYTES]


def key_of(path: Path, keys: Sequence[bytes]) -> bytes:
    """The one of several keys that a segment was written with; else the first: reading says no.

    Raises `OSError`, and `ValueError` without keys.
    """
    if not keys:
        raise ValueError("needs a key")
    with path.open("rb") as file:
        named = file.read(HEADER_BYTES)[-KEY_ID_BYTES:]
    return next((key for key in keys if key_id(key) == named), keys[0])


@dataclass(slots=True)
class SegmentWriter:
    """Makes the bytes of one segment: first `header`, then one `seal` for each record."""

    key: bytes = field(repr=False)
    segment_id: bytes = field(default_factory=lambda: secrets.token_bytes(ID_BYTES))
    _number: int = 0
    _cipher: AESGCM = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._cipher = _cipher_of(self.key, self.segment_id)

    @property
    def header(self) -> bytes:
        """The segment's first bytes."""
        return MAGIC + self.segment_id + key_id(self.key)

    def seal(self, record: Mapping[str, Any]) -> bytes:
        """The next record. Raises `ValueError` when it is too large."""
        plain = orjson.dumps(dict(record))
        if len(plain) > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {len(plain)} bytes is larger than {MAX_RECORD_BYTES}")
        sealed = self._cipher.encrypt(_nonce(self._number), plain, self.header)
        self._number += 1
        return len(sealed).to_bytes(LENGTH_BYTES, "big") + sealed


def read_segment(path: Path, key: bytes, *, whole: bool = False) -> Iterator[dict[str, Any]]:
    """The records of one segment, in order. Costs no more memory than the largest.

    Raises `BundleError` when it is no segment, of another key, or was altered; with `whole` also
    when it ends within a record, after the records before that one.
    """
    name = path.name
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES and MAGIC.startswith(header[: len(MAGIC)]):
            if whole:
                raise BundleError(name, "ends within its header")
            return  # a daemon died while it began
        if not header.startswith(MAGIC):
            raise BundleError(name, "is no segment of captured answers")
        segment_id = header[len(MAGIC) : len(MAGIC) + ID_BYTES]
        if header[len(MAGIC) + ID_BYTES :] != key_id(key):
            raise BundleError(name, "was written with another key")
        cipher = _cipher_of(key, segment_id)
        number, end = 0, HEADER_BYTES
        while (sealed := _next_record(file, name)) is not None:
            try:
                plain = cipher.decrypt(_nonce(number), sealed, header)
                record = orjson.loads(plain)
            except InvalidTag as error:
                raise BundleError(name, f"record {number} was altered") from error
            except orjson.JSONDecodeError as error:
                raise BundleError(name, f"record {number} is no JSON") from error
            if not isinstance(record, dict):
                raise BundleError(name, f"record {number} is no object")
            number += 1
            end = file.tell()
            yield record
        if whole and path.stat().st_size > end:
            raise BundleError(name, f"ends within record {number}; the {number} before are whole")


def read_folder(folder: Path, key: bytes) -> Iterator[dict[str, Any]]:
    """The records of all segments in a folder, oldest segment first.

    Raises `BundleError` like `read_segment`, `ConfigError` when there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder; name the one of `capture.directory`")
    for path in segments(folder):
        yield from read_segment(path, key)


def segments(folder: Path) -> list[Path]:
    """Paths of the segments in a folder, oldest first: their names begin with their time."""
    return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX and path.is_file())


def segment_name(at_us: int, segment_id: bytes) -> str:
    """The file name of a segment that begins at `at_us` (microseconds since 1970)."""
    return f"{at_us:020d}-{segment_id.hex()[:8]}{SUFFIX}"


def begun_us(path: Path) -> int | None:
    """When a segment began, by its name; None for a name of another form."""
    text = path.name.partition("-")[0]
    return int(text) if len(text) == 20 and text.isdecimal() else None


def _next_record(file: BinaryIO, name: str) -> bytes | None:
    length = file.read(LENGTH_BYTES)
    if len(length) < LENGTH_BYTES:
        return None
    size = int.from_bytes(length, "big")
    if not TAG_BYTES <= size <= MAX_RECORD_BYTES + TAG_BYTES:
        raise BundleError(name, "a record has an impossible length: it was altered")
    sealed = file.read(size)
    return sealed if len(sealed) == size else None


def _cipher_of(key: bytes, segment_id: bytes) -> AESGCM:
    derived = HKDF(SHA256(), KEY_BYTES, salt=segment_id, info=b"edge-capture-1").derive(key)
    return AESGCM(derived)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
