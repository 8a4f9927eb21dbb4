"""The interpreter of packages: its operations beside coremltools' own, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobile_export.coreml import ExportedPackage
from mobile_export.coreml_conversion import coremltools, quiet
from mobile_export.coreml_interpreter import MODEL, Interpreter
from mobile_export.coreml_operations import OPERATIONS
from mobile_export.coreml_weights import Kind, _unpack
from rdsdk.errors import ModelError
from tests.mobile_export.conftest import operations

Edit = Callable[[Path, Callable[[Any], None]], Path]
X = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
COUNTS = np.array([[7, -3], [4, 9]], np.int32)
CASES: dict[str, dict[str, Any]] = {
    "pad": {"x": X, "pad": [1, 2, 0, 3], "constant_val": 2.0},
    "slice_by_index": {
        "x": X,
        "begin": [0, 1, -4],
        "end": [1, 0, -1],
        "stride": [1, 1, 2],
        "end_mask": [False, True, False],
        "squeeze_mask": [True, False, False],
    },
    "gather": {"x": X, "indices": [2, 0, 1], "axis": 1},
    "tile": {"x": X, "reps": [1, 2, 3]},
    "transpose": {"x": X, "perm": [2, 0, 1]},
    "expand_dims": {"x": X, "axes": [0, -1]},
    "squeeze": {"x": X[:1], "axes": [0]},
    "reshape": {"x": X, "shape": [6, -1]},
    "reduce_mean": {"x": X, "axes": [-1], "keep_dims": True},
    "reduce_sum": {"x": X, "axes": [0, 2], "keep_dims": False},
    "reduce_max": {"x": X, "axes": [1], "keep_dims": False},
    "softmax": {"x": X, "axis": 1},
    "layer_norm": {"x": X, "axes": [2], "epsilon": 0.1, "gamma": X[0, 0], "beta": X[1, 1]},
    "rsqrt": {"x": np.abs(X), "epsilon": 0.5},
    "log": {"x": np.abs(X), "epsilon": 0.5},
    "exp": {"x": X},
    "gelu": {"x": X, "mode": "EXACT"},
    "floor_div": {"x": COUNTS, "y": np.array(4, np.int32)},
    "real_div": {"x": X, "y": np.float32(3)},
    "sub": {"x": X, "y": X[:, :1]},
    "maximum": {"x": X, "y": np.float32(0.2)},
    "less": {"x": COUNTS, "y": np.array(5, np.int32)},
    "logical_and": {"x": COUNTS > 0, "y": COUNTS < 8},
    "select": {"cond": X > 0, "a": X, "b": -2 * X},
    "concat": {"values": [X, X[:, :1]], "axis": 1},
    "stack": {"values": [X, -X], "axis": 1},
    "matmul": {"x": X, "y": X, "transpose_x": False, "transpose_y": True},
    "linear": {"x": X[0], "weight": X[1], "bias": X[0, 0, :3]},
    "range_1d": {"start": 2, "end": 11, "step": 3},
    "fill": {"shape": [2, 3], "value": 0.5},
}


def tensor(value: Any) -> Any:
    if isinstance(value, str | bool):
        return value
    if isinstance(value, list) and isinstance(value[0], np.ndarray):
        return [torch.from_numpy(part) for part in value]
    made = torch.from_numpy(np.asarray(value))
    return made.float() if made.is_floating_point() else made


@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_what_coremltools_says_it_is(name: str) -> None:
    """coremltools folds constants with definitions of its own, in numpy."""
    ct = coremltools()
    from coremltools.converters.mil import Builder as mb

    found = []

    # A program needs an input; it plays no part.
    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=ct.target.iOS17)
    def program(unused: Any) -> Any:
        found.append(getattr(mb, name)(**CASES[name]).val)
        return mb.identity(x=unused)

    (expected,) = found
    assert expected is not None
    got = OPERATIONS[name]({key: tensor(value) for key, value in CASES[name].items()})
    assert tuple(got.shape) == expected.shape
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [0, -3])
def test_a_concatenation_interleaves_as_documented(axis: int) -> None:
    """coremltools' own folding leaves the interleaving out."""
    first, second = torch.randn(2, 3, 3, 4).unbind()
    given = {
        "values": [first, second],
        "axis": torch.tensor(axis),
        "interleave": torch.tensor(True),
    }
    got = OPERATIONS["concat"](given)
    assert torch.equal(got[0::2], first)
    assert torch.equal(got[1::2], second)
    plain = OPERATIONS["concat"]({**given, "interleave": torch.tensor(False)})
    assert torch.equal(plain, torch.cat([first, second]))


def test_a_convolution_pads_as_told() -> None:
    """coremltools folds none; here every amount of padding differs."""
    x, weight = torch.randn(1, 4, 6, 7), torch.randn(6, 2, 2, 3)
    got = OPERATIONS["conv"](
        {
            "x": x,
            "weight": weight,
            "pad_type": "custom",
            "pad": torch.tensor([1, 0, 3, 2]),
            "strides": torch.tensor([1, 2]),
            "dilations": torch.tensor([2, 1]),
            "groups": torch.tensor(2),
        }
    )
    padded = torch.zeros(1, 4, 7, 12)
    padded[:, :, 1:, 3:10] = x
    expected = torch.zeros(1, 6, 5, 5)
    for out in range(6):
        for row in range(5):
            for column in range(5):
                seen = padded[0, 2 * (out // 3) :][
                    :2, row : row + 3 : 2, 2 * column : 2 * column + 3
                ]
                expected[0, out, row, column] = (seen * weight[out]).sum()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_values_below_a_byte_begin_in_the_lowest_bits() -> None:
    four = _unpack(bytes([0x21, 0x43]), Kind("UINT4", "u1", 4), 4, "x")
    assert four.tolist() == [1, 2, 3, 4]
    six = _unpack(bytes([0b01_000011, 0b0010_0000, 0b11]), Kind("UINT6", "u1", 6), 3, "x")
    assert six.tolist() == [3, 1, 50 & 0b110010]


def test_an_unknown_operation_is_refused_by_name(
    exact_packages: dict[str, Path], edited: Edit
) -> None:
    def change(model: Any) -> None:
        next(op for op in operations(model) if op.type == "linear").type = "lstm"

    with pytest.raises(ModelError, match=r"function main has the operations \['lstm'\]"):
        Interpreter(edited(exact_packages["step"], change))


def test_a_shape_that_is_not_as_declared_is_refused(
    exact_packages: dict[str, Path], edited: Edit
) -> None:
    def change(model: Any) -> None:
        linear = next(op for op in operations(model) if op.type == "linear")
        linear.outputs[0].type.tensorType.dimensions[0].constant.size += 1

    interpreter = Interpreter(edited(exact_packages["step"], change))
    with pytest.raises(ModelError, match=r"linear .* gives shape .*, declared is"):
        interpreter.run("main", {"waveform": torch.zeros(1, 2640)})


def test_damaged_weights_are_refused(exact_packages: dict[str, Path], edited: Edit) -> None:
    path = edited(exact_packages["step"], lambda model: None)
    weights = path / MODEL.parent / "weights" / "weight.bin"
    whole = weights.read_bytes()
    inputs = {"waveform": torch.zeros(1, 2640)}
    Interpreter(path).run("main", inputs)
    for damaged in (whole[:-100], whole[:64] + b"\x00" * 4 + whole[68:], b""):
        weights.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"describes no|do not hold|is cut off"):
            Interpreter(path).run("main", inputs)
    weights.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        Interpreter(path).run("main", inputs)
    (path / MODEL).write_bytes(b"\xff" * 40)
    with pytest.raises(ModelError, match="is damaged"):
        Interpreter(path)


def test_what_a_function_does_not_take_is_refused(streaming_package: ExportedPackage) -> None:
    interpreter = Interpreter(streaming_package.path)
    waveform = torch.zeros(1, 2640)
    with pytest.raises(ModelError, match=r"no function 'main'; it has \['forward', 'step'\]"):
        interpreter.run("main", {"waveform": waveform})
    with pytest.raises(ModelError, match=r"step got inputs \{'waveform': \(1, 2641\)\}"):
        interpreter.run("step", {"waveform": torch.zeros(1, 2641)})
    with pytest.raises(ModelError, match="step got inputs"):
        interpreter.run("step", {"sound": waveform})
    with pytest.raises(ModelError, match="step got states"):
        interpreter.run("step", {"waveform": waveform}, {"keys": torch.zeros(2, 16, 32)})


def test_a_state_is_of_one_stream_and_a_new_one_is_zeros(
    streaming_package: ExportedPackage,
) -> None:
    interpreter = Interpreter(streaming_package.path)
    generator = torch.Generator().manual_seed(0)
    sounds = [0.2 * torch.randn(3, 1, 2640, generator=generator) for _ in range(2)]

    def outputs(sound: torch.Tensor, state: Any = None) -> list[torch.Tensor]:
        heard = []
        for waveform in sound:
            got, state = interpreter.run("step", {"waveform": waveform}, state)
            heard.append(got["hidden"])
        return heard

    alone = [outputs(sound) for sound in sounds]
    states: list[Any] = [None, None]
    for number in range(3):
        for stream in range(2):
            got, states[stream] = interpreter.run(
                "step", {"waveform": sounds[stream][number]}, states[stream]
            )
            assert torch.equal(got["hidden"], alone[stream][number])
    fresh = {name: torch.zeros(s) for name, s in interpreter.functions["step"].states.items()}
    assert torch.equal(outputs(sounds[0], fresh)[2], alone[0][2])
    # Negative control: the state matters.
    assert not torch.equal(outputs(sounds[0][2:])[0], alone[0][2])
    assert all(torch.equal(state, state.half().float()) for state in states[0].values())


def test_the_interpreter_is_silent(
    streaming_package: ExportedPackage, capsys: pytest.CaptureFixture[str]
) -> None:
    with quiet():
        print("said")
    Interpreter(streaming_package.path)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == "said\n"
