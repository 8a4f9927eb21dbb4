"""``rdsdk export`` from end to end: artefacts, reports, kits, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mobile_export.executorch as executorch_room
from mobile_export.executorch import Exported
from mobile_export.report import report_path
from mobile_export.targets import TARGETS
from rdsdk import cli
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.runtime.program import Program
from tests.mobile_export.compilers import build_stream
from tests.mobile_export.conftest import SMALL_FULL, make_checkpoint, make_small
from tests.mobile_export.test_executorch import lowering_of


@pytest.fixture
def folder(small: Checkpoint, tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "checkpoint", small)


@pytest.fixture
def lowered(small_fp32: Exported, small_int8: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes half a minute is taken from a program that was lowered before, by precision."""

    def lower(made: object, card_json: str, progress: object) -> bytes:
        precision = json.loads(card_json)["precision"]
        source = small_int8 if precision == "int8" else small_fp32
        program: bytes = lowering_of(source)(made, card_json, progress)
        return program

    monkeypatch.setattr(executorch_room, "lower", lower)


@pytest.mark.usefixtures("lowered")
def test_an_export_says_how_well_and_names_its_stages(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "small.pte"
    options = ["--precision", "fp32", "--methods", "forward,step,features", "--layers", "1"]
    assert cli.main(["export", str(folder), "-o", str(output), *options]) == 0
    said = capsys.readouterr()
    assert "small.pte: fp32, proven" in said.out
    assert "agrees with the checkpoint to" in said.out
    assert "of the time outside them" in said.out
    for stage in ("preparing", "lowering", "reading the structure", "comparing", "measuring"):
        assert f"rdsdk: {stage}" in said.err
    assert json.loads(report_path(output).read_text())["precision"] == "fp32"
    assert Program(output).card.name == "small"
    sound = tmp_path / "features.npy"
    speech = sorted((Path(__file__).parents[1] / "assets" / "speech").glob("*.flac"))[0]
    arguments = ["features", str(speech), "-o", str(sound), "--model", str(output)]
    assert cli.main([*arguments, "--layer", "1"]) == 0
    first = np.load(sound)
    assert cli.main(arguments) == 0
    assert np.abs(np.load(sound) - first).max() > 0.1
    assert cli.main([*arguments, "--layer", "2"]) == 2
    assert "layer 1, 4 only, not of layer 2" in capsys.readouterr().err
    assert cli.main(["info", str(output)]) == 0
    assert "verdict=passed" in capsys.readouterr().out


@pytest.mark.usefixtures("lowered")
def test_a_kit_for_android_holds_the_proven_artefact(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = tmp_path / "kit"
    assert cli.main(["export", str(folder), "--kit", "android", "-o", str(kit)]) == 0
    assert "android kit, int8, proven" in capsys.readouterr().out
    names = {path.name for path in kit.iterdir()}
    assert names >= {"model.pte", "model.pte.report.json", "card.json", "vectors", "Captions.kt"}
    card = json.loads((kit / "card.json").read_text())
    assert (card["name"], card["verification"]["verdict"]) == ("kit", "passed")
    assert cli.main(["verify", str(kit / "model.pte"), str(folder)]) == 0
    # A folder in use is refused before anything is lowered.
    assert cli.main(["export", str(folder), "--kit", "cpp", "-o", str(kit)]) == 2
    said = capsys.readouterr()
    assert "in use" in said.err
    assert "lowering" not in said.err.split("verify")[-1].split("measuring")[-1]


@pytest.mark.usefixtures("lowered")
def test_a_kit_for_cpp_says_what_python_says(
    request: pytest.FixtureRequest,
    folder: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    stream = build_stream(request.config.cache, tmp_path_factory.mktemp("stream"))
    recording = sorted((Path(__file__).parents[1] / "assets" / "digits").glob("*.flac"))[0]
    kit = tmp_path / "kit"
    options = ["--kit", "cpp", "--precision", "fp32", "--recording", str(recording)]
    methods = ["--methods", "forward,step,features", "--layers", "1"]
    assert cli.main(["export", str(folder), "-o", str(kit), *options, *methods]) == 0
    done = subprocess.run(
        [stream, kit / "model.pte", "--check", kit / "vectors"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_kit_that_no_target_makes_is_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(TARGETS, "mlpackage", raising=False)
    export = ["export", str(folder), "-o", str(tmp_path / "kit")]
    assert cli.main([*export, "--kit", "ios"]) == 2
    assert "nothing that ends in '.mlpackage' is exported here" in capsys.readouterr().err
    assert cli.main([*export, "--kit", "ios", "--to", "pte"]) == 2
    assert "nothing that ends in '.mlpackage'" in capsys.readouterr().err
    assert not (tmp_path / "kit").exists()


@pytest.mark.parametrize(
    ("kit", "to", "takes"),
    [("ios", "pte", "mlpackage"), ("android", "coreml-pte", "pte"), ("cpp", "mlpackage", "pte")],
)
def test_a_kit_is_of_what_its_platform_runs(
    folder: Path, tmp_path: Path, kit: str, to: str, takes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(folder), "-o", str(tmp_path / "kit"), "--kit", kit, "--to", to]
    assert cli.main(arguments) == 2
    assert f"a kit for {kit} takes what --to {takes} makes, not {to}" in capsys.readouterr().err


def test_a_kit_needs_a_student_that_streams_text(
    full_context: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mute = checkpoint.save(tmp_path / "mute", full_context)
    assert cli.main(["export", str(mute), "-o", str(tmp_path / "kit"), "--kit", "cpp"]) == 2
    assert "this one has no text" in capsys.readouterr().err
    whole = checkpoint.save(tmp_path / "whole", make_checkpoint(SMALL_FULL))
    assert cli.main(["export", str(whole), "-o", str(tmp_path / "kit"), "--kit", "cpp"]) == 2
    assert "this one has no chunked context" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "int3"], "pte has no precision 'int3'; it has"),
        (["--methods", "step"], "forward must be among them"),
        (["--methods", "forward,walk"], "has no method"),
        (["--layers", "1"], "need the method features"),
        (["--measured", "figures.json"], "expected an object"),
        (["--measured", "missing.json"], "cannot be read"),
        (["--manifest", "missing.jsonl"], "there is no manifest at missing.jsonl"),
        (["--recording", "figures.json"], "name a kit or leave it"),
        (["--kit", "cpp", "-o", "kit", "--recording", "missing.wav"], "missing.wav"),
        (["--left-frames", "0"], "left_frames of 1 or more"),
        (["-o", "folder.pte"], "is a folder, and is to be a file"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(
    folder: Path,
    tmp_path: Path,
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("figures.json").write_text("[1]")
    Path("folder.pte").mkdir()
    assert cli.main(["export", str(folder), "-o", "model.pte", *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "lowering" not in error
    assert not Path("model.pte").exists()


@pytest.mark.parametrize("command", ["export", "verify"])
def test_help_speaks_of_exit_codes_and_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "exit code" in out
    assert "--manifest" in out


def test_ctrl_c_in_the_midst_of_lowering_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    process = subprocess.Popen(
        [sys.executable, "-m", "rdsdk.cli", "export", str(folder), "-o", str(tmp_path / "m.pte")],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "tracing" in line:
            break
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    # Where the signal comes while a string is being executed, as tracing does with what it writes,
    # Python (with -m) ends itself by that signal afterwards: for a shell that is 130, too.
    assert process.returncode in (cli.INTERRUPTED, -signal.SIGINT), out + error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_seed_matters() -> None:
    """Negative control of every comparison with another student here."""
    one, other = make_small().student.state_dict(), make_small(seed=3).student.state_dict()
    assert any(not np.array_equal(one[name], other[name]) for name in one)
