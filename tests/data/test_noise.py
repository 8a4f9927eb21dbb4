"""Recordings of noise: what is read of them, and the corpus in which nobody speaks."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from rdsdk.audio import files
from rdsdk.data.batches import training_batches
from rdsdk.data.manifest import read_cuts
from rdsdk.data.noise import load_noises, main, noise_stretch
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import DataError
from rdsdk.training.sequence_loss import PhoneTrigram, lattice_free_mmi

RATE = 16_000


def loudest_hertz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * RATE / len(samples)


def test_a_short_noise_goes_round_from_the_place_given() -> None:
    noise = np.arange(10, dtype=np.int16)
    stretch = noise_stretch(noise, 25, 0.35) * 32_768
    np.testing.assert_array_equal(stretch, [(3 + index) % 10 for index in range(25)])
    np.testing.assert_array_equal(noise_stretch(noise, 4, 0.0) * 32_768, [0, 1, 2, 3])


def test_noises_are_read_once_and_chosen_by_pattern(noise_folder: Path) -> None:
    both = load_noises(str(noise_folder))
    assert len(both) == 2
    assert load_noises(str(noise_folder)) is both
    (training,) = load_noises(str(noise_folder), "**/[1-4]-*")
    assert loudest_hertz(training.astype(np.float64)) == pytest.approx(3_000, abs=4)
    assert np.abs(training).max() == pytest.approx(32_767 * 0.5, abs=2)


def test_noise_of_another_rate_and_in_stereo_becomes_ours(tmp_path: Path) -> None:
    times = np.arange(44_100) / 44_100
    left = 0.5 * np.sin(2 * np.pi * 1_000 * times)
    soundfile.write(tmp_path / "cd.flac", np.stack([left, left], axis=1), 44_100)
    (noise,) = load_noises(str(tmp_path))
    assert len(noise) == pytest.approx(RATE, abs=2)
    assert loudest_hertz(noise.astype(np.float64)) == pytest.approx(1_000, abs=2)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_mp3_sounds_as_it_does_in_one_piece(tmp_path: Path, rate: int) -> None:
    times = np.arange(3 * rate) / rate
    soundfile.write(tmp_path / "hum.mp3", 0.5 * np.sin(2 * np.pi * 440 * times), rate)
    (noise,) = load_noises(str(tmp_path))
    whole = files.read(tmp_path / "hum.mp3")
    heard = noise.astype(np.float64)[: len(whole)] / 32_767
    error = heard - whole[: len(heard)]
    assert np.square(whole).sum() / np.square(error).sum() > 10**6


def test_a_damaged_noise_is_used_up_to_its_fault_and_told(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).normal(0, 0.1, 5 * RATE)
    soundfile.write(tmp_path / "a.ogg", whole, RATE, format="OGG", subtype="OPUS")
    (tmp_path / "b.ogg").write_bytes(_with_a_broken_packet((tmp_path / "a.ogg").read_bytes()))
    with pytest.raises(soundfile.SoundFileError):
        soundfile.read(tmp_path / "b.ogg")
    with pytest.warns(UserWarning, match=r"1 of 2 noise recordings .* damaged.*b\.ogg"):
        intact, damaged = load_noises(str(tmp_path))
    assert 0 < len(damaged) < len(intact)
    np.testing.assert_array_equal(damaged, intact[: len(damaged)])


def test_of_much_noise_an_hour_is_kept_and_told(
    noise_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdsdk.data.noise.NOISE_SECONDS_MAX", 0.5)
    with pytest.warns(UserWarning, match="1 of 2 recordings are used"):
        assert len(load_noises(str(noise_folder), "**/*.wav")) == 1


def test_a_folder_without_noise_is_refused(noise_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no noise folder"):
        load_noises(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="no recordings matching"):
        load_noises(str(noise_folder), "**/9-*")
    silent = tmp_path / "silent"
    silent.mkdir()
    soundfile.write(silent / "a.wav", np.zeros(100), RATE)
    with pytest.raises(DataError, match="silent or empty"):
        load_noises(str(silent))
    (silent / "a.wav").write_text("words")
    load_noises.cache_clear()
    with pytest.raises(DataError, match="not a recording"):
        load_noises(str(silent))


def test_noises_become_recordings_in_which_nobody_speaks(
    noise_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = np.random.default_rng(0).normal(0, 0.1, int(4.5 * RATE))
    soundfile.write(noise_folder / "rain" / "1-long.ogg", long, RATE, format="OGG", subtype="OPUS")
    soundfile.write(noise_folder / "rain" / "1-short.wav", long[:1000], RATE)
    out = tmp_path / "made"
    arguments = [str(noise_folder), "--out", str(out), "--pattern", "**/1-*"]
    described = ["--longest-seconds", "2", "--source", "rain", "--licence", "CC0"]
    assert main([*arguments, *described]) == 0
    assert "4 recordings without words" in capsys.readouterr().err
    rows = [json.loads(line) for line in (out / "noises.jsonl").read_text().splitlines()]
    assert [row["seconds"] for row in rows] == [*[pytest.approx(1.5, abs=0.01)] * 3, 0.5]
    assert all((row["source"], row["licence"]) == ("rain", "CC0") for row in rows)
    pieces = np.concatenate([soundfile.read(out / row["audio"])[0] for row in rows[:3]])
    whole, _ = soundfile.read(noise_folder / "rain" / "1-long.ogg")
    np.testing.assert_allclose(pieces, whole, atol=1e-4)
    # In training each frame of them is told to be blank, beside utterances that are aligned.
    vocabulary = Vocabulary.words(["A", "B"])
    batches = training_batches(read_cuts(out / "noises.jsonl"), vocabulary, 8.0)
    counts = []
    for batch in batches:
        assert (batch.token_counts == 0).all()
        for row, count in zip(batch.frame_targets, batch.frame_counts, strict=True):
            assert (row[:count] == vocabulary.blank).all()
            counts.append(int(count))
    assert len(counts) == 4


def test_what_is_there_in_part_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 5 * RATE)
    soundfile.write(tmp_path / "a.ogg", sound, RATE, format="OGG", subtype="OPUS")
    arguments = [str(tmp_path), "--out", str(tmp_path / "made"), "--pattern", "*.ogg"]
    assert main(arguments) == 0
    assert "warning" not in capsys.readouterr().err
    (tmp_path / "b.ogg").write_bytes(_with_a_broken_packet((tmp_path / "a.ogg").read_bytes()))
    assert main(arguments) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "warning: 1 there in part only; the first:" in told
    assert "b.ogg is damaged" in told
    monkeypatch.setattr("rdsdk.data.noise.NOISE_SECONDS_MAX", 2.0)
    assert main([*arguments[:-1], "a.ogg"]) == 0
    assert "hours, the first is taken" in " ".join(capsys.readouterr().err.split())
    rows = (tmp_path / "made" / "noises.jsonl").read_text().splitlines()
    assert [json.loads(row)["seconds"] for row in rows] == [2.0]


def test_a_word_in_noise_costs_what_silence_does_not() -> None:
    trigram = PhoneTrigram.of([[0, 1, 2, 0, 2, 1, 0]] * 9, 3)
    counts, silence = torch.tensor([40]), torch.zeros(1, 40, dtype=torch.long)
    quiet = torch.tensor([0.9, 0.05, 0.05]).log().expand(1, 40, 3)
    heard = torch.cat([quiet[:, :20], quiet[:, :20].roll(1, dims=2)], dim=1)
    losses = [float(lattice_free_mmi(each, counts, silence, trigram)) for each in (quiet, heard)]
    assert losses[0] + 0.5 < losses[1]


def test_a_wrong_folder_or_length_is_code_2(
    noise_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "made")]
    assert main([str(tmp_path / "absent"), *out]) == 2
    assert "no noise folder" in capsys.readouterr().err
    assert main([str(noise_folder), *out, "--longest-seconds", "0"]) == 2
    assert "expected 1 or more" in capsys.readouterr().err
    (noise_folder / "rain" / "1-text.wav").write_text("words")
    assert main([str(noise_folder), *out]) == 2
    assert "not a recording" in capsys.readouterr().err


def _with_a_broken_packet(ogg: bytes) -> bytes:
    """The same Ogg Opus file with one invalid packet in its middle, page checksum mended."""
    starts = [index for index in range(len(ogg)) if ogg.startswith(b"OggS", index)]
    start = starts[len(starts) // 2]
    body = start + 27 + ogg[start + 26]
    page = bytearray(ogg[start : starts[len(starts) // 2 + 1]])
    page[body - start : body - start + 2] = b"\xff\xff"  # code 3 with 63 frames: not allowed
    page[22:26] = bytes(4)
    page[22:26] = _ogg_checksum(bytes(page)).to_bytes(4, "little")
    return ogg[:start] + bytes(page) + ogg[start + len(page) :]


def _ogg_checksum(page: bytes) -> int:
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1) ^ (0x104C11DB7 if register & 0x80000000 else 0)
            register &= 0xFFFFFFFF
    return register
