"""A whole digit corpus, made from a tiny one in which every digit is a tone of its own."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console

from rdsdk.data.acoustics import SAMPLE_RATE, frame_levels_db
from rdsdk.data.alignment import alignment_problem
from rdsdk.data.digit_clips import KINDS, frames_needed, isolated, string
from rdsdk.data.digit_sources import Bank, Token, cut_digits, may_stand_alone, read_noises
from rdsdk.data.digits import Plan, clip_counts, main, make_corpus
from rdsdk.data.manifest import read_cuts
from rdsdk.data.other_clips import crop, sentence, turned_round
from rdsdk.data.word_clips import DIGITS, Words, WordSpan
from rdsdk.errors import ConfigError, DataError

_SENTENCE = "I SAW SEVEN TREES NEAR THE ROAD TO TOWN AND WENT HOME"
# A ratio between neighbouring digits that no change of voice within one clip can hide.
RATIO = 1.3
SENTENCE = _SENTENCE.split()


def hertz(digit: str) -> float:
    return 200 * RATIO ** DIGITS.index(digit)


def tone(frequency: float, seconds: float, rate: int) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    # Quiet at both ends, so that tones run together can still be told apart.
    return 0.3 * np.sin(2 * np.pi * frequency * times) * np.sin(np.pi * times / seconds) ** 0.5


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return make_inputs(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs and the corpus made from them, to be read only."""
    folder = make_inputs(tmp_path_factory.mktemp("digits"))
    build(folder, dev_speaker="bob")
    return folder


def make_inputs(tmp_path: Path) -> Path:
    """Digits of three speakers, three sentences with known word times, noise of folds 1 and 5."""
    rng = np.random.default_rng(0)
    for speaker in ("ann", "bob", "theo"):
        (tmp_path / "digits" / speaker).mkdir(parents=True)
        for number, digit in enumerate(DIGITS):
            for take in range(2):
                path = tmp_path / "digits" / speaker / f"{number}_{speaker}_{take}.wav"
                soundfile.write(path, tone(hertz(digit), 0.3 + 0.05 * take, 8000), 8000)
    (tmp_path / "speech").mkdir()
    (tmp_path / "out").mkdir()
    rows, cache = [], []
    for number in range(3):
        name = f"reader-{number}"
        soundfile.write(
            tmp_path / "speech" / f"{name}.flac", rng.normal(0, 0.05, 16_000 * 4), 16_000
        )
        row = {"id": name, "audio": f"{name}.flac", "seconds": 4.0, "text": " ".join(SENTENCE)}
        rows.append({**row, "speaker": f"r{number}", "source": "fake", "licence": "CC0"})
        spans = [[w, 0.1 + 0.3 * i, 0.38 + 0.3 * i, -1.0] for i, w in enumerate(SENTENCE)]
        cache.append({"utterance": name, "spans": spans, "trusted": [2] if number else []})
    write_rows(tmp_path / "speech" / "speech.jsonl", rows)
    write_rows(tmp_path / "out" / "word_spans.jsonl", cache)
    plain = {**rows[0], "id": "plain", "text": "NO NUMBER HERE"}
    counted = {**rows[1], "id": "counted", "text": "ONE NUMBER HERE"}
    write_rows(tmp_path / "speech" / "dev.jsonl", [plain, counted])
    (tmp_path / "noise" / "rain").mkdir(parents=True)
    for fold in (1, 5):
        soundfile.write(
            tmp_path / "noise" / "rain" / f"{fold}-7-A.wav", rng.normal(0, 0.1, 16_000), 16_000
        )
    (tmp_path / "noise" / "rain" / "2-8-A.wav").write_bytes(b"broken")
    return tmp_path


def plan(inputs: Path, **changes: Any) -> Plan:
    given: dict[str, Any] = {
        "digits": inputs / "digits",
        "speech": inputs / "speech" / "speech.jsonl",
        "noise": inputs / "noise",
        "out": inputs / "out",
        "dev_speech": (inputs / "speech" / "dev.jsonl",),
        "hours": 0.008,
        "voices": 0,
        "dev_isolated": 10,
        "dev_strings": 3,
    }
    return Plan(**{**given, **changes})


def build(inputs: Path, **changes: Any) -> dict[str, Any]:
    return make_corpus(plan(inputs, **changes), Console(quiet=True))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def kind_of(row: dict[str, Any]) -> str:
    return str(row["id"]).rsplit("-", 1)[0]


def tone_bank() -> Bank:
    bank = Bank(noises=[("rain", np.ones(1600, np.float32))])
    for digit in DIGITS:
        said = tone(hertz(digit), 0.4, SAMPLE_RATE).astype(np.float32)
        bank.digits.append(Token(digit, said, "ann", "human", "fake", "CC0"))
    bank.index()
    return bank


def tones_heard(waveform: np.ndarray) -> list[float]:
    """The frequency of each stretch of sound, by its middle third."""
    levels = frame_levels_db(waveform)
    loud = levels > levels.max() - 20
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.astype(int), [0]])))
    found = []
    for first, last in zip(edges[::2] * 160, edges[1::2] * 160, strict=True):
        if last - first < 1600:
            continue
        middle = waveform[first + (last - first) // 3 : last - (last - first) // 3]
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 16))
        found.append(float(np.argmax(spectrum)) * SAMPLE_RATE / (1 << 16))
    return found


def test_a_string_sounds_what_its_text_says_in_that_order() -> None:
    bank = tone_bank()
    compared = 0
    for seed in range(30):
        draft = string(bank, np.random.default_rng(seed))
        said = draft.text.split()
        assert 2 <= len(said) <= 10
        heard = tones_heard(draft.waveform)
        if len(heard) != len(said):
            continue  # two tones without any pause between them are one stretch of sound
        compared += 1
        # One voice: the shift is common, so the steps from tone to tone are those of the digits.
        for (a, b), (low, high) in zip(pairwise(said), pairwise(heard), strict=True):
            steps = DIGITS.index(b) - DIGITS.index(a)
            assert np.log(high / low) / np.log(RATIO) == pytest.approx(steps, abs=0.45)
    assert compared >= 15


def test_an_isolated_digit_sounds_near_its_tone() -> None:
    bank = tone_bank()
    for seed in range(40):
        draft = isolated(bank, np.random.default_rng(seed))
        (heard,) = tones_heard(draft.waveform)
        assert 0.75 < heard / hertz(draft.text) < 1.33
        assert 0.14 < len(draft.waveform) / SAMPLE_RATE < 3.4


def test_the_corpus_is_complete_and_every_row_matches_its_file(built: Path) -> None:
    stats = json.loads((built / "out" / "stats.json").read_text())
    for name in ("train", "dev", "dev_negative"):
        rows = rows_of(built / "out" / f"{name}.jsonl")
        assert rows
        assert len({row["id"] for row in rows}) == len(rows)
        aligned = ["alignment"] if name == "dev" else []
        for row in rows:
            fields = ["id", "audio", "seconds", "text", "speaker", "source", "licence"]
            assert list(row) == fields + aligned
            info = soundfile.info(built / "out" / row["audio"])
            assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
            assert row["seconds"] == pytest.approx(info.duration, abs=0.001)
            assert row["speaker"]
            assert row["source"]
            assert row["licence"]
    kinds = {kind_of(row) for row in rows_of(built / "out" / "train.jsonl")}
    assert kinds == set(KINDS) - {"spoken-string", "other-phrase"}
    assert kinds == set(stats["kinds"])
    assert stats["dropped"]["unreadable noises"] == 1


def test_digits_have_digit_texts_and_everything_else_has_none(built: Path) -> None:
    for row in rows_of(built / "out" / "train.jsonl"):
        words = row["text"].split()
        assert set(words) <= set(DIGITS)
        assert bool(words) == KINDS[kind_of(row)].positive
        assert len(words) == 1 or kind_of(row) != "isolated"
        # As many 20 ms frames as CTC needs to spell it.
        assert (row["seconds"] * SAMPLE_RATE - 80) // 320 >= frames_needed(row["text"])


def test_the_development_speaker_is_in_dev_and_nowhere_in_train(built: Path) -> None:
    train = rows_of(built / "out" / "train.jsonl")
    assert {"fsdd-ann", "fsdd-theo"} <= {row["speaker"] for row in train}
    assert not any("bob" in row["speaker"] for row in train)
    dev = rows_of(built / "out" / "dev.jsonl")
    assert {row["speaker"] for row in dev} == {"bob"}
    alone = [row for row in dev if row["id"].startswith("dev-isolated")]
    assert (len(alone), len(dev)) == (10, 13)
    assert {row["text"] for row in alone} == set(DIGITS)
    as_recorded = soundfile.read(built / "out" / alone[0]["audio"])[0]
    assert len(as_recorded) == pytest.approx(0.3 * SAMPLE_RATE, abs=2)
    assert all(3 <= len(row["text"].split()) <= 8 for row in dev[10:])


def test_the_alignment_of_dev_is_where_its_words_sound(built: Path) -> None:
    dev = rows_of(built / "out" / "dev.jsonl")
    assert alignment_problem(dev[-1]["alignment"]) is None
    for row in dev:
        assert " ".join(word for word, _, _ in row["alignment"]) == row["text"]
        waveform = soundfile.read(built / "out" / row["audio"])[0]
        inside = np.zeros(len(waveform), bool)
        for _, start, end in row["alignment"]:
            inside[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = True
        assert not waveform[~inside].any()
        assert np.abs(waveform[inside]).mean() > 1e-3


def test_dev_negatives_are_sentences_without_digit_words(built: Path) -> None:
    (row,) = rows_of(built / "out" / "dev_negative.jsonl")
    assert (row["id"], row["text"], row["seconds"]) == ("dev-negative-plain", "", 4.0)


def test_the_sentences_are_listed_where_they_lie_and_without_words(built: Path) -> None:
    rows = rows_of(built / "out" / "sentences.jsonl")
    spoken = rows_of(built / "speech" / "speech.jsonl")
    assert {row["id"] for row in rows} >= {f"sentence-{row['id']}" for row in spoken}
    assert {row["text"] for row in rows} == {""}
    assert len(read_cuts(built / "out" / "sentences.jsonl")) == len(rows)


def test_a_seed_repeats_the_corpus_whatever_the_workers_and_another_does_not(inputs: Path) -> None:
    def content(**changes: Any) -> dict[str, bytes]:
        build(inputs, hours=0.004, **changes)
        names = [inputs / "out" / "train.jsonl", *(inputs / "out" / "dev").glob("*.flac")]
        names += (inputs / "out" / "audio").glob("*/*.flac")
        return {str(path.relative_to(inputs)): path.read_bytes() for path in names}

    first = content(seed=3)
    assert content(seed=3, workers=2) == first
    other = content(seed=4)
    assert other["out/train.jsonl"] != first["out/train.jsonl"]


def test_digit_words_of_sentences_are_cut_where_they_were_found(inputs: Path) -> None:
    row = rows_of(inputs / "speech" / "speech.jsonl")[0]
    row["audio"] = str(inputs / "speech" / row["audio"])
    spans = tuple(WordSpan(row["id"], w, i * 0.3, i * 0.3 + 0.3, 0) for i, w in enumerate(SENTENCE))
    bank = Bank(sentences=[row], words={row["id"]: Words(row["id"], spans, (2,))})
    bank.row_of = {row["id"]: row}
    (token,), doubtful = cut_digits(bank)
    assert (token.text, token.speaker, token.kind, doubtful) == ("SEVEN", "r0", "cut", 0)
    whole = soundfile.read(row["audio"], dtype="float32")[0]
    np.testing.assert_array_equal(
        token.waveform, whole[round(0.58 * 16_000) : round(0.92 * 16_000)]
    )
    bank.words = {row["id"]: Words(row["id"], spans, ())}
    assert cut_digits(bank) == ([], 1)


def test_crops_hold_no_digit_word_but_whole_sentences_may(inputs: Path) -> None:
    """A loud digit word in quiet sentences: no crop is loud, every sentence is."""
    row = rows_of(inputs / "speech" / "speech.jsonl")[0]
    row["audio"] = str(inputs / "speech" / row["audio"])
    spans = tuple(
        WordSpan(row["id"], w, 0.1 + i * 0.3, 0.38 + i * 0.3, -1) for i, w in enumerate(SENTENCE)
    )
    waveform = np.random.default_rng(0).normal(0, 0.001, 64_000)
    waveform[round(0.74 * 16_000) : round(0.94 * 16_000)] *= 300
    soundfile.write(row["audio"], waveform, 16_000)
    bank = Bank(sentences=[row], words={row["id"]: Words(row["id"], spans, ())})
    bank.index()
    for seed in range(30):
        piece = crop(bank, np.random.default_rng(seed), 0.3, 3.0)
        assert np.abs(piece.waveform).max() < 0.05
        assert piece.text == ""
        whole = sentence(bank, np.random.default_rng(seed))
        assert np.abs(whole.waveform).max() > 0.3
        assert whole.text == ""


def test_a_digit_turned_round_is_none_and_is_the_recording_backwards() -> None:
    """A tone that rises to its end becomes one that falls."""
    rising = np.linspace(0, 0.3, 6400) * tone(800, 0.4, SAMPLE_RATE) / 0.3
    bank = Bank(
        digits=[Token(d, rising.astype(np.float32), "ann", "human", "fake", "CC0") for d in DIGITS]
    )
    bank.index()
    for seed in range(20):
        draft = turned_round(bank, np.random.default_rng(seed))
        assert draft.text == ""
        loud = np.flatnonzero(np.abs(draft.waveform) > 0.25 * np.abs(draft.waveform).max())
        energy = draft.waveform[loud[0] : loud[-1]] ** 2
        assert energy[: len(energy) // 2].sum() > 1.4 * energy[len(energy) // 2 :].sum()


def test_what_sounds_like_a_digit_never_stands_alone_as_a_counter_example() -> None:
    assert not may_stand_alone(["TO"])
    assert not may_stand_alone(["FOR", "US"])
    assert not may_stand_alone(["WENT", "FOR", "SIX", "DAYS"])
    assert may_stand_alone(["HEAVEN"])
    assert may_stand_alone(["WENT", "TO", "TOWN"])


def test_noises_of_the_test_fold_are_left_out(inputs: Path) -> None:
    noises, broken = read_noises(inputs / "noise", "5")
    assert ([name for name, _ in noises], broken) == (["1-7-A"], 1)
    assert [name for name, _ in read_noises(inputs / "noise", "1")[0]] == ["5-7-A"]


def test_excluded_utterances_are_in_no_clip(inputs: Path) -> None:
    rows = rows_of(inputs / "speech" / "speech.jsonl")
    left_out = write_rows(inputs / "speech" / "left_out.jsonl", rows[1:])
    build(inputs, exclude=(left_out,))
    speakers = {row["speaker"] for row in rows_of(inputs / "out" / "train.jsonl")}
    assert "r0" in speakers
    assert not {"r1", "r2"} & speakers


def test_half_of_the_hours_are_digits() -> None:
    counts = clip_counts(8, with_synthetic=True)
    hours = {name: counts[name] * KINDS[name].mean_seconds / 3600 for name in counts}
    assert sum(hours.values()) == pytest.approx(8, rel=0.01)
    digits = sum(hours[name] for name in hours if KINDS[name].positive)
    assert digits / 8 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"digits": "nowhere"}, DataError, "SPEAKER/DIGIT_SPEAKER_INDEX.wav"),
        ({"speech": "nowhere.jsonl"}, DataError, "no manifest at .*nowhere.jsonl"),
        ({"noise": "nowhere"}, DataError, "no readable noise"),
        ({"unlabelled": "nowhere.jsonl"}, DataError, "no manifest"),
        ({"text": "nowhere.txt"}, DataError, "no text at"),
        ({"dev_speaker": "carl"}, ConfigError, r"'carl'.*'ann', 'bob', 'theo'"),
    ],
)
def test_a_missing_input_is_named(
    inputs: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    placed = {k: v if k == "dev_speaker" else inputs / v for k, v in changes.items()}
    with pytest.raises(error, match=message):
        build(inputs, **placed)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2 is not JSON"), ('{"id": "a", "audio": "a.ogg"}', r"line 2 lacks \['seconds'")],
)
def test_a_bad_manifest_row_is_named_by_its_line(inputs: Path, line: str, message: str) -> None:
    with (inputs / "speech" / "speech.jsonl").open("r+") as manifest:
        first = manifest.readline()
    (inputs / "speech" / "speech.jsonl").write_text(first + line + "\n")
    with pytest.raises(DataError, match=message):
        build(inputs)


@pytest.mark.parametrize("changes", [{"hours": 0}, {"voices": -1}, {"workers": 0}, {"seed": -1}])
def test_impossible_amounts_are_refused(inputs: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(changes))}={next(iter(changes.values()))}"):
        plan(inputs, **changes)


def test_the_command_line_makes_a_corpus_and_says_what_is_missing(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--digits", str(inputs / "digits"), "--noise", str(inputs / "noise")]
    given += ["--speech", str(inputs / "speech" / "speech.jsonl"), "--out", str(inputs / "out")]
    given += ["--hours", "0.004", "--workers", "1", "--dev-strings", "2"]
    given += ["--dev-isolated", "10"]
    assert main([*given, "--voices", "0"]) == 0
    assert "isolated" in capsys.readouterr().out
    assert rows_of(inputs / "out" / "train.jsonl")
    monkeypatch.setenv("PATH", str(inputs))
    assert main(given) == 2
    assert "apt-get install espeak-ng" in " ".join(capsys.readouterr().err.split())
