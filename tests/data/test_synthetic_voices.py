"""Voices are command lines; the programs themselves are stood in for by small shell scripts."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from rdsdk.data.synthetic_voices import Voice, draw_voice, require_programs, speak
from rdsdk.errors import ConfigError, DataError


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_espeak_is_told_voice_pitch_speed_file_and_text() -> None:
    command = Voice("espeak-ng", "en-gb+f3", 61, 1.2).command("seven two", Path("/o/a.wav"))
    assert command[0] == "espeak-ng"
    for option, value in (("-v", "en-gb+f3"), ("-p", "61"), ("-s", "198"), ("-w", "/o/a.wav")):
        assert command[command.index(option) + 1] == value
    assert command[-2:] == ["--", "seven two"]


def test_flite_is_told_voice_pitch_stretch_file_and_text() -> None:
    command = Voice("flite", "slt", 140, 0.8).command("nine", Path("/o/a.wav"))
    assert command[:3] == ["flite", "-voice", "slt"]
    assert "duration_stretch=1.250" in command
    assert "int_f0_target_mean=140" in command
    assert command[-4:] == ["-t", "nine", "-o", "/o/a.wav"]


def test_festival_is_told_voice_and_stretch_and_hears_the_text_on_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = Voice("text2wave", "voice_kal_diphone", 0, 2.0)
    command = voice.command("nine", Path("/o/a.wav"))
    assert "(voice_kal_diphone)" in command
    assert "(Parameter.set 'Duration_Stretch 0.500)" in command
    assert "nine" not in command
    # The stand-in speaks only when the text came on its standard input.
    soundfile.write(tmp_path / "said.wav", np.full(800, 0.1), 16_000)
    copy = f'read text; [ "$text" = nine ] && cp {tmp_path}/said.wav "$6"'
    program(tmp_path / "bin", "text2wave", copy)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    np.testing.assert_allclose(speak(voice, "NINE"), 0.1, atol=1e-4)


def test_missing_programs_are_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "espeak-ng", "true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"flite, text2wave.*apt-get install flite festival"):
        require_programs()
    for name in ("flite", "text2wave"):
        program(tmp_path, name, "true")
    require_programs()


def test_speaking_without_the_program_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt-get install espeak-ng"):
        speak(Voice("espeak-ng", "en-us", 50, 1.0), "one")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no such voice >&2; exit 3", "status 3.*no such voice"),
        ("exit 0", "no sound"),
        ('cp "$SILENCE" "$8"', "only silence"),
    ],
)
def test_a_program_that_gives_no_speech_is_an_error_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(800), 16_000)
    program(tmp_path / "bin", "espeak-ng", script)
    monkeypatch.setenv("SILENCE", str(tmp_path / "silence.wav"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(DataError, match=message):
        speak(Voice("espeak-ng", "en-us", 50, 1.0), "one")


def test_voices_are_many_and_repeat_with_their_seed() -> None:
    def draw(seed: int) -> list[Voice]:
        rng = np.random.default_rng(seed)
        return [draw_voice(rng) for _ in range(100)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert {voice.program for voice in draw(1)} == {"espeak-ng", "flite", "text2wave"}
    assert len({voice.speaker for voice in draw(1)}) > 60
