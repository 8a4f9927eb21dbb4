"""Real lowering, the real ExecuTorch runtime, and artefacts that must not come to be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mobile_export.executorch as executorch_room
from mobile_export.cli import main
from mobile_export.executorch import Exported, export, lower
from mobile_export.programs import folded, methods
from mobile_export.quantize import quantize
from mobile_export.structure import check_structure
from mobile_export.verify import verify
from rdsdk.errors import ConfigError, ExportError
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import Context, EncoderConfig, preset
from rdsdk.models.encoder import Encoder
from rdsdk.models.student import Student
from rdsdk.runtime.program import Program
from rdsdk.runtime.recognizer import load
from tests.mobile_export.conftest import FULL_CONTEXT, STREAMING, make_checkpoint


def test_a_streaming_artefact_equals_its_checkpoint_to_float_rounding(
    streaming_fp32: Exported,
) -> None:
    assert streaming_fp32.agreement.worst_snr_db > 90
    # Several calls of each method that hand the state on, at several chunk counts.
    assert streaming_fp32.agreement.calls == 22


def test_an_int8_artefact_is_close_and_its_linear_layers_are_int8(
    streaming_fp32: Exported, streaming_int8: Exported
) -> None:
    assert 20 < streaming_int8.agreement.worst_snr_db < 90
    assert streaming_int8.size_bytes < streaming_fp32.size_bytes
    for name, method in streaming_int8.lowered.structures.items():
        assert [n for n in method.delegated if "quantize" in n]
        plain = streaming_fp32.lowered.structures[name].delegated
        assert not [n for n in plain if "quantize" in n]


def test_a_map_is_computed_once_by_its_owner_and_read_by_exactly_its_group(
    streaming_fp32: Exported, streaming_int8: Exported, full_context_fp32: Exported
) -> None:
    for made in (streaming_fp32, streaming_int8):
        assert set(made.lowered.structures) == {"forward", "step"}
        for method in made.lowered.structures.values():
            assert method.delegated["_softmax"] == len(STREAMING.owners) == 2
            assert method.outside["_softmax"] == 0
            assert list(method.map_readers) == [Counter(bmm=2), Counter(bmm=2)]
    # The released reuse adds one second softmax for the one group that reuses.
    released = full_context_fp32.lowered.structures["forward"]
    assert released.delegated["_softmax"] == len(FULL_CONTEXT.owners) + 1
    assert [*released.map_readers] == [Counter(bmm=1, _softmax=1), Counter(bmm=1), Counter(bmm=1)]


def test_products_and_convolutions_are_delegated(streaming_int8: Exported) -> None:
    for method in streaming_int8.lowered.structures.values():
        for name in ("convolution", "linear", "bmm", "mm", "addmm", "gelu"):
            assert method.outside[name] == 0
        # Convolutions are linear layers over windows: two each where a kernel exceeds its stride,
        # one for each group of the position convolution.
        assert method.delegated["convolution"] == 0
        rows = sum(1 + (conv.kernel > conv.stride) for conv in STREAMING.convs)
        encoder = 4 * STREAMING.layers + 2 * len(STREAMING.owners)
        others = STREAMING.position_groups + len(("projection", "ctc_head"))
        assert method.delegated["linear"] == rows + encoder + others


def test_the_methods_of_a_file_share_one_copy_of_the_weights(
    streaming: Checkpoint, streaming_fp32: Exported
) -> None:
    step = methods(folded(quantize(streaming.student, "fp32")))["step"]
    alone = lower({"step": step}, "{}").buffer
    both = streaming_fp32.lowered.buffer
    # Graphs of the same layers, once more; a model this tiny is mostly graph, so weights decide.
    weights = 4 * streaming.student.parameter_count()
    assert len(both) - len(alone) < 0.6 * weights
    # Negative control: a method over other weights doubles them.
    other = methods(folded(quantize(make_checkpoint(STREAMING, seed=3).student, "fp32")))["step"]
    doubled = lower({"step": step, "forward": other}, "{}").buffer
    assert len(doubled) - len(alone) > 0.9 * weights
    assert streaming_fp32.state_bytes == 4 * (15 * 32 + 2 * 16 * 32 + 4 * 16 * 32 + 16)


def test_the_card_is_in_the_file_and_the_runtime_needs_nothing_else(
    streaming_int8: Exported, assets: Path
) -> None:
    recognizer = load(streaming_int8.path)
    card = recognizer.card
    assert (card.name, card.precision, card.licence) == ("tiny-test", "int8", "CC0")
    assert card.measured == {"wer": 0.5}
    assert card.parameters == Student(STREAMING, 29).parameter_count()
    assert card.lookahead_seconds == pytest.approx(7 * 0.02)
    recording = sorted((assets / "speech").glob("*.flac"))[0]
    features = recognizer.features(recording)
    assert features.shape[1] == STREAMING.width
    assert np.isfinite(features).all()


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


def drop_a_bias(student: Student) -> None:
    student.encoder.layers[1].ffn_out.bias.data[:5] += 0.3  # type: ignore[union-attr,operator]


def transpose_heads(student: Student) -> None:
    weight = student.encoder.layers[3].attention_output.value.weight  # type: ignore[union-attr]
    weight.data = weight.data.unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1)  # type: ignore[union-attr]


def flatten_a_map(student: Student) -> None:
    student.encoder.layers[2].attention_map.query.weight.data.zero_()  # type: ignore[union-attr]


@pytest.mark.parametrize("fault", [drop_a_bias, transpose_heads, flatten_a_map])
def test_any_difference_between_artefact_and_checkpoint_is_noticed(
    streaming: Checkpoint, streaming_fp32: Exported, fault: object
) -> None:
    assert verify(streaming, streaming_fp32.path).worst_snr_db > 90
    changed = make_checkpoint(STREAMING)
    fault(changed.student)  # type: ignore[operator]
    with pytest.raises(ExportError, match="does not do what its checkpoint does"):
        verify(changed, streaming_fp32.path)


def test_another_architecture_is_not_compared(streaming_fp32: Exported) -> None:
    other = make_checkpoint(preset("tiny").streaming(preset("xs").context))  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="another architecture"):
        verify(other, streaming_fp32.path)


def test_a_failed_check_leaves_no_file_and_touches_no_older_one(
    streaming: Checkpoint,
    streaming_fp32: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The lowering is that of a faulty student; everything after it is real.
    monkeypatch.setattr(executorch_room, "lower", lambda *_: streaming_fp32.lowered)
    changed = make_checkpoint(STREAMING)
    drop_a_bias(changed.student)
    path = tmp_path / "model.pte"
    with pytest.raises(ExportError):
        export(changed, path, "fp32")
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"older")
    with pytest.raises(ExportError):
        export(changed, path, "fp32")
    assert path.read_bytes() == b"older"
    assert export(streaming, path, "fp32").agreement.worst_snr_db > 90


def test_a_lost_reuse_or_a_hot_operator_outside_is_refused(streaming_fp32: Exported) -> None:
    found = streaming_fp32.lowered.structures["step"]
    check_structure(STREAMING, "step", found)
    lost = replace(found, delegated=found.delegated + Counter({"_softmax": 1}))
    with pytest.raises(ExportError, match="step computes 3 attention maps, the architecture has 2"):
        check_structure(STREAMING, "step", lost)
    # As many maps, but the second is read by three layers and the first by its owner alone.
    uneven = replace(STREAMING, map_owner=(0, 1, 1, 1))
    with pytest.raises(ExportError, match="maps are read by"):
        check_structure(uneven, "step", found)
    hot = replace(found, outside=found.outside + Counter({"bmm": 1}))
    with pytest.raises(ExportError, match=r"outside the XNNPACK delegate: \{'bmm': 1\}"):
        check_structure(STREAMING, "step", hot)


class ConfusedEncoder(Encoder):
    """Its last layer applies the map of the first group: a fault in the graph, not the config."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.config = replace(config, map_owner=(0, 0, 2, 0))


def test_a_graph_that_applies_a_wrong_map_is_refused() -> None:
    confused = make_checkpoint(STREAMING)
    encoder = ConfusedEncoder(STREAMING)
    encoder.load_state_dict(confused.student.encoder.state_dict())
    confused.student.encoder = encoder.eval()
    step = methods(folded(confused.student))["step"]
    found = lower({"step": step}, "{}").structures["step"]
    assert [*found.map_readers] == [Counter(bmm=3), Counter(bmm=1)]
    with pytest.raises(ExportError, match="maps are read by"):
        check_structure(STREAMING, "step", found)


def test_quantising_leaves_the_student_as_it_was(streaming: Checkpoint) -> None:
    before = {name: tensor.clone() for name, tensor in streaming.student.state_dict().items()}
    quantize(streaming.student, "int8")
    after = streaming.student.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_cannot_be_exported_is_refused(streaming: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="unknown precision 'int3'"):
        export(streaming, tmp_path / "model.pte", "int3")
    with pytest.raises(ExportError, match=r"does not end in \.pte"):
        export(streaming, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="is not a folder"):
        export(streaming, tmp_path / "nowhere" / "model.pte")


def test_the_command_line_exports_and_says_how_well(
    streaming: Checkpoint,
    streaming_fp32: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(executorch_room, "lower", lambda *_: streaming_fp32.lowered)
    folder = checkpoint.save(tmp_path / "checkpoint", streaming)
    output = tmp_path / "tiny.pte"
    assert main([str(folder), "-o", str(output), "--precision", "fp32"]) == 0
    assert output.is_file()
    assert "agrees with the checkpoint to" in capsys.readouterr().out
    figures = tmp_path / "figures.json"
    figures.write_text("[1]")
    with pytest.raises(ExportError, match="expected an object"):
        main([str(folder), "-o", str(output), "--measured", str(figures)])


def test_the_same_weights_are_exported_for_another_latency(
    streaming: Checkpoint, tmp_path: Path
) -> None:
    quick = checkpoint.in_context(streaming, 4, None)
    made = export(quick, tmp_path / "quick.pte", "fp32")
    card = load(made.path).card
    assert card.context is not None
    assert (card.context.chunk_frames, card.context.left_frames) == (4, 16)
    assert card.lookahead_seconds == pytest.approx(0.06)
    # The weights are the same, and so is what a student with that chunk mask says.
    waveform = torch.randn(1, 320 * 12 + 80) * 0.1
    with torch.no_grad():
        masked, _ = streaming.student(waveform, context=Context(4, 16))
        usual, _ = streaming.student(waveform)
    got = Program(made.path).forward(waveform[0].numpy())
    assert masked.log_probs is not None
    assert got.log_probs is not None
    np.testing.assert_allclose(got.log_probs, masked.log_probs[0], atol=1e-3)
    # Negative control: with its own chunk it says something else.
    assert usual.log_probs is not None
    assert np.abs(got.log_probs - usual.log_probs[0].numpy()).max() > 0.1


def test_a_full_context_student_has_no_chunk_to_change(full_context: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="full-context student"):
        checkpoint.in_context(full_context, 4, None)
