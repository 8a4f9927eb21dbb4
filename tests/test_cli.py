from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from tiny_program import SAMPLE_RATE, tones

import rdsdk
from rdsdk import cli
from rdsdk.runtime.artefact import seal

SPEECH = tones("ABC DE" + 10 * "_" + "F GH" + 12 * "_" + "AB CA")
TEXT = "ABC DE\nF GH\nAB CA\n"


@pytest.fixture
def wav(tmp_path) -> str:
    path = tmp_path / "speech.wav"
    soundfile.write(path, SPEECH, SAMPLE_RATE)
    return str(path)


@pytest.fixture
def model(streaming_pte) -> list[str]:
    return ["--model", str(streaming_pte)]


def one_line(err: str) -> str:
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def test_text_goes_to_the_output_and_nothing_else(wav, model, capfd):
    assert cli.main(["transcribe", wav, *model]) == 0
    assert capfd.readouterr() == (TEXT, "")


def test_several_files_have_their_names_as_headings(wav, model, capsys):
    assert cli.main(["transcribe", wav, wav, *model]) == 0
    assert capsys.readouterr().out == f"== {wav} ==\n{TEXT}" * 2


def test_json_is_one_object_a_line(wav, model, capsys):
    assert cli.main(["transcribe", wav, "--json", *model]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == TEXT.splitlines()
    assert {row["file"] for row in rows} == {wav}
    assert [word["text"] for word in rows[0]["words"]] == ["ABC", "DE"]
    assert rows[0]["words"][1]["start"] == pytest.approx(0.64, abs=0.03)


def test_words_come_with_their_times(wav, model, capsys):
    assert cli.main(["transcribe", wav, "--words", *model]) == 0
    line = capsys.readouterr().out.splitlines()[2]
    start, end, confidence, word = line.split()
    assert word == "DE"
    assert (float(start), float(end)) == (
        pytest.approx(0.64, abs=0.03),
        pytest.approx(0.88, abs=0.03),
    )
    assert 0.9 < float(confidence) <= 1.0


@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_raw_samples_are_read_from_the_standard_input(model, capsys, monkeypatch, rate):
    samples = SPEECH[:: SAMPLE_RATE // rate]
    raw = np.round(samples * 32767).astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert cli.main(["transcribe", "-", "--raw-rate", str(rate), *model]) == 0
    assert capsys.readouterr().out == TEXT


def test_text_comes_while_the_pipe_is_open_and_ctrl_c_keeps_it(model):
    process = subprocess.Popen(
        [sys.executable, "-m", "rdsdk.cli", "transcribe", "-", *model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(np.round(SPEECH * 32767).astype("<i2").tobytes())
    process.stdin.flush()
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (first, err) == (b"ABC DE\n", b"")
    # What had been heard until then is finished, in the middle of a word too.
    assert TEXT.encode().startswith((first + out).removesuffix(b"\n"))


def test_a_reader_that_goes_away_is_no_error(wav, model):
    process = subprocess.Popen(
        [sys.executable, "-m", "rdsdk.cli", "transcribe", *[wav] * 40, *model],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0


def make_empty(path: Path) -> None:
    path.touch()


def make_text(path: Path) -> None:
    path.write_text("no recording")


def make_zero(path: Path) -> None:
    soundfile.write(path, np.zeros(0), SAMPLE_RATE)


def make_nan(path: Path) -> None:
    soundfile.write(path, np.full(9000, np.nan, np.float32), SAMPLE_RATE, subtype="FLOAT")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "folder"),
        (make_empty, "empty"),
        (make_text, "not a sound file"),
        (make_zero, "no samples"),
        (make_nan, "not numbers"),
    ],
)
def test_a_bad_recording_is_one_line_and_code_2(tmp_path, model, capsys, make, says):
    path = tmp_path / "bad.wav"
    make(path)
    assert cli.main(["transcribe", str(path), *model]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line = one_line(captured.err)
    assert line.startswith("rdsdk: error: ")
    assert says in line
    assert "bad.wav" in line


def test_a_failing_file_among_several_does_not_stop_the_others(wav, model, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    make_text(bad)
    assert cli.main(["transcribe", wav, str(bad), wav, *model]) == 2
    captured = capsys.readouterr()
    assert captured.out == f"== {wav} ==\n{TEXT}== {bad} ==\n== {wav} ==\n{TEXT}"
    assert "bad.wav" in one_line(captured.err)


def test_a_truncated_recording_is_transcribed_with_a_warning(wav, model, capsys):
    data = Path(wav).read_bytes()
    Path(wav).write_bytes(data[: len(data) // 2])
    assert cli.main(["transcribe", wav, *model]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("ABC DE\n")
    assert one_line(captured.err).startswith("rdsdk: warning: ")


def test_a_truncated_mp3_is_transcribed_up_to_its_end(tmp_path, model, capsys):
    path = tmp_path / "speech.mp3"
    soundfile.write(path, np.concatenate([SPEECH] * 3), SAMPLE_RATE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert cli.main(["transcribe", str(path), *model]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(TEXT[:12])
    assert "could be read" in captured.err


def sealed_but_changed(data: bytes) -> bytes:
    changed = bytearray(seal(data))
    changed[len(data) // 2] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: os.urandom(5000), "not an ExecuTorch program"),
        (lambda data: b"soup, for four people, with bread", "not an ExecuTorch program"),
        (sealed_but_changed, "checksum"),
        (lambda data: data.replace(b'"version": 1,', b'"version": 9,'), "upgrade rdsdk"),
    ],
)
@pytest.mark.parametrize("command", ["transcribe", "info", "features"])
def test_a_bad_model_is_one_line_and_code_2(
    streaming_pte, tmp_path, wav, capsys, change, says, command
):
    path = tmp_path / "bad.pte"
    path.write_bytes(change(streaming_pte.read_bytes()))
    arguments = {
        "transcribe": [wav, "--model", str(path)],
        "info": [str(path)],
        "features": [wav, "-o", str(tmp_path / "x.npy"), "--model", str(path)],
    }
    assert cli.main([command, *arguments[command]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in one_line(captured.err)


def test_an_unknown_bundled_name_is_one_line(wav, capsys):
    assert cli.main(["transcribe", wav, "--model", "nonesuch"]) == 2
    assert "no model is named 'nonesuch'" in one_line(capsys.readouterr().err)


def test_a_model_without_text_is_said_once(features_pte, wav, capsys):
    assert cli.main(["transcribe", wav, wav, "--model", str(features_pte)]) == 2
    assert "features" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["-", "-"], ["x.wav", "--threads", "0"]])
def test_an_impossible_request_is_one_line(model, capsys, arguments):
    assert cli.main(["transcribe", *arguments, *model]) == 2
    one_line(capsys.readouterr().err)


def test_info_shows_the_card(streaming_pte, capsys):
    assert cli.main(["info", str(streaming_pte)]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["name"] == "tones"
    assert rows["context"].startswith("streaming: chunks of 80 ms")
    assert rows["licence"] == "Apache-2.0"


def test_info_as_json_is_the_card_itself(streaming_pte, capsys):
    assert cli.main(["info", str(streaming_pte), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"]["forward"]["inputs"][0] == "waveform"


def test_info_reads_a_checkpoint_folder(tmp_path, capsys):
    (tmp_path / "model.json").write_text(json.dumps({"architecture": {"width": 48}, "none": None}))
    assert cli.main(["info", str(tmp_path)]) == 0
    assert "width=48" in capsys.readouterr().out
    assert cli.main(["info", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == {"width": 48}


@pytest.mark.parametrize("content", [None, "soup", "[1]"])
def test_info_of_a_folder_that_is_no_checkpoint_is_one_line(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "model.json").write_text(content)
    assert cli.main(["info", str(tmp_path)]) == 2
    assert "model.json" in one_line(capsys.readouterr().err)


def test_features_are_written_as_an_array(streaming_pte, wav, model, tmp_path, capsys):
    out = tmp_path / "out.npy"
    assert cli.main(["features", wav, "-o", str(out), *model]) == 0
    wanted = rdsdk.load(streaming_pte).features(wav)
    assert np.array_equal(np.load(out), wanted)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_features_that_fail_leave_an_existing_file_alone(model, tmp_path, capsys):
    out = tmp_path / "out.npy"
    np.save(out, np.ones(3))
    assert cli.main(["features", str(tmp_path / "missing.wav"), "-o", str(out), *model]) == 2
    assert np.array_equal(np.load(out), np.ones(3))


def test_features_into_a_folder_that_is_missing_fail_before_the_work(wav, model, capsys):
    assert cli.main(["features", wav, "-o", "no/such/folder/out.npy", *model]) == 2
    assert "no/such/folder" in one_line(capsys.readouterr().err)


def test_a_command_of_another_room_gets_its_arguments(monkeypatch):
    got = []
    module = ModuleType("rdsdk.training.cli")
    module.main = lambda argv: got.append(argv)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rdsdk.training.cli", module)
    assert cli.main(["finetune", "--help", "recipe.yaml"]) == 0
    assert got == [["--help", "recipe.yaml"]]


PARTS = [(group, part) for group, (_, parts) in cli._GROUPS.items() for part in parts]


@pytest.mark.parametrize(("group", "part"), PARTS)
def test_a_part_of_a_group_calls_itself_what_it_is_called(group, part, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([group, part, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: rdsdk {group} {part} ")


@pytest.mark.parametrize("arguments", [["prepare"], ["prepare", "phnes"], ["tune", "--loud"]])
def test_a_part_that_is_missing_or_misspelt_is_told_with_those_there_are(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert f"usage: rdsdk {arguments[0]}" in err
    assert "Traceback" not in err


def test_the_parts_of_a_group_are_listed(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["prepare", "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(part in out for group, part in PARTS if group == "prepare")


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("prepare phones", "train"),
        ("finetune", "train"),
        ("evaluate", "train"),
        ("export", "export"),
        ("verify", "export"),
        ("import", "train"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, capsys, command, extra):
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'lightning'", name="lightning.pytorch")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    assert cli.main(command.split()) == 2
    line = one_line(capsys.readouterr().err)
    assert f"pip install 'rdsdk[{extra}]'" in line
    assert "lightning" in line


def test_a_fault_of_our_own_is_not_called_a_missing_extra(monkeypatch):
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'rdsdk.typo'", name="rdsdk.typo")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["export"])


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for command in ("transcribe", "info", "prepare", "finetune", "evaluate", "export"):
        assert command in out


def on_a_terminal(arguments: list[str], out_too: bool) -> tuple[int, str, bytes]:
    """Run with the error stream, and maybe the output, on a pseudo-terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rdsdk.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=follower if out_too else subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(follower)
    screen = b""
    try:
        while chunk := os.read(leader, 4096):
            screen += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(leader)
    out = process.stdout.read() if process.stdout else b""
    return process.wait(60), screen.decode(), out


def test_a_progress_bar_is_on_the_terminal_when_the_text_is_not(wav, model):
    code, screen, out = on_a_terminal(["transcribe", wav, *model], out_too=False)
    assert (code, out.decode()) == (0, TEXT)
    assert "speech.wav" in screen


def test_on_a_terminal_the_text_stands_alone(wav, model):
    code, screen, _ = on_a_terminal(["transcribe", wav, *model], out_too=True)
    assert (code, screen.replace("\r\n", "\n")) == (0, TEXT)


def test_the_installed_command_is_this_one():
    (command,) = entry_points(group="console_scripts", name="rdsdk")
    assert command.load() is cli.main
