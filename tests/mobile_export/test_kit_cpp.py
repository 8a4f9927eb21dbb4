"""The C++ sample, built here on the runtime of the executorch wheel, beside Python's own text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_program import tones

from mobile_export.kit import write_kit
from rdsdk.runtime.program import Program
from rdsdk.runtime.recognizer import Recognizer, bundled_models
from tests.mobile_export.compilers import KITS, build_stream, missing, run

DIGITS = bundled_models()["digits"]
ASSETS = Path(__file__).parents[1] / "assets"
CLIPS = sorted([*(ASSETS / "digits").glob("*.flac"), *(ASSETS / "speech").glob("*.flac")])
TALK = [
    "ABC DE" + 10 * "_" + "F GH" + 12 * "_" + "AB CA",
    "AABB A__A|B" + 20 * "_" + "|C",
    "AB " * 60 + "C" + 12 * "_" + "D",  # longer than a line may get
    "ABCDEFGH" * 40,  # one word of more than twice that
    "_",
]


@pytest.fixture(scope="session")
def stream(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stream(request.config.cache, tmp_path_factory.mktemp("stream"))


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    return write_kit(DIGITS, "cpp", tmp_path / "kit").folder / "vectors"


def wav(path: Path, samples: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def lines(stream: Path, *arguments: str | Path, sound: bytes | None = None) -> list[str]:
    done = subprocess.run(
        [str(part) for part in (stream, *arguments)], input=sound, capture_output=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


def texts(model: Path, path: Path) -> list[str]:
    return [segment.text for segment in Recognizer(Program(model)).transcribe(path)]


def refused(stream: Path, *arguments: str | Path, code: int) -> str:
    done = subprocess.run(
        [str(part) for part in (stream, *arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("clip", CLIPS, ids=lambda path: path.stem)
def test_real_recordings_give_the_text_that_python_gives(stream, clip, tmp_path):
    sound = wav(tmp_path / "clip.wav", soundfile.read(clip, dtype="int16")[0])
    wanted = texts(DIGITS, sound)
    assert lines(stream, DIGITS, sound) == wanted
    assert bool(wanted) == (clip.parent.name == "digits")


@pytest.mark.parametrize(
    ("name", "start", "text"),
    [
        # Without the silence before a stream, this is ZERO SIX ONE, and the next one nothing.
        ("theo-date", 24_000, "SIX ONE"),
        ("theo-date", 48_000, "ONE EIGHT"),
        # Without the frames after the end, the last word of each is lost.
        ("theo-date", 19_200, "ZERO SIX ONE"),
        ("theo-phone", 6_400, "ZERO SEVEN NINE ONE EIGHT"),
    ],
)
def test_recordings_cut_off_tightly_give_the_text_that_python_gives(
    stream, name, start, text, tmp_path
):
    samples = soundfile.read(ASSETS / "digits" / f"{name}.flac", dtype="int16")[0]
    sound = wav(tmp_path / "cut.wav", samples[start : start + 32_000])
    assert " ".join(lines(stream, DIGITS, sound)) == " ".join(texts(DIGITS, sound)) == text


@pytest.mark.parametrize("silent_frames", range(35, 46))
def test_a_line_ends_after_as_much_silence_as_pythons(
    stream, streaming_pte, silent_frames, tmp_path
):
    silence = np.zeros(silent_frames * 320)
    sound = wav(tmp_path / "talk.wav", np.concatenate([tones("AB"), silence, tones("C")]))
    assert lines(stream, streaming_pte, sound) == texts(streaming_pte, sound)


@pytest.mark.parametrize("kind", ["streaming_pte", "words_pte"])
def test_the_rest_of_an_endless_sound_is_no_new_word(stream, kind, request, tmp_path):
    """Longer than twice the longest line: the word is ended inside its run of frames."""
    model = request.getfixturevalue(kind)
    sound = wav(tmp_path / "talk.wav", tones("A", frames=2200))
    assert lines(stream, model, sound) == texts(model, sound) == ["A"]


@pytest.mark.parametrize("talk", TALK, ids=range(len(TALK)))
@pytest.mark.parametrize("kind", ["streaming_pte", "words_pte"])
def test_lines_end_where_pythons_segments_end(stream, talk, kind, request, tmp_path):
    """Both kinds of vocabulary: with a word boundary, and with a word a symbol."""
    model = request.getfixturevalue(kind)
    sound = wav(tmp_path / "talk.wav", np.append(tones(talk), 0.0), subtype="FLOAT")
    wanted = texts(model, sound)
    assert lines(stream, model, sound) == wanted
    assert len(wanted) >= 2 or talk == "_"


def test_any_form_of_the_same_sound_gives_the_same_text(stream, tmp_path):
    samples = soundfile.read(CLIPS[2], dtype="int16")[0]
    sound = wav(tmp_path / "clip.wav", samples)
    wanted = lines(stream, DIGITS, sound)
    assert wanted == ["FOUR ONE SEVEN TWO"]
    assert (
        lines(stream, DIGITS, wav(tmp_path / "f.wav", samples / 32768, subtype="FLOAT")) == wanted
    )
    assert lines(stream, DIGITS, sound=sound.read_bytes()) == wanted
    assert lines(stream, DIGITS, "--raw", "-", sound=samples.tobytes()) == wanted
    # As a recorder writes it that does not know yet how long the sound will be.
    header = bytearray(sound.read_bytes())
    header[40:44] = b"\xff\xff\xff\xff"
    assert lines(stream, DIGITS, sound=bytes(header)) == wanted


def test_partials_come_before_their_line(stream, tmp_path):
    sound = wav(tmp_path / "clip.wav", soundfile.read(CLIPS[1], dtype="int16")[0])
    said = lines(stream, DIGITS, "--partials", sound)
    *partials, last = said
    assert len(partials) >= 2
    assert all(line.startswith("~ ") and last.startswith(line[2:]) for line in partials)
    assert partials[0][2:] != last


def test_a_partial_shows_the_word_that_is_being_said(stream, streaming_pte, tmp_path):
    sound = wav(tmp_path / "talk.wav", tones("AB CD"), subtype="FLOAT")
    said = lines(stream, streaming_pte, "--partials", sound)
    assert said == ["~ A", "~ AB", "~ AB C", "~ AB CD", "AB CD"]


def test_the_vectors_of_a_kit_are_reproduced(stream, vectors):
    (first, second) = lines(stream, DIGITS, "--check", vectors)
    found = re.fullmatch(r"6 calls, log_probs differ by (\S+) at most, 0.25 allowed: same", first)
    assert found
    # The very same kernels: the allowance is for other processors.
    assert float(found[1]) <= 1e-4
    assert second.endswith(": same")


def change(path: Path, at: int, by: float) -> None:
    values = np.fromfile(path, "<f4")
    values[at] += by
    values.tofile(path)


@pytest.mark.parametrize("call", [0, 3, 5])
def test_changed_log_probs_are_noticed(stream, vectors, call):
    change(vectors / "log_probs.f32", call * 64 * 11 + 100, 0.3)
    assert "0.25 allowed: DIFFERENT" in refused(stream, DIGITS, "--check", vectors, code=1)


def test_log_probs_that_are_no_numbers_are_noticed(stream, vectors):
    change(vectors / "log_probs.f32", 7, np.nan)
    assert "differ by inf" in refused(stream, DIGITS, "--check", vectors, code=1)


def test_changed_inputs_are_noticed(stream, vectors):
    samples = np.fromfile(vectors / "inputs.f32", "<f4")
    samples[20560:41120] = 0.0
    samples.tofile(vectors / "inputs.f32")
    assert "DIFFERENT" in refused(stream, DIGITS, "--check", vectors, code=1)


def test_another_text_is_noticed(stream, vectors):
    index = (vectors / "index.tsv").read_text()
    (vectors / "index.tsv").write_text(index.replace("ZERO SEVEN", "ZERO NINE"))
    said = refused(stream, DIGITS, "--check", vectors, code=1)
    assert "allowed: same" in said
    assert said.rstrip().endswith("DIFFERENT")


def test_vectors_of_another_model_are_refused(stream, vectors, streaming_pte):
    said = refused(stream, streaming_pte, "--check", vectors, code=2)
    assert "not of this model" in said
    (vectors / "inputs.f32").unlink()
    assert "cannot read" in refused(stream, DIGITS, "--check", vectors, code=2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: wav(path, np.zeros((1600, 2))), "2 channels"),
        (lambda path: wav(path, np.zeros(800), rate=8000), "8000 Hz"),
        (lambda path: wav(path, np.zeros(1600), subtype="PCM_24"), "24 bits"),
        (lambda path: Path(shutil.copy(CLIPS[0], path)), "not a WAV file"),
        (lambda path: path.write_bytes(b"RIFF\0\0\0\0WAVE") and path, "ends early"),
        (lambda path: path, "cannot read"),
    ],
)
def test_sound_in_another_form_is_refused(stream, make, said, tmp_path):
    assert said in refused(stream, DIGITS, make(tmp_path / "sound.wav"), code=2)


def test_files_that_are_no_artefact_are_refused(stream, full_pte, features_pte, tmp_path):
    cut = tmp_path / "cut.pte"
    cut.write_bytes(DIGITS.read_bytes()[:1_000_000])
    for path in (cut, CLIPS[0], tmp_path / "missing.pte"):
        assert "not an rdsdk artefact" in refused(stream, path, "--raw", "/dev/null", code=2)
    for path in (full_pte, features_pte):
        assert "not one of a streaming rdsdk model" in refused(stream, path, "-", code=2)
    assert "usage" in refused(stream, code=2)


READ_JSON = r"""
#include <iostream>
#include <iterator>
#include "json.hpp"
int main() try {
  const std::string text((std::istreambuf_iterator<char>(std::cin)), {});
  const Json json = JsonReader::read(text);
  for (const Json& symbol : json["symbols"].array) std::cout << symbol.string << "\n";
  std::cout << json.integer("count") << "\n" << json["nothing"].is_null() << "\n";
} catch (const std::exception& error) {
  std::cerr << error.what();
  return 2;
}
"""


@pytest.fixture(scope="session")
def read_json(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sequence[str]]:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        missing("C++ compiler")
    folder = tmp_path_factory.mktemp("json")
    (folder / "read.cpp").write_text(READ_JSON)
    run(
        [
            str(compiler),
            "-std=c++17",
            "-I",
            KITS / "cpp",
            folder / "read.cpp",
            "-o",
            folder / "read",
        ]
    )

    def read(text: str) -> Sequence[str]:
        done = subprocess.run(
            [folder / "read"], input=text.encode(), capture_output=True, timeout=20
        )
        if done.returncode:
            raise ValueError(done.stderr.decode())
        return done.stdout.decode().splitlines()

    return read


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_symbols_of_any_language_are_read(read_json, ascii_only, indent):
    symbols = ["|", "É", "ß", "愛", "🙂", '"', "\\", "\t", "a\u0301"]
    value = {"nested": [[], {}, [1.5e3, True, False, None]], "symbols": symbols, "count": -17}
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert read_json(text) == [*symbols, "-17", "1"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", '{"count": 1', '{"count" 1}', '{"count": 1} x', '{"count": tru}'),
        *('{"a": "\\u12"}', '{"a": "\\x"}', '{"a": "b}', "[" * 100_000, '{"count": "1"}', "{}"),
    ],
    ids=range(12),
)
def test_what_is_no_json_is_refused(read_json, text):
    with pytest.raises(ValueError, match=r"not JSON at byte|has no number count"):
        read_json(text)
