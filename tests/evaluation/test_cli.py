"""``rdsdk evaluate`` on an artefact and on a checkpoint whose hypotheses are known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_program
import torch

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import CheckpointError, ConfigError, DataError, ModelError
from rdsdk.evaluation.cli import main
from rdsdk.models import checkpoint
from rdsdk.models.config import Context, preset
from rdsdk.models.student import Student

# What the clip holds, and what its manifest says it holds.
CLIPS = {
    "right": ("AB CD", "AB CD"),
    "one": ("AB CD", "AB CE"),
    "more": ("AB CD", "AB"),
    "less": ("AB", "AB CD"),
    "false": ("AB", ""),
    "silent": ("____", ""),
}


def corpus(folder: Path, clips: dict[str, tuple[str, str | None]]) -> Path:
    folder.mkdir(exist_ok=True)
    rows = []
    for name, (said, text) in clips.items():
        samples = tiny_program.tones(said)
        soundfile.write(folder / f"{name}.wav", samples, 16_000, subtype="FLOAT")
        seconds = len(samples) / 16_000
        rows.append({"id": name, "audio": f"{name}.wav", "seconds": seconds, "text": text})
    manifest = folder / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return corpus(tmp_path / "tones", dict(CLIPS))


def always(folder: Path, symbol: str | None, context: Context | None = None) -> str:
    """A checkpoint that hears one symbol in everything (None: it has no head)."""
    torch.manual_seed(0)
    config = preset("tiny")
    if context is not None:
        config = config.streaming(context)
    vocabulary = Vocabulary.characters() if symbol else None
    student = Student(config, symbols=len(vocabulary) if vocabulary else None)
    if vocabulary and symbol:
        with torch.no_grad():
            student.ctc_head.linear.bias[vocabulary.symbols.index(symbol)] = 1e3
    checkpoint.save(folder, checkpoint.Checkpoint(student, vocabulary))
    return str(folder)


def results(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict]:
    assert main([*map(str, arguments), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["model"] == str(arguments[0])
    return value["results"]


def test_an_artefact_is_counted_error_by_error(
    streaming_pte: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = results(capsys, streaming_pte, manifest)
    # one: a word replaced; more: CD is one too many; less: CD is lost; false: AB out of nothing.
    assert (found["substitutions"], found["deletions"], found["insertions"]) == (1, 1, 2)
    assert (found["clips"], found["reference_words"]) == (6, 7)
    assert found["wer"] == pytest.approx(4 / 7)
    assert found["cer"] == pytest.approx((1 + 3 + 3 + 2) / (5 + 5 + 2 + 5))
    assert (found["empty_references"], found["false_clips"], found["false_words"]) == (2, 1, 1)
    low, high = found["wer_interval_95"]
    assert 0 <= low < 4 / 7 < high
    seconds = sum(len(tiny_program.tones(said)) for said, _ in CLIPS.values()) / 16_000
    assert found["audio_seconds"] == pytest.approx(seconds, abs=0.001)
    assert 0 < found["real_time_factor"] < 5


@pytest.mark.parametrize("context", [None, Context(chunk_frames=4, left_frames=8)])
def test_a_checkpoint_is_evaluated_like_an_artefact(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], context: Context | None
) -> None:
    model = always(tmp_path / "model", "A", context)
    (found,) = results(capsys, model, manifest, "--threads", 1)
    # "A" against AB CD, AB CE, AB, AB CD, nothing, nothing
    assert (found["substitutions"], found["deletions"], found["insertions"]) == (4, 3, 2)
    assert (found["false_clips"], found["empty_references"]) == (2, 2)
    (mute,) = results(capsys, always(tmp_path / "mute", "<blank>", context), manifest)
    assert (mute["deletions"], mute["wer"], mute["false_clips"]) == (7, 1.0, 0)


def test_a_recording_shorter_than_a_frame_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = corpus(tmp_path, {"short": ("AB", "A")})
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    row = {"id": "short", "audio": "short.wav", "seconds": 100 / 16_000, "text": "A"}
    manifest.write_text(json.dumps(row))
    (found,) = results(capsys, always(tmp_path / "model", "A"), manifest)
    assert found["wer"] == 0


def test_several_corpora_are_listed_and_taken_together(
    streaming_pte: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = corpus(tmp_path / "other", {"a": ("AB", "AB"), "b": ("CD", "CE")})
    assert main([str(streaming_pte), str(manifest), str(other)]) == 0
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if " of " in line and "rates" not in line]
    assert len(rows) == 3
    cells = [cell.strip() for cell in rows[2].strip("│ ").split("│")]
    assert cells[0] == "together"
    assert cells[1] == "8"
    assert cells[4] == f"{100 * 5 / 9:.2f}"
    assert cells[7:11] == ["2", "1", "2", "1 of 2"]


def test_hypotheses_are_written_for_each_clip(
    streaming_pte: Path, manifest: Path, tmp_path: Path
) -> None:
    target = tmp_path / "hypotheses.jsonl"
    main([str(streaming_pte), str(manifest), "--hypotheses", str(target)])
    rows = {row["id"]: row for row in map(json.loads, target.read_text().splitlines())}
    assert {name: row["hypothesis"] for name, row in rows.items()} == {
        name: said.replace("_", "") for name, (said, _) in CLIPS.items()
    }
    assert [rows[name]["errors"] for name in CLIPS] == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--hypotheses", "no/x"], "a file in a folder that exists"),
        (["--hypotheses", "."], "a file in a folder that exists"),
        (["--figure", "."], "a file in a folder that exists"),
        (["--figure", "rates.xyz"], "must end in one of .*png"),
        (["--noise", "nowhere"], "go with --robustness or with --condition noise:N"),
        (["--noise-pattern", "*.wav"], "go with --robustness"),
        (["--condition", "noise:5", "--noise", ".", "--noise-pattern", ""], "does not select"),
        (["--condition", "noise:5", "--noise", ".", "--noise-pattern", "/x"], "does not select"),
    ],
)
def test_what_cannot_be_done_is_told_before_the_work(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(manifest.parent)
    # The model is not there either, and is asked for later.
    with pytest.raises(ConfigError, match=says):
        main(["nowhere.pte", str(manifest), *arguments])


def test_names_are_shown_as_they_are(
    streaming_pte: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = corpus(tmp_path / "odd[v2]", {"a": ("AB CD", "AB CD"), "b": ("AB", "AB")})
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row, speaker in zip(rows, (7, "[/b]"), strict=True):
        row["speaker"] = speaker
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([str(streaming_pte), str(manifest), "--by", "speaker"]) == 0
    shown = capsys.readouterr().out
    assert "odd[v2]" in shown
    assert {line.split()[1] for line in shown.splitlines() if " 1 " in line} >= {"7", "[/b]"}


def test_a_bundled_name_is_that_model_whatever_folder_has_it(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(manifest.parent)
    Path("digits").mkdir()
    (found,) = results(capsys, "digits", manifest)
    assert found["clips"] == len(CLIPS)


def test_references_are_normalised_only_when_asked(
    streaming_pte: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = corpus(tmp_path, {"a": ("AB CD", "Ab, cd.")})
    assert results(capsys, streaming_pte, manifest)[0]["wer"] == 1
    assert results(capsys, streaming_pte, manifest, "--normalise")[0]["wer"] == 0


def test_a_corpus_without_words_has_no_rate_but_counts(
    streaming_pte: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = corpus(tmp_path, {"a": ("AB", "")})
    (found,) = results(capsys, streaming_pte, manifest)
    assert (found["wer"], found["wer_interval_95"], found["false_clips"]) == (None, [None, None], 1)
    assert main([str(streaming_pte), str(manifest)]) == 0
    assert "1 of 1" in capsys.readouterr().out


def test_what_cannot_be_evaluated_is_a_typed_error(
    streaming_pte: Path, features_pte: Path, manifest: Path, tmp_path: Path
) -> None:
    unlabelled = corpus(tmp_path / "unlabelled", {"a": ("AB", None)})
    with pytest.raises(DataError, match=r"a of .* has no transcript"):
        main([str(streaming_pte), str(unlabelled)])
    with pytest.raises(DataError, match="no data source"):
        main([str(streaming_pte), str(tmp_path / "absent.jsonl")])
    with pytest.raises(ModelError):
        main([str(tmp_path / "absent.pte"), str(manifest)])
    with pytest.raises(ModelError):
        main([str(features_pte), str(manifest)])
    with pytest.raises(CheckpointError):
        main([str(tmp_path), str(manifest)])
    with pytest.raises(ModelError, match="writes no text"):
        main([always(tmp_path / "model", None), str(manifest)])
    with pytest.raises(ConfigError, match="threads"):
        main([str(streaming_pte), str(manifest), "--threads", "0"])


def test_the_command_line_tells_an_error_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rdsdk.cli", "evaluate", "x.pte", str(tmp_path / "absent.jsonl")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("rdsdk: error: there is no data source")
    assert done.stderr.count("\n") == 1


def test_a_live_stream_hears_what_a_whole_recording_says(
    streaming_pte: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (whole,) = results(capsys, streaming_pte, manifest)
    for block_ms in (7, 100):
        (live,) = results(capsys, streaming_pte, manifest, "--block-ms", block_ms)
        for figure in ("wer", "cer", "substitutions", "deletions", "insertions", "false_words"):
            assert live[figure] == whole[figure]


def test_speakers_and_lengths_are_told_apart(
    streaming_pte: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = corpus(tmp_path, dict(CLIPS))
    speakers = {"right": "ann", "one": "bob", "more": "bob"}
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows:
        if row["id"] in speakers:
            row["speaker"] = speakers[row["id"]]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = results(capsys, streaming_pte, manifest, "--by", "speaker", "--by", "length")
    by_speaker = found["by_speaker"]
    assert {name: rates["clips"] for name, rates in by_speaker.items()} == {
        "ann": 1,
        "bob": 2,
        "unknown": 3,
    }
    assert by_speaker["ann"]["wer"] == 0
    assert by_speaker["bob"]["wer"] == pytest.approx(2 / 3)
    assert sum(rates["clips"] for rates in found["by_length"].values()) == found["clips"]
    assert main([str(streaming_pte), str(manifest), "--by", "speaker"]) == 0
    table = capsys.readouterr().out
    # The worst first.
    assert table.index("bob") < table.index("ann")


def test_conditions_are_rows_and_a_figure(
    streaming_pte: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "rates.png"
    given = ["--condition", "clean", "--condition", "hiss:-10", "--figure", figure]
    clean, drowned = results(capsys, streaming_pte, manifest, *given)
    assert (clean["condition"], drowned["condition"]) == ("clean", "hiss:-10")
    assert drowned["wer"] > clean["wer"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    found = results(capsys, streaming_pte, manifest, "--robustness")
    names = [row["condition"] for row in found]
    assert names[0] == "clean"
    # Without a folder of noise there is hiss instead.
    assert {"hiss:20", "hiss:0", "telephone", "speed:0.9"} <= set(names)
    assert not any(name.startswith("noise") for name in names)


def test_options_that_do_not_go_with_the_model_are_refused(
    streaming_pte: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = always(tmp_path / "model", "A", Context(chunk_frames=4, left_frames=8))
    with pytest.raises(ConfigError, match="blocks go with an artefact"):
        main([model, str(manifest), "--block-ms", "100"])
    with pytest.raises(ConfigError, match="whose chunk is fixed"):
        main([str(streaming_pte), str(manifest), "--chunk-frames", "8"])
    with pytest.raises(ConfigError, match="unknown condition"):
        main([str(streaming_pte), str(manifest), "--condition", "echo"])
    with pytest.raises(SystemExit):
        main([str(streaming_pte), str(manifest), "--block-ms", "0"])
    for chunk in (0, 8):
        (found,) = results(capsys, model, manifest, "--chunk-frames", chunk)
        assert (found["substitutions"], found["deletions"], found["insertions"]) == (4, 3, 2)


def test_a_peer_hears_the_same_recordings(capsys: pytest.CaptureFixture[str]) -> None:
    speech = Path(__file__).parents[1] / "assets" / "speech" / "manifest.jsonl"
    (found,) = results(capsys, "pocketsphinx", speech, "--normalise")
    # It is a recogniser of English: most words are right, not all.
    assert 0 < found["wer"] < 0.6
    with pytest.raises(ConfigError, match="leave options out"):
        main(["pocketsphinx", str(speech), "--block-ms", "100"])
