"""Runs a saved Core ML package in torch: on any system, and independently of how it was made.

It reads what Core ML reads: the program of the ``.mlmodel`` and its ``weight.bin``. It is a
reference for the artefact's numbers, not for speed, and does not stand in for Apple's hardware:
products are summed in float32, and each value that the program declares float16 is rounded to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobile_export.coreml_conversion import coremltools
from mobile_export.coreml_operations import OPERATIONS
from mobile_export.coreml_weights import Weights, kinds
from rdsdk.errors import ModelError

MODEL = Path("Data") / "com.apple.CoreML" / "model.mlmodel"
Values = dict[str, Any]


@dataclass(frozen=True)
class FunctionSpec:
    """What a function takes, gives and keeps, as the program declares it.

    A dimension that is not fixed is None; states are always float16.
    """

    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: tuple[str, ...]
    states: Mapping[str, tuple[int, ...]]


class Interpreter:
    """The functions of a package, ready to run.

    Args:
        path: an ``.mlpackage``, or the ``model.mlmodel`` of one.

    Raises:
        ModelError: there is no package, it is damaged, or it holds an operation that is not known.
        ExportError: coremltools, whose format of the file is used, is not installed.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.model = read_model(self.path)
        file = self.path if self.path.is_file() else self.path / MODEL
        self._weights = Weights(file.parent)
        self.blocks: dict[str, Any] = {}
        """The operations of each function, as ``MILSpec.Block``."""
        self.functions: dict[str, FunctionSpec] = {}
        for name, function in self.model.mlProgram.functions.items():
            self.blocks[name] = function.block_specializations[function.opset]
            self.functions[name] = _spec(function, self.blocks[name])
            self._check(name)
        self._constants: dict[str, Values] = {}

    def run(
        self,
        function: str,
        inputs: Mapping[str, Tensor],
        state: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Call a function: (inputs, state; None is fresh) -> (outputs, next state).

        Outputs and states are float32, states rounded to float16.

        Raises:
            ModelError: no such function, or inputs or states that are not what it declares.
        """
        if function not in self.functions:
            raise ModelError(
                f"{self.path} has no function {function!r}; it has {sorted(self.functions)}"
            )
        spec = self.functions[function]
        fresh = {name: torch.zeros(shape) for name, shape in spec.states.items()}
        kept = dict(fresh if state is None else state)
        _require(function, "input", spec.inputs, inputs)
        _require(function, "state", spec.states, kept)
        kept = {name: _half(tensor.float()) for name, tensor in kept.items()}
        values: Values = {
            name: tensor.float() if tensor.is_floating_point() else tensor.long()
            for name, tensor in inputs.items()
        }
        values |= self._constants_of(function)
        with torch.no_grad():
            for operation in self.blocks[function].operations:
                if operation.type == "write_state":
                    kept[_name_of(operation, "input")] = _half(values[_name_of(operation, "data")])
                elif operation.type == "read_state":
                    values[operation.outputs[0].name] = kept[_name_of(operation, "input")]
                elif operation.outputs[0].name not in values:
                    values[operation.outputs[0].name] = self._result(operation, values)
        return {name: values[name] for name in spec.outputs}, kept

    def constants(self, function: str) -> Mapping[str, Any]:
        """The constants of a function by name: tensors, decompressed, and text."""
        return self._constants_of(function)

    def inline_value(self, value: Any, what: str) -> Any:
        """A constant that stands in an operation itself, as a tensor or text."""
        return self._weights.value(value, what)

    def _constants_of(self, function: str) -> Values:
        if function not in self._constants:
            values: Values = {}
            for operation in self.blocks[function].operations:
                name = operation.outputs[0].name if operation.outputs else ""
                if operation.type == "const":
                    values[name] = self._weights.value(operation.attributes["val"], name)
                elif operation.type.startswith("constexpr_"):
                    # Its arguments lie in attributes (to iOS 17) or are bound as usual (iOS 18).
                    given = {
                        key: self._weights.value(value, f"{key} of {name}")
                        for key, value in operation.attributes.items()
                        if key != "name"
                    }
                    values[name] = self._result(operation, values, given)
            self._constants[function] = values
        return self._constants[function]

    def _result(self, operation: Any, values: Values, given: Values | None = None) -> Tensor:
        """One operation, with its result as its output is declared."""
        output = operation.outputs[0]
        what = f"{operation.type} {output.name}"
        given = {**self._arguments(operation, values), **(given or {})}
        try:
            result = OPERATIONS[operation.type](given)
        except (KeyError, RuntimeError, IndexError, ValueError, TypeError) as error:
            raise ModelError(f"{what} fails: {type(error).__name__}: {error}") from error
        if not _fits(tuple(result.shape), _shape(output.type)):
            raise ModelError(
                f"{what} gives shape {tuple(result.shape)}, declared is {_shape(output.type)}"
            )
        kind = kinds().get(output.type.tensorType.dataType)
        return _half(result) if kind is not None and kind.name == "FLOAT16" else result

    def _arguments(self, operation: Any, values: Values) -> Values:
        given: Values = {}
        for name, argument in operation.inputs.items():
            parts = [
                self._weights.value(binding.value, f"{name} of {operation.type}")
                if binding.WhichOneof("binding") == "value"
                else values[binding.name]
                for binding in argument.arguments
            ]
            given[name] = parts if name == "values" else parts[0]
        return given

    def _check(self, name: str) -> None:
        known = {*OPERATIONS, "const", "read_state", "write_state"}
        operations = self.blocks[name].operations
        if unknown := sorted({o.type for o in operations} - known):
            raise ModelError(
                f"{self.path}: function {name} has the operations {unknown}, which this "
                "interpreter does not know"
            )
        for operation in operations:
            if len(operation.blocks) or (
                operation.type != "write_state" and len(operation.outputs) != 1
            ):
                raise ModelError(
                    f"{self.path}: {operation.type} in {name} has blocks of its own or several "
                    "outputs, which this interpreter does not know"
                )


def read_model(path: Path) -> Any:
    """The ``Model`` proto of a package, or of a ``.mlmodel`` file.

    Raises:
        ModelError: there is none, it is damaged, or it is no ML program.
        ExportError: coremltools is not installed.
    """
    coremltools()
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    file = path if path.is_file() else path / MODEL
    model = Model_pb2.Model()
    try:
        model.ParseFromString(file.read_bytes())
    except OSError as error:
        raise ModelError(
            f"{path} is no Core ML package: {file} cannot be read ({error.strerror})"
        ) from None
    except DecodeError as error:
        raise ModelError(f"{file} is damaged: {error}; export the package again") from None
    if model.WhichOneof("Type") != "mlProgram":
        raise ModelError(f"{path} holds a {model.WhichOneof('Type')}, expected an ML program")
    return model


def _spec(function: Any, block: Any) -> FunctionSpec:
    inputs: dict[str, tuple[int | None, ...]] = {}
    states: dict[str, tuple[int, ...]] = {}
    for given in function.inputs:
        if given.type.HasField("stateType"):
            wrapped = given.type.stateType.wrappedType.tensorType
            states[given.name] = tuple(d.constant.size for d in wrapped.dimensions)
        else:
            inputs[given.name] = _shape(given.type)
    return FunctionSpec(inputs, tuple(block.outputs), states)


def _shape(value_type: Any) -> tuple[int | None, ...]:
    return tuple(
        d.constant.size if d.HasField("constant") else None
        for d in value_type.tensorType.dimensions
    )


def _fits(shape: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    return len(shape) == len(declared) and all(
        size is None or size == got for size, got in zip(declared, shape, strict=True)
    )


def _require(
    function: str,
    what: str,
    declared: Mapping[str, tuple[int | None, ...]],
    given: Mapping[str, Tensor],
) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    if shapes.keys() != declared.keys() or not all(
        _fits(shapes[name], declared[name]) for name in declared
    ):
        raise ModelError(
            f"{function} got {what}s {shapes}, expected {dict(declared)} (None is any length)"
        )


def _half(tensor: Tensor) -> Tensor:
    return tensor.half().float()


def _name_of(operation: Any, argument: str) -> str:
    return str(operation.inputs[argument].arguments[0].name)
