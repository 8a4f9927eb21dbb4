"""The captions demo on a driver that hears what the test says."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from tiny_program import tones

sys.path.insert(0, str(Path(__file__).parents[1] / "audio"))
from fake_driver import FakeDriver

import rdsdk
from demo_app import terminal

SPEECH = tones("ABC DE" + 20 * "_" + "F GH")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    made = FakeDriver(rate=16_000.0)
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    return made


def test_finished_segments_scroll_by_and_ctrl_c_keeps_the_last(driver, streaming_pte, capsys):
    def speak() -> None:
        while driver.stream is None or not driver.stream.active:
            time.sleep(0.01)
        for start in range(0, len(SPEECH), 640):
            driver.hear(SPEECH[start : start + 640])
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=speak).start()
    assert terminal.main(["--model", str(streaming_pte)]) == 0
    out = capsys.readouterr().out
    assert "0.00 s  ABC DE" in out
    assert "F GH" in out


def test_a_microphone_that_cannot_be_opened_is_code_2(driver, streaming_pte, capsys):
    assert terminal.main(["--model", str(streaming_pte), "--device", "Nobody"]) == 2
    assert "inputs here: 1: Fake" in capsys.readouterr().err.replace("\n", " ")


def test_what_may_change_is_dim():
    segment = rdsdk.Segment("ONE TWO", (), 0.0, 1.0, False, stable="ONE")
    text = terminal.spoken(segment)
    assert text.plain == "ONE TWO"
    (dim,) = [span for span in text.spans if span.style == "dim"]
    assert text.plain[dim.start : dim.end] == " TWO"
