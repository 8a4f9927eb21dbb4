"""``--beam``, ``--lm`` and ``--hotwords`` of ``rdsdk transcribe`` and ``rdsdk evaluate``."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from tiny_program import SAMPLE_RATE, tones

from rdsdk import cli
from rdsdk.decoding.arguments import add_decoding_arguments, decoding
from rdsdk.decoding.settings import BeamSettings
from rdsdk.errors import ConfigError


def parsed(*options: str, own: BeamSettings | None = None):
    parser = argparse.ArgumentParser()
    add_decoding_arguments(parser)
    return decoding(parser.parse_args(options), own)


def test_without_options_text_is_read_greedily():
    assert parsed() == (None, ())


def test_options_are_settings(tmp_path):
    assert parsed("--beam") == (BeamSettings(), ())
    assert parsed("--beam=7") == (BeamSettings(beam_size=7), ())
    narrow = BeamSettings(beam_size=600, symbols_per_frame=8)
    assert parsed("--beam=600", "--symbols-per-frame", "8") == (narrow, ())
    assert parsed("--sum-alignments") == (BeamSettings(sum_alignments=True), ())
    summing = BeamSettings(beam_size=9, sum_alignments=True)
    assert parsed("--no-sum-alignments", own=summing) == (BeamSettings(beam_size=9), ())
    assert parsed("--beam=9", own=summing) == (summing, ())
    assert parsed("--hotwords", "Rdsdk, New York") == (BeamSettings(), ("Rdsdk", "New York"))
    lm = tmp_path / "lm"
    wanted = BeamSettings(lm, lm_weight=0.3, word_score=1.0)
    options = ("--lm", str(lm), "--lm-weight", "0.3", "--word-score", "1")
    assert parsed(*options) == (wanted, ())
    wanted = BeamSettings(lm, lexicon=tmp_path / "lexicon")
    assert parsed("--lm", str(lm), "--lexicon", str(tmp_path / "lexicon")) == (wanted, ())
    assert parsed("--lexicon", "words.txt") == (BeamSettings(lexicon=Path("words.txt")), ())
    (tmp_path / "names").write_text("Ada\n\nGrace Hopper\n")
    assert parsed("--hotwords", f"@{tmp_path / 'names'}")[1] == ("Ada", "Grace Hopper")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--beam=0",), "beam_size is 0"),
        (("--lm-weight", "0.5"), "goes with a language model"),
        (("--word-score", "0.5"), "goes with a language model"),
        (("--hotwords", ","), "holds no word"),
        (("--hotwords", "@nowhere"), "cannot be read"),
        (("--greedy", "--beam"), "--greedy searches nothing"),
        (("--greedy", "--hotwords", "Ada"), "--greedy searches nothing"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        parsed(*options)


def test_options_change_the_models_own_search():
    own = BeamSettings("its.lm", "its.dict", lm_weight=2.0, word_score=-1.0)
    assert parsed(own=own) == (None, ())
    assert parsed("--hotwords", "Ada", own=own) == (None, ("Ada",))
    assert parsed("--greedy", own=own) == parsed("--greedy") == ("greedy", ())
    assert parsed("--beam=7", own=own)[0] == replace(own, beam_size=7)
    assert parsed("--lm-weight", "1", own=own)[0] == replace(own, lm_weight=1.0)
    assert parsed("--no-lm", own=own)[0] == replace(own, lm=None)
    without = replace(own, lm=None, word_score=-6.0)
    assert parsed("--no-lm", "--word-score=-6", own=own)[0] == without
    assert parsed("--no-lm", "--beam=7", own=own)[0] == replace(own, lm=None, beam_size=7)
    for options, its in ((["--no-lm"], None), (["--no-lm", "--lm", "mine.lm"], own)):
        with pytest.raises(ConfigError, match="own language model"):
            parsed(*options, own=its)
    assert parsed("--lm", "mine.lm", own=own)[0] == replace(own, lm=Path("mine.lm"))


def test_a_recurrent_language_model_comes_and_goes():
    own = BeamSettings("its.lm", "its.dict", rnnlm="its.rnnlm")
    assert parsed("--no-rnnlm", own=own)[0] == replace(own, rnnlm=None)
    assert parsed("--no-rnnlm", "--beam=7", own=own)[0] == replace(own, rnnlm=None, beam_size=7)
    assert parsed("--no-lm", own=own)[0] == replace(own, lm=None, rnnlm=None)
    assert parsed("--rnnlm-share", "0.2", own=own)[0] == replace(own, rnnlm_share=0.2)
    plain = BeamSettings("its.lm", "its.dict")
    mine = replace(plain, rnnlm=Path("mine.rnnlm"))
    assert parsed("--rnnlm", "mine.rnnlm", own=plain)[0] == mine
    for options, message in (
        (["--no-rnnlm"], "there is none here"),
        (["--rnnlm-share", "0.2"], "give --rnnlm"),
    ):
        with pytest.raises(ConfigError, match=message):
            parsed(*options, own=plain)
    with pytest.raises(ConfigError, match="give lm and lexicon too"):
        parsed("--rnnlm", "mine.rnnlm")


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "speech.wav"
    soundfile.write(path, tones("ABC D" + 12 * "_"), SAMPLE_RATE)
    return path


def test_a_recording_is_transcribed_with_a_language_model(
    streaming_pte, recording, tmp_path, write_arpa, capfd
):
    lm = write_arpa(tmp_path / "tiny.arpa", "ABC", "DE")
    command = ["transcribe", str(recording), "--model", str(streaming_pte)]
    texts = []
    for options in ([], ["--beam"], ["--lm", str(lm), "--lm-weight", "0.1"], ["--hotwords", "CB"]):
        assert cli.main([*command, *options]) == 0
        texts.append(capfd.readouterr().out)
    # D alone is no word of the language model.
    assert texts == ["ABC D\n", "ABC D\n", "ABC DE\n", "ABC D\n"]
    assert cli.main([*command, "--lm", str(tmp_path / "none")]) == 2
    assert "there is no language model" in capfd.readouterr().err


def test_an_evaluation_tells_how_text_was_found(streaming_pte, recording, tmp_path, capsys):
    seconds = soundfile.info(recording).duration
    row = {"id": "a", "audio": recording.name, "seconds": seconds, "text": "ABC D"}
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text(json.dumps(row) + "\n")
    command = ["evaluate", str(streaming_pte), str(manifest), "--json"]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["beam"] is None
    for live in ([], ["--block-ms", "100"]):
        assert cli.main([*command, "--beam=9", "--hotwords", "HHH", *live]) == 0
        value = json.loads(capsys.readouterr().out)
        assert (value["beam"]["beam_size"], value["hotwords"]) == (9, ["HHH"])
        assert value["results"][0]["wer"] == 0
