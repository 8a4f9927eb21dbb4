"""What each operation of a Core ML program means, in torch.

Written from Apple's reference of the MIL operations (iOS 15 to 18), independently of the
conversion: an operation that is not here is refused, and so is a use of one that is not described
here. Floats are float32, integers int64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rdsdk.errors import ModelError

Arguments = Mapping[str, Any]
Operation = Callable[[Arguments], Tensor]
OPERATIONS: dict[str, Operation] = {}
"""By name; each takes the named arguments, of which those left out have their defaults."""


def _operation(name: str) -> Callable[[Operation], Operation]:
    def add(function: Operation) -> Operation:
        OPERATIONS[name] = function
        return function

    return add


def _ints(value: Any) -> list[int]:
    return [int(item) for item in value.flatten()] if isinstance(value, Tensor) else [*value]


def _flag(given: Arguments, name: str) -> bool:
    return bool(given.get(name, False))


def _flags(given: Arguments, name: str, count: int) -> list[bool]:
    return [bool(item) for item in given[name]] if name in given else [False] * count


for _name, _unary in {
    "identity": lambda x: x,
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "abs": torch.abs,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "logical_not": torch.logical_not,
}.items():
    OPERATIONS[_name] = lambda given, of=_unary: of(given["x"])  # type: ignore[misc]

for _name, _binary in {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "floor_div": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "mod": torch.remainder,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
}.items():
    OPERATIONS[_name] = lambda given, of=_binary: of(given["x"], given["y"])  # type: ignore[misc]

for _name, _reduction in {
    "reduce_mean": torch.mean,
    "reduce_sum": torch.sum,
    "reduce_max": torch.amax,
    "reduce_min": torch.amin,
}.items():
    OPERATIONS[_name] = lambda given, of=_reduction: of(  # type: ignore[misc]
        given["x"],
        dim=_ints(given["axes"]) if "axes" in given else [*range(given["x"].ndim)],
        keepdim=_flag(given, "keep_dims"),
    )


@_operation("real_div")
def _real_div(given: Arguments) -> Tensor:
    if not given["x"].is_floating_point():
        raise ModelError("real_div of integers is not described here")
    return given["x"] / given["y"]


@_operation("log")
def _log(given: Arguments) -> Tensor:
    return torch.log(given["x"] + given.get("epsilon", 1e-45))


@_operation("rsqrt")
def _rsqrt(given: Arguments) -> Tensor:
    return torch.rsqrt(given["x"] + given.get("epsilon", 1e-12))


@_operation("gelu")
def _gelu(given: Arguments) -> Tensor:
    modes = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}
    mode = given.get("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return given["x"] * torch.sigmoid(1.702 * given["x"])
    return F.gelu(given["x"], approximate=modes[mode])


@_operation("softmax")
def _softmax(given: Arguments) -> Tensor:
    return given["x"].softmax(int(given.get("axis", -1)))


@_operation("layer_norm")
def _layer_norm(given: Arguments) -> Tensor:
    x = given["x"]
    axes = _ints(given["axes"]) if "axes" in given else [*range(1, x.ndim)]
    centred = x - x.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    x = centred / torch.sqrt(variance + given.get("epsilon", 1e-5))
    sizes = [size if axis in [a % x.ndim for a in axes] else 1 for axis, size in enumerate(x.shape)]
    for name, apply in (("gamma", torch.mul), ("beta", torch.add)):
        if name in given:
            x = apply(x, given[name].reshape(sizes))
    return x


@_operation("linear")
def _linear(given: Arguments) -> Tensor:
    return F.linear(given["x"], given["weight"], given.get("bias"))


@_operation("matmul")
def _matmul(given: Arguments) -> Tensor:
    x, y = given["x"], given["y"]
    x = x.transpose(-1, -2) if _flag(given, "transpose_x") else x
    return x @ (y.transpose(-1, -2) if _flag(given, "transpose_y") else y)


@_operation("conv")
def _conv(given: Arguments) -> Tensor:
    x, weight = given["x"], given["weight"]
    spatial = x.ndim - 2
    padding = _ints(given["pad"]) if "pad" in given else [0] * 2 * spatial
    kind = given.get("pad_type", "valid")
    if kind == "custom":
        # MIL pads from the first dimension on, torch from the last.
        pairs = [padding[2 * axis : 2 * axis + 2] for axis in reversed(range(spatial))]
        x = F.pad(x, [amount for pair in pairs for amount in pair])
    elif kind != "valid":
        raise ModelError(f"conv with pad_type {kind!r} is not described here")
    convolve = {1: F.conv1d, 2: F.conv2d}[spatial]
    return convolve(
        x,
        weight,
        given.get("bias"),
        stride=_ints(given.get("strides", [1] * spatial)),
        dilation=_ints(given.get("dilations", [1] * spatial)),
        groups=int(given.get("groups", 1)),
    )


@_operation("pad")
def _pad(given: Arguments) -> Tensor:
    if given.get("mode", "constant") != "constant":
        raise ModelError(f"pad with mode {given['mode']!r} is not described here")
    amounts = _ints(given["pad"])
    pairs = [amounts[i : i + 2] for i in range(0, len(amounts), 2)]
    flat = [amount for pair in reversed(pairs) for amount in pair]
    return F.pad(given["x"], flat, value=float(given.get("constant_val", 0.0)))


@_operation("reshape")
def _reshape(given: Arguments) -> Tensor:
    shape = _ints(given["shape"])
    return given["x"].reshape([given["x"].shape[i] if n == 0 else n for i, n in enumerate(shape)])


@_operation("transpose")
def _transpose(given: Arguments) -> Tensor:
    return given["x"].permute(_ints(given["perm"]))


@_operation("expand_dims")
def _expand_dims(given: Arguments) -> Tensor:
    x = given["x"]
    rank = x.ndim + len(_ints(given["axes"]))
    for axis in sorted(axis % rank for axis in _ints(given["axes"])):
        x = x.unsqueeze(axis)
    return x


@_operation("squeeze")
def _squeeze(given: Arguments) -> Tensor:
    x = given["x"]
    axes = _ints(given["axes"]) if "axes" in given else [i for i, n in enumerate(x.shape) if n == 1]
    return x.squeeze(tuple(axes))


@_operation("concat")
def _concat(given: Arguments) -> Tensor:
    # Scalars count as vectors of one value.
    parts = [part.reshape(1) if part.ndim == 0 else part for part in given["values"]]
    axis = int(given["axis"]) % parts[0].ndim
    if _flag(given, "interleave"):
        # The first of each part, the second of each, ...
        return torch.stack(parts, axis + 1).flatten(axis, axis + 1)
    return torch.cat(parts, axis)


@_operation("stack")
def _stack(given: Arguments) -> Tensor:
    return torch.stack(given["values"], int(given["axis"]))


@_operation("tile")
def _tile(given: Arguments) -> Tensor:
    return given["x"].repeat(_ints(given["reps"]))


@_operation("slice_by_index")
def _slice_by_index(given: Arguments) -> Tensor:
    x = given["x"]
    begin, end = _ints(given["begin"]), _ints(given["end"])
    stride = _ints(given.get("stride", [1] * x.ndim))
    from_start, to_end = _flags(given, "begin_mask", x.ndim), _flags(given, "end_mask", x.ndim)
    squeezed = _flags(given, "squeeze_mask", x.ndim)
    if min(stride) < 1:
        raise ModelError(f"slice_by_index with stride {stride} is not described here")
    chosen: list[slice | int] = []
    for axis, size in enumerate(x.shape):
        start = 0 if from_start[axis] else begin[axis] + (size if begin[axis] < 0 else 0)
        stop = size if to_end[axis] else end[axis] + (size if end[axis] < 0 else 0)
        chosen.append(start if squeezed[axis] else slice(start, stop, stride[axis]))
    return x[tuple(chosen)]


@_operation("gather")
def _gather(given: Arguments) -> Tensor:
    if int(given.get("batch_dims", 0)):
        raise ModelError("gather with batch_dims is not described here")
    x, indices = given["x"], given["indices"]
    axis = int(given.get("axis", 0)) % x.ndim
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    return x[(*[slice(None)] * axis, indices)]


@_operation("shape")
def _shape(given: Arguments) -> Tensor:
    return torch.tensor(given["x"].shape)


@_operation("range_1d")
def _range_1d(given: Arguments) -> Tensor:
    return torch.arange(given["start"].item(), given["end"].item(), given["step"].item())


@_operation("fill")
def _fill(given: Arguments) -> Tensor:
    return torch.full(_ints(given["shape"]), given["value"].item())


@_operation("select")
def _select(given: Arguments) -> Tensor:
    return torch.where(given["cond"], given["a"], given["b"])


@_operation("cast")
def _cast(given: Arguments) -> Tensor:
    kinds = {"fp16": torch.float32, "fp32": torch.float32, "bool": torch.bool}
    # Float16 is rounded by whoever keeps the result. Every integer is an int64 here.
    return given["x"].to(kinds.get(given["dtype"], torch.int64))


@_operation("constexpr_affine_dequantize")
def _affine_dequantize(given: Arguments) -> Tensor:
    data, axis = given["quantized_data"], int(given["axis"])
    sizes = [-1 if dimension == axis % data.ndim else 1 for dimension in range(data.ndim)]
    scale, zero = (
        value.reshape(sizes) if value.ndim else value
        for value in (given["scale"], given["zero_point"])
    )
    return (data - zero).float() * scale


@_operation("constexpr_blockwise_shift_scale")
def _blockwise_shift_scale(given: Arguments) -> Tensor:
    data, scale = given["data"], given["scale"]
    offset = given.get("offset", torch.zeros_like(scale))
    for axis, (size, blocks) in enumerate(zip(data.shape, scale.shape, strict=True)):
        scale = scale.repeat_interleave(size // blocks, axis)
        offset = offset.repeat_interleave(size // blocks, axis)
    return (data - offset).float() * scale


@_operation("constexpr_lut_to_dense")
def _lut_to_dense(given: Arguments) -> Tensor:
    indices, table = given["indices"], given["lut"]
    if "shape" in given:
        # iOS 16: a flat table, and indices packed into bytes, the first in the lowest bits.
        shape = _ints(given["shape"])
        bits = int(table.numel()).bit_length() - 1
        places = (indices.reshape(-1, 1) >> torch.arange(8)) & 1
        count = int(torch.tensor(shape).prod())
        places = places.reshape(-1)[: count * bits].reshape(count, bits)
        return table[(places << torch.arange(bits)).sum(1)].reshape(shape)
    # iOS 18: indices as they are; a table of (..., entries, vector) for each group of values.
    if table.shape[-1] != 1:
        raise ModelError("constexpr_lut_to_dense with vectors is not described here")
    groups = table.squeeze(-1)
    for axis, size in enumerate(indices.shape):
        groups = groups.repeat_interleave(size // groups.shape[axis], axis)
    return groups.gather(-1, indices.unsqueeze(-1)).squeeze(-1)
