"""What the channel and voice treatments do to a waveform, measured on tones and noise."""

import numpy as np
import pytest

from rdsdk.data.acoustics import (
    SAMPLE_RATE,
    active_level_db,
    add_noise,
    band_limit,
    change_tempo,
    colour,
    fade,
    hertz_of_mel,
    hiss,
    mel,
    opus,
    resample_voice,
    reverberate,
    set_level,
    telephone,
    treat,
    trim,
    without_bands,
)


def tone(hertz: float, seconds: float = 1.0, level: float = 0.3) -> np.ndarray:
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def pitch(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 1 << 17))
    return float(np.argmax(spectrum) * SAMPLE_RATE / (1 << 17))


def energy_above(waveform: np.ndarray, hertz: float) -> float:
    power = np.abs(np.fft.rfft(waveform)) ** 2
    first = int(hertz * len(waveform) / SAMPLE_RATE)
    return float(power[first:].sum() / power.sum())


def white(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=round(seconds * SAMPLE_RATE))
    return (0.1 * noise).astype(np.float32)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_resampling_a_voice_moves_pitch_and_length(factor: float) -> None:
    changed = resample_voice(tone(400), factor)
    assert pitch(changed) == pytest.approx(400 * factor, rel=0.01)
    assert len(changed) == pytest.approx(SAMPLE_RATE / factor, rel=0.01)


@pytest.mark.parametrize("factor", [0.75, 1.35])
def test_a_change_of_tempo_keeps_the_pitch_and_the_level(factor: float) -> None:
    changed = change_tempo(tone(400), factor)
    assert pitch(changed) == pytest.approx(400, rel=0.01)
    assert len(changed) == pytest.approx(SAMPLE_RATE / factor, rel=0.01)
    assert active_level_db(changed) == pytest.approx(active_level_db(tone(400)), abs=0.7)


def test_a_tempo_change_keeps_events_in_order() -> None:
    two = np.concatenate([tone(300, 0.5), tone(900, 0.5)])
    changed = change_tempo(two, 1.3)
    assert pitch(changed[: len(changed) // 3]) == pytest.approx(300, rel=0.03)
    assert pitch(changed[-len(changed) // 3 :]) == pytest.approx(900, rel=0.03)


@pytest.mark.parametrize("rate", [6400, 8000, 9999.5])
def test_band_limiting_leaves_nothing_above_half_the_rate(rate: float) -> None:
    limited = band_limit(white(), rate)
    assert len(limited) == SAMPLE_RATE
    assert energy_above(limited, rate / 2 + 150) < 1e-4
    assert energy_above(white(), rate / 2 + 150) > 0.3


def test_band_limiting_keeps_the_rest_and_odd_and_tiny_lengths() -> None:
    middle = slice(1_000, -1_000)
    limited = band_limit(tone(500) + tone(6_000))
    np.testing.assert_allclose(limited[middle], tone(500)[middle], atol=0.01)
    for length in (0, 1, 399, 8_001):
        assert band_limit(tone(500)[:length]).shape == (length,)


def test_a_telephone_line_passes_the_voice_band_only() -> None:
    line = telephone(white())
    assert energy_above(line, 4200) < 0.01
    assert 1 - energy_above(line, 200) < 0.01
    assert pitch(telephone(tone(1000))) == pytest.approx(1000, rel=0.01)


def test_the_level_is_set_without_counting_pauses() -> None:
    word = np.concatenate([np.zeros(SAMPLE_RATE, np.float32), tone(500, 0.3)])
    assert active_level_db(set_level(word, -30)) == pytest.approx(-30, abs=0.3)
    assert active_level_db(set_level(tone(500, 0.3), -30)) == pytest.approx(-30, abs=0.3)


def test_a_peak_is_never_clipped_to_reach_a_level() -> None:
    click = np.zeros(1600, np.float32)
    click[800] = 0.5
    assert np.abs(set_level(click, 0)).max() == pytest.approx(0.98, abs=0.001)


def test_trimming_keeps_the_word_and_drops_the_quiet() -> None:
    word = tone(500, 0.4)
    padded = np.concatenate([white(0.5) * 1e-4, word, np.zeros(8000, np.float32)])
    assert len(trim(padded)) == pytest.approx(len(word), abs=160)


def test_a_fade_starts_and_ends_at_nothing_and_leaves_its_input_alone() -> None:
    whole = np.ones(1000, np.float32)
    faded = fade(whole)
    assert faded[0] == faded[-1] == 0
    assert faded[500] == 1
    assert whole.min() == 1


def test_noise_is_added_at_the_ratio_asked_for() -> None:
    speech, noise = tone(500), white(0.3)
    added = add_noise(speech, noise, 12) - speech
    ratio = active_level_db(speech) - 10 * np.log10((added.astype(float) ** 2).mean())
    assert ratio == pytest.approx(12, abs=0.3)


def test_a_room_adds_a_tail_and_keeps_the_direct_sound() -> None:
    clap = np.zeros(SAMPLE_RATE, np.float32)
    clap[1000] = 1
    wet = reverberate(clap, np.random.default_rng(0), 0.3)
    assert wet[1000] == pytest.approx(1, abs=0.02)
    tail = (wet[1200:5800].astype(float) ** 2).sum()
    assert 0.001 < tail < 0.2
    assert (wet[6200:].astype(float) ** 2).sum() < 1e-6


def test_the_opus_codec_keeps_length_level_and_pitch() -> None:
    coded = opus(tone(400) * 0.01)
    assert len(coded) == SAMPLE_RATE
    assert pitch(coded) == pytest.approx(400, rel=0.01)
    assert active_level_db(coded) == pytest.approx(active_level_db(tone(400) * 0.01), abs=1)


def test_colour_follows_its_curve() -> None:
    dark = colour(white(), [0, 0, 0, 0, 0, -40, -40], 20)
    assert energy_above(dark, 5000) < 0.01
    assert len(dark) == SAMPLE_RATE


def test_a_tone_in_a_band_left_out_is_gone_and_one_beside_it_is_not() -> None:
    voice = tone(400) + tone(2000)
    without = without_bands(voice, [(1500, 2500), (6000, 7000)])
    assert len(without) == len(voice)
    middle = slice(2000, -2000)
    np.testing.assert_allclose(without[middle], tone(400)[middle], atol=0.01)
    np.testing.assert_allclose(without_bands(voice, []), voice, atol=1e-6)
    for height in (0.0, 100.0, 1500.0):
        assert mel(hertz_of_mel(height)) == pytest.approx(height)
    assert mel(1000) == pytest.approx(1000, abs=1)


def test_hiss_has_unit_level_and_the_length_asked_for() -> None:
    for samples in (1, 7, 1600, 12345):
        assert len(hiss(np.random.default_rng(0), samples)) == samples
    assert np.sqrt((hiss(np.random.default_rng(1), 16000) ** 2).mean()) == pytest.approx(
        1, rel=0.01
    )


def test_treating_keeps_the_length_says_what_it_did_and_repeats_with_its_seed() -> None:
    noises = [("rain", white(2, seed=5))]
    seen = set()
    for seed in range(60):
        first, record = treat(tone(500, 0.21), np.random.default_rng(seed), noises, 0.5, 0.5)
        again, same = treat(tone(500, 0.21), np.random.default_rng(seed), noises, 0.5, 0.5)
        assert record == same
        np.testing.assert_array_equal(first, again)
        assert len(first) == len(tone(500, 0.21))
        assert first.dtype == np.float32
        assert np.isfinite(first).all()
        assert np.abs(first).max() <= 0.98 + 1e-6
        seen |= {record.band, record.noise, record.opus, record.coloured}
        if record.band == "narrow":
            assert record.opus or energy_above(first, 5200) < 0.01
    assert seen >= {"wide", "narrow", "telephone", "rain", "hiss", None, True, False}


def test_band_share_decides_how_many_clips_are_narrow() -> None:
    def narrow(share: float) -> int:
        made = (treat(tone(500, 0.2), np.random.default_rng(i), [], share, 0.0) for i in range(40))
        return sum(record.band != "wide" for _, record in made)

    assert narrow(0.0) == 0
    assert narrow(1.0) == 40
