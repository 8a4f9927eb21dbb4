import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mobile_export import kit as kits
from mobile_export.kit import Kit, write_kit
from mobile_export.vectors import program_step
from rdsdk.errors import AudioError, ExportError
from rdsdk.runtime.program import Program
from rdsdk.runtime.recognizer import bundled_models, load

DIGITS = bundled_models()["digits"]
CLIPS = sorted((Path(__file__).parents[1] / "assets" / "digits").glob("*.flac"))
SPEECH = sorted((Path(__file__).parents[1] / "assets" / "speech").glob("*.flac"))
SOURCES = {
    "android": {"Captions.kt", "GreedyDecoder.kt", "MicrophoneCaptions.kt", "VectorCheck.kt"},
    "cpp": {"CMakeLists.txt", "captions.hpp", "json.hpp", "stream.cpp"},
    "ios": {
        "Captions.swift",
        "GreedyDecoder.swift",
        "MicrophoneCaptions.swift",
        "VectorCheck.swift",
    },
}


@pytest.fixture(scope="module")
def program() -> Program:
    return Program(DIGITS)


@pytest.fixture(scope="module")
def android(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return write_kit(DIGITS, "android", tmp_path_factory.mktemp("kits") / "digits-android")


def package(folder: Path) -> Path:
    """Stands in for a Core ML package, which is a folder of files."""
    path = folder / "digits.mlpackage"
    (path / "Data").mkdir(parents=True)
    (path / "Manifest.json").write_text("{}")
    (path / "Data" / "weight.bin").write_bytes(bytes(range(256)))
    return path


def floats(folder: Path, name: str) -> np.ndarray:
    return np.fromfile(folder / "vectors" / f"{name}.f32", "<f4")


def index(folder: Path) -> dict[str, str]:
    lines = (folder / "vectors" / "index.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


def test_a_kit_holds_the_artefact_its_card_the_sample_and_a_readme(android, program):
    names = {path.name for path in android.folder.iterdir()}
    assert names == SOURCES["android"] | {"model.pte", "card.json", "vectors", "README.md"}
    assert android.artefact.read_bytes() == DIGITS.read_bytes()
    card = (android.folder / "card.json").read_text(encoding="utf-8")
    assert json.loads(card) == json.loads(program.card_json)
    assert card.count("\n") > 50
    assert android.folder.stat().st_mode & 0o055 == 0o055


@pytest.mark.parametrize("platform", sorted(SOURCES))
def test_the_readme_speaks_of_this_very_kit(platform, program, tmp_path):
    if platform == "ios":
        made = write_kit(
            package(tmp_path),
            platform,
            tmp_path / "kit",
            step=program_step(program),
            card_json=program.card_json,
        )
        assert (made.artefact / "Data" / "weight.bin").read_bytes() == bytes(range(256))
    else:
        made = write_kit(DIGITS, platform, tmp_path / "kit")
        assert "2.3 MB" in (made.folder / "README.md").read_text(encoding="utf-8")
    text = (made.folder / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"@[A-Z_]+@", text)
    for fact in ("# digits", "CC BY-SA 4.0", "20560", "1280 ms", made.vectors.text):
        assert fact in text
    assert SOURCES[platform] <= {path.name for path in made.folder.iterdir()}
    assert all(f"`{name}`" in text for name in SOURCES[platform] - {"CMakeLists.txt"})


def test_the_vectors_are_consecutive_calls_of_the_artefact(android, program):
    """Run again by hand from the files alone."""
    found = index(android.folder)
    calls, symbols = int(found["calls"]), int(found["symbols"])
    inputs = floats(android.folder, "inputs").reshape(calls, int(found["samples_a_call"]))
    expected = floats(android.folder, "log_probs").reshape(calls, -1, symbols)
    assert calls == 6
    assert expected.shape[1] == int(found["frames_a_call"]) == 64
    assert not inputs[0].any()
    np.testing.assert_array_equal(inputs[1:-1, -80:], inputs[2:, :80])
    sound, rate = soundfile.read(android.folder / "vectors" / "recording.wav", dtype="float32")
    assert rate == 16_000
    joined = np.concatenate([*inputs[1:, :-80], inputs[-1, -80:]])
    np.testing.assert_array_equal(joined[: len(sound)], sound)
    assert not joined[len(sound) :].any()
    state = {name: np.zeros(shape, np.float32) for name, shape in program.card.state.items()}
    for waveform, wanted in zip(inputs, expected, strict=True):
        output = program.step(waveform, state)
        state = output.state
        np.testing.assert_allclose(output.log_probs, wanted, atol=1e-5)


def test_the_vectors_depend_on_the_state(android, program):
    """Each call from a state of zeros gives other numbers: a sample that loses its state fails."""
    inputs = floats(android.folder, "inputs").reshape(6, -1)
    expected = floats(android.folder, "log_probs").reshape(6, 64, 11)
    tolerance = float(index(android.folder)["tolerance"])
    for waveform, wanted in zip(inputs[1:4], expected[1:4], strict=True):
        assert np.abs(program.step(waveform).log_probs - wanted).max() > 4 * tolerance


@pytest.mark.parametrize("clip", [*CLIPS, SPEECH[0]], ids=lambda path: path.stem)
def test_the_text_is_what_rdsdk_transcribes(clip, tmp_path):
    made = write_kit(DIGITS, "cpp", tmp_path / "kit", clip)
    segments = load(DIGITS).transcribe(made.folder / "vectors" / "recording.wav")
    assert made.vectors.text == " ".join(segment.text for segment in segments)
    assert index(made.folder)["text"] == made.vectors.text
    assert bool(made.vectors.text) == (clip in CLIPS)


def test_a_float_model_must_agree_more_closely(streaming_pte, tmp_path):
    made = write_kit(streaming_pte, "cpp", tmp_path / "kit")
    assert (
        made.vectors.tolerance == 1e-3 < write_kit(DIGITS, "cpp", tmp_path / "2").vectors.tolerance
    )


def test_an_empty_folder_will_do(tmp_path):
    (tmp_path / "kit").mkdir()
    assert write_kit(DIGITS, "cpp", tmp_path / "kit").artefact.exists()


@pytest.mark.parametrize(
    ("artefact", "platform", "said"),
    [
        (DIGITS, "windows", "no kit is for 'windows'"),
        (DIGITS, "ios", "takes a .mlpackage"),
        (Path("model.mlpackage"), "android", "takes a .pte"),
        (Path("model.mlpackage"), "ios", "card_json"),
    ],
)
def test_what_no_kit_can_be_made_of_is_refused(artefact, platform, said, tmp_path):
    with pytest.raises(ExportError, match=said):
        write_kit(artefact, platform, tmp_path / "kit")
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_stream_text_are_refused(full_pte, features_pte, tmp_path):
    for artefact in (full_pte, features_pte):
        with pytest.raises(ExportError, match="no streaming model that gives text"):
            write_kit(artefact, "android", tmp_path / "kit")
    assert not list(tmp_path.iterdir())


def test_a_package_for_whole_recordings_only_is_refused(program, tmp_path):
    card = json.dumps(json.loads(program.card_json) | {"state": []})
    with pytest.raises(ExportError, match="its method step"):
        write_kit(
            package(tmp_path), "ios", tmp_path / "kit", step=program_step(program), card_json=card
        )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"context": {}, "vocabulary": {}}'])
def test_a_damaged_card_is_refused(text, program, tmp_path):
    with pytest.raises(ExportError, match="card is damaged"):
        write_kit(
            package(tmp_path), "ios", tmp_path / "kit", step=program_step(program), card_json=text
        )


def test_a_step_that_is_not_the_cards_is_refused(program, tmp_path):
    def shorter(waveform, state):
        output = program.step(waveform, state)
        return output.log_probs[:-1], output.state

    with pytest.raises(ExportError, match=r"shape \(63, 11\)"):
        write_kit(
            package(tmp_path),
            "ios",
            tmp_path / "kit",
            step=shorter,
            card_json=program.card_json,
        )


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="in use"):
        write_kit(DIGITS, "android", tmp_path / "kit")
    assert [path.name for path in (tmp_path / "kit").iterdir()] == ["mine.txt"]
    with pytest.raises(ExportError, match="is not a folder; make it first"):
        write_kit(DIGITS, "android", tmp_path / "nowhere" / "kit")


def test_a_recording_that_cannot_be_read_leaves_nothing(tmp_path):
    with pytest.raises(AudioError):
        write_kit(DIGITS, "android", tmp_path / "kit", tmp_path / "missing.wav")
    assert not list(tmp_path.iterdir())


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(kits, "_fill_in", lambda path, facts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_kit(DIGITS, "android", tmp_path / "kit")
    assert not list(tmp_path.iterdir())


def test_phones_are_named_as_no_text_yet(tmp_path):
    made = write_kit(bundled_models()["english"], "cpp", tmp_path / "kit")
    assert "symbols of this model are phones" in made.greedy_only
    text = (made.folder / "README.md").read_text(encoding="utf-8")
    assert " ".join(made.greedy_only.split()) in " ".join(text.split())
    assert "9040 samples, of which 3920 belong" in " ".join(text.split())
    assert write_kit(DIGITS, "cpp", tmp_path / "digits").greedy_only == ""


def test_a_lexicon_is_named_as_something_the_sample_does_not_do(streaming_pte, tmp_path):
    program = Program(streaming_pte)
    card = json.loads(program.card_json)
    assert "lexicon" not in write_kit(streaming_pte, "android", tmp_path / "1").folder.joinpath(
        "README.md"
    ).read_text(encoding="utf-8")
    card["vocabulary"]["lexicon"] = ["ABC", "DE"]
    made = write_kit(
        package(tmp_path),
        "ios",
        tmp_path / "2",
        step=program_step(program),
        card_json=json.dumps(card),
    )
    assert "closed to a lexicon" in (made.folder / "README.md").read_text(encoding="utf-8")
