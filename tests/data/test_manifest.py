"""Corpora of every kind become cuts; what is wrong with one is said, with its place."""

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording
from lhotse.shar import SharWriter

from rdsdk.data.manifest import read_cuts, transcript
from rdsdk.data.waveform import load_waveform
from rdsdk.errors import ConfigError, DataError

SPEECH = Path(__file__).parents[1] / "assets" / "speech" / "manifest.jsonl"


def tone(path: Path, seconds: float = 0.5, rate: int = 16_000, hertz: float = 440.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hertz * times), rate)
    return path


def row(name: str, **changes: object) -> dict[str, object]:
    standard = {"id": name, "audio": f"{name}.flac", "seconds": 0.5, "text": "HELLO"}
    return {**standard, **changes}


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return path


def write_shar(folder: Path, cuts: CutSet) -> Path:
    folder.mkdir()
    with SharWriter(str(folder), fields={"recording": "flac"}, shard_size=2) as writer:
        for cut in cuts:
            writer.write(cut)
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for name in "abc":
        tone(tmp_path / f"{name}.flac")
    rows = (
        row("a", speaker="one", source="tones", licence="CC0"),
        row("b", text=""),
        {"id": "c", "audio": "c.flac", "seconds": 0.5},
    )
    return write(tmp_path / "clips.jsonl", *rows)


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    chapter = tmp_path / "corpus" / "dev" / "84" / "121123"
    tone(chapter / "84-121123-0000.flac", seconds=0.75)
    tone(chapter / "84-121123-0001.flac")
    text = "84-121123-0000 GO DO YOU HEAR\n84-121123-0001 AND\n"
    (chapter / "84-121123.trans.txt").write_text(text)
    return tmp_path / "corpus"


def test_a_manifest_row_becomes_a_cut_with_all_it_says(manifest: Path) -> None:
    first, wordless, unlabelled = read_cuts(manifest)
    assert (first.id, first.duration, first.sampling_rate) == ("a", 0.5, 16_000)
    assert first.supervisions[0].speaker == "one"
    assert (first.source, first.licence) == ("tones", "CC0")
    assert [transcript(cut) for cut in (first, wordless, unlabelled)] == ["HELLO", "", None]


def test_real_recordings_of_the_manifest_decode_to_their_stated_length() -> None:
    cuts = read_cuts(SPEECH)
    assert len(cuts) >= 3
    for cut in cuts:
        waveform = load_waveform(cut)
        assert waveform.dtype == np.float32
        assert abs(len(waveform) / 16_000 - cut.duration) < 0.05
        assert 0.01 < np.abs(waveform).max() <= 1


def test_a_librispeech_folder_is_read_from_any_level(librispeech: Path) -> None:
    for level in (librispeech, librispeech / "dev", librispeech / "dev" / "84" / "121123"):
        first, second = read_cuts(level)
        assert (first.id, first.duration) == ("84-121123-0000", 0.75)
        assert (transcript(first), transcript(second)) == ("GO DO YOU HEAR", "AND")
        assert first.supervisions[0].speaker == "84"


def test_a_number_names_a_speaker_and_a_list_does_not(manifest: Path) -> None:
    row = json.loads(manifest.read_text().splitlines()[0])
    write(manifest, row | {"speaker": 0})
    assert next(iter(read_cuts(manifest))).supervisions[0].speaker == "0"
    write(manifest, row | {"speaker": ["one"]})
    with pytest.raises(DataError, match="speaker must be a name or a number"):
        read_cuts(manifest)


def test_each_channel_of_a_call_is_a_recording_of_its_own(tmp_path: Path) -> None:
    left, right = np.full(8_000, 0.5), np.full(8_000, -0.25)
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], axis=1), 16_000)
    recording = Recording.from_file(tmp_path / "call.wav")
    cuts = CutSet.from_cuts(
        MonoCut(f"call-{channel}", 0.0, 0.5, channel, recording=recording) for channel in (0, 1)
    )
    cuts.to_file(tmp_path / "cuts.jsonl")
    first, second = map(load_waveform, read_cuts(tmp_path / "cuts.jsonl"))
    np.testing.assert_allclose(first, left, atol=1e-4)
    np.testing.assert_allclose(second, right, atol=1e-4)
    # A row of our own says nothing of channels, and is all of them.
    row = {"id": "mixed", "audio": "call.wav", "seconds": 0.5}
    (mixed,) = read_cuts(write(tmp_path / "mine.jsonl", row))
    np.testing.assert_allclose(load_waveform(mixed), (left + right) / 2, atol=1e-4)


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz", "odd.name"])
def test_a_lhotse_cuts_manifest_is_recognised_by_its_rows(manifest: Path, name: str) -> None:
    cuts = read_cuts(manifest)
    plain = manifest.parent / "plain.jsonl"
    cuts.to_file(plain)
    content = plain.read_bytes()
    target = manifest.parent / name
    target.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    again = read_cuts(target)
    assert [cut.to_dict() for cut in again] == [cut.to_dict() for cut in cuts]


def test_a_gzipped_manifest_is_read_whatever_its_name(manifest: Path) -> None:
    zipped = manifest.parent / "clips"
    zipped.write_bytes(gzip.compress(manifest.read_bytes()))
    assert [cut.id for cut in read_cuts(zipped)] == ["a", "b", "c"]


def test_a_shar_folder_stays_lazy_and_gives_the_same_sound(manifest: Path) -> None:
    cuts = read_cuts(manifest)
    lazy = read_cuts(write_shar(manifest.parent / "shar", cuts))
    assert lazy.is_lazy
    for before, after in zip(cuts, lazy, strict=True):
        assert (after.id, transcript(after)) == (before.id, transcript(before))
        np.testing.assert_allclose(load_waveform(after), load_waveform(before), atol=1e-4)


def test_several_sources_come_together_with_weights(manifest: Path, librispeech: Path) -> None:
    both = read_cuts([manifest, librispeech])
    assert [cut.id for cut in both] == ["a", "b", "c", "84-121123-0000", "84-121123-0001"]
    weighted = [cut.id for cut in read_cuts([manifest, librispeech], weights=[2, 0.5])]
    assert sorted(weighted) == [
        "84-121123-0000",
        "a",
        "a_repeat1",
        "b",
        "b_repeat1",
        "c",
        "c_repeat1",
    ]
    assert len(read_cuts(manifest, weights=[2.34])) == 7


def test_a_lazy_source_joins_others_and_takes_whole_weights(
    manifest: Path, librispeech: Path
) -> None:
    folder = write_shar(manifest.parent / "shar", read_cuts(manifest))
    mixed = read_cuts([folder, librispeech], weights=[2, 1])
    assert mixed.is_lazy
    assert len(list(mixed)) == 2 * 3 + 2
    with pytest.raises(ConfigError, match="whole number"):
        read_cuts(folder, weights=[1.5])


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0, 2.0], "1 sources but 2 weights"), ([0.0], "positive"), ([float("nan")], "positive")],
)
def test_weights_that_do_not_fit_are_refused(
    manifest: Path, weights: list[float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_cuts(manifest, weights=weights)


def test_a_bad_line_is_named_by_its_number(manifest: Path) -> None:
    lines = manifest.read_text().splitlines()
    for bad in ("{not json", "[1, 2]", '"text"'):
        manifest.write_text("\n".join([lines[0], "", bad, lines[1]]))
        with pytest.raises(DataError, match=r"clips\.jsonl line 3"):
            read_cuts(manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": "long"}, "seconds must be a positive number"),
        ({"seconds": -1.0}, "seconds must be a positive number"),
        ({"seconds": float("nan")}, "seconds must be a positive number"),
        ({"seconds": True}, "seconds must be a positive number"),
        ({"text": 7}, "text must be text"),
        ({"id": 7}, "id must be text"),
        ({"audio": None}, "audio must be a path"),
        ({"sample_rate": 0}, "sample_rate must be a positive integer"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(
    manifest: Path, change: dict[str, object], message: str
) -> None:
    write(manifest, row("a"), row("b", **change))
    with pytest.raises(DataError, match=rf"line 2.*{message}"):
        read_cuts(manifest)


def test_missing_keys_are_named_with_the_line(manifest: Path) -> None:
    write(manifest, row("a"), {"id": "b", "text": "HELLO"})
    with pytest.raises(DataError, match=r"line 2 lacks \['audio', 'seconds'\]"):
        read_cuts(manifest)


def test_missing_recordings_are_counted_and_the_first_is_named(manifest: Path) -> None:
    (manifest.parent / "b.flac").unlink()
    (manifest.parent / "c.flac").unlink()
    with pytest.raises(DataError, match=r"2 of 3 recordings.*b\.flac"):
        read_cuts(manifest)


def test_missing_librispeech_recordings_are_counted(librispeech: Path) -> None:
    next(librispeech.rglob("*-0001.flac")).unlink()
    with pytest.raises(DataError, match=r"1 recordings.*84-121123-0001\.flac"):
        read_cuts(librispeech)


def test_repeated_ids_are_refused_within_and_across_sources(manifest: Path) -> None:
    other = write(manifest.parent / "other.jsonl", row("b"))
    with pytest.raises(DataError, match="'b' occurs more than once"):
        read_cuts([manifest, other])
    write(manifest, row("a"), row("a"))
    with pytest.raises(DataError, match="'a' occurs more than once"):
        read_cuts(manifest)


def test_sources_without_utterances_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataError, match="holds no rows"):
        read_cuts(empty)
    with pytest.raises(DataError, match=r"without cuts\.\*\.jsonl\.gz"):
        read_cuts(tmp_path)
    with pytest.raises(DataError, match="no data source at"):
        read_cuts(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="no data source was given"):
        read_cuts([])
    (tmp_path / "a.trans.txt").write_text("")
    with pytest.raises(DataError, match="holds no utterances"):
        read_cuts(tmp_path)


def test_damaged_files_are_data_errors(manifest: Path) -> None:
    torn = manifest.parent / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(manifest.read_bytes())[:-12])
    with pytest.raises(DataError, match="cannot be read to its end"):
        read_cuts(torn)
    binary = manifest.parent / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="line 1 is not a JSON object"):
        read_cuts(binary)
    wrong = write(manifest.parent / "cuts.jsonl", {"id": "x", "type": "MonoCut"})
    with pytest.raises(DataError, match="line 1 is not a lhotse cut"):
        read_cuts(wrong)


def test_a_recording_of_another_rate_than_stated_is_refused_and_a_stated_one_resampled(
    manifest: Path,
) -> None:
    tone(manifest.parent / "low.wav", rate=8_000)
    stated = row("low", audio="low.wav", sample_rate=8_000)
    (cut,) = read_cuts(write(manifest, stated))
    waveform = load_waveform(cut)
    assert len(waveform) == 8_000
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    assert np.argmax(spectrum) * 2 == pytest.approx(440, abs=2)
    (cut,) = read_cuts(write(manifest, row("low", audio="low.wav")))
    with pytest.raises(DataError, match=r"has 8000 Hz but its manifest says 16000.*sample_rate"):
        load_waveform(cut)


def test_a_recording_of_another_length_than_stated_is_refused(manifest: Path) -> None:
    (cut,) = read_cuts(write(manifest, row("a", seconds=0.9)))
    with pytest.raises(DataError, match=r"holds 0\.500 s but its manifest says 0\.900 s"):
        load_waveform(cut)


def test_what_is_not_sound_is_refused_when_loaded(manifest: Path) -> None:
    (cut,) = read_cuts(write(manifest, row("a")))
    soundfile.write(
        manifest.parent / "a.flac", np.full(8_000, np.nan), 16_000, format="WAV", subtype="FLOAT"
    )
    with pytest.raises(DataError, match="NaN or infinite"):
        load_waveform(cut)
    (manifest.parent / "a.flac").write_text("these are words")
    with pytest.raises(DataError, match="cannot be decoded"):
        load_waveform(cut)


def test_a_stretch_of_a_stereo_recording_is_that_stretch_in_mono(manifest: Path) -> None:
    left, right = np.arange(8_000) / 16_000, -np.arange(8_000) / 32_000
    soundfile.write(manifest.parent / "a.flac", np.stack([left, right], axis=1), 16_000)
    (cut,) = read_cuts(write(manifest, row("a")))
    stretch = load_waveform(cut.truncate(offset=0.1, duration=0.2))
    expected = ((left + right) / 2)[1_600:4_800]
    np.testing.assert_allclose(stretch, expected, atol=1e-4)
    assert np.abs(stretch - ((left + right) / 2)[:3_200]).max() > 0.01  # not just any stretch


def test_ten_thousand_rows_are_read_without_opening_a_recording(tmp_path: Path) -> None:
    # One file that is no recording stands for all: decoding or only opening it would fail.
    (tmp_path / "a.flac").write_text("not sound")
    rows = [row(f"clip{index}", audio="a.flac") for index in range(10_000)]
    path = write(tmp_path / "many.jsonl", *rows)
    begin = time.process_time()
    assert len(read_cuts(path)) == 10_000
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_the_data_room_works_without_a_working_torchaudio(
    manifest: Path, tmp_path: Path, error: str
) -> None:
    folder = write_shar(tmp_path / "shar", read_cuts(manifest))
    (tmp_path / "broken" / "torchaudio").mkdir(parents=True)
    (tmp_path / "broken" / "torchaudio" / "__init__.py").write_text(f"raise {error}('broken')")
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path / 'broken')!r})\n"
        "try:\n    import torchaudio\n"
        "except (ImportError, OSError) as error:\n    assert str(error) == 'broken'\n"
        "else: raise SystemExit('torchaudio is not broken here')\n"
        "from rdsdk.data.batches import training_batches\n"
        "from rdsdk.data.augment import Augmentation\n"
        "from rdsdk.data.manifest import read_cuts\n"
        "a = Augmentation(speed_probability=1, narrow_band_probability=1)\n"
        f"for source in ({str(manifest)!r}, {str(folder)!r}):\n"
        "    batches = training_batches(read_cuts(source), None, 10, augmentation=a)\n"
        "    assert sum(len(batch) for batch in batches) == 3\n"
        "from rdsdk.data.waveform import load_waveform\n"
        "first, second, third = read_cuts(source)\n"
        "assert len(load_waveform(first.append(second))) == 16_000\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_gives_a_cutset_that_lhotse_takes(manifest: Path) -> None:
    cuts = read_cuts(manifest)
    assert isinstance(cuts, CutSet)
    assert [cut.id for cut in cuts.filter(lambda cut: transcript(cut) is not None)] == ["a", "b"]
