"""Words sounded out by the real espeak-ng, beside the dictionary that others wrote."""

import itertools
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from rapidfuzz.distance import Levenshtein

from rdsdk.data import letter_to_sound
from rdsdk.data.letter_to_sound import phones, sounded
from rdsdk.data.lexicon import main
from rdsdk.data.phones import PHONES
from rdsdk.data.phones import main as make_phones
from rdsdk.data.pronunciations import pocketsphinx_dictionary
from rdsdk.decoding.pronunciation import read_dictionary
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError
from rdsdk.models import checkpoint
from rdsdk.models.config import preset
from rdsdk.models.student import Student
from rdsdk.training.realignment import main as realign_phones

SPEECH = Path(__file__).parents[1] / "assets" / "speech" / "manifest.jsonl"

if shutil.which("espeak-ng") is None:
    if os.environ.get("RDSDK_REQUIRE_ESPEAK"):
        raise RuntimeError("espeak-ng is required here (apt-get install espeak-ng)")
    pytest.skip("needs espeak-ng (apt-get install espeak-ng)", allow_module_level=True)


def test_words_sound_as_they_should():
    said = sounded(["Thursday", "BUTTER", "little", "catherine", "d'artagnan", "marry"])
    assert said["Thursday"] == ("TH", "ER", "Z", "D", "EY")
    assert said["BUTTER"] == ("B", "AH", "T", "ER")
    assert said["little"] == ("L", "IH", "T", "AH", "L")
    assert said["d'artagnan"][:4] == ("D", "AA", "R", "T")
    assert said["marry"] == ("M", "EH", "R", "IY")
    pairs = [pair for way in said.values() for pair in itertools.pairwise(way)]
    assert ("R", "R") not in pairs
    assert sounded([]) == {}


def test_the_dictionary_agrees_with_most_of_it():
    dictionary = read_dictionary(pocketsphinx_dictionary())
    words = random.Random(1).sample([word for word in dictionary if word.isalpha()], 1500)
    said = sounded(words)
    assert len(said) > 0.99 * len(words)
    assert {phone for way in said.values() for phone in way} <= set(PHONES)
    wrong = sum(min(Levenshtein.distance(said[w], way) for way in dictionary[w]) for w in said)
    total = sum(len(dictionary[w][0]) for w in said)
    assert wrong < 0.15 * total
    # Negative control: the phones of another word do not pass.
    others = list(said.values())[1:] + list(said.values())[:1]
    crossed = sum(
        Levenshtein.distance(other, dictionary[w][0]) for w, other in zip(said, others, strict=True)
    )
    assert crossed > 0.6 * total


def test_a_phone_without_a_counterpart_is_no_guess():
    assert phones("h ə l ˈoʊ") == ("HH", "AH", "L", "OW")
    assert phones("h ɮ l") is None
    assert phones("") is None


def test_added_words_are_in_a_lexicon_for_hotwords(tmp_path, write_arpa):
    lm = write_arpa(tmp_path / "tiny.arpa", "TOMATO", "X2")
    names = tmp_path / "names.dict"
    names.write_text("RDSDK AA R D IY EH S\ntomato T OW\n")
    output = tmp_path / "tiny.dict"
    assert main([str(lm), "-o", str(output), "--add", str(names)]) == 0
    # A word of the language model stays written as there.
    assert read_dictionary(output) == {
        "TOMATO": [("T", "OW")],
        "RDSDK": [("AA", "R", "D", "IY", "EH", "S")],
    }


def test_a_lexicon_guesses_only_where_it_is_told_to(tmp_path, write_arpa, capsys):
    lm = write_arpa(tmp_path / "tiny.arpa", "TOMATO", "ZORBLAXED", "X2")
    output = tmp_path / "tiny.dict"
    assert main([str(lm), "-o", str(output)]) == 0
    assert "1 of " in capsys.readouterr().out
    known = read_dictionary(output)
    assert list(known) == ["TOMATO"]
    assert len(known["TOMATO"]) == 2
    assert main([str(lm), "-o", str(output), "--sound-out"]) == 0
    guessed = read_dictionary(output)
    assert list(guessed) == ["TOMATO", "ZORBLAXED"]
    assert guessed["TOMATO"] == known["TOMATO"]
    assert guessed["ZORBLAXED"] == [("Z", "AO", "R", "B", "L", "AE", "K", "S", "T")]


def test_what_goes_wrong_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(letter_to_sound, "PROGRAM", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="apt-get install"):
        sounded(["word"])
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho no voice >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(letter_to_sound, "PROGRAM", str(failing))
    with pytest.raises(DataError, match="no voice"):
        sounded(["word"])
    failing.write_text("#!/bin/sh\necho one line\n")
    with pytest.raises(DataError, match="1 lines for 2 words"):
        sounded(["two", "words"])


def test_recordings_with_unknown_words_are_aligned_when_these_are_sounded_out(tmp_path, capsys):
    rows = [json.loads(line) for line in SPEECH.read_text().splitlines()]
    row = next(row for row in rows if len(row["text"].split()) > 3)
    first, _, rest = row["text"].partition(" ")
    row = row | {"audio": str(SPEECH.parent / row["audio"])}
    # Spelt as nobody spells it, but to be sounded out alike.
    strange = [row | {"text": f"{first}ZQX {rest}"}, row | {"id": "plain"}]
    manifest = tmp_path / "strange.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in strange))
    command = ["--train", str(manifest), "--dev", str(manifest), "--out", str(tmp_path / "phones")]
    counts = []
    for options in ([], ["--sound-out"]):
        assert make_phones([*command, "--workers", "1", *options]) == 0
        made = (tmp_path / "phones" / "train.jsonl").read_text().splitlines()
        counts.append(len(made))
    assert counts == [1, 2]
    torch.manual_seed(0)
    vocabulary = Vocabulary.words(PHONES)
    student = Student(preset("tiny"), symbols=len(vocabulary)).eval()
    folder = checkpoint.save(tmp_path / "model", checkpoint.Checkpoint(student, vocabulary, {}))
    realign = [str(folder), str(tmp_path / "phones" / "train.jsonl")]
    assert realign_phones(realign) == 2
    assert "has no pronunciation" in " ".join(capsys.readouterr().err.split())
    assert realign_phones([*realign, "--sound-out"]) == 0
