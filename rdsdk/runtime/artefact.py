"""Look at the bytes of a ``.pte`` before ExecuTorch does: it may end the process on damaged ones.

Layout of a ``.pte`` (ExecuTorch ``runtime/core/...extended_header``): a flatbuffer whose offset 4
holds ``ET`` and two digits, at offset 8 an extended header ``eh00`` with its own length, the
length of the flatbuffer, where the segments start and, from length 32 on, how long they are.
After the segments nothing is read, so a seal of our own fits there: 8 bytes ``rdsdkCRC`` and the
CRC-32 of all before as 4 bytes, least significant first.

Without a seal, truncation is found but not a changed byte: of random single-byte changes about
one in 140 ends the process inside ExecuTorch and most others pass and give wrong numbers.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from rdsdk.errors import ModelError

SEAL = b"rdsdkCRC"
_SEAL_LENGTH = len(SEAL) + 4
_HEADER_AT = 8
_HEADER = struct.Struct("<4sIQQ")
_AGAIN = "copy or export it again"


def seal(program: bytes) -> bytes:
    """The bytes of a program with a checksum appended that ``read_artefact`` will demand."""
    return program + SEAL + struct.pack("<I", zlib.crc32(program))


def read_artefact(path: str | Path) -> bytes:
    """All bytes of a ``.pte``, after checking that it is one, complete and, if sealed, unchanged.

    Raises:
        ModelError: missing, a folder, unreadable, empty, not an ExecuTorch program, shorter than
            its header says, or not what its seal says.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ModelError(
                f"{path} is a folder, expected a .pte file; a checkpoint folder must be exported "
                "first (rdsdk export)"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"no such file: {path}; expected a .pte file or a bundled name") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"cannot read {str(path)!r}: {reason}") from None
    if not data:
        raise ModelError(f"{path} is empty, expected a .pte file; {_AGAIN}")
    _check_header(data, path)
    _check_seal(data, path)
    return data


def _check_header(data: bytes, path: Path) -> None:
    identifier = data[4:8]
    if identifier[:2] != b"ET" or not identifier[2:].isdigit():
        raise ModelError(
            f"{path} is not an ExecuTorch program: its first bytes are {data[:8]!r}, expected "
            "the mark ET12 at byte 4"
        )
    end = _HEADER_AT + _HEADER.size
    if len(data) < end:
        raise ModelError(f"{path} is cut off after {len(data)} bytes; {_AGAIN}")
    magic, length, program_size, segments_at = _HEADER.unpack_from(data, _HEADER_AT)
    if magic != b"eh00" or not _HEADER.size <= length <= len(data) - _HEADER_AT:
        raise ModelError(f"{path} has no readable extended header; {_AGAIN}")
    needed = program_size
    if segments_at:
        if segments_at < program_size:
            raise ModelError(f"{path} is damaged: its parts overlap; {_AGAIN}")
        segments_size = 0
        if length >= _HEADER.size + 8:
            (segments_size,) = struct.unpack_from("<Q", data, end)
        needed = segments_at + segments_size
    (root,) = struct.unpack_from("<I", data)
    if needed > len(data):
        raise ModelError(
            f"{path} is cut off: it has {len(data)} bytes, its header says {needed}; {_AGAIN}"
        )
    if not end <= root < program_size:
        raise ModelError(f"{path} is damaged: its program does not start inside it; {_AGAIN}")


def _check_seal(data: bytes, path: Path) -> None:
    body, mark = data[:-_SEAL_LENGTH], data[-_SEAL_LENGTH:]
    if not mark.startswith(SEAL):
        return
    (expected,) = struct.unpack("<I", mark[len(SEAL) :])
    got = zlib.crc32(body)
    if got != expected:
        raise ModelError(
            f"{path} is damaged: the checksum of its bytes is {got:08x}, its seal says "
            f"{expected:08x}; {_AGAIN}"
        )
