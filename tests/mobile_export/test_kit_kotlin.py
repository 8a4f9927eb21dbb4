"""The Kotlin sample on the JVM. Android's classes are stand-ins, behind which the real artefact
runs in ExecuTorch: what is tested is all that the sample does, and nothing of Android's part."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_program import tones

from mobile_export.kit import Kit, write_kit
from rdsdk.runtime.program import Program
from rdsdk.runtime.recognizer import Recognizer, bundled_models
from tests.mobile_export.compilers import STAND_INS, build_kotlin

DIGITS = bundled_models()["digits"]
CLIP = Path(__file__).parents[1] / "assets" / "digits" / "theo-date.flac"
TALK = (
    "ABC DE"
    + 10 * "_"
    + "F GH"
    + 12 * "_"
    + "AB " * 60
    + "C"
    + 12 * "_"
    + "ABCDEFGH" * 36
    + 12 * "_"
)


@pytest.fixture(scope="session")
def class_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_kotlin(request.config.cache, tmp_path_factory.mktemp("kotlin"))


@pytest.fixture
def digits(tmp_path: Path) -> Kit:
    return write_kit(DIGITS, "android", tmp_path / "kit")


def run(
    class_path: str, kit: Kit, task: str, *more: str, sound: np.ndarray | None = None
) -> tuple[int, list[str]]:
    microphone = kit.folder / "microphone.f32"
    microphone.write_bytes((np.zeros(0) if sound is None else sound).astype("<f4").tobytes())
    done = subprocess.run(
        [
            *("java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", class_path),
            f"-Dpython={sys.executable}",
            f"-Dserver={STAND_INS / 'module_server.py'}",
            f"-Dmicrophone={microphone}",
            *("rdsdk.captions.MainKt", task, str(kit.folder), *more),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def texts(model: Path, sound: np.ndarray) -> list[str]:
    recognizer = Recognizer(Program(model))
    return [segment.text for segment in recognizer.transcribe((sound, 16_000))]


def test_the_vectors_are_reproduced_and_changed_ones_are_not(class_path, digits):
    code, (said,) = run(class_path, digits, "check")
    assert code == 0
    assert said.startswith("log_probs differ by 0.0 at most, 0.25 allowed;")
    assert said.count("ZERO SEVEN NINE ONE EIGHT TWO FIVE THREE SIX FOUR") == 2
    path = digits.folder / "vectors" / "log_probs.f32"
    values = np.fromfile(path, "<f4")
    values[-1] += 0.3
    values.tofile(path)
    code, (said,) = run(class_path, digits, "check")
    assert code == 1
    assert said.startswith("log_probs differ by 0.3")


def test_a_real_recording_gives_the_text_that_python_gives(class_path, digits):
    sound = soundfile.read(CLIP, dtype="float32")[0]
    wanted = texts(DIGITS, sound)
    assert run(class_path, digits, "feed", "313", sound=sound) == (0, wanted)
    assert len(wanted) == 2


def test_a_recording_cut_off_tightly_gives_the_text_that_python_gives(class_path, digits):
    """Other text without the silence before a stream, and without the frames after its end."""
    whole = soundfile.read(CLIP, dtype="float32")[0]
    for start in (24_000, 19_200):
        sound = whole[start : start + 32_000]
        wanted = texts(DIGITS, sound)
        assert run(class_path, digits, "feed", "1600", sound=sound) == (0, wanted)


@pytest.mark.parametrize("fixture", ["streaming_pte", "words_pte"])
def test_lines_end_where_pythons_segments_end(class_path, fixture, request, tmp_path):
    model = request.getfixturevalue(fixture)
    # The last tone is longer than any line: its word is ended inside a run of frames.
    gaps = [np.concatenate([tones("AB"), np.zeros(320 * n)]) for n in range(37, 43)]
    sound = np.concatenate([tones(TALK), *gaps, tones("A", frames=2200)]).astype(np.float32)
    made = write_kit(model, "android", tmp_path / "kit")
    wanted = texts(model, sound)
    assert run(class_path, made, "feed", "4000", sound=sound) == (0, wanted)
    assert len(wanted) >= 6


def test_the_microphone_shows_partials_and_gives_the_last_line(class_path, digits):
    sound = soundfile.read(CLIP, dtype="float32")[0]
    code, said = run(class_path, digits, "microphone", sound=sound)
    assert code == 0
    # The microphone goes away when its file ends, which is told after the last line, and is
    # listened to again from its beginning.
    half = len(said) // 2
    assert said[:half] == said[half:]
    lines = [line for line in said[:half] if not line.startswith("~ ")]
    assert lines == [*texts(DIGITS, sound), "! the microphone went away (-6)"]
    assert said[0].startswith("~ TWO")
    assert half > 4


def test_listening_can_be_ended_by_the_text_that_was_heard(class_path, digits):
    sound = soundfile.read(CLIP, dtype="float32")[0]
    first = texts(DIGITS, sound)[0]
    code, said = run(class_path, digits, "one-line", sound=np.concatenate([sound, sound]))
    assert code == 0
    assert said[0] == first
    assert len(said) <= 2  # what was said in the chunk that the first line ended in
