"""The phone corpus: real sentences, their phones in order and inside their words."""

import json
from pathlib import Path

import pytest
import soundfile

from rdsdk.data.manifest import read_cuts
from rdsdk.data.phones import PHONES, USUAL_LENGTH, main, phones_of
from rdsdk.data.word_clips import Words, WordSpan
from rdsdk.decoding import vocabulary
from rdsdk.decoding.vocabulary import Vocabulary

SPEECH = Path(__file__).parents[1] / "assets" / "speech" / "manifest.jsonl"


def test_a_words_time_is_shared_as_its_phones_usually_last() -> None:
    words = Words("a", (WordSpan("a", "SEE", 1.0, 1.23, 0.0),), ())
    (first, second) = phones_of(words, {"SEE": ["S", "IY"]})
    assert first == ("S", 1.0, pytest.approx(1.12, abs=1e-3))
    assert second == ("IY", first[2], 1.23)
    assert USUAL_LENGTH["S"] > USUAL_LENGTH["IY"]


def test_a_vocabulary_of_phones_is_no_text() -> None:
    assert set(PHONES) == vocabulary.PHONES
    assert Vocabulary.words(PHONES).is_of_phones
    for other in (
        Vocabulary.words(["B", "ONE"]),
        Vocabulary.characters(),
        Vocabulary(("-",), 0, None),
    ):
        assert not other.is_of_phones


def test_real_speech_becomes_an_aligned_corpus(tmp_path: Path) -> None:
    arguments = ["--train", str(SPEECH), "--dev", str(SPEECH), "--out", str(tmp_path)]
    assert main([*arguments, "--workers", "1"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert len(rows) == len(SPEECH.read_text().splitlines())
    for row in rows:
        assert row["text"].split() == [phone for phone, _, _ in row["alignment"]]
        assert set(row["text"].split()) <= set(PHONES)
        edges = [edge for _, start, end in row["alignment"] for edge in (start, end)]
        assert edges == sorted(edges)
        assert edges[-1] <= row["seconds"] + 0.02
        assert soundfile.info(tmp_path / row["audio"]).samplerate == 16_000
    assert len(read_cuts(tmp_path / "train.jsonl")) == len(rows)


def test_several_manifests_make_one_corpus(tmp_path: Path) -> None:
    lines = SPEECH.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    parts = []
    for index, row in enumerate(rows):
        parts.append(tmp_path / f"part-{index}.jsonl")
        parts[-1].write_text(json.dumps(row | {"audio": str(SPEECH.parent / row["audio"])}) + "\n")
    train = ["--train", *map(str, parts[:2]), "--dev", str(parts[2])]
    assert main([*train, "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    made = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in made] == [row["id"] for row in rows[:2]]


@pytest.fixture
def rows() -> list[dict[str, object]]:
    found = [json.loads(line) for line in SPEECH.read_text().splitlines()[:2]]
    return [row | {"audio": str(SPEECH.parent / row["audio"])} for row in found]


def written(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_nothing_that_is_read_is_written_over(
    tmp_path: Path, rows: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    train = written(tmp_path / "train.jsonl", rows[0])
    dev = written(tmp_path / "mine.jsonl", rows[1])
    assert main(["--train", train, "--dev", dev, "--out", str(tmp_path)]) == 2
    assert "would be written over" in capsys.readouterr().err
    assert json.loads(Path(train).read_text()) == rows[0]


def test_one_id_is_one_recording(
    tmp_path: Path, rows: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    train = written(tmp_path / "t.jsonl", rows[0])
    dev = written(tmp_path / "d.jsonl", rows[1] | {"id": rows[0]["id"]})
    out = ["--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(["--train", train, "--dev", dev, *out]) == 2
    assert "ids are unique" in capsys.readouterr().err
    dev = written(tmp_path / "d.jsonl", rows[1])
    assert main(["--train", train, train, "--dev", dev, *out]) == 2
    assert "more than once" in capsys.readouterr().err


def test_a_corrected_text_is_aligned_anew_and_an_id_may_be_a_path(
    tmp_path: Path, rows: list[dict[str, object]]
) -> None:
    dev = written(tmp_path / "d.jsonl", rows[1])
    out = ["--dev", dev, "--out", str(tmp_path / "out"), "--workers", "1"]
    wrong = str(rows[0]["text"]).rsplit(" ", 1)[0]
    made = []
    for text in (wrong, str(rows[0]["text"])):
        train = written(tmp_path / "t.jsonl", rows[0] | {"text": text, "id": "a/../b"})
        assert main(["--train", train, *out]) == 0
        made.append(json.loads((tmp_path / "out" / "train.jsonl").read_text()))
    assert len(made[1]["text"]) > len(made[0]["text"])
    assert made[1]["audio"] == "audio/train/a%2F..%2Fb.flac"
    assert (tmp_path / "out" / made[1]["audio"]).is_file()


def test_a_missing_manifest_is_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = str(tmp_path / "none.jsonl")
    assert main(["--train", nowhere, "--dev", nowhere, "--out", str(tmp_path)]) == 2
    assert "none.jsonl" in capsys.readouterr().err
