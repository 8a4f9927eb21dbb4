"""Core ML packages that do something else than their checkpoint: each must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mobile_export.coreml_predict as predict_room
from mobile_export.coreml import ExportedPackage, reference
from mobile_export.coreml_card import CARD_KEY, describe, package_card
from mobile_export.coreml_conversion import convert, trace
from mobile_export.coreml_graph import Nearness
from mobile_export.coreml_interpreter import Interpreter
from mobile_export.coreml_package import write_package
from mobile_export.coreml_predict import in_core_ml
from mobile_export.coreml_programs import functions
from mobile_export.coreml_verify import prove
from mobile_export.programs import folded
from rdsdk.errors import ExportError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import EncoderConfig
from rdsdk.models.encoder import Encoder
from rdsdk.models.student import Student
from tests.mobile_export.conftest import STREAMING, make_checkpoint, operations

Edit = Callable[[Path, Callable[[Any], None]], Path]


def layer(student: Student, number: int) -> Any:
    return student.encoder.layers[number]


def drop_a_bias(student: Student) -> None:
    layer(student, 1).ffn_out.bias.data[:5] += 0.3


def drop_the_scale(student: Student) -> None:
    layer(student, 2).attention_map.scale = 1.0


def transpose_heads(student: Student) -> None:
    weight = layer(student, 3).attention_output.value.weight
    weight.data = weight.data.unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1)


def flatten_a_map(student: Student) -> None:
    layer(student, 2).attention_map.query.weight.data.zero_()


def test_a_faithful_package_passes(
    streaming: Checkpoint, exact_packages: dict[str, Path], streaming_package: ExportedPackage
) -> None:
    student = reference(streaming)
    for path in exact_packages.values():
        proof = prove(student, path)
        assert not proof.faults
        assert proof.agreement.worst_snr_db > 110
    assert not prove(student, streaming_package.path, exact_packages).faults


@pytest.mark.parametrize(
    "fault", [drop_a_bias, drop_the_scale, transpose_heads, flatten_a_map], ids=lambda f: f.__name__
)
def test_a_float32_package_is_not_of_a_student_that_differs(
    exact_packages: dict[str, Path], fault: Callable[[Student], None]
) -> None:
    for path in exact_packages.values():
        changed = reference(make_checkpoint(STREAMING))
        fault(changed)
        (found, *_) = prove(changed, path).faults
        assert "fp32 needs 90 dB" in found


class ConfusedEncoder(Encoder):
    """Its last layer applies the map of the first group: a fault in the graph, not the config."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.config = replace(config, map_owner=(0, 0, 2, 0))


def test_a_package_that_applies_a_wrong_map_is_refused(
    streaming: Checkpoint, tmp_path: Path
) -> None:
    confused = make_checkpoint(STREAMING).student
    encoder = ConfusedEncoder(STREAMING)
    encoder.load_state_dict(confused.encoder.state_dict())
    confused.encoder = encoder.eval()
    function = functions(folded(confused.requires_grad_(False)), ["step"])["step"]
    card = package_card(streaming, {"step": function}, "confused", "fp32", 18)
    model = convert(function, trace(function), "fp32", 18)
    path = write_package({"step": model}, tmp_path / "confused.mlpackage", card, "")
    (found,) = prove(reference(streaming), path).faults
    assert "layers that apply the map of (0, 0, 2, 0), its student (0, 0, 2, 2)" in found


def first(model: Any, kind: str, function: str) -> Any:
    return next(op for op in operations(model, function) if op.type == kind)


def constant_of(model: Any, function: str, name: str) -> Any:
    return next(
        op.attributes["val"]
        for op in operations(model, function)
        if op.type == "const" and op.outputs[0].name == name
    )


def tanh_gelu(model: Any, function: str) -> None:
    """The mode of one GELU, whatever constant it shares with the others."""
    operation = first(model, "gelu", function)
    binding = operation.inputs["mode"].arguments[0]
    binding.value.CopyFrom(constant_of(model, function, binding.name))
    binding.value.immediateValue.tensor.strings.values[0] = "TANH_APPROXIMATION"


def no_bias(model: Any, function: str) -> None:
    del first(model, "linear", function).inputs["bias"]


def another_weight(model: Any, function: str) -> None:
    """Keys with the weights of queries."""
    linears = [op for op in operations(model, function) if op.type == "linear"]
    square = [op for op in linears if "attention_map" in op.inputs["weight"].arguments[0].name]
    square[1].inputs["weight"].CopyFrom(square[0].inputs["weight"])


def another_map(model: Any, function: str) -> None:
    """The last layer takes the map of the first."""
    made = [op.outputs[0].name for op in operations(model, function) if op.type == "softmax"]
    readers = [
        op
        for op in operations(model, function)
        if op.type == "matmul" and op.inputs["x"].arguments[0].name == made[1]
    ]
    assert len(readers) == 2
    readers[1].inputs["x"].arguments[0].name = made[0]


def state_not_written(model: Any, function: str) -> None:
    block = model.mlProgram.functions[function]
    found = block.block_specializations[block.opset].operations
    found.remove(first(model, "write_state", function))


def state_read_twice(model: Any, function: str) -> None:
    """Values remembered from the state of another name."""
    reads = [op for op in operations(model, function) if op.type == "read_state"]
    keys = next(op for op in reads if op.inputs["input"].arguments[0].name == "keys")
    keys.inputs["input"].arguments[0].name = "values"


def another_epsilon(model: Any, function: str) -> None:
    """A norm with float16's 0.001 for 0.0003."""
    name = first(model, "layer_norm", function).inputs["epsilon"].arguments[0].name
    value = constant_of(model, function, name).immediateValue.tensor
    value.bytes.values = np.float16(1e-3).tobytes()


FAULTS = {
    tanh_gelu: "spellings of GELU",
    no_bias: "bias of linear",
    another_weight: "weight of linear|values in weights|agrees to",
    another_map: "layers that apply the map of",
    state_not_written: "states written",
    state_read_twice: "states read",
    another_epsilon: "epsilon of layer_norm",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_changed_int8_package_is_refused(
    streaming: Checkpoint,
    streaming_package: ExportedPackage,
    exact_packages: dict[str, Path],
    edited: Edit,
    fault: Callable[[Any, str], None],
) -> None:
    """Changes of the file itself, which 8-bit weights would hide from a comparison of numbers."""
    path = edited(streaming_package.path, lambda model: fault(model, "step"))
    proof = prove(reference(streaming), path, exact_packages)
    assert proof.faults
    assert any(part in found for part in FAULTS[fault].split("|") for found in proof.faults), (
        proof.faults
    )
    assert all(found.startswith("step") or "of step" in found for found in proof.faults)


def test_tanh_gelu_is_near_enough_to_pass_for_int8_by_numbers(
    streaming: Checkpoint, streaming_package: ExportedPackage, edited: Edit
) -> None:
    """Why programs are compared, not numbers alone."""
    path = edited(streaming_package.path, lambda model: tanh_gelu(model, "step"))
    waveform = 0.2 * torch.randn(1, 2640, generator=torch.Generator().manual_seed(0))
    exact, _ = Interpreter(streaming_package.path).run("step", {"waveform": waveform})
    other, _ = Interpreter(path).run("step", {"waveform": waveform})
    difference = (exact["hidden"] - other["hidden"]).abs().max()
    assert 0 < difference < 0.05


def test_stray_and_missing_files_are_found(
    streaming: Checkpoint, exact_packages: dict[str, Path], edited: Edit
) -> None:
    path = edited(exact_packages["step"], lambda model: None)
    assert not prove(reference(streaming), path).faults
    (path / "executorch_debug_handle_mapping.json").write_text("{}")
    (path / "Manifest.json").unlink()
    found = prove(reference(streaming), path).faults
    assert found == [
        "the package misses ['Manifest.json']",
        "the package holds stray files ['executorch_debug_handle_mapping.json']",
    ]


def test_a_card_that_names_other_functions_is_refused(
    streaming: Checkpoint, streaming_package: ExportedPackage, edited: Edit
) -> None:
    path = edited(streaming_package.path, lambda model: None)
    card = dict(streaming_package.card)
    describe(path, card, "someone")
    assert not prove(reference(streaming), path).faults
    card["methods"] = {"step": card["methods"]["step"]}
    edited(path, lambda model: model.description.metadata.userDefined.update(
        {CARD_KEY: json.dumps(card)}
    ))  # fmt: skip
    with pytest.raises(ExportError, match=r"holds the functions \['forward', 'step'\], its card"):
        prove(reference(streaming), path)


def test_nearness_is_of_each_output_channel_or_of_the_whole() -> None:
    exact = torch.tensor([[1.0, -0.5], [100.0, 50.0]])
    near = exact + torch.tensor([[0.004, 0.0], [0.4, -0.4]])
    assert Nearness(largest=0.005).allows(exact, near)
    assert not Nearness(largest=0.003).allows(exact, near)
    # As much as the other channel may differ by is too much for this one.
    assert not Nearness(largest=0.005).allows(exact, exact + torch.tensor([[0.4, 0.0], [0.0, 0.0]]))
    assert Nearness(rms=0.01).allows(exact, near)
    assert not Nearness(rms=0.001).allows(exact, near)
    assert not Nearness(largest=0.1).allows(exact, near * torch.nan)


class StandIn:
    """As coremltools' ``MLModel`` where there is a Mac, but the interpreter inside."""

    def __init__(self, path: Path, function: str | None, error: float) -> None:
        self.interpreter = Interpreter(path)
        self.function = function or "main"
        self.error = error

    def make_state(self) -> dict[str, Any]:
        return {"kept": None}

    def predict(self, inputs: dict[str, Any], state: dict[str, Any] | None = None) -> Any:
        tensors: dict[str, Tensor] = {key: torch.from_numpy(v) for key, v in inputs.items()}
        kept = None if state is None else state["kept"]
        outputs, following = self.interpreter.run(self.function, tensors, kept)
        if state is not None:
            state["kept"] = following
        return {name: tensor.numpy() * (1 + self.error) for name, tensor in outputs.items()}


@pytest.mark.parametrize(("error", "passes"), [(1e-3, True), (0.3, False)])
def test_where_there_is_core_ml_it_must_agree_too(
    streaming_package: ExportedPackage,
    monkeypatch: pytest.MonkeyPatch,
    error: float,
    passes: bool,
) -> None:
    card = streaming_package.card
    monkeypatch.setattr(predict_room.sys, "platform", "linux")
    assert in_core_ml(streaming_package.path, card, STREAMING)["ran"] is False
    monkeypatch.setattr(predict_room.sys, "platform", "darwin")
    monkeypatch.setattr(
        predict_room, "_model", lambda path, function: StandIn(path, function, error)
    )
    found = in_core_ml(streaming_package.path, card, STREAMING)
    assert found["ran"] is True
    assert found["calls"] == 9
    assert bool(found["faults"]) is not passes
