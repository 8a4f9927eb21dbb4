"""The operations of one function of a saved Core ML package, and which value comes from where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from mobile_export.coreml_interpreter import Interpreter

CAST = frozenset({"cast"})
MOVES = CAST | {"reshape", "transpose", "expand_dims", "squeeze", "identity"}
"""Operations that change no value."""
MASKING = MOVES | {"add"}
FLOAT16_ROUNDING = 1e-3
SMALLEST_FLOAT16 = 1e-7
"""Float16 has steps of 6e-8 around zero."""


@dataclass(frozen=True)
class Nearness:
    """How far weights of two and more dimensions may be from those they were made from.

    ``largest`` bounds each difference, in parts of the largest weight of its output channel (first
    axis); ``rms`` the root mean square of all differences, in parts of that of the tensor.
    """

    largest: float = math.inf
    rms: float = math.inf

    def allows(self, left: Tensor, right: Tensor) -> bool:
        """Whether ``right`` is near enough to ``left``."""
        difference = (left - right).abs()
        near = True
        if math.isfinite(self.largest):
            rows = left.flatten(1).abs().amax(1).reshape(-1, *[1] * (left.ndim - 1))
            near = bool((difference <= self.largest * rows + SMALLEST_FLOAT16).all())
        if math.isfinite(self.rms):
            allowed = self.rms * left.square().mean().sqrt() + SMALLEST_FLOAT16
            near = near and bool(difference.square().mean().sqrt() <= allowed)
        return near


class Graph:
    """One function: its operations in order, with constants apart."""

    def __init__(self, interpreter: Interpreter, function: str) -> None:
        self.spec = interpreter.functions[function]
        self.constants = interpreter.constants(function)
        self.operations = [
            op
            for op in interpreter.blocks[function].operations
            if op.type != "const" and not op.type.startswith("constexpr_")
        ]
        self.maker = {output.name: op for op in self.operations for output in op.outputs}
        self._value = interpreter.inline_value

    def arguments(self, operation: Any, name: str) -> list[Any]:
        """The bindings of a named argument: constants themselves, anything else as its name in a
        ``Made``."""
        if name not in operation.inputs:
            return []
        found: list[Any] = []
        for binding in operation.inputs[name].arguments:
            if binding.WhichOneof("binding") == "value":
                found.append(self._value(binding.value, name))
            else:
                found.append(self.constants.get(binding.name, Made(binding.name)))
        return found

    def constant(self, operation: Any, name: str, default: Any = None) -> Any:
        """A constant argument."""
        return next(iter(self.arguments(operation, name)), default)

    def sources(self, operation: Any, *names: str) -> list[str]:
        """The values, no constants, that an operation takes, or takes as the named arguments."""
        return [
            str(value)
            for name in (names or operation.inputs)
            for value in self.arguments(operation, name)
            if isinstance(value, Made)
        ]

    def type_of(self, value: str) -> str:
        """The operation that made a value; empty for an input."""
        return str(self.maker[value].type) if value in self.maker else ""

    def back(self, value: str, through: frozenset[str] = MOVES) -> str:
        """The value that this one was, before operations that only move it."""
        while self.type_of(value) in through:
            before = self.sources(self.maker[value])
            if not before:
                break
            value = before[0]
        return value

    def behind(self, value: str, kind: str, through: frozenset[str]) -> list[str]:
        """The nearest results of an operation of one kind from which a value is made, where all
        operations in between are of the kinds ``through``."""
        if self.type_of(value) == kind:
            return [value]
        if self.type_of(value) not in through:
            return []
        return [
            found
            for source in self.sources(self.maker[value])
            for found in self.behind(source, kind, through)
        ]

    @cached_property
    def depends(self) -> dict[str, frozenset[str]]:
        """For each value the inputs and states it is computed from."""
        found = {name: frozenset({name}) for name in (*self.spec.inputs, *self.spec.states)}
        for operation in self.operations:
            known = [found.get(name, frozenset()) for name in self.sources(operation)]
            for output in operation.outputs:
                found[output.name] = frozenset[str]().union(*known)
        return found


class Made(str):
    """The name of a value that some operation makes, or that is given."""


def other_program_faults(exact: Graph, package: Graph, nearness: Nearness) -> list[str]:
    """Where a function does not follow an exact one step by step; empty if it does.

    The same operations in the same order must take the same values, casts apart. Constants must be
    equal: integers and text exactly, floats to float16 rounding, and those of two and more
    dimensions to ``nearness``.
    """
    steps = [op for op in exact.operations if op.type != "cast"]
    taken = [op for op in package.operations if op.type != "cast"]
    if [op.type for op in steps] != [op.type for op in taken]:
        return ["its operations are not those of the float32 program of its checkpoint"]
    partner = {name: name for name in (*exact.spec.inputs, *exact.spec.states)}
    faults = []
    for ours, theirs in zip(steps, taken, strict=True):
        for name in sorted({*ours.inputs, *theirs.inputs}):
            left, right = exact.arguments(ours, name), package.arguments(theirs, name)
            same = len(left) == len(right) and all(
                package.back(b, CAST) == partner.get(exact.back(a, CAST))
                if isinstance(a, Made) and isinstance(b, Made)
                else _equal(a, b, nearness)
                for a, b in zip(left, right, strict=True)
            )
            if not same and name != "dtype":
                faults.append(f"{name} of {theirs.type} {[o.name for o in theirs.outputs]} differs")
        for made, got in zip(ours.outputs, theirs.outputs, strict=True):
            partner[made.name] = got.name
    results = zip(exact.spec.outputs, package.spec.outputs, strict=False)
    if len(exact.spec.outputs) != len(package.spec.outputs) or any(
        partner.get(exact.back(a, CAST)) != package.back(b, CAST) for a, b in results
    ):
        faults.append("its outputs are others")
    return faults


def _equal(left: Any, right: Any, nearness: Nearness) -> bool:
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)):
        return type(left) is type(right) and bool(left == right)
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if not left.is_floating_point():
        return bool((left == right).all())
    if left.ndim >= 2:
        return nearness.allows(left, right)
    allowed = FLOAT16_ROUNDING * left.abs() + SMALLEST_FLOAT16
    return bool(((left - right).abs() <= allowed).all())
