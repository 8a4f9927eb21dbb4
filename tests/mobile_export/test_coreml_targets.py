"""Core ML's targets on the command line: packages and delegates, reports, word errors, kits."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from mobile_export.coreml_card import read_card
from mobile_export.coreml_delegate import read_delegate_card
from mobile_export.coreml_targets import delegate_log_probs, package_log_probs
from mobile_export.report import FORMAT, report_path
from mobile_export.targets import TARGETS, target_of
from rdsdk import cli
from rdsdk.audio import files
from rdsdk.evaluation.hearing import heard_log_probs
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from tests.mobile_export.conftest import SMALL, make_small

MANIFEST = Path(__file__).parents[1] / "assets" / "speech" / "manifest.jsonl"
SPEECH = MANIFEST.parent / "ls-669-129074-0025.flac"


@pytest.fixture(scope="module")
def folder(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(tmp_path_factory.mktemp("checkpoint") / "small", small)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights of the same architecture."""
    return checkpoint.save(tmp_path_factory.mktemp("other") / "small", make_small(seed=3))


@pytest.fixture(scope="module")
def artefacts(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each target, exported by the command line with a manifest, in float32."""
    made = {}
    for target in ("mlpackage", "coreml-pte"):
        path = tmp_path_factory.mktemp(target) / f"model{TARGETS[target].suffix}"
        options = ["--to", target, "--precision", "fp32", "--manifest", str(MANIFEST)]
        assert cli.main(["export", str(folder), "-o", str(path), *options]) == 0
        made[target] = path
    return made


@pytest.mark.parametrize("target", ["mlpackage", "coreml-pte"])
def test_an_export_is_proven_reported_and_proven_again(
    target: str,
    artefacts: dict[str, Path],
    folder: Path,
    other: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = artefacts[target]
    report = json.loads(report_path(path).read_text())
    assert (report["format"], report["verdict"], report["target"]) == (FORMAT, "passed", target)
    assert report["words"]["words"] > 30
    assert report["words"]["artefact_wer"] == report["words"]["checkpoint_wer"]
    assert report["agreement"]["worst_snr_db"] > 80
    assert report["core_ml"]["ran"] is False or target == "mlpackage"
    card = read_card(path) if target == "mlpackage" else read_delegate_card(path)
    assert card["verification"]["verdict"] == "passed"
    assert target_of(path) == target
    assert cli.main(["verify", str(path), str(folder)]) == 0
    assert "proven" in capsys.readouterr().out
    # Negative control: the weights of another student.
    assert cli.main(["verify", str(path), str(other)]) == 1
    said = capsys.readouterr()
    assert "refused" in said.out
    assert "dB" in said.err


@pytest.mark.parametrize("target", ["mlpackage", "coreml-pte"])
def test_an_artefact_hears_what_its_checkpoint_hears(
    target: str, artefacts: dict[str, Path], small: Checkpoint
) -> None:
    heard = {"mlpackage": package_log_probs, "coreml-pte": delegate_log_probs}[target]
    samples = files.read(SPEECH)
    expected = heard_log_probs(small.student, samples)
    got = heard(artefacts[target])
    torch.testing.assert_close(got(samples), expected, atol=1e-3, rtol=1e-3)
    # Negative control: without its first tenth of a second it is other sound.
    assert (got(samples[1600:])[:50] - expected[:50]).abs().max() > 0.1


def test_a_kit_for_ios_holds_the_proven_package(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = tmp_path / "kit"
    assert cli.main(["export", str(folder), "--kit", "ios", "-o", str(kit)]) == 0
    assert "ios kit, int8, proven" in capsys.readouterr().out
    names = {path.name for path in kit.iterdir()}
    wanted = {"model.mlpackage", "model.mlpackage.report.json", "card.json", "vectors"}
    assert names >= {*wanted, "Captions.swift", "README.md"}
    assert json.loads((kit / "card.json").read_text())["precision"] == "int8"
    assert cli.main(["verify", str(kit / "model.mlpackage"), str(folder)]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "mlpackage", "--precision", "int4"], "mlpackage has no precision 'int4'"),
        (["--to", "coreml-pte", "--precision", "palette6"], "coreml-pte has no precision"),
        (["--to", "mlpackage", "--layers", "1"], "leave --layers out"),
        (["--to", "mlpackage", "--methods", "features"], "holds functions of"),
        (["--to", "coreml-pte", "--methods", "forward,step"], "leave --methods out"),
        (["--to", "mlpackage", "-o", "model.pte"], "does not end in .mlpackage"),
        (["--to", "mlpackage", "-o", "nowhere/model.mlpackage"], "is not a folder"),
    ],
)
def test_what_core_ml_cannot_have_is_refused(
    folder: Path,
    tmp_path: Path,
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    suffix = TARGETS[options[1]].suffix
    given = options if "-o" in options else [*options, "-o", f"model{suffix}"]
    assert cli.main(["export", str(folder), *given]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_another_latency_of_a_checkpoint_is_still_its_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "quick.mlpackage"
    options = ["--to", "mlpackage", "--precision", "fp32", "--chunk-frames", "2"]
    options += ["--right-frames", "3"]
    assert cli.main(["export", str(folder), "-o", str(path), "--methods", "step", *options]) == 0
    context = read_card(path)["architecture"]["context"]
    assert SMALL.context is not None
    assert context == asdict(replace(SMALL.context, chunk_frames=2, right_frames=3))
    assert (SMALL.context.chunk_frames, SMALL.context.right_frames) == (4, 2)
    capsys.readouterr()
    verify = ["verify", str(path), str(folder), "--manifest", str(MANIFEST), "--json"]
    assert cli.main(verify) == 0
    # Words, too, are compared at the artefact's latency: another chunk writes other text.
    words = json.loads(capsys.readouterr().out)["words"]
    assert words["differing_clips"] == 0
