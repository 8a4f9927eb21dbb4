"""Core ML packages as they are written: what is in them, what they say, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mobile_export.coreml as coreml_room
from mobile_export.coreml import ExportedPackage, export_coreml, package_step, verify_package
from mobile_export.coreml_card import CARD_KEY, read_card
from mobile_export.coreml_conversion import convert, trace
from mobile_export.coreml_interpreter import Interpreter, read_model
from mobile_export.coreml_programs import Function, pack, packed_shape, unpack
from mobile_export.coreml_structure import FILES
from mobile_export.kit import write_kit
from mobile_export.verify import snr_db
from rdsdk.errors import ExportError, ModelError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.extractor import frame_count
from rdsdk.models.state import EncoderState
from tests.mobile_export.conftest import STREAMING, make_checkpoint


def files(path: Path) -> set[str]:
    return {item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file()}


def test_a_package_holds_its_program_and_weights_and_nothing_else(
    streaming_package: ExportedPackage, full_context_package: ExportedPackage
) -> None:
    for made in (streaming_package, full_context_package):
        assert files(made.path) == FILES
        assert made.size_bytes == sum(f.stat().st_size for f in made.path.rglob("*") if f.is_file())
        assert made.report["verdict"] == "passed"
        # coremltools lets only the owner read.
        for item in (made.path, *made.path.rglob("*")):
            assert item.stat().st_mode & 0o044 == 0o044
        assert [item.name for item in made.path.parent.iterdir()] == [made.path.name]


def test_both_functions_share_one_copy_of_the_weights(streaming_package: ExportedPackage) -> None:
    assert set(Interpreter(streaming_package.path).functions) == {"forward", "step"}
    file = streaming_package.report["file"]
    # Biases, norms and scales are float16, and each blob begins at a multiple of 64 bytes; another
    # copy would make twice the floor.
    assert file["floor_bytes"] < file["weight_bytes"] < 1.3 * file["floor_bytes"]


def test_what_a_package_says_about_itself_outlives_the_merge(
    streaming_package: ExportedPackage,
) -> None:
    model = read_model(streaming_package.path)
    metadata = model.description.metadata
    assert metadata.license == "CC0"
    assert metadata.author == "unknown"
    assert metadata.versionString == streaming_package.card["rdsdk_version"]
    assert metadata.shortDescription.startswith("tiny-test: speech to text")
    card = read_card(streaming_package.path)
    assert card == json.loads(json.dumps(streaming_package.card))
    assert card["measured"]["wer"] == 0.5
    assert card["verification"]["verdict"] == "passed"
    assert card["verification"]["ran_in_core_ml"] is (sys.platform == "darwin")
    assert card["package"]["ios"] == 18
    assert [entry["name"] for entry in card["state"]] == [*EncoderState._fields]
    described = {function.name: function for function in model.description.functions}
    assert set(described) == {"forward", "step"}
    assert [state.name for state in described["step"].state] == [*EncoderState._fields]
    for function in described.values():
        for feature in (*function.input, *function.output, *function.state):
            assert feature.shortDescription
    assert "one chunk: 8 frames" in described["step"].input[0].shortDescription
    assert "4000 to 480000 samples" in described["forward"].input[0].shortDescription


def test_a_package_of_whole_recordings_needs_ios_17_only(
    streaming_package: ExportedPackage, full_context_package: ExportedPackage
) -> None:
    assert read_model(full_context_package.path).specificationVersion == 8
    assert read_model(streaming_package.path).specificationVersion == 9
    assert full_context_package.card["package"]["ios"] == 17
    assert full_context_package.card["state"] == []
    (size,) = [
        bounds
        for bounds in read_model(full_context_package.path)
        .description.input[0]
        .type.multiArrayType.shapeRange.sizeRanges
        if bounds.upperBound != 1
    ]
    assert (size.lowerBound, size.upperBound) == (4000, 480_000)


def test_a_package_agrees_with_its_checkpoint(
    streaming: Checkpoint, streaming_package: ExportedPackage
) -> None:
    report = streaming_package.report
    assert report["agreement"]["calls"] == 9
    assert report["agreement"]["worst_snr_db"] > 25
    assert report["agreement"]["same_symbol"] > 0.95
    for exact in report["float32_agreement"].values():
        assert exact["worst_snr_db"] > 110
    assert report["methods"]["step"]["map_owner"] == [0, 0, 2, 2]
    # Beside what the report says: a stream of our own, through the function for kits.
    step, state, eager_state = package_step(streaming_package.path), None, None
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        waveform = 0.2 * torch.randn(1, 8 * 320 + 80, generator=generator)
        log_probs, state = step(waveform[0].numpy(), state)
        with torch.no_grad():
            output, eager_state = streaming.student(waveform, eager_state)
        assert output.log_probs is not None
        assert log_probs.shape == (8, 29)
        assert snr_db(output.log_probs[0].numpy(), log_probs) > 30


def test_padding_changes_nothing_of_a_recording(streaming: Checkpoint, tmp_path: Path) -> None:
    made = export_coreml(
        streaming, tmp_path / "m.mlpackage", "palette6", functions=["forward"],
        lengths_seconds=[3, 1],
    )  # fmt: skip
    assert made.report["experimental"]
    assert made.card["package"]["lengths"] == {"forward": [16_000, 48_000]}
    interpreter = Interpreter(made.path)
    waveform = 0.2 * torch.randn(1, 48_000, generator=torch.Generator().manual_seed(0))
    other = waveform.clone()
    other[:, 30_000:] = 1.0
    frames = frame_count(30_000)

    def hidden(heard: Tensor, samples: int) -> Tensor:
        inputs = {"waveform": heard, "sample_count": torch.tensor([samples])}
        return interpreter.run("main", inputs)[0]["hidden"][:, :frames]

    expected = hidden(waveform, 30_000)
    assert torch.equal(hidden(other, 30_000), expected)
    # Negative control: where it is no padding, it is heard.
    assert (hidden(other, 48_000) - expected).abs().max() > 0.02
    with torch.no_grad():
        output, _ = streaming.student(waveform[:, :30_000])
    assert snr_db(output.hidden[-1].numpy(), expected.numpy()) > 15
    enumerated = read_model(made.path).description.input[0].type.multiArrayType.enumeratedShapes
    assert sorted(tuple(s.shape) for s in enumerated.shapes) == [(1, 16_000), (1, 48_000)]


class Rare(nn.Module):
    """One symbol far more likely than the others."""

    def forward(self, waveform: Tensor) -> tuple[Tensor]:
        return ((waveform * 40.0).log_softmax(-1),)


def test_rare_symbols_keep_their_log_probs_in_float16(tmp_path: Path) -> None:
    function = Function("forward", Rare(), ("waveform",), ("log_probs",), 64, 64)
    path = tmp_path / "rare.mlpackage"
    convert(function, trace(function), "fp16", 17).save(str(path))
    waveform = torch.linspace(-1, 1, 64)[None]
    got = Interpreter(path).run("main", {"waveform": waveform})[0]["log_probs"]
    (expected,) = Rare()(waveform)
    assert snr_db(expected.numpy(), got.numpy()) > 50
    # As coremltools spells it by itself, most of these would be minus infinity.
    assert (expected.softmax(-1).half() == 0).sum() > 10


def test_a_state_is_kept_in_rows_of_32() -> None:
    state = torch.randn(4, 1, 3, 5, 7)
    packed = pack(state)
    assert packed.shape == packed_shape(state.shape) == (4, 4, 32)
    assert torch.equal(unpack(packed, state.shape), state)
    assert packed_shape((1, 64)) == (1, 2, 32)


def test_a_failed_check_leaves_no_package_and_touches_no_older_one(
    streaming: Checkpoint,
    exact_packages: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = make_checkpoint(STREAMING)
    changed.student.encoder.layers[1].ffn_out.bias.data[:5] += 0.3  # type: ignore[union-attr,operator]
    faithful = coreml_room.trace
    # What is converted is a faulty student; everything after it is real.
    wrong = coreml_room.coreml_programs.functions(coreml_room.convertible(changed), ["step"])[
        "step"
    ]
    monkeypatch.setattr(coreml_room, "trace", lambda function: faithful(wrong))
    path = tmp_path / "model.mlpackage"
    path.mkdir()
    (path / "mine").write_text("older")
    with pytest.raises(ExportError, match=r"agrees to \d+\.\d dB, fp32 needs 90 dB"):
        export_coreml(streaming, path, "fp32", functions=["step"])
    assert [item.name for item in tmp_path.iterdir()] == ["model.mlpackage"]
    assert (path / "mine").read_text() == "older"
    monkeypatch.undo()
    made = export_coreml(streaming, path, "fp32", functions=["step"])
    assert files(path) == FILES
    assert made.report["agreement"]["worst_snr_db"] > 110


def test_what_cannot_be_exported_is_refused(
    streaming: Checkpoint,
    full_context: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "model.mlpackage"
    with pytest.raises(ExportError, match=r"unknown precision 'int4'.*palette6"):
        export_coreml(streaming, path, "int4")
    with pytest.raises(ExportError, match=r"does not end in \.mlpackage"):
        export_coreml(streaming, tmp_path / "model.pte")
    with pytest.raises(ExportError, match="is not a folder"):
        export_coreml(streaming, tmp_path / "nowhere" / "model.mlpackage")
    with pytest.raises(ExportError, match=r"full-context student holds functions of \['forward'\]"):
        export_coreml(full_context, path, functions=["step"])
    with pytest.raises(ExportError, match="padding would change every frame"):
        export_coreml(full_context, path, lengths_seconds=[5])
    with pytest.raises(ExportError, match=r"lengths must be 0\.25 to 30 s"):
        export_coreml(streaming, path, lengths_seconds=[5, 31])
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ExportError, match=r"need coremltools.*rdsdk\[export\]"):
        export_coreml(streaming, path)
    assert not list(tmp_path.iterdir())


def test_a_package_is_proven_again_later(
    streaming: Checkpoint, full_context: Checkpoint, full_context_package: ExportedPackage
) -> None:
    report = verify_package(full_context, full_context_package.path)
    assert report["agreement"] == full_context_package.report["agreement"]
    with pytest.raises(ExportError, match="another architecture"):
        verify_package(streaming, full_context_package.path)
    changed = Checkpoint(full_context.student.copy(), full_context.vocabulary)
    # Too little to be seen beside what int8 costs: the comparison of programs sees it.
    changed.student.encoder.layers[1].ffn_out.bias.data += 1e-3  # type: ignore[union-attr,operator]
    with pytest.raises(ExportError, match=r"forward: bias of linear .* differs"):
        verify_package(changed, full_context_package.path)


def test_a_card_that_says_something_else_is_refused(
    streaming: Checkpoint,
    exact_packages: dict[str, Path],
    edited,  # type: ignore[no-untyped-def]
) -> None:
    right = read_card(exact_packages["step"])
    assert verify_package(streaming, exact_packages["step"])["faults"] == []
    wrong = json.loads(json.dumps(right))
    symbols = wrong["vocabulary"]["symbols"]
    symbols[3], symbols[4] = symbols[4], symbols[3]
    wrong |= {"overlap_samples": 12_345, "parameters": 7}
    wrong["context"]["chunk_frames"] += 1

    def lie(model: Any) -> None:
        model.description.metadata.userDefined[CARD_KEY] = json.dumps(wrong)

    with pytest.raises(ExportError) as refused:
        verify_package(streaming, edited(exact_packages["step"], lie))
    for name in ("vocabulary", "overlap_samples", "parameters", "context"):
        assert f"its card has another {name} than this checkpoint" in str(refused.value)


def test_no_card_no_package(tmp_path: Path, exact_packages: dict[str, Path], edited) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match="is no Core ML package"):
        read_card(tmp_path)
    bare = edited(exact_packages["step"], lambda m: m.description.metadata.Clear())
    with pytest.raises(ModelError, match="has no card of rdsdk"):
        read_card(bare)


def test_a_kit_for_ios_holds_what_the_package_says(
    streaming: Checkpoint, streaming_package: ExportedPackage, tmp_path: Path
) -> None:
    made = write_kit(
        streaming_package.path,
        "ios",
        tmp_path / "kit",
        step=package_step(streaming_package.path),
        card_json=json.dumps(read_card(streaming_package.path)),
    )
    assert files(made.artefact) == FILES
    state, got = None, made.vectors.log_probs
    for waveform, log_probs in zip(made.vectors.inputs, got, strict=True):
        with torch.no_grad():
            output, state = streaming.student(torch.from_numpy(waveform)[None], state)
        assert output.log_probs is not None
        assert snr_db(output.log_probs[0].numpy(), log_probs) > 25
    again = np.fromfile(made.folder / "vectors" / "log_probs.f32", "<f4")
    np.testing.assert_array_equal(again, got.ravel())
    assert "rounded to it" in (made.folder / "README.md").read_text(encoding="utf-8")


def test_a_package_without_step_or_text_gives_no_step(
    exact_packages: dict[str, Path], full_context_package: ExportedPackage
) -> None:
    with pytest.raises(ExportError, match=r"holds \['forward'\], no step"):
        package_step(full_context_package.path)
    # One function by itself is called main in Core ML.
    assert set(Interpreter(exact_packages["step"]).functions) == {"main"}
    log_probs, _ = package_step(exact_packages["step"])(np.zeros(2640, np.float32), None)
    assert log_probs.shape == (8, 29)
