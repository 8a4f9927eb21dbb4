"""A model that brings its own search along: settings in its card, files beside its artefact."""

import dataclasses
import json
import shutil

import pytest
import soundfile
import tiny_program

import rdsdk
from rdsdk import cli

# D alone is no word of the language model.
SPEECH = (tiny_program.tones("ABC D" + 12 * "_"), tiny_program.SAMPLE_RATE)


@pytest.fixture
def own_pte(searching_pte, tmp_path, write_arpa):
    path = shutil.copy(searching_pte, tmp_path / "own.pte")
    write_arpa(tmp_path / "tiny.arpa", "ABC", "DE")
    return path


def texts(recognizer, **how):
    return [segment.text for segment in recognizer.transcribe(SPEECH, **how)]


def test_text_is_found_by_it_unless_another_way_is_asked_for(own_pte, tmp_path):
    recognizer = rdsdk.load(own_pte)
    wanted = rdsdk.BeamSettings(lm=tmp_path / "tiny.arpa", lm_weight=0.1, beam_size=20)
    assert recognizer.search == wanted
    assert texts(recognizer) == ["ABC DE"]
    assert texts(recognizer, beam="greedy") == ["ABC D"]
    assert texts(recognizer, beam=rdsdk.BeamSettings()) == ["ABC D"]
    assert texts(recognizer, beam=dataclasses.replace(wanted, beam_size=5)) == ["ABC DE"]


def test_hotwords_join_its_words(own_pte):
    speech = (tiny_program.tones("ABC FGH" + 12 * "_"), tiny_program.SAMPLE_RATE)
    recognizer = rdsdk.load(own_pte)
    heard = [
        segment.text
        for hotwords in ([], ["FGH"])
        for segment in recognizer.transcribe(speech, hotwords=hotwords)
    ]
    assert heard[0] != "ABC FGH"
    assert heard[1] == "ABC FGH"


def test_its_files_are_found_from_another_folder(own_pte, tmp_path, monkeypatch):
    monkeypatch.chdir(own_pte.parent)
    recognizer = rdsdk.load(own_pte.name)
    monkeypatch.chdir(tmp_path)
    assert recognizer.stream() is not None


def test_a_greedy_reading_knows_no_hotwords(own_pte):
    with pytest.raises(rdsdk.ConfigError, match="hotwords need a beam search"):
        rdsdk.load(own_pte).stream(beam="greedy", hotwords=["ABC"])


def test_a_language_model_left_behind_is_missed_by_name(own_pte, tmp_path):
    (tmp_path / "tiny.arpa").unlink()
    recognizer = rdsdk.load(own_pte)
    with pytest.raises(rdsdk.RdsdkError, match=r"tiny\.arpa"):
        recognizer.stream()
    assert texts(recognizer, beam="greedy") == ["ABC D"]


def test_a_model_without_one_reads_greedily(streaming_pte):
    recognizer = rdsdk.load(streaming_pte)
    assert recognizer.search is None
    assert texts(recognizer) == ["ABC D"]


def test_commands_use_it_too(own_pte, tmp_path, capsys):
    recording = tmp_path / "speech.wav"
    soundfile.write(recording, *SPEECH)
    row = {"id": "a", "audio": recording.name, "seconds": len(SPEECH[0]) / 16_000, "text": "ABC DE"}
    (tmp_path / "clips.jsonl").write_text(json.dumps(row) + "\n")
    evaluate = ["evaluate", str(own_pte), str(tmp_path / "clips.jsonl"), "--json"]
    transcribe = ["transcribe", str(recording), "--model", str(own_pte)]
    found = {}
    for options in ([], ["--greedy"], ["--lm-weight", "0.2"]):
        assert cli.main([*transcribe, *options]) == 0
        text = capsys.readouterr().out.strip()
        assert cli.main([*evaluate, *options]) == 0
        value = json.loads(capsys.readouterr().out)
        found[" ".join(options)] = (text, value["results"][0]["wer"], value["beam"])
    assert found["--greedy"] == ("ABC D", 0.5, None)
    assert found[""][:2] == found["--lm-weight 0.2"][:2] == ("ABC DE", 0.0)
    assert (found[""][2]["lm_weight"], found["--lm-weight 0.2"][2]["lm_weight"]) == (0.1, 0.2)
    assert found["--lm-weight 0.2"][2]["beam_size"] == 20
