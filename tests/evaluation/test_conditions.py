"""Conditions do to a recording what they say, each time the same; all else is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from rdsdk.data.acoustics import active_level_db
from rdsdk.errors import ConfigError, DataError
from rdsdk.evaluation.conditions import STANDARD, condition, conditions

SPEECH = Path(__file__).parents[1] / "assets" / "speech" / "ls-669-129074-0025.flac"
NOISE = Path(__file__).parents[1] / "assets" / "noise"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    samples, _ = soundfile.read(SPEECH, dtype="float32")
    return samples


def level_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.square(waveform, dtype=np.float64).mean()))


@pytest.mark.parametrize("kind", ["noise", "hiss"])
@pytest.mark.parametrize("snr_db", [20, 5])
def test_noise_lies_as_far_below_the_speech_as_it_says(
    speech: np.ndarray, kind: str, snr_db: int
) -> None:
    heard = condition(f"{kind}:{snr_db}", NOISE).heard(0.3 * speech, "a")
    added = heard - 0.3 * speech
    assert active_level_db(0.3 * speech) - level_db(added) == pytest.approx(snr_db, abs=0.3)


def test_a_condition_is_the_same_for_an_utterance_and_another_for_others(
    speech: np.ndarray,
) -> None:
    rainy = condition("noise:10", NOISE)
    np.testing.assert_array_equal(rainy.heard(speech, "a"), rainy.heard(speech, "a"))
    assert np.abs(rainy.heard(speech, "a") - rainy.heard(speech, "b")).max() > 1e-3
    assert np.abs(rainy.heard(speech, "a") - rainy.heard(speech, "a", seed=1)).max() > 1e-3


def band_share(waveform: np.ndarray, above_hz: float) -> float:
    power = np.abs(np.fft.rfft(waveform)) ** 2
    hertz = np.fft.rfftfreq(len(waveform), 1 / 16_000)
    return float(power[hertz > above_hz].sum() / power.sum())


def test_lines_speeds_and_rooms_do_what_they_are_called(speech: np.ndarray) -> None:
    assert band_share(speech, 4200) > 1e-3
    for line in ("narrow", "telephone"):
        heard = condition(line).heard(speech, "a")
        assert heard.shape == speech.shape
        assert band_share(heard, 4200) < 1e-3
    for name, factor in (("speed:1.1", 1.1), ("tempo:0.8", 0.8)):
        assert len(condition(name).heard(speech, "a")) == pytest.approx(
            len(speech) / factor, rel=0.01
        )
    quieter = condition("gain:-20").heard(speech, "a")
    assert level_db(speech) - level_db(quieter) == pytest.approx(20, abs=0.01)
    # A room goes on sounding after a click, and longer the larger it is.
    click = np.zeros(16_000, np.float32)
    click[100] = 0.9
    tails = [np.abs(condition(f"reverb:{s}").heard(click, "a")[4100:]).sum() for s in (0.2, 0.9)]
    assert tails[0] < 1e-4
    assert tails[1] > 0.1
    assert np.array_equal(condition("clean").heard(speech, "a"), speech)


def test_every_standard_condition_keeps_samples_in_range(speech: np.ndarray) -> None:
    loud = np.clip(4 * speech, -1, 1)
    for each in conditions(STANDARD, NOISE):
        heard = each.heard(loud, "a")
        assert heard.dtype == np.float32, each.name
        assert np.abs(heard).max() <= 1, each.name
        assert not np.array_equal(heard, loud), each.name
        assert len(each.heard(loud[:0], "a")) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("echo", "unknown condition 'echo'; known: clean"),
        ("narrow:3", "unknown condition"),
        ("reverb", "needs reverb:N"),
        ("speed:fast", "needs speed:N"),
        ("speed:3", "from 0.5 to 2"),
        ("noise:nan", "from -20 to 60"),
        ("noise:10", "--noise FOLDER"),
    ],
)
def test_what_is_no_condition_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        condition(name)


def test_a_folder_without_noise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no noise folder"):
        condition("noise:10", tmp_path / "absent")
    with pytest.raises(DataError, match="no recordings matching"):
        condition("noise:10", tmp_path)
