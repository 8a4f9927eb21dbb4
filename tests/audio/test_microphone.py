"""The microphone: a fake driver for what real ones seldom do, a real sound system for the rest."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent))
from fake_driver import OVERFLOW, UNDERFLOW, FakeDriver
from pulse import Pulse, pulse_server

from rdsdk.audio.microphone import Microphone, SilentMicrophoneWarning, input_devices
from rdsdk.errors import ConfigError, DeviceError

SPEECH = Path(__file__).parents[1] / "assets" / "speech" / "kathleen-arctic_a0012.flac"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    made = FakeDriver()
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    return made


def tone(seconds: float, rate: float = 48_000.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)


def in_blocks(samples: np.ndarray, size: int = 1_920) -> Iterator[np.ndarray]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def test_nothing_is_opened_before_it_is_heard(driver: FakeDriver) -> None:
    microphone = Microphone()
    assert driver.stream is None
    with microphone:
        assert driver.stream.active
        assert (microphone.name, microphone.sample_rate) == ("Fake", 48_000)
        assert driver.stream.settings["channels"] == 2
    assert driver.stream.closed


def test_sound_comes_out_at_16_kilohertz_mono_and_whole(driver: FakeDriver) -> None:
    microphone = Microphone()
    microphone.open()
    for block in in_blocks(tone(1.0)):
        driver.hear(block)
    microphone.stop()
    heard = np.concatenate(list(microphone))
    assert heard.dtype == np.float32
    assert len(heard) == pytest.approx(16_000, abs=2)
    expected = tone(1.0, 16_000)
    np.testing.assert_allclose(heard[500:15_500], expected[500:15_500], atol=2e-3)
    assert driver.stream.closed
    assert microphone.level_dbfs == pytest.approx(20 * np.log10(0.3 / 2**0.5), abs=0.5)


def test_a_slow_listener_loses_the_newest_and_keeps_its_times(driver: FakeDriver) -> None:
    microphone = Microphone(block_seconds=0.04, queue_seconds=0.4)
    microphone.open()
    blocks = list(in_blocks(tone(1.0)))
    for block in blocks[:20]:
        driver.hear(block)  # ten fit, ten do not
    taken = iter(microphone)
    first = [next(taken) for _ in range(10)]
    for block in blocks[20:]:
        driver.hear(block)
    microphone.stop()
    heard = np.concatenate([*first, *taken])
    assert microphone.dropped_seconds == pytest.approx(0.4)
    assert len(heard) == pytest.approx(16_000, abs=2)
    assert np.abs(heard[6_600:12_600]).max() < 1e-6
    expected = tone(1.0, 16_000)
    np.testing.assert_allclose(heard[13_300:15_500], expected[13_300:15_500], atol=2e-3)


def test_what_the_driver_lost_or_made_up_is_counted(driver: FakeDriver) -> None:
    with Microphone() as microphone:
        driver.hear(tone(0.04), OVERFLOW)
        driver.hear(tone(0.04), UNDERFLOW)
        driver.hear(tone(0.04), UNDERFLOW)
        driver.hear(tone(0.04))
        microphone.stop()
        list(microphone)
    assert (microphone.overflows, microphone.underflows) == (1, 2)


def test_a_device_that_goes_away_gives_what_it_had_and_then_the_error(driver: FakeDriver) -> None:
    microphone = Microphone()
    microphone.open()
    driver.hear(tone(0.5))
    driver.stream.active = False
    heard: list[np.ndarray] = []
    with pytest.raises(DeviceError, match="has gone away"):
        heard.extend(microphone)
    assert len(np.concatenate(heard)) == pytest.approx(8_000, abs=2)
    assert driver.stream.closed


def test_a_device_that_gives_nothing_is_an_error_with_a_hint(driver: FakeDriver) -> None:
    begun = time.monotonic()
    with pytest.raises(DeviceError, match=r"has given nothing for .*rdsdk doctor"):
        list(Microphone(watchdog_seconds=0.3))
    assert time.monotonic() - begun >= 0.3


def test_zeros_alone_are_warned_of_once(driver: FakeDriver) -> None:
    with Microphone() as microphone:
        for _ in range(200):
            driver.hear(np.zeros(1_920))
        microphone.stop()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(microphone)
    assert [w.category for w in caught] == [SilentMicrophoneWarning]
    assert microphone.level_dbfs == -np.inf


def test_stopping_from_another_thread_ends_the_iteration(driver: FakeDriver) -> None:
    microphone = Microphone(watchdog_seconds=30)
    microphone.open()
    threading.Timer(0.2, microphone.stop).start()
    driver.hear(tone(0.04))
    assert len(np.concatenate(list(microphone))) == pytest.approx(640, abs=2)


def test_who_said_stop_is_not_listened_to_any_more(driver: FakeDriver) -> None:
    microphone = Microphone()
    taken = iter(microphone)
    microphone.open()
    driver.hear(tone(0.04))
    next(taken)
    microphone.stop()
    for _ in range(100):
        driver.hear(
            tone(0.04)
        )  # the driver goes on, and a slow listener would never come to an end
    assert len(np.concatenate(list(taken))) < 640
    # Before it begins, too; the next time is another one.
    microphone.stop()
    assert not np.concatenate(list(microphone)).size
    microphone.open()
    driver.hear(tone(0.04))
    threading.Timer(0.2, microphone.stop).start()
    assert len(np.concatenate(list(microphone))) == pytest.approx(640, abs=2)


def test_what_was_missed_before_does_not_come_the_next_time(driver: FakeDriver) -> None:
    microphone = Microphone(block_seconds=0.04, queue_seconds=0.08)
    microphone.open()
    for _ in range(100):
        driver.hear(tone(0.04))
    microphone.close()
    microphone.open()
    driver.hear(tone(0.04))
    microphone.stop()
    assert len(np.concatenate(list(microphone))) == pytest.approx(640, abs=2)


def test_a_device_that_cannot_be_opened_says_which_there_are(driver: FakeDriver) -> None:
    with pytest.raises(DeviceError, match=r"'Nobody' cannot be opened.*inputs here: 1: Fake"):
        Microphone("Nobody").open()
    driver.refuses = True
    with pytest.raises(DeviceError, match="Device unavailable"):
        Microphone().open()


def test_devices_without_an_input_are_not_listed(driver: FakeDriver) -> None:
    (only,) = input_devices()
    assert (only.index, only.name, only.host, only.channels) == (1, "Fake", "Nothing", 2)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(DeviceError, match=r"rdsdk\[mic\]"):
        Microphone().open()

    class NoPortAudio:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.setattr(sys, "meta_path", [NoPortAudio(), *sys.meta_path])
    with pytest.raises(DeviceError, match="libportaudio2"):
        input_devices()


@pytest.mark.parametrize(
    "times", [{"block_seconds": 0}, {"queue_seconds": 0.01}, {"watchdog_seconds": 0}]
)
def test_impossible_times_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="watchdog_seconds"):
        Microphone(**times)


Listen = Callable[..., tuple[np.ndarray, dict[str, Any]]]


@pytest.fixture
def listen(tmp_path: Path) -> Listen:
    """Listen in another process while something happens; what was heard, and how it ended."""

    def listened(
        pulse: Pulse, seconds: float, meanwhile: Callable[[], Any], *stall: float
    ) -> tuple[np.ndarray, dict[str, Any]]:
        script = str(Path(__file__).parent / "listen.py")
        out = str(tmp_path / "heard.npy")
        process = subprocess.Popen(
            [sys.executable, script, out, str(seconds), *map(str, stall)],
            env=pulse.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "listening"
        meanwhile()
        output, _ = process.communicate(timeout=60)
        return np.load(out), json.loads(output.splitlines()[-1])

    return listened


def best_match(heard: np.ndarray, played: np.ndarray) -> tuple[float, int]:
    """The largest normalised correlation of ``played`` with any stretch of ``heard``; its place."""
    size = 1 << (len(heard) + len(played)).bit_length()
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(played, size))
    products = np.fft.irfft(spectrum, size)[: max(1, len(heard) - len(played))]
    energy = np.concatenate([[0.0], np.cumsum(np.square(heard, dtype=np.float64))])
    stretch = energy[len(played) :][: len(products)] - energy[: len(products)]
    score = products / np.sqrt(stretch * np.square(played).sum() + 1e-9)
    return float(score.max()), int(score.argmax())


def spoken() -> np.ndarray:
    """What is played, less its beginning: the sink starts its clock with the first sound."""
    return soundfile.read(SPEECH, dtype="float32")[0][8_000:]


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_a_real_sound_system_is_heard_at_its_rate(rate: int, listen: Listen) -> None:
    played = spoken()
    with pulse_server(rate) as pulse:
        heard, end = listen(pulse, len(played) / 16_000 + 2, lambda: pulse.play(SPEECH))
    assert end["error"] is None
    score, _ = best_match(heard, played)
    assert score > 0.95
    # Negative control: the same speech backwards does not match.
    assert best_match(heard, played[::-1].copy())[0] < 0.5


def test_a_stalled_listener_of_a_real_device_loses_a_counted_stretch(listen: Listen) -> None:
    def play_twice(pulse: Pulse) -> None:
        pulse.play(SPEECH)
        time.sleep(5.0)
        pulse.play(SPEECH)

    with pulse_server(48_000) as pulse:
        # It stalls in the first sentence for longer than its queue holds, and hears the second.
        heard, end = listen(pulse, 9.0, lambda: play_twice(pulse), 0.5, 2.5)
    assert end["error"] is None
    assert 0.5 < end["dropped_seconds"] < 2.5
    # The first sentence has a hole, so it is the second that is found whole.
    assert best_match(heard, spoken())[0] > 0.95
    silent = np.flatnonzero(np.diff(np.abs(heard) > 1e-6, prepend=True, append=True))
    assert np.diff(silent).max() / 16_000 >= end["dropped_seconds"] - 0.05


def test_a_microphone_that_is_unplugged_is_an_error_after_what_was_heard(listen: Listen) -> None:
    def play_and_unplug(pulse: Pulse) -> None:
        pulse.play(SPEECH)
        time.sleep(3.0)
        pulse.unplug()

    with pulse_server(48_000) as pulse:
        heard, end = listen(pulse, 60.0, lambda: play_and_unplug(pulse))
    assert "pulse" in end["error"]
    assert len(heard) > 0.5 * 16_000
    assert np.abs(heard).max() > 0.05
