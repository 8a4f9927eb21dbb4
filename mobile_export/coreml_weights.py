"""Constants of a saved Core ML program: immediate values and ``weight.bin``, read into torch.

Layout of ``weight.bin`` (coremltools ``mlmodel/src/MILBlob/Blob/StorageFormat.hpp``): a header of
64 bytes with the number of blobs and the version 2; each blob is described by 64 bytes: the mark
0xDEADBEEF, a data type, its size in bytes, where its data starts, and padding in bits. Values below
a byte are packed, the first in the lowest bits.
"""

from __future__ import annotations

import struct
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rdsdk.errors import ModelError

MARK = 0xDEADBEEF
_DESCRIPTION = struct.Struct("<IIQQQ")
_WEIGHTS = "@model_path/"


class Kind(NamedTuple):
    """A data type of the program: its name in the proto, numpy's, and bits a value."""

    name: str
    numpy: str
    bits: int


_KINDS = (
    Kind("BOOL", "?", 8),
    Kind("STRING", "U", 0),
    Kind("FLOAT16", "<f2", 16),
    Kind("FLOAT32", "<f4", 32),
    Kind("INT8", "i1", 8),
    Kind("INT16", "<i2", 16),
    Kind("INT32", "<i4", 32),
    Kind("UINT8", "u1", 8),
    Kind("UINT16", "<u2", 16),
    Kind("UINT32", "<u4", 32),
    Kind("UINT1", "u1", 1),
    Kind("UINT2", "u1", 2),
    Kind("UINT3", "u1", 3),
    Kind("UINT4", "u1", 4),
    Kind("UINT6", "u1", 6),
)
_BLOB_TYPES = {
    1: "FLOAT16",
    2: "FLOAT32",
    3: "UINT8",
    4: "INT8",
    6: "INT16",
    7: "UINT16",
    9: "UINT1",
    10: "UINT2",
    11: "UINT4",
    12: "UINT3",
    13: "UINT6",
    14: "INT32",
    15: "UINT32",
}


@cache
def kinds() -> dict[int, Kind]:
    """The data types by their number in the proto."""
    from coremltools.proto import MIL_pb2

    numbers = dict(MIL_pb2.DataType.items())
    return {numbers[kind.name]: kind for kind in _KINDS if kind.name in numbers}


class Weights:
    """Reads the values of constants; ``folder`` is the one that holds ``model.mlmodel``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, bytes] = {}
        self._blobs: dict[tuple[str, int], Tensor] = {}

    def value(self, value: Any, what: str) -> Any:
        """A ``MILSpec.Value`` as a tensor, a string or a list of strings.

        Floats are float32 (exactly, float16 values too), integers int64.

        Raises:
            ModelError: a type that is not known here, or a file that does not hold what it should.
        """
        if not value.type.HasField("tensorType"):
            raise ModelError(f"{what} is a {value.type.WhichOneof('type')}, expected a tensor")
        kind, shape = declared(value.type.tensorType, what)
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            key = (blob.fileName, blob.offset)
            if key not in self._blobs:
                self._blobs[key] = self._read(blob.fileName, blob.offset, kind, shape, what)
            return self._blobs[key].reshape(shape)
        tensor = value.immediateValue.tensor
        field = tensor.WhichOneof("value")
        if field is None and 0 in shape:
            return torch.zeros(shape)
        values = getattr(tensor, field).values
        if kind.name == "STRING":
            return values[0] if not shape else list(values)
        if field == "bytes":
            array = _unpack(values, kind, prod(shape), what)
        else:
            array = np.array(list(values), kind.numpy)
        if array.size != prod(shape):
            raise ModelError(f"{what} holds {array.size} values, expected {prod(shape)}")
        return _tensor(array).reshape(shape)

    def _read(
        self, file_name: str, offset: int, kind: Kind, shape: tuple[int, ...], what: str
    ) -> Tensor:
        if file_name not in self._files:
            if not file_name.startswith(_WEIGHTS) or ".." in file_name:
                raise ModelError(f"{what} lies in {file_name!r}, outside the package")
            try:
                path = self.folder / file_name.removeprefix(_WEIGHTS)
                self._files[file_name] = path.read_bytes()
            except OSError as error:
                raise ModelError(f"{what}: {file_name} cannot be read: {error.strerror}") from None
        data = self._files[file_name]
        if offset + _DESCRIPTION.size > len(data):
            raise ModelError(f"{what} starts at byte {offset} of {len(data)}: the file is cut off")
        mark, blob_type, size, start, _ = _DESCRIPTION.unpack_from(data, offset)
        if mark != MARK or _BLOB_TYPES.get(blob_type) != kind.name:
            raise ModelError(
                f"{what}: byte {offset} of {file_name} describes no {kind.name} (mark {mark:#x}, "
                f"type {blob_type})"
            )
        if start + size > len(data) or 8 * size < kind.bits * prod(shape):
            raise ModelError(
                f"{what}: {size} bytes at {start} of {file_name} ({len(data)} bytes) do not hold "
                f"{kind.name} of shape {shape}"
            )
        return _tensor(_unpack(data[start : start + size], kind, prod(shape), what))


def declared(tensor_type: Any, what: str) -> tuple[Kind, tuple[int, ...]]:
    """Data type and shape of a constant."""
    if tensor_type.dataType not in kinds():
        raise ModelError(f"{what} has data type {tensor_type.dataType}, which is not known here")
    return kinds()[tensor_type.dataType], tuple(d.constant.size for d in tensor_type.dimensions)


def _unpack(data: bytes, kind: Kind, count: int, what: str) -> np.ndarray:
    if kind.bits >= 8:
        if len(data) < count * kind.bits // 8:
            raise ModelError(f"{what} holds {len(data)} bytes, expected {count} {kind.name}")
        return np.frombuffer(data, kind.numpy, count)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: count * kind.bits]
    weights = (1 << np.arange(kind.bits)).astype(np.uint8)
    return (bits.reshape(count, kind.bits) * weights).sum(1).astype(np.uint8)


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(array.astype(np.bool_ if array.dtype.kind == "b" else np.int64))
