import io
import os
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rdsdk.audio import files
from rdsdk.audio.files import SAMPLE_RATE, TruncatedAudioWarning
from rdsdk.errors import AudioError


def write(path: Path, rate: int = 44_100, seconds: float = 3.0, channels: int = 1, **how) -> Path:
    time = np.arange(int(rate * seconds)) / rate
    tone = 0.4 * np.sin(2 * np.pi * 500 * time)
    soundfile.write(path, np.stack([tone] * channels, axis=1), rate, **how)
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def tone_share(waveform: np.ndarray, hertz: float = 500.0) -> float:
    """How much of the energy is in the one tone that was written."""
    time = np.arange(len(waveform)) / SAMPLE_RATE
    parts = [2 * np.mean(waveform * f(2 * np.pi * hertz * time)) for f in (np.sin, np.cos)]
    return float((parts[0] ** 2 + parts[1] ** 2) / 2 / np.mean(waveform**2))


@pytest.mark.parametrize(
    ("name", "rate", "how"),
    [
        ("a.wav", 44_100, {}),
        ("a.wav", 8_000, {"subtype": "ULAW"}),
        ("a.wav", 16_000, {"subtype": "FLOAT"}),
        ("a.wav", 96_000, {"subtype": "PCM_24"}),
        ("a.flac", 22_050, {}),
        ("a.ogg", 44_100, {}),
        ("a.opus", 48_000, {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", 44_100, {}),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_format_rate_and_channel_count_gives_the_same_tone(
    tmp_path, name, rate, how, channels
):
    if channels == 3 and name in ("a.mp3", "a.opus"):
        channels = 2  # what these formats can hold
    path = write(tmp_path / name, rate, channels=channels, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        waveform = files.read(path)
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert abs(len(waveform) / SAMPLE_RATE - 3.0) < 0.1
    assert tone_share(waveform[SAMPLE_RATE : 2 * SAMPLE_RATE]) > 0.99


def test_blocks_join_to_the_whole_file(tmp_path):
    path = write(tmp_path / "a.wav")
    blocks = list(files.read_blocks(path, block_seconds=0.3))
    assert len(blocks) > 5
    assert np.array_equal(np.concatenate(blocks), files.read(path))


def test_an_mp3_in_blocks_is_the_same_sound_as_read_whole(tmp_path):
    path = write(tmp_path / "a.mp3", 16_000)
    whole, _ = soundfile.read(path, dtype="float32")
    got = np.concatenate(list(files.read_blocks(path, 0.1)))
    assert np.allclose(got, whole, atol=1e-6)


def test_the_duration_is_known_before_decoding(tmp_path):
    assert files.duration_seconds(write(tmp_path / "a.flac")) == pytest.approx(3.0)


def test_forty_minutes_are_never_in_memory_at_once(tmp_path):
    path = tmp_path / "long.wav"
    second = np.zeros(8_000, np.int16)
    with soundfile.SoundFile(path, "w", 8_000, 1, "PCM_16") as out:
        for _ in range(2400):
            out.write(second)
    tracemalloc.start()
    samples = sum(len(block) for block in files.read_blocks(path))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert samples == 2400 * SAMPLE_RATE
    assert peak_bytes < 4e6  # the whole would be 154 MB of float32


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_a_truncated_file_gives_what_there_is_and_says_so(tmp_path, name):
    path = cut(write(tmp_path / name, seconds=6.0), 0.5)
    with pytest.warns(TruncatedAudioWarning, match=r"of 6\.0 s could be read"):
        waveform = files.read(path)
    assert 1.5 < len(waveform) / SAMPLE_RATE < 3.5
    assert tone_share(waveform[4000:20_000]) > 0.99


def test_a_wav_of_unknown_length_is_not_called_truncated(tmp_path):
    path = write(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"  # as a writer leaves it that cannot seek
    path.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(files.read(path)) == pytest.approx(3 * SAMPLE_RATE, abs=2)


def test_a_flac_of_unknown_length_is_not_called_truncated(tmp_path):
    path = write(tmp_path / "piped.flac", seconds=2.0)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the number of samples: four bits here, and four bytes
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert files.duration_seconds(path) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(files.read(path)) == 32_000


def test_a_damaged_frame_in_the_middle_keeps_what_came_before(tmp_path):
    path = write(tmp_path / "a.flac", seconds=6.0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = b"U" * 200
    path.write_bytes(bytes(data))
    with pytest.warns(TruncatedAudioWarning):
        waveform = files.read(path)
    assert len(waveform) > SAMPLE_RATE


def make_text(path: Path) -> None:
    path.write_text("Dear diary, this is not a recording.\n" * 20)


def make_noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(4000))


def make_silence(path: Path) -> None:
    soundfile.write(path, np.zeros(0), 16_000)


def make_slow(path: Path) -> None:
    soundfile.write(path, np.zeros(100), 1)


def make_short(path: Path) -> None:
    soundfile.write(path, np.zeros(1), 48_000)


def make_head(path: Path) -> None:
    cut(write(path), 0.0002)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("missing.wav", lambda path: None, "no such file"),
        ("folder.wav", Path.mkdir, "is a folder"),
        ("empty.wav", Path.touch, "is empty"),
        ("text.wav", make_text, "not a sound file"),
        ("noise.flac", make_noise, "not a sound file"),
        ("head.flac", make_head, "not a sound file"),
        ("zero.wav", make_silence, "no samples"),
        ("slow.wav", make_slow, "sample rate of 1 Hz"),
        ("head.flac/inside.wav", lambda path: path.parent.touch(), "cannot read"),
        ("headerless.raw", make_noise, "raw-rate"),
        ("pipe.wav", os.mkfifo, "pipe or a device"),
        ("short.wav", make_short, "too short: its 1 samples at 48000 Hz"),
    ],
)
def test_a_bad_file_is_an_audio_error_that_names_it(tmp_path, name, make, says):
    make(tmp_path / name)
    with pytest.raises(AudioError, match=says) as caught:
        files.read(tmp_path / name)
    assert name in str(caught.value)


def test_a_flac_cut_before_its_first_frame_is_an_error_not_silence(tmp_path):
    path = write(tmp_path / "a.flac")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AudioError, match="nothing in it can be decoded"):
        files.read(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_in_a_float_file_is_an_error_with_its_time(tmp_path, bad):
    samples = np.zeros(32_000, np.float32)
    samples[24_000] = bad
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"not numbers.*1\.50 s"):
        files.read(tmp_path / "a.wav")


def test_a_bad_path_fails_before_the_first_block_is_asked_for(tmp_path):
    with pytest.raises(AudioError):
        files.read_blocks(tmp_path / "missing.wav")


class Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time, odd counts included."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step = io.BytesIO(data), step

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, self._step) if size >= 0 else self._step)


@pytest.mark.parametrize("step", [1, 7, 3200, 100_000])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2)])
def test_raw_samples_arrive_whole_in_any_portions(step, rate, channels):
    if step == 1:
        rate, channels = 16_000, 1
    tone = 0.4 * np.sin(2 * np.pi * 500 * np.arange(rate // 4) / rate)
    raw = np.stack([np.round(tone * 32768)] * channels, axis=1).astype("<i2").tobytes()
    blocks = list(files.read_raw(Trickle(raw + b"\x01", step), rate, channels))
    got = np.concatenate(blocks)
    wanted = files.from_array(np.round(tone * 32768).astype(np.int16), rate)
    assert np.allclose(got, wanted, atol=1e-6)


def test_raw_input_that_ends_at_once_is_an_error():
    with pytest.raises(AudioError, match="no samples"):
        list(files.read_raw(io.BytesIO(b""), 16_000))


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (16_000, 0)])
def test_raw_input_of_absurd_form_is_refused_at_once(rate, channels):
    with pytest.raises(AudioError):
        files.read_raw(io.BytesIO(b"\0" * 100), rate, channels)
