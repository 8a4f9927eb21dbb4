"""Each augmentation does what it says, by the number, and nothing at random that is not seeded."""

import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from rdsdk.data.augment import (
    Augmentation,
    augment,
    change_gain,
    change_speed,
    mix_noise,
)
from rdsdk.errors import ConfigError

SPEECH = Path(__file__).parents[1] / "assets" / "speech"
RATE = 16_000


def augmented(*arguments: Any, **settings: Any) -> np.ndarray:
    """The waveform alone."""
    return augment(*arguments, **settings)[0]


def tone(hertz: float, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
    times = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def speech() -> np.ndarray:
    first = json.loads((SPEECH / "manifest.jsonl").read_text().splitlines()[0])
    samples, rate = soundfile.read(SPEECH / first["audio"], dtype="float32")
    assert rate == RATE
    return samples


def power(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def loudest_hertz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * RATE / len(samples)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_speed_changes_length_and_pitch_by_the_factor(factor: float) -> None:
    faster = change_speed(tone(1_000), factor)
    assert len(faster) == pytest.approx(RATE / factor, abs=2)
    assert faster.dtype == np.float32
    assert loudest_hertz(faster) == pytest.approx(1_000 * factor, abs=2)
    assert power(faster) == pytest.approx(power(tone(1_000)), rel=0.01)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_is_mixed_at_the_stated_ratio(snr_db: float) -> None:
    voice, noise = speech(), np.random.default_rng(0).normal(0, 3, len(speech()))
    mixed = mix_noise(voice, noise.astype(np.float32), snr_db)
    ratio = 10 * np.log10(power(voice) / power(mixed - voice))
    assert ratio == pytest.approx(snr_db, abs=0.05)
    assert mixed.dtype == np.float32


def test_padding_does_not_dilute_the_speech_of_the_ratio() -> None:
    voice = speech()
    padded = np.pad(voice, (RATE, RATE))
    noise = np.random.default_rng(0).normal(0, 1, len(padded)).astype(np.float32)
    added = power(mix_noise(padded, noise, 10.0) - padded)
    assert 10 * np.log10(power(voice) / added) == pytest.approx(10, abs=0.1)


def test_a_microphone_does_not_make_speech_of_the_padding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "noise.flac", rng.normal(0, 0.1, RATE * 9), RATE)
    settings: dict[str, Any] = {"silence_seconds": 3.0, "silence_probability": 1.0}
    settings |= {"microphone_probability": 1.0, "room_probability": 1.0}
    quiet = Augmentation(**settings)
    noisy = Augmentation(
        **settings, noise=str(tmp_path), noise_probability=1.0, snr_db=(10.0, 10.0)
    )
    voice = 0.2 * speech()
    clean = augmented(voice, quiet, np.random.default_rng(3))
    added = augmented(voice, noisy, np.random.default_rng(3)) - clean
    assert len(clean) > 1.2 * len(voice)
    spoken = np.sum(np.square(clean, dtype=np.float64)) / len(voice)
    assert 10 * np.log10(spoken / power(added)) == pytest.approx(10, abs=0.2)


def test_noise_of_silence_or_on_silence_changes_nothing() -> None:
    silence = np.zeros(100, np.float32)
    np.testing.assert_array_equal(mix_noise(tone(440)[:100], silence, 0.0), tone(440)[:100])
    np.testing.assert_array_equal(mix_noise(silence, tone(440)[:100], 0.0), silence)


def test_a_narrow_band_keeps_what_is_below_four_kilohertz_and_only_that() -> None:
    narrow = Augmentation(narrow_band_probability=1.0)
    for hertz, kept in ((500, 1.0), (3_000, 1.0), (4_500, 0.0), (7_000, 0.0)):
        after = augmented(tone(hertz), narrow, np.random.default_rng(0))
        assert power(after) / power(tone(hertz)) == pytest.approx(kept, abs=0.01)


def test_gain_is_in_decibels_and_clips_at_full_scale() -> None:
    np.testing.assert_allclose(change_gain(tone(440), -20.0), tone(440) / 10, atol=1e-7)
    loud = change_gain(tone(440, amplitude=0.9), 20.0)
    assert (loud.max(), loud.min()) == (1.0, -1.0)


def test_the_default_changes_nothing() -> None:
    voice = speech()
    np.testing.assert_array_equal(augmented(voice, Augmentation(), np.random.default_rng(0)), voice)


def test_everything_together_is_seeded_bounded_and_different(noise_folder: Path) -> None:
    everything = Augmentation(
        speed_probability=1.0,
        silence_probability=1.0,
        microphone_probability=1.0,
        room_probability=1.0,
        noise=str(noise_folder),
        noise_probability=1.0,
        snr_db=(0.0, 5.0),
        narrow_band_probability=0.5,
        codec_probability=1.0,
        frequency_mask_probability=1.0,
        gain_db=(10.0, 20.0),
        gain_probability=1.0,
    )
    voice = speech()
    before = voice.copy()
    once, again, other = (
        augmented(voice, everything, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(voice, before)  # the input is not written to
    assert len(once) != len(other)
    for result in (once, other):
        assert result.dtype == np.float32
        assert np.abs(result).max() == 1.0
        assert len(voice) / 1.1 < len(result) < len(voice) / 0.9 + 2 * 0.5 * RATE + 2


def test_each_part_happens_as_often_as_its_probability() -> None:
    rng = np.random.default_rng(0)
    voice = tone(440, 0.1, amplitude=0.1)
    sometimes = Augmentation(speed_probability=0.25, gain_probability=0.75, gain_db=(-6.0, -3.0))
    results = [augmented(voice, sometimes, rng) for _ in range(2_000)]
    # A factor within half a sample of 1 leaves the length alone: about one draw in a hundred.
    assert np.mean([len(result) != len(voice) for result in results]) == pytest.approx(
        0.25, abs=0.03
    )
    assert np.mean([result.max() < 0.09 for result in results]) == pytest.approx(0.75, abs=0.03)


def test_silence_goes_to_both_ends_and_keeps_the_speech() -> None:
    voice = np.ones(1_000, np.float32)
    padded = augmented(voice, Augmentation(silence_probability=1.0), np.random.default_rng(3))
    spoken = np.flatnonzero(padded)
    before, after = spoken[0], len(padded) - 1 - spoken[-1]
    assert (len(spoken), spoken[-1] - spoken[0]) == (1_000, 999)
    assert 0 < before < 0.5 * RATE
    assert 0 < after < 0.5 * RATE
    assert before != after


@pytest.mark.parametrize("seed", range(6))
def test_a_click_is_heard_where_the_timing_says(seed: int) -> None:
    clicks = np.zeros(RATE, np.float32)
    clicks[[3_000, 12_000]] = 0.5
    moved = Augmentation(
        speed=(0.7, 1.4), speed_probability=0.7, silence_probability=0.7, gain_probability=0.5
    )
    waveform, timing = augment(clicks, moved, np.random.default_rng(seed))
    for sample in (3_000, 12_000):
        expected = (sample / RATE / timing.speed + timing.start) * RATE
        near = np.abs(waveform[round(expected) - 400 : round(expected) + 400])
        assert near.argmax() - 400 + round(expected) == pytest.approx(expected, abs=2)


def test_one_setting_does_not_shift_the_draws_of_another() -> None:
    voice = tone(440)
    gain = {"gain_probability": 1.0, "gain_db": (-20.0, -1.0)}
    alone = augmented(voice, Augmentation(**gain), np.random.default_rng(5))
    quiet = augmented(
        voice, Augmentation(narrow_band_probability=1.0, **gain), np.random.default_rng(5)
    )
    assert np.abs(quiet).max() == pytest.approx(np.abs(alone).max(), rel=0.02)


def test_the_speed_up_stops_at_the_samples_a_transcript_needs() -> None:
    fast = Augmentation(speed=(2.0, 2.0), speed_probability=1.0)
    free = augmented(tone(440), fast, np.random.default_rng(0))
    held = augmented(tone(440), fast, np.random.default_rng(0), minimum_samples=12_000)
    assert len(free) == pytest.approx(8_000, abs=2)
    assert len(held) == pytest.approx(12_000, abs=2)


@pytest.mark.parametrize(
    "settings",
    [
        {"speed_probability": 1.5},
        {"gain_probability": -0.1},
        {"speed": (1.1, 0.9)},
        {"speed": (0.1, 1.0)},
        {"snr_db": (10.0, 0.0)},
        {"silence_seconds": -1.0},
        {"frequency_mask_share": 0.0},
        {"frequency_mask_share": 1.0},
        {"frequency_mask_probability": 2.0},
        {"noise_probability": 0.5},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Augmentation(**settings)


def test_a_room_rings_after_a_click_as_long_as_it_was_asked_to_and_nowhere_before() -> None:
    click = np.zeros(RATE, np.float32)
    click[4_000] = 0.5
    for seconds in (0.1, 0.5):
        room = Augmentation(room_probability=1.0, room_seconds=(seconds, seconds))
        heard = augmented(click, room, np.random.default_rng(1))
        assert heard.shape == click.shape
        assert np.abs(heard[:3_990]).max() < 1e-6
        assert heard[4_000] == pytest.approx(0.5, abs=0.01)
        end = 4_000 + round(seconds * RATE)
        assert np.abs(heard[end - RATE // 50 : end]).max() > 1e-7
        assert np.abs(heard[end + 10 :]).max() < 1e-6
        reverberant = np.sum(np.square(heard[4_001:])) / 0.25
        assert 10**-2.2 < reverberant < 10**-0.8


def test_a_microphone_favours_some_tones_and_another_others() -> None:
    def gains_db(seed: int) -> list[float]:
        microphone = Augmentation(microphone_probability=1.0)
        heard = [
            augmented(tone(hertz, 1.0, 0.05), microphone, np.random.default_rng(seed))
            for hertz in (300, 1_000, 4_000)
        ]
        return [float(20 * np.log10(np.abs(each[4_000:12_000]).max() / 0.05)) for each in heard]

    one, other = gains_db(0), gains_db(1)
    assert max(one) - min(one) > 1
    assert np.abs(np.subtract(one, other)).max() > 1
    assert np.abs([one, other]).max() < 20


def test_a_codec_is_opus_or_a_telephone_line_and_keeps_the_voice() -> None:
    voice, coded = speech(), Augmentation(codec_probability=1.0)
    lines, changed = 0, []
    for seed in range(24):
        heard = augmented(voice, coded, np.random.default_rng(seed))
        assert heard.shape == voice.shape
        spectrum = np.square(np.abs(np.fft.rfft(heard)))
        bass = spectrum[: round(150 * len(voice) / RATE)].sum() / spectrum.sum()
        low = np.square(np.abs(np.fft.rfft(voice)))
        lines += bass < 0.1 * low[: round(150 * len(voice) / RATE)].sum() / low.sum()
        changed.append(float(np.abs(heard - voice).max()))
    assert 1 <= lines <= 12  # about a quarter
    assert min(changed) > 0


def test_all_of_it_takes_less_than_a_hundredth_of_real_time(noise_folder: Path) -> None:
    everything = Augmentation(
        speed_probability=1.0,
        silence_probability=1.0,
        microphone_probability=1.0,
        room_probability=1.0,
        noise=str(noise_folder),
        noise_probability=1.0,
        narrow_band_probability=1.0,
        gain_probability=1.0,
    )
    voice, rng = np.tile(speech(), 2), np.random.default_rng(0)
    augmented(voice, everything, rng)
    begin = time.process_time()
    for _ in range(20):
        augmented(voice, everything, rng)
    used = time.process_time() - begin
    assert used < 20 * len(voice) / RATE / 100


def test_augmenting_warns_of_nothing_on_short_and_silent_input() -> None:
    everything = Augmentation(
        speed_probability=1.0,
        microphone_probability=1.0,
        room_probability=1.0,
        narrow_band_probability=1.0,
        codec_probability=1.0,
        gain_probability=1.0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length in (0, 1, 10, 400):
            result = augmented(np.zeros(length, np.float32), everything, np.random.default_rng(0))
            assert np.abs(result).max(initial=0.0) < 1e-30
