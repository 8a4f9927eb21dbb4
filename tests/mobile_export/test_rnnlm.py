"""A recurrent language model lowered, run by the runtime's own loader, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mobile_export.rnnlm as room
from mobile_export.pte_graph import read_graph
from mobile_export.rnnlm import (
    Advance,
    Exported,
    SoftmaxRows,
    export_rnnlm,
    rounded,
    verify_rnnlm,
)
from mobile_export.rnnlm_agreement import require_alike, require_spelled
from mobile_export.structure import HOT
from rdsdk import cli
from rdsdk.decoding.rnnlm import RnnLm as Runtime
from rdsdk.errors import CheckpointError, ExportError
from rdsdk.models import rnnlm
from rdsdk.models.rnnlm import RnnLm
from tests.mobile_export.mutations import unsealed
from tests.models.tiny_rnnlm import TIED, tiny_rnnlm

PRECISIONS = ("fp32", "int8")
Break = Callable[[RnnLm], None]


@torch.no_grad()
def dropped_bias(model: RnnLm) -> None:
    model.lstm.bias_ih_l0[48:96] = 0  # type: ignore[index, operator]


@torch.no_grad()
def swapped_gates(model: RnnLm) -> None:
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        rows = model.lstm.get_parameter(name)
        begun, forgotten, new, shown = rows.clone().chunk(4)
        rows.copy_(torch.cat([forgotten, begun, new, shown]))


@torch.no_grad()
def scaled_projection(model: RnnLm) -> None:
    model.lstm.get_parameter("weight_hr_l0").mul_(1.1)


@torch.no_grad()
def dropped_head_bias(model: RnnLm) -> None:
    model.output.head.bias.zero_()


BREAKS = [dropped_bias, swapped_gates, scaled_projection, dropped_head_bias]


def broken(model: RnnLm, how: Break) -> RnnLm:
    other = deepcopy(model)
    how(other)
    return other


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    known = {"licence": "CC0", "training_data": ["nothing"], "measured": {"perplexity": 59.5}}
    return rnnlm.save(tmp_path_factory.mktemp("rnnlm"), tiny_rnnlm(), known)


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    made = tmp_path_factory.mktemp("exported")
    return {
        precision: export_rnnlm(folder, made / f"{precision}.rnnlm", precision)
        for precision in PRECISIONS
    }


def test_the_runtime_says_what_the_model_says(exported: dict[str, Exported]) -> None:
    model, program = tiny_rnnlm(), Runtime(exported["fp32"].path)
    words = torch.tensor([[0, 0], [7, 59], [1, 25], [33, 2]])
    outputs, state = model(words, model.fresh_state(2))
    expected = model.log_probs(outputs).detach().numpy()
    states = [program.fresh()] * 2
    for at, row in enumerate(words.tolist()):
        done = program.advance(row, states)
        states = [after for after, _ in done]
        np.testing.assert_allclose(np.stack([each for _, each in done]), expected[at], atol=1e-4)
    np.testing.assert_allclose(states[1].cell, state.cell[1].detach(), atol=1e-4)
    # Negative control: the two sentences are not alike.
    assert np.abs(expected[-1][0] - expected[-1][1]).max() > 0.1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_words_without_an_embedding_are_read_by_their_rows_of_the_softmax(
    tmp_path: Path, precision: str
) -> None:
    model = tiny_rnnlm(config=TIED)
    made = export_rnnlm(rnnlm.save(tmp_path / "tied", model, {}), tmp_path / "lm.rnnlm", precision)
    words = [0, 19, 20, 39, 40, 59]  # the first and last of each class
    program = Runtime(made.path)
    done = program.advance(words, [program.fresh()] * len(words))
    outputs, _ = model(torch.tensor([words]), model.fresh_state(len(words)))
    expected = model.log_probs(outputs)[0].detach().numpy()
    apart = np.abs(np.stack([each for _, each in done]) - expected)
    assert apart.mean() < (1e-5 if precision == "fp32" else 0.05)
    # Negative controls: words read by their neighbours' rows, here and in what is lowered.
    outputs, _ = model(torch.tensor([[*words[1:], 0]]), model.fresh_state(len(words)))
    assert np.abs(model.log_probs(outputs)[0].detach().numpy() - expected).mean() > 0.1
    shifted = Advance(model).eval()
    assert isinstance(shifted.embedding, SoftmaxRows)
    require_spelled(shifted, model)
    table = shifted.embedding.tables[1].get_parameter("weight")
    table.data = table.data.roll(1, dims=0)
    with pytest.raises(ExportError, match="differs from itself"):
        require_spelled(shifted, model)
    graph = read_graph(unsealed(made.path))
    assert graph.methods["advance"].operators(delegated=True)["linear"] == 8 + 3 + 4 + 2


def test_all_that_is_costly_is_delegated_and_nothing_is_stored_twice(
    exported: dict[str, Exported],
) -> None:
    for precision, made in exported.items():
        graph = read_graph(unsealed(made.path))
        advance = graph.methods["advance"]
        outside = advance.operators(delegated=False)
        assert not set(outside) & {*HOT, "_log_softmax", "log", "exp", "sigmoid", "tanh"}
        # Four gates read two things each; projection, frequent words, classes, two of two.
        assert advance.operators(delegated=True)["linear"] == 8 + 3 + 4
        parameters = made.card["parameters"]
        # Biases and scales are float32 in int8, and of this small model a good part.
        most = 4.2 * parameters if precision == "fp32" else 1.7 * parameters
        assert graph.weight_bytes < most


def test_the_card_says_what_it_is(exported: dict[str, Exported]) -> None:
    for precision, made in exported.items():
        card = Runtime(made.path).card
        assert card == made.card
        assert (card["format"], card["version"]) == ("rdsdk-rnnlm", 1)
        assert (card["embedding"], card["hidden"], card["projection"]) == (24, 48, 32)
        assert (card["cutoffs"], card["precision"]) == ([20, 40], precision)
        assert (card["licence"], card["training_data"]) == ("CC0", ["nothing"])
        assert card["measured"] == {"perplexity": 59.5}
        assert card["verification"]["verdict"] == "passed"
    assert exported["int8"].agreement.model.likely > exported["fp32"].agreement.model.likely


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_program_of_another_model_is_refused(
    exported: dict[str, Exported], precision: str, how: Break
) -> None:
    """The file and the model differ in one thing: which of them is at fault makes no difference."""
    path = exported[precision].path
    for model, alike in ((tiny_rnnlm(), True), (broken(tiny_rnnlm(), how), False)):
        lowered = Advance(model).eval()
        if precision == "int8":
            rounded(lowered)
        if alike:
            require_alike(path, lowered, model, precision)
            continue
        with pytest.raises(ExportError, match=r"differs by .* nats"):
            require_alike(path, lowered, model, precision)


@pytest.mark.parametrize("how", BREAKS)
def test_another_spelling_is_refused_before_it_is_lowered(how: Break) -> None:
    model = tiny_rnnlm()
    require_spelled(Advance(model).eval(), model)
    with pytest.raises(ExportError, match="differs from itself"):
        require_spelled(Advance(broken(model, how)).eval(), model)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_faulty_lowering_leaves_nothing(
    exported: dict[str, Exported],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    other = rnnlm.save(tmp_path / "other", broken(tiny_rnnlm(), dropped_bias), {})
    monkeypatch.setattr(room, "lower", lambda *_: unsealed(exported[precision].path))
    target = tmp_path / "lm.rnnlm"
    with pytest.raises(ExportError, match=r"lm.rnnlm does not say what its model says"):
        export_rnnlm(other, target, precision)
    target.write_bytes(b"before")
    with pytest.raises(ExportError, match=r"lm.rnnlm does not say what its model says"):
        export_rnnlm(other, target, precision)
    assert target.read_bytes() == b"before"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["lm.rnnlm", "other"]


def test_what_cannot_be_exported_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"does not end in \.rnnlm"):
        export_rnnlm(folder, tmp_path / "lm.pte")
    with pytest.raises(ExportError, match="known: fp32, int8"):
        export_rnnlm(folder, tmp_path / "lm.rnnlm", "int4")
    with pytest.raises(CheckpointError, match=r"has no rnnlm\.json"):
        export_rnnlm(tmp_path, tmp_path / "lm.rnnlm")


def test_the_command_line_exports_a_folder_of_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "english.rnnlm"
    command = ["export", str(folder), "-o", str(path)]
    assert cli.main([*command, "--layers", "3"]) == 2
    assert "exported without --layers" in capsys.readouterr().err
    assert not path.exists()
    assert cli.main([*command, "--precision", "fp32"]) == 0
    assert "english.rnnlm: fp32, proven" in capsys.readouterr().out
    assert Runtime(path).index("WORD3") == 5


def test_a_file_is_examined_later_beside_its_model(
    exported: dict[str, Exported], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for made in exported.values():
        assert verify_rnnlm(made.path, folder) == made.agreement
        assert cli.main(["verify", str(made.path), str(folder)]) == 0
        assert f"{made.path}: proven" in capsys.readouterr().out
    assert cli.main(["verify", str(made.path), str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == made.agreement.to_dict()


def _renamed(model: RnnLm) -> RnnLm:
    words = (*model.config.words[:-1], "OTHER")
    other = RnnLm(replace(model.config, words=words))
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (broken(tiny_rnnlm(), scaled_projection), "does not say what its model says"),
        (_renamed(tiny_rnnlm()), "knows 60 words, and they are not the 60"),
        (RnnLm(replace(tiny_rnnlm().config, hidden=56)), r"\(48, 32\), its model \(56, 32\)"),
    ],
)
def test_a_file_of_another_model_is_refused_later(
    exported: dict[str, Exported],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    other: RnnLm,
    why: str,
) -> None:
    path, beside = exported["int8"].path, rnnlm.save(tmp_path / "other", other, {})
    with pytest.raises(ExportError, match=why):
        verify_rnnlm(path, beside)
    assert cli.main(["verify", str(path), str(beside)]) == 1
    printed = capsys.readouterr()
    assert f"{path}: refused" in printed.out
    assert re.search(why, printed.err)
    assert cli.main(["verify", str(path), str(beside), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "refused"
    assert re.search(why, told["faults"][0])


def test_a_slow_file_is_refused_later(
    exported: dict[str, Exported], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported["int8"].path
    outside = read_graph(unsealed(path)).methods["advance"].operators(delegated=False)
    monkeypatch.setattr(room, "HOT", {*outside})
    with pytest.raises(ExportError, match="left outside"):
        verify_rnnlm(path, folder)


def test_what_cannot_be_examined_is_told(
    exported: dict[str, Exported],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(exported["fp32"].path)
    assert cli.main(["verify", path, str(folder), "--to", "pte"]) == 2
    assert "without --to" in capsys.readouterr().err
    assert cli.main(["verify", path, str(tmp_path)]) == 2
    assert "rnnlm.json" in capsys.readouterr().err
    assert cli.main(["verify", str(tmp_path / "absent.rnnlm"), str(folder)]) == 2
    assert "absent.rnnlm" in capsys.readouterr().err
