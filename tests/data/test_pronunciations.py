"""Words become phones by a dictionary, or keep the phones that an alignment gave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lhotse import CutSet

from rdsdk.data.manifest import read_cuts, transcript
from rdsdk.data.phones import PHONES
from rdsdk.data.pronunciations import pronounced, read_pronunciations
from rdsdk.errors import ConfigError, DataError

SPEECH = Path(__file__).parent.parent / "assets" / "speech"
REBECCA = (
    "D UH R IH NG W IH CH R AH B EH K AH W AA Z L EH F T T UW DH AH S AH S AY AH T IY AH V "
    "M IH S T ER JH OW S AH F"
)


def dictionary(folder: Path, text: str, name: str = "lexicon.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def manifest(folder: Path, **changes: object) -> CutSet:
    row = json.loads((SPEECH / "manifest.jsonl").read_text().splitlines()[0])
    row["audio"] = str(SPEECH / row["audio"])
    path = folder / "manifest.jsonl"
    path.write_text(json.dumps({**row, **changes}) + "\n")
    return read_cuts(path)


def test_the_default_dictionary_has_the_39_phones_and_spells_real_transcripts() -> None:
    found = read_pronunciations()
    assert found.vocabulary.symbols[1:] == PHONES
    assert found.phones["THE"] == ("DH", "AH")
    cuts, left_out = pronounced(read_cuts(SPEECH / "manifest.jsonl"), found)
    texts = {cut.id: transcript(cut) for cut in cuts}
    assert (len(texts), left_out) == (3, 0)
    assert texts["ls-669-129074-0025"] == REBECCA
    for text in texts.values():
        assert found.vocabulary.decode(found.vocabulary.encode(str(text))) == text


def test_the_first_pronunciation_counts_and_stress_is_kept(tmp_path: Path) -> None:
    first = dictionary(tmp_path, ";;; a comment\n\nthe\tDH AH0\nTHE(2) DH IY0\nread R EH1 D\n")
    second = dictionary(tmp_path, "READ R IY1 D\nBOOK B UH1 K\n", "more.txt")
    found = read_pronunciations([first, second])
    assert dict(found.phones) == {
        "THE": ("DH", "AH0"),
        "READ": ("R", "EH1", "D"),
        "BOOK": ("B", "UH1", "K"),
    }
    assert found.vocabulary.symbols[1:] == ("AH0", "B", "D", "DH", "EH1", "K", "R", "UH1")
    assert read_pronunciations([second, first]).phones["READ"] == ("R", "IY1", "D")


def test_phones_that_an_alignment_gives_are_kept(tmp_path: Path) -> None:
    found = read_pronunciations()
    aligned = [["DH", 0.1, 0.2], ["AE", 0.2, 0.3], ["T", 0.3, 0.4]]
    cuts, _ = pronounced(manifest(tmp_path, text="DH AE T", alignment=aligned), found)
    assert [transcript(cut) for cut in cuts] == ["DH AE T"]
    # An alignment of words is none of phones: the dictionary spells them.
    of_words = [["CAT", 0.1, 0.4]]
    cuts, _ = pronounced(manifest(tmp_path, text="CAT", alignment=of_words), found)
    assert [transcript(cut) for cut in cuts] == ["K AE T"]
    # Without its alignment "DH" is taken for a word, which the dictionary does not have.
    with pytest.raises(DataError, match="1 words have no pronunciation: DH;"):
        pronounced(manifest(tmp_path, text="DH AE T"), found)


def test_words_without_a_pronunciation_are_left_out_and_counted(tmp_path: Path) -> None:
    known = "THE DH AH\nPAPER P EY P ER\nON AA N\nA AH\n"
    rows = [
        {"id": name, "audio": str(next(SPEECH.glob("*.flac"))), "seconds": 1.0, "text": text}
        for name, text in (("a", "THE PAPER"), ("b", "THE QUUX ON A FLURB"), ("c", ""))
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_pronunciations([dictionary(tmp_path, known)])
    with pytest.warns(UserWarning, match=r"1 of 3 utterances left out, for 2 words .*FLURB, QUUX"):
        cuts, left_out = pronounced(read_cuts(path), found)
    assert left_out == 1
    assert {cut.id: transcript(cut) for cut in cuts} == {"a": "DH AH P EY P ER", "c": ""}
    lazy = CutSet.from_files([_cuts_file(tmp_path, read_cuts(path))])
    assert lazy.is_lazy
    cuts, left_out = pronounced(lazy, found)
    assert ([cut.id for cut in cuts], left_out) == (["a", "c"], 0)


def _cuts_file(folder: Path, cuts: CutSet) -> Path:
    cuts.to_file(folder / "cuts.jsonl")
    return folder / "cuts.jsonl"


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pronouncing lexicon"):
        read_pronunciations([tmp_path / "none.txt"])
    with pytest.raises(DataError, match="line 2 has no phones for 'EMPTY'"):
        read_pronunciations([dictionary(tmp_path, "A AH\nEMPTY\n")])
    with pytest.raises(DataError, match="holds no words"):
        read_pronunciations([dictionary(tmp_path, ";;; nothing\n")])
    with pytest.raises(DataError, match="has no transcript"):
        pronounced(manifest(tmp_path, text=None), read_pronunciations())
