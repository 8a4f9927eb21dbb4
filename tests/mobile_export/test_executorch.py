"""Real lowering, the real ExecuTorch runtime, and artefacts that must not come to be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mobile_export.executorch as executorch_room
from mobile_export.executorch import Exported, export
from mobile_export.programs import Method, exported_parameters, folded, methods
from mobile_export.progress import silent
from mobile_export.pte_graph import read_graph
from mobile_export.quantize import most_weight_bytes, quantize
from mobile_export.report import report_path
from mobile_export.structure import file_faults, structure
from rdsdk.errors import ConfigError, ExportError, ModelError
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import Context, preset
from rdsdk.models.frame_conv import tap_groups
from rdsdk.models.student import Student
from rdsdk.runtime.artefact import read_artefact
from rdsdk.runtime.program import Program
from rdsdk.runtime.recognizer import load
from tests.mobile_export.conftest import SMALL, make_small
from tests.mobile_export.mutations import unsealed, with_card


def test_a_float_artefact_equals_its_checkpoint_to_rounding(small_fp32: Exported) -> None:
    agreement = small_fp32.report.agreement
    assert agreement is not None
    assert agreement["worst_snr_db"] > 90
    # Several calls of each method that hand the state on, at several chunk counts.
    assert agreement["calls"] == 26
    assert len(agreement["lengths_seconds"]) >= 4
    assert set(agreement["tensors"]) == {
        *("log_probs", "hidden", "hidden_1", "hidden_4"),
        *("positions", "keys", "values", "valid"),
    }


def test_weights_that_were_not_rounded_are_too_many_bytes(
    small: Checkpoint, small_int8: Exported, small_fp32: Exported
) -> None:
    for made in (small_int8, small_fp32):
        held = made.report.file["weight_bytes"]
        assert held <= most_weight_bytes(small.student, made.report.precision)
    student = Student(preset("arm-mini"))
    assert most_weight_bytes(student, "int8") < 0.5 * 4 * student.parameter_count()


def test_an_int8_artefact_is_close_and_its_linear_layers_are_int8(
    small_fp32: Exported, small_int8: Exported
) -> None:
    assert small_int8.report.agreement is not None
    assert 20 < small_int8.report.agreement["worst_snr_db"] < 90
    assert small_int8.size_bytes < small_fp32.size_bytes
    for made, linears in ((small_int8, True), (small_fp32, False)):
        for graph in read_graph(read_artefact(made.path)).methods.values():
            # What is quantised as it comes is converted before each product.
            assert bool(structure(graph).delegated["convert"]) == linears


def test_products_and_convolutions_are_delegated(small_int8: Exported) -> None:
    for graph in read_graph(read_artefact(small_int8.path)).methods.values():
        found = structure(graph)
        for name in ("convolution", "linear", "bmm", "mm", "addmm", "gelu", "_softmax"):
            assert found.outside[name] == 0
        # Convolutions are linear layers over windows of frames, one for each block of a stride;
        # the position convolution is one for each group.
        assert found.delegated["convolution"] == 0
        inputs = [1, *(conv.channels for conv in SMALL.convs)]
        rows = sum(len(tap_groups(c, i)) for c, i in zip(SMALL.convs, inputs, strict=False))
        encoder = 4 * SMALL.layers + 2 * len(SMALL.owners)
        others = SMALL.position_groups + len(("projection", "ctc_head"))
        assert found.delegated["linear"] == rows + encoder + others
        assert found.delegated["bmm"] == 2 + SMALL.layers


def test_the_methods_of_a_file_share_one_copy_of_the_weights(
    small: Checkpoint, small_fp32: Exported, small_int8: Exported
) -> None:
    graph = read_graph(read_artefact(small_fp32.path))
    assert set(graph.methods) == {"forward", "step", "features"}
    floats = 4 * exported_parameters(small.student)
    # A little less: the norms of a fresh student are alike, and stored once.
    assert 0.95 * floats < graph.weight_bytes < 1.05 * floats
    assert small_fp32.report.file["weight_bytes"] == graph.weight_bytes
    assert small_fp32.size_bytes > graph.weight_bytes
    # features uses what forward uses, and neither the head nor anything of its own.
    large = {name for name, size in graph.weights.items() if size > 512}
    shared = large & graph.methods["forward"].weights
    assert large & graph.methods["features"].weights <= shared
    assert large & graph.methods["step"].weights == shared
    # Negative control: weights that are there twice are refused.
    doubled = type(graph)(graph.methods, graph.constants, graph.weights | {"again": floats})
    card = Program(small_fp32.path).card
    _, faults = file_faults(SMALL, card.methods, card.parameters, doubled)
    assert any("stored more than once" in fault for fault in faults)
    assert any("never used" in fault for fault in faults)
    assert small_int8.report.file["weight_bytes"] < graph.weight_bytes
    assert small_int8.report.file["floor_bytes"] == exported_parameters(small.student)


def test_projection_heads_are_neither_exported_nor_counted(
    small: Checkpoint, small_fp32: Exported
) -> None:
    heads = small.student.projections
    assert heads is not None
    size = 4 * sum(parameter.numel() for parameter in heads.parameters())
    floats = 4 * exported_parameters(small.student)
    assert floats + size == 4 * small.student.parameter_count()
    # With them there were more bytes than that.
    assert size > 10_000
    assert small_fp32.report.file["weight_bytes"] < floats + size / 4
    assert Program(small_fp32.path).card.parameters == exported_parameters(small.student)


def test_the_card_is_in_the_file_and_the_runtime_needs_nothing_else(
    small_int8: Exported, assets: Path
) -> None:
    recognizer = load(small_int8.path)
    card = recognizer.card
    assert (card.name, card.precision, card.licence) == ("small-test", "int8", "CC0")
    assert card.measured == {"wer": 0.5}
    assert card.parameters == Student(SMALL, 29).parameter_count()
    # Three frames of the chunk and the two beyond it.
    assert card.lookahead_seconds == pytest.approx(5 * 0.02)
    assert card.overlap_samples == SMALL.overlap_samples == 80 + 2 * 320
    assert small_int8.state_bytes == card.state_bytes
    recording = sorted((assets / "speech").glob("*.flac"))[0]
    features = recognizer.features(recording)
    assert features.shape[1] == SMALL.width
    assert np.isfinite(features).all()


def test_the_report_lies_beside_the_artefact_and_its_summary_in_the_card(
    small_int8: Exported,
) -> None:
    assert small_int8.report_path == report_path(small_int8.path)
    report = json.loads(small_int8.report_path.read_text())
    assert report == small_int8.report.to_dict()
    assert (report["verdict"], report["faults"]) == ("passed", [])
    assert report["file"]["bytes"] == small_int8.size_bytes
    for name in ("forward", "step"):
        method = report["methods"][name]
        assert method["map_owner"] == [0, 1, 0, 1]
        assert 0 < method["time"]["share"] < 1
        assert method["outside"]["_log_softmax"] == 1
    card = Program(small_int8.path).card
    assert card.verification == small_int8.report.summary()
    assert card.verification["verdict"] == "passed"
    assert card.verification["worst_snr_db"] == report["agreement"]["worst_snr_db"]
    assert set(card.verification["outside_time_share"]) == {"forward", "step"}
    for line in small_int8.report.lines():
        assert line


def test_features_of_chosen_layers_are_the_checkpoints(
    small: Checkpoint, small_fp32: Exported
) -> None:
    recognizer = load(small_fp32.path)
    assert recognizer.card.hidden_layers == (1, 4)
    generator = np.random.default_rng(0)
    sound = (0.1 * generator.normal(size=320 * 40 + 80)).astype(np.float32)
    with torch.no_grad():
        # A stream begins after a chunk of silence, and silence is what it sees beyond the end.
        silence = np.zeros(320 * 2, np.float32)
        _, state = small.student(torch.zeros(1, 320 * 4 + 80 + len(silence)), followed=True)
        heard = torch.from_numpy(np.concatenate([sound, silence]))[None]
        output, _ = small.student(heard, state, followed=True)
    for layer in (1, 4):
        features = recognizer.features((sound, 16_000), layer)
        np.testing.assert_allclose(features, output.hidden[layer - 1][0].numpy(), atol=2e-4)
    np.testing.assert_array_equal(
        recognizer.features((sound, 16_000)), recognizer.features((sound, 16_000), 4)
    )
    # Negative control: layers differ.
    assert np.abs(features - output.hidden[0][0].numpy()).max() > 0.1
    for layer in (0, 2, 5, -2):
        with pytest.raises(ModelError, match=f"holds the .* layer 1, 4 only, not of layer {layer}"):
            recognizer.features((sound, 16_000), layer)


def test_an_artefact_without_features_says_how_to_get_them(small_int8: Exported) -> None:
    program = Program(small_int8.path)
    with pytest.raises(ModelError, match="--methods forward,features"):
        program.features(np.zeros(program.card.methods["forward"].min_samples, np.float32))
    with pytest.raises(ModelError, match="layer 4 only, not of layer 1"):
        load(small_int8.path).features((np.zeros(16_000, np.float32), 16_000), 1)


def test_a_full_context_artefact_takes_any_length(
    full_context: Checkpoint, full_context_fp32: Exported
) -> None:
    program = Program(full_context_fp32.path)
    assert program.card.task == "features"
    generator = torch.Generator().manual_seed(0)
    for samples in (4000, 16_001, 160_000, 480_000):
        waveform = 0.1 * torch.randn(1, samples, generator=generator)
        with torch.no_grad():
            output, _ = full_context.student(waveform)
        hidden = program.forward(waveform[0].numpy()).hidden
        np.testing.assert_allclose(hidden, output.hidden[-1][0].numpy(), atol=2e-4)


def test_methods_and_layers_that_a_student_cannot_have_are_refused(
    small: Checkpoint, full_context: Checkpoint
) -> None:
    student, full = small.student, full_context.student
    assert set(methods(student)) == {"forward", "step"}
    assert set(methods(student, ["forward"])) == {"forward"}
    features = methods(student, ["features", "forward"], [3, 1, 3])["features"]
    assert features.outputs[:3] == ("hidden_1", "hidden_3", "hidden_4")
    assert set(methods(full, ["forward", "features"])) == {"forward", "features"}
    for student, names, layers, said in (
        (full, ["forward", "step"], [], "a full-context student has no method"),
        (small.student, ["forward", "walk"], [], "has no method"),
        (small.student, ["step"], [], "forward must be among them"),
        (small.student, None, [1], "need the method features"),
        (small.student, ["forward", "features"], [0, 5], r"no layers \[0, 5\]; it has 1 to 4"),
    ):
        with pytest.raises(ExportError, match=said):
            methods(student, names, layers)


@pytest.mark.parametrize(("chunk_frames", "most"), [(230, 2), (300, 1)])
def test_chunks_of_seconds_are_traced_too(chunk_frames: int, most: int) -> None:
    config = preset("tiny").streaming(Context(chunk_frames, left_frames=8))
    forward = methods(Student(config).eval())["forward"]
    assert forward.max_samples == 320 * chunk_frames * most + 80
    program = torch.export.export(
        forward.module, forward.example, dynamic_shapes=forward.dynamic_shapes, strict=False
    )
    for chunks in range(1, most + 1):
        waveform = torch.randn(1, 320 * chunk_frames * chunks + 80)
        hidden, *_ = program.module()(waveform, *forward.example[1:])
        assert hidden.shape == (1, chunk_frames * chunks, config.width)


def test_a_stream_without_memory_is_refused() -> None:
    config = preset("tiny").streaming(Context(8, left_frames=0))
    with pytest.raises(ExportError, match="left_frames of 1 or more"):
        methods(Student(config))


def lowering_of(source: Exported) -> Any:
    """In the place of ``lower``: a program that was lowered before, with the card that it gets."""

    def lowered(made: Mapping[str, Method], card_json: str, progress: Any = silent) -> bytes:
        progress("lowering")
        return with_card(unsealed(source.path), card_json)

    return lowered


def test_a_failed_check_leaves_no_file_and_touches_no_older_one(
    small: Checkpoint, small_int8: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The lowering is that of another student; everything after it is real.
    monkeypatch.setattr(executorch_room, "lower", lowering_of(small_int8))
    path = tmp_path / "model.pte"
    with pytest.raises(ExportError, match="does not do what its checkpoint does"):
        export(make_small(seed=3), path)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"older")
    report_path(path).write_text("older, too")
    with pytest.raises(ExportError):
        export(make_small(seed=3), path)
    assert path.read_bytes() == b"older"
    assert report_path(path).read_text() == "older, too"
    made = export(small, path)
    assert made.report.passed
    assert {one.name for one in tmp_path.iterdir()} == {"model.pte", "model.pte.report.json"}
    assert json.loads(report_path(path).read_text())["verdict"] == "passed"


def test_an_interrupted_export_leaves_nothing(
    small: Checkpoint, small_int8: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executorch_room, "lower", lowering_of(small_int8))

    def interrupted(stage: str) -> None:
        if "where its time goes" in stage:
            assert list(tmp_path.iterdir()), "the candidate lies beside its place"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(small, tmp_path / "model.pte", progress=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_quantising_leaves_the_student_as_it_was(small: Checkpoint) -> None:
    before = {name: tensor.clone() for name, tensor in small.student.state_dict().items()}
    folded(quantize(small.student, "int8"))
    after = small.student.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_cannot_be_exported_is_refused(small: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="unknown precision 'int3'"):
        export(small, tmp_path / "model.pte", "int3")
    with pytest.raises(ExportError, match=r"does not end in \.pte"):
        export(small, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="is not a folder"):
        export(small, tmp_path / "nowhere" / "model.pte")


def test_a_full_context_student_has_no_chunk_to_change(full_context: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="full-context student"):
        checkpoint.in_context(full_context, 4, None)
