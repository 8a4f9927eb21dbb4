"""Settings of a beam search, there and back through a card."""

from pathlib import Path

import pytest

from rdsdk.decoding.settings import BeamSettings
from rdsdk.errors import ConfigError


def test_what_differs_from_the_defaults_is_written_and_read():
    settings = BeamSettings("lms/a.lm", Path("b.dict"), 7, symbols_per_frame=20, word_score=-1.0)
    value = settings.to_dict()
    assert value == {
        "lm": "a.lm",
        "lexicon": "b.dict",
        "beam_size": 7,
        "symbols_per_frame": 20,
        "word_score": -1.0,
    }
    beside = BeamSettings.from_dict(value).beside(Path("models"))
    assert beside.files() == [Path("models/a.lm"), Path("models/b.dict")]
    assert BeamSettings.from_dict(beside.to_dict()) == BeamSettings.from_dict(value)
    assert BeamSettings.from_dict({}) == BeamSettings() == BeamSettings().beside(Path("models"))
    again = BeamSettings("a.lm", "b.dict", rnnlm=Path("lms/c.rnnlm"), rnnlm_share=0.7)
    assert again.to_dict()["rnnlm"] == "c.rnnlm"
    again = BeamSettings.from_dict(again.to_dict()).beside(Path("models"))
    assert (again.files()[-1], again.rnnlm_share) == (Path("models/c.rnnlm"), 0.7)
    assert BeamSettings.from_dict({"sum_alignments": True, "lm_weight": 2}).sum_alignments


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "expected an object"),
        ({"beam": 7}, "unknown 'beam'"),
        ({"beam_size": "7"}, "beam_size is '7'"),
        ({"beam_size": True}, "beam_size is True"),
        ({"sum_alignments": 1}, "sum_alignments is 1"),
        ({"beam_size": 0}, "at least 1"),
        ({"lm": "../secret"}, "no folder"),
        ({"lexicon": "/etc/passwd"}, "no folder"),
        ({"lm": ".."}, "no folder"),
    ],
)
def test_what_no_search_says_is_refused(value, says):
    with pytest.raises(ConfigError, match=says):
        BeamSettings.from_dict(value)
