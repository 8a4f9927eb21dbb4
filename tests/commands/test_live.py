"""Live captions and the doctor: with a fake driver, on a terminal, and on a real sound system."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_program import SAMPLE_RATE, tones

sys.path.insert(0, str(Path(__file__).parents[1] / "audio"))
from fake_driver import FakeDriver
from pulse import pulse_server

import rdsdk
from rdsdk import cli
from rdsdk.commands.live import Speed, meter

SPEECH = tones("ABC DE" + 20 * "_" + "F GH" + 20 * "_" + "AB CA")
TEXT = "ABC DE\nF GH\nAB CA\n"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    made = FakeDriver(rate=16_000.0)
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    return made


def speak(driver: FakeDriver, samples: np.ndarray, then: str) -> threading.Thread:
    """What a driver does on its own thread: blocks as soon as it is open, then an ending."""

    def run() -> None:
        while driver.stream is None or not driver.stream.active:
            time.sleep(0.01)
        for start in range(0, len(samples), 640):
            driver.hear(samples[start : start + 640])
        if then == "unplugged":
            driver.stream.active = False
        else:
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_ctrl_c_finishes_the_last_words(driver, streaming_pte, capsys, tmp_path):
    thread = speak(driver, SPEECH, "ctrl-c")
    kept = tmp_path / "heard.wav"
    arguments = ["transcribe", "--model", str(streaming_pte), "--record", str(kept)]
    assert cli.main(arguments) == 0
    thread.join()
    assert capsys.readouterr() == (TEXT, "")
    samples, rate = soundfile.read(kept, dtype="float32")
    assert rate == 16_000
    np.testing.assert_allclose(samples[: len(SPEECH)], SPEECH, atol=1e-4)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_microphone_that_goes_away_leaves_what_was_heard(driver, streaming_pte, capsys):
    thread = speak(driver, SPEECH, "unplugged")
    assert cli.main(["transcribe", "--model", str(streaming_pte)]) == 2
    thread.join()
    out, err = capsys.readouterr()
    assert out == TEXT
    assert err.count("\n") == 1
    assert "has gone away" in err


def test_rules_hold_for_a_microphone_and_nothing_said_is_no_line(driver, streaming_pte, capsys):
    thread = speak(driver, SPEECH, "unplugged")
    model = ["--model", str(streaming_pte)]
    assert cli.main(["transcribe", *model, "--no-speech", "0.3"]) == 2
    thread.join()
    assert capsys.readouterr().out == TEXT
    driver.stream = None
    thread = speak(driver, SPEECH, "unplugged")
    assert cli.main(["transcribe", *model, "--endpoint-silence", "30"]) == 2
    thread.join()
    assert capsys.readouterr().out == "ABC DEF GHAB CA\n"


def test_python_gets_the_last_words_before_the_error(driver, streaming_pte):
    thread = speak(driver, SPEECH, "unplugged")
    heard: list[str] = []
    segments = rdsdk.transcribe(rdsdk.Microphone(), model=streaming_pte)
    with pytest.raises(rdsdk.DeviceError, match="gone away"):
        heard.extend(segment.text for segment in segments)
    thread.join()
    assert heard == TEXT.splitlines()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "Nobody"], "inputs here: 1: Fake"),
        (["--record", "/nowhere/a.wav"], "cannot record to /nowhere/a.wav"),
        (["--record", "talk.xyz"], "cannot record to talk.xyz"),
    ],
)
def test_what_cannot_be_done_is_one_line(driver, streaming_pte, capsys, options, message):
    assert cli.main(["transcribe", "--model", str(streaming_pte), *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_file_and_a_device_do_not_go_together(streaming_pte, capsys):
    arguments = ["transcribe", "a.wav", "--device", "1", "--model", str(streaming_pte)]
    assert cli.main(arguments) == 2
    assert "--device is for a microphone" in capsys.readouterr().err


def test_the_doctor_hears_and_says_what_is_wrong(driver, capsys):
    def doctor(samples: np.ndarray) -> tuple[int, str]:
        driver.stream = None
        thread = speak(driver, samples, "unplugged")
        code = cli.main(["doctor"])
        thread.join()
        out, err = capsys.readouterr()
        return code, out + err

    time_axis = np.arange(2 * SAMPLE_RATE)
    code, said = doctor(0.3 * np.sin(time_axis))
    assert code == 0
    assert "1  Fake  (Nothing, 2 channels, 16000 Hz)" in said
    assert "-13 dB of full scale" in said
    assert "the microphone is heard" in said
    for samples, message in (
        (np.zeros(len(time_axis)), "nothing but zeros"),
        (1e-4 * np.sin(time_axis), "hardly anything is heard"),
        (1.2 * np.sin(time_axis), "clipped"),
        (0.3 * np.sin(time_axis[:800]), "has gone away"),
    ):
        code, said = doctor(samples)
        assert code == 2
        assert message in said


def test_the_doctor_without_portaudio_says_how_to_mend_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert cli.main(["doctor"]) == 2
    assert "rdsdk[mic]" in capsys.readouterr().err


def test_the_meter_fills_with_the_level():
    assert meter(-90.0) == "░" * 16
    assert meter(-30.0) == "█" * 8 + "░" * 8
    assert meter(0.0) == "█" * 16


def test_the_speed_is_that_of_the_last_ten_seconds():
    speed = Speed()
    assert speed.real_time_factor == 0.0
    for _ in range(20):
        speed.add(1.0, 0.5)
    for _ in range(10):
        speed.add(1.0, 0.1)
    assert speed.real_time_factor == pytest.approx(0.1)


def test_words_played_into_a_real_microphone_come_out_of_a_terminal(streaming_pte, tmp_path):
    wav = tmp_path / "speech.wav"
    lead = np.zeros(SAMPLE_RATE)  # the sink starts its clock with the first sound
    soundfile.write(wav, np.concatenate([lead, SPEECH, lead]), SAMPLE_RATE)
    with pulse_server(48_000) as pulse:
        main, terminal = pty.openpty()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "rdsdk.cli", "transcribe", "--device", "pulse"),
                *("--model", str(streaming_pte)),
            ],
            env={**pulse.environment, "TERM": "xterm", "COLUMNS": "120"},
            stdout=terminal,
            stderr=subprocess.PIPE,
        )
        os.close(terminal)
        screen = read_until(main, "Ctrl-C ends", 60)
        pulse.play(wav)
        screen += read_until(main, "F GH\r", 30)
        time.sleep(2.5)
        process.send_signal(signal.SIGINT)
        screen += read_until(main, None, 30)
        process.wait(30)
    assert process.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    assert "\x1b[2m" in screen  # a partial is dim
    assert "behind" in plain
    for line in TEXT.splitlines():
        assert line in plain


def read_until(file: int, text: str | None, seconds: float) -> str:
    """What a terminal shows until ``text`` is among it, or until it is closed."""
    shown, deadline = "", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not select.select([file], [], [], 0.1)[0]:
            continue
        try:
            chunk = os.read(file, 4096)
        except OSError:  # closed
            return shown
        if not chunk:
            return shown
        shown += chunk.decode(errors="replace")
        if text is not None and text in shown:
            return shown
    assert text is None, f"{text!r} is not in {shown!r}"
    return shown
