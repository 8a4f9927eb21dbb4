"""When recognised words are said, beside a reference, from lists to the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_program
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.supervision import AlignmentItem

from rdsdk.data.manifest import read_cuts
from rdsdk.data.word_spans import read_word_spans, spans_of
from rdsdk.decoding.segment import Word
from rdsdk.errors import DataError
from rdsdk.evaluation.cli import main
from rdsdk.evaluation.conditions import condition
from rdsdk.evaluation.evaluate import evaluate
from rdsdk.evaluation.transcribers import POCKETSPHINX, joined, load_word_transcriber
from rdsdk.evaluation.word_times import WordTimes, spread, word_times

ASSETS = Path(__file__).parent.parent / "assets"


def word(text: str, start: float, end: float) -> Word:
    return Word(text, start, end, 1.0)


def test_words_of_both_are_compared_and_others_left_out() -> None:
    reference = [("THE", 0.0, 0.1), ("OLD", 0.1, 0.4), ("CAT", 0.5, 0.9), ("SAT", 0.9, 1.3)]
    heard = [word("the", 0.02, 0.1), word("bold", 0.1, 0.4), word("cat", 0.45, 0.95)]
    found = word_times(reference, heard)
    assert found.starts == pytest.approx((0.02, -0.05))
    assert found.ends == pytest.approx((0.0, 0.05))


def test_a_word_said_twice_is_compared_with_its_own_place() -> None:
    reference = [("NO", 0.0, 0.3), ("NO", 1.0, 1.3), ("YES", 2.0, 2.3)]
    found = word_times(reference, [word("NO", 1.0, 1.3), word("YES", 2.0, 2.3)])
    assert max(map(abs, found.starts)) in (0.0, 1.0)  # either NO is as good an alignment
    assert word_times(reference, [word(w, a, b) for w, a, b in reference]).starts == (0.0,) * 3


def test_nothing_heard_or_nothing_said_compares_nothing() -> None:
    assert word_times([], [word("A", 0, 1)]) == WordTimes() == word_times([("A", 0, 1)], [])
    assert spread(()) is None
    assert WordTimes().to_dict()["start"] is None


def test_the_spread_in_milliseconds() -> None:
    found = spread([-0.01, 0.03, 0.05, -0.2])
    assert found == {
        "mean_ms": -32.5,
        "median_ms": 10.0,
        "absolute_median_ms": 40.0,
        "absolute_p95_ms": pytest.approx(177.5),
        "near": 0.75,
    }
    both = WordTimes((0.1,), (0.2,)) + WordTimes((0.3,), (0.4,))
    assert (both.starts, both.ends, both.to_dict()["words"]) == ((0.1, 0.3), (0.2, 0.4), 2)


def spans_file(path: Path, spans: dict[str, list[tuple[str, float, float]]]) -> Path:
    rows = [{"utterance": name, "text": "", "spans": found} for name, found in spans.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_files_of_words_are_read_and_bad_ones_refused(tmp_path: Path) -> None:
    path = spans_file(tmp_path / "spans.jsonl", {"a": [("HI", 0.5, 0.75)], "empty": []})
    assert read_word_spans(path) == {"a": [("HI", 0.5, 0.75)]}
    for content in ("nonsense", '{"spans": []}', '{"utterance": "a", "spans": [["HI", NaN, 1]]}'):
        path.write_text(content)
        if content == '{"spans": []}':
            assert read_word_spans(path) == {}
            continue
        with pytest.raises(DataError, match="cannot be read"):
            read_word_spans(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_word_spans(tmp_path / "absent.jsonl")


@pytest.fixture
def heard(tmp_path: Path) -> tuple[Path, Path, list[tuple[str, float, float]]]:
    """An artefact, a manifest of one clip, and the words as it hears them."""
    artefact = tiny_program.build(tmp_path / "tones.pte")
    samples = tiny_program.tones("AB CD")
    soundfile.write(tmp_path / "clip.wav", samples, 16_000, subtype="FLOAT")
    row = {"id": "clip", "audio": "clip.wav", "seconds": len(samples) / 16_000, "text": "AB CD"}
    (tmp_path / "clips.jsonl").write_text(json.dumps(row))
    words = load_word_transcriber(str(artefact))(samples)
    assert [one.text for one in words] == ["AB", "CD"]
    return artefact, tmp_path / "clips.jsonl", [(one.text, one.start, one.end) for one in words]


def test_the_command_compares_times(heard, tmp_path: Path, capsys) -> None:
    artefact, manifest, words = heard
    late = {"clip": [(text, start - 0.03, end + 0.1) for text, start, end in words]}
    file = spans_file(tmp_path / "spans.jsonl", late)
    arguments = [str(artefact), str(manifest), "--word-times", str(file)]
    assert main([*arguments, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    times = found["word_times"]
    assert times["words"] == 2
    assert times["start"]["mean_ms"] == pytest.approx(30.0)
    assert times["end"] == {
        "mean_ms": -100.0,
        "median_ms": -100.0,
        "absolute_median_ms": 100.0,
        "absolute_p95_ms": 100.0,
        "near": 0.0,
    }
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "Times of the words" in shown
    assert "within 50 ms, %" in shown
    # Without a reference nothing is said of times.
    assert main([str(artefact), str(manifest), "--json"]) == 0
    assert "word_times" not in json.loads(capsys.readouterr().out)["results"][0]
    strangers = spans_file(tmp_path / "strangers.jsonl", {"other": words})
    with pytest.raises(DataError, match="of none in"):
        main([*arguments[:-1], str(strangers)])


@pytest.fixture
def cut(tmp_path: Path) -> MonoCut:
    """Four seconds in which HELLO is said at 1 s and YOU at 2 s."""
    soundfile.write(tmp_path / "two.wav", np.zeros(64_000, np.float32), 16_000)
    recording = Recording.from_file(tmp_path / "two.wav")
    items = [AlignmentItem("HELLO", 1.0, 0.5), AlignmentItem("", 1.5, 0.5)]
    items.append(AlignmentItem("YOU", 2.0, 0.25))
    spoken = SupervisionSegment(
        "s", recording.id, 0.5, 3.0, text="HELLO YOU", alignment={"word": items}
    )
    return MonoCut("c", 0.0, 4.0, 0, recording=recording, supervisions=[spoken])


def test_a_part_of_a_recording_has_its_own_clock(cut: MonoCut, tmp_path: Path) -> None:
    assert spans_of(cut) == [("HELLO", 1.0, 1.5), ("YOU", 2.0, 2.25)]
    CutSet.from_cuts([cut.truncate(offset=0.75)]).to_file(tmp_path / "cuts.jsonl")
    (part,) = read_cuts(tmp_path / "cuts.jsonl")
    assert part.duration == 3.25
    assert spans_of(part) == [("HELLO", 0.25, 0.75), ("YOU", 1.25, 1.5)]


def test_alignments_of_cuts_are_compared_with(cut: MonoCut) -> None:
    cuts = CutSet.from_cuts([cut])
    found = evaluate(lambda _: [word("HELLO", 1.05, 1.5), word("YOU", 2, 2.35)], cuts, "cuts")
    assert found.rates.wer == 0
    assert found.times.starts == pytest.approx((0.05, 0.0))
    assert found.times.ends == pytest.approx((0.0, 0.1))
    # Who gives text alone has no times.
    alone = evaluate(lambda _: "HELLO YOU", cuts, "cuts")
    assert alone.rates.wer == 0
    assert "word_times" not in alone.to_dict()


def test_in_faster_sound_words_are_earlier(cut: MonoCut) -> None:
    heard = [word("HELLO", 0.8, 1.2), word("YOU", 1.6, 1.8)]
    cuts = CutSet.from_cuts([cut])
    found = evaluate(lambda _: heard, cuts, "cuts", under=condition("speed:1.25"))
    assert found.times.starts == pytest.approx((0.0, 0.0), abs=1e-3)
    assert found.times.ends == pytest.approx((0.0, 0.0), abs=1e-3)


def test_the_peer_has_times_too() -> None:
    pytest.importorskip("pocketsphinx")
    row = json.loads((ASSETS / "unseen" / "manifest.jsonl").read_text().splitlines()[0])
    samples, _ = soundfile.read(ASSETS / "unseen" / row["audio"], dtype="float32")
    words = load_word_transcriber(POCKETSPHINX)(samples)
    assert joined(load_word_transcriber(POCKETSPHINX)(samples)) == " ".join(
        one.text for one in words
    )
    assert words[0].start < words[0].end <= words[1].start < words[-1].end <= len(samples) / 16_000
