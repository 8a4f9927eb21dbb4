"""Artefacts with a fault in their bytes are refused, and so are those of another checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mobile_export.verify as verify_room
from mobile_export import verify_cli
from mobile_export.agreement import compare, snr_db
from mobile_export.executorch import Exported, lower
from mobile_export.programs import card, folded, methods
from mobile_export.pte_graph import read_graph
from mobile_export.quantize import quantize
from mobile_export.structure import LayerMap, structure, structure_faults
from mobile_export.verify import MINIMUM_SNR_DB, agreement_faults, examine, verify
from rdsdk import cli
from rdsdk.errors import ExportError, ModelError
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.runtime.artefact import read_artefact, seal
from rdsdk.runtime.program import Program
from rdsdk.runtime.recognizer import bundled_models
from tests.mobile_export import mutations
from tests.mobile_export.conftest import SMALL, SMALL_FULL, make_small
from tests.mobile_export.mutations import mutated, unsealed

DIGITS = bundled_models()["digits"]
ASSETS = Path(__file__).parents[1] / "assets"

STRUCTURAL = {
    mutations.wrong_map: r"apply the attention maps of layers \[0, 1, 0, 0\]",
    mutations.crossed_maps: r"apply the attention maps of layers \[0, 1, 1, 0\]",
    mutations.kept_state: r"the output keys does not depend on \['waveform'\]",
    mutations.forgotten_state: r"the output log_probs does not depend on \['values'\]",
}
NUMERICAL = (
    mutations.dropped_scale,
    mutations.dropped_bias,
    mutations.transposed_heads,
    mutations.flipped_bit,
)


@pytest.fixture(params=["fp32", "int8"])
def cut(request: pytest.FixtureRequest) -> Exported:
    """Where a graph can be changed between two calls of the delegate."""
    exported: Exported = request.getfixturevalue(f"cut_{request.param}")
    return exported


@pytest.fixture(params=["int8", "fp32"])  # test_export_cli.py, beside it, asks the other way round
def made(request: pytest.FixtureRequest) -> Exported:
    exported: Exported = request.getfixturevalue(f"small_{request.param}")
    return exported


def numbers(source: Checkpoint, path: Path) -> list[str]:
    """What the comparison alone finds, whatever the structure is."""
    program = Program(path)
    twin = folded(quantize(source.student, program.card.precision))
    return agreement_faults(compare(source.student, twin, program), program.card.precision)


def test_a_file_taken_apart_and_put_together_is_proven(
    small: Checkpoint, made: Exported, tmp_path: Path
) -> None:
    """The control of all the mutations below."""
    report = verify(small, mutated(made.path, tmp_path / "same.pte", mutations.nothing))
    assert report.passed
    assert report.agreement is not None


@pytest.mark.parametrize("mutation", STRUCTURAL, ids=lambda one: one.__name__)
def test_a_graph_that_computes_something_else_is_refused(
    small: Checkpoint, cut: Exported, mutation: mutations.Mutation, tmp_path: Path
) -> None:
    path = mutated(cut.path, tmp_path / "mutant.pte", mutation)
    with pytest.raises(ExportError, match=STRUCTURAL[mutation]):
        verify(small, path)
    # The numbers alone say so, too.
    assert numbers(small, path)


@pytest.mark.parametrize("mutation", NUMERICAL, ids=lambda one: one.__name__)
def test_weights_that_are_not_the_checkpoints_are_refused(
    small: Checkpoint, made: Exported, mutation: mutations.Mutation, tmp_path: Path
) -> None:
    path = mutated(made.path, tmp_path / "mutant.pte", mutation)
    report = examine(small, path)
    assert report.faults
    assert all("dB" in fault for fault in report.faults)
    with pytest.raises(ExportError, match="does not do what its checkpoint does"):
        verify(small, path)


@pytest.mark.parametrize("mutation", [mutations.dropped_scale, mutations.flipped_bit])
def test_faults_that_quantisation_would_hide_show_beside_the_twin(
    small: Checkpoint, small_int8: Exported, mutation: mutations.Mutation, tmp_path: Path
) -> None:
    report = examine(small, mutated(small_int8.path, tmp_path / "mutant.pte", mutation))
    assert report.agreement is not None
    # Close enough to the checkpoint for int8: one bit of one weight is.
    assert report.agreement["worst_snr_db"] > MINIMUM_SNR_DB["int8"]
    assert all("noisier than that of the quantised student in torch" in f for f in report.faults)
    assert report.faults


def test_int8_loses_nothing_in_lowering(small: Checkpoint, small_int8: Exported) -> None:
    program = Program(small_int8.path)
    agreement = compare(small.student, folded(quantize(small.student, "int8")), program)
    noisy = [t for t in agreement.tensors.values() if t.twin_reference_db < 80]
    assert len(noisy) >= 4
    assert max(abs(tensor.lost_db) for tensor in noisy) < 0.3
    assert agreement.worst_twin_snr_db > agreement.worst_snr_db + 6


def tanh_gelu(x: torch.Tensor) -> torch.Tensor:
    """Spelled out: XNNPACK's lowering makes an exact one of torch's own."""
    return 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x)))


def test_a_tanh_gelu_is_no_exact_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = make_small(SMALL_FULL)
    made = methods(folded(quantize(source.student, "fp32")))
    described = json.dumps(card(source, made, "tanh", "fp32"))
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "gelu", tanh_gelu)
        program = lower(made, described)
    path = tmp_path / "tanh.pte"
    path.write_bytes(seal(program))
    with pytest.raises(ExportError, match="forward has 0 exact GELUs, the architecture has 5"):
        verify(source, path)
    (fault, *_) = numbers(source, path)
    assert "fp32 needs 80 dB" in fault


def test_a_second_softmax_is_refused(
    full_context: Checkpoint, full_context_fp32: Exported, tmp_path: Path
) -> None:
    verify(full_context, full_context_fp32.path)
    plain = make_plain(full_context)
    described = json.loads(Program(full_context_fp32.path).card_json)
    described["architecture"]["reused_map"] = "as_is"
    path = tmp_path / "again.pte"
    program = mutations.with_card(unsealed(full_context_fp32.path), json.dumps(described))
    path.write_bytes(seal(program))
    with pytest.raises(ExportError, match="computes 3 attention maps, the architecture has 2"):
        verify(plain, path)
    assert numbers(plain, path)


def make_plain(source: Checkpoint) -> Checkpoint:
    config = replace(source.student.config, reused_map="as_is")
    return replace(source, student=source.student.copy(config))


def test_a_flipped_bit_breaks_the_seal(small: Checkpoint, made: Exported, tmp_path: Path) -> None:
    data = bytearray(made.path.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "flipped.pte"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="checksum"):
        verify(small, path)


def test_structure_says_which_map_goes_through_which_softmax(
    small_fp32: Exported, full_context_fp32: Exported
) -> None:
    for graph in read_graph(read_artefact(small_fp32.path)).methods.values():
        found = structure(graph)
        assert (found.softmaxes, found.map_owner) == (2, (0, 1, 0, 1))
        # Queries and keys in the first two layers only.
        assert found.linears[1:4] == (6, 4, 4)
    (graph,) = read_graph(read_artefact(full_context_fp32.path)).methods.values()
    found = structure(graph)
    assert found.maps == (LayerMap(0, False), LayerMap(0, True), LayerMap(2, False))


def test_queries_and_keys_in_a_layer_that_reuses_are_refused(small_fp32: Exported) -> None:
    described = Program(small_fp32.path).card.methods["step"]
    graph = read_graph(read_artefact(small_fp32.path)).methods["step"]
    found = structure(graph, described.inputs, described.outputs)
    assert structure_faults(SMALL, "step", found) == []
    linears = (*found.linears[:2], 6, *found.linears[3:])
    (fault,) = structure_faults(SMALL, "step", replace(found, linears=linears))
    assert "a layer that reuses a map has no queries and keys" in fault
    hot = replace(found, outside=found.outside + type(found.outside)({"linear": 1}))
    (fault,) = structure_faults(SMALL, "step", hot)
    assert "outside the XNNPACK delegate: {'linear': 1}" in fault


def test_other_weights_another_architecture_and_other_words_are_refused(
    small: Checkpoint, made: Exported
) -> None:
    with pytest.raises(ExportError, match="does not do what its checkpoint does"):
        verify(make_small(seed=3), made.path)
    with pytest.raises(ExportError, match="another architecture"):
        verify(make_small(replace(SMALL, ffn=64)), made.path)
    assert small.vocabulary is not None
    symbols = ("?", *small.vocabulary.symbols[1:])
    other = replace(small, vocabulary=replace(small.vocabulary, symbols=symbols))
    with pytest.raises(ExportError, match="its vocabulary is not that"):
        verify(other, made.path)


def test_the_bundled_model_is_its_checkpoints(tmp_path: Path) -> None:
    """A trained student, with nine convolutions, and its words."""
    source = checkpoint.load(DIGITS.parent / "digits")
    report = verify(source, DIGITS, ASSETS / "digits" / "manifest.jsonl")
    assert report.words is not None
    assert report.words["words"] == 28
    assert report.words["artefact_wer"] <= report.words["checkpoint_wer"] == round(2 / 28, 5)
    assert report.methods["step"]["map_owner"] == [0, 0, 2, 2]
    share = report.methods["step"]["time"]["share"]
    operators = report.methods["step"]["time"]["operators"]
    assert 0.01 < share < 0.9
    assert sum(operators.values()) == pytest.approx(share, abs=0.1)
    assert "native_layer_norm" not in operators


def test_a_higher_word_error_rate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the artefact is heard to say is the next symbol each time; nothing else differs."""
    honest = verify_room.program_log_probs

    def confused(program: Program) -> Callable[[np.ndarray], torch.Tensor]:
        return lambda samples: honest(program)(samples).roll(1, dims=-1)

    monkeypatch.setattr(verify_room, "program_log_probs", confused)
    source = checkpoint.load(DIGITS.parent / "digits")
    report = examine(source, DIGITS, ASSETS / "digits" / "manifest.jsonl")
    (fault,) = report.faults
    assert "word error rate" in fault
    assert "at most 0.5 more" in fault
    assert report.words is not None
    assert report.words["differing_clips"] == 4


def test_ratios_of_odd_tensors() -> None:
    ones = np.ones(4, np.float32)
    assert snr_db(ones, ones) == math.inf
    assert snr_db(ones, ones[:3]) == -math.inf
    assert snr_db(ones, np.array([1, 1, 1, np.nan], np.float32)) == -math.inf
    assert snr_db(np.zeros(4, np.float32), ones) == -math.inf
    assert snr_db(ones, 1.1 * ones) == pytest.approx(20, abs=0.01)


def test_the_command_says_proven_refused_or_unreadable(
    small: Checkpoint,
    small_fp32: Exported,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = checkpoint.save(tmp_path / "checkpoint", small)
    other = checkpoint.save(tmp_path / "other", make_small(seed=3))
    wider = checkpoint.save(tmp_path / "wider", make_small(replace(SMALL, ffn=64)))
    path = str(small_fp32.path)
    assert cli.main(["verify", path, str(folder)]) == 0
    said = capsys.readouterr()
    assert ": proven" in said.out
    assert "reading the structure" in said.err
    assert verify_cli.main([path, str(folder), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["verdict"] == "passed"
    assert said.err == ""
    for wrong, why in ((other, "fp32 needs 80 dB"), (wider, "another architecture")):
        assert cli.main(["verify", path, str(wrong)]) == 1
        said = capsys.readouterr()
        assert ": refused" in said.out
        assert why in said.err
    missing = str(tmp_path / "missing.pte")
    for artefact, source, why in (
        (missing, str(folder), "no such file"),
        (str(folder), str(folder), "nothing that ends in ''"),
        (path, str(tmp_path / "nowhere"), "is not a checkpoint"),
        (path, path, "is not a checkpoint"),
    ):
        assert cli.main(["verify", artefact, source]) == 2
        assert why in capsys.readouterr().err


def test_an_artefact_for_another_latency_is_of_the_same_checkpoint(small: Checkpoint) -> None:
    """Its card says which; the weights are compared in that context."""
    source = checkpoint.load(DIGITS.parent / "digits")
    quick = checkpoint.in_context(source, 16, None)
    assert quick.student.config != source.student.config
    assert verify(quick, DIGITS).passed
    assert small.student.config.context is not None
