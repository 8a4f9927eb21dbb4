import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdsdk.audio.samples import SAMPLE_RATE, Resampler, from_array, mono
from rdsdk.errors import AudioError


def sine(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def snr_db(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((got - wanted) ** 2).sum()))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32, np.float64])
def test_every_sample_type_gives_the_same_waveform(dtype):
    wanted = sine(SAMPLE_RATE)
    if dtype == np.uint8:
        samples = np.round(wanted * 128 + 128).astype(dtype)
    elif np.issubdtype(dtype, np.integer):
        samples = np.round(wanted * -float(np.iinfo(dtype).min)).astype(dtype)
    else:
        samples = wanted.astype(dtype)
    got = from_array(samples, SAMPLE_RATE)
    assert got.dtype == np.float32
    assert np.abs(got - wanted).max() < (0.004 if dtype == np.uint8 else 2e-5)


def test_the_full_scale_of_integers_stays_in_range():
    assert mono(np.array([-32768, 32767], np.int16)).tolist() == [-1.0, 32767 / 32768]


def test_channels_are_averaged():
    left, right = sine(SAMPLE_RATE), sine(SAMPLE_RATE, hertz=1000)
    got = from_array(np.stack([left, right, left], axis=1), SAMPLE_RATE)
    assert np.allclose(got, (2 * left + right) / 3, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_every_rate_becomes_16_khz_and_keeps_the_tone(rate):
    got = from_array(sine(rate), rate)
    assert abs(len(got) - SAMPLE_RATE) <= 2
    wanted = sine(SAMPLE_RATE)[: len(got)]
    middle = slice(1000, -1000)
    assert snr_db(got[: len(wanted)][middle], wanted[middle]) > 60


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5000), max_size=12), st.sampled_from([8000, 44_100, 48_000]))
def test_resampling_in_blocks_leaves_no_seam(sizes, rate):
    samples = sine(rate, 0.5).astype(np.float32)
    whole = from_array(samples, rate)
    resampler, blocks, at = Resampler(rate), [], 0
    for size in sizes:
        blocks.append(resampler.feed(samples[at : at + size]))
        at += size
    blocks += [resampler.feed(samples[at:]), resampler.finish()]
    assert np.allclose(np.concatenate(blocks), whole, atol=1e-6)


def test_loud_floats_are_clipped():
    assert np.abs(from_array(3 * sine(48_000), 48_000)).max() == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_named_with_its_place(bad):
    samples = sine(SAMPLE_RATE)
    samples[123] = bad
    with pytest.raises(AudioError, match=r"1 values that are not numbers.*sample 123"):
        from_array(samples, SAMPLE_RATE)


def test_floats_that_were_never_scaled_are_refused():
    with pytest.raises(AudioError, match="divide by the full scale"):
        from_array(32768 * sine(SAMPLE_RATE), SAMPLE_RATE)


@pytest.mark.parametrize("rate", [0, -16_000, 1, 3_999, 1e9, 16_000.5, float("nan")])
def test_an_absurd_rate_is_refused(rate):
    with pytest.raises(AudioError, match="sample rate"):
        from_array(sine(SAMPLE_RATE), rate)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.zeros((2, 16_000)), "transpose it"),
        (np.zeros((16_000, 0)), "channels"),
        (np.zeros((2, 3, 4)), r"\(2, 3, 4\)"),
        (np.zeros(10, complex), "complex"),
        (np.array(["a", "b"]), "type"),
        (np.zeros(0), "no samples"),
    ],
)
def test_an_array_that_is_no_recording_is_refused(samples, says):
    with pytest.raises(AudioError, match=says):
        from_array(samples, SAMPLE_RATE)
