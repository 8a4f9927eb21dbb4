import json

import pytest
import tiny_program

from rdsdk.errors import ModelError
from rdsdk.runtime.card import CARD_VERSION, Card


def read(**changes):
    return Card.from_json(json.dumps(tiny_program.card(True) | changes), "talk.pte")


def test_a_card_is_read_into_types():
    card = read()
    assert card.name == "tones"
    assert card.context is not None
    assert card.context.chunk_frames == tiny_program.CHUNK_FRAMES
    assert card.vocabulary is not None
    assert card.vocabulary.symbols == tiny_program.SYMBOLS
    assert card.state["positions"] == (1, 3, 8)
    assert card.methods["forward"].max_samples == tiny_program.MAX_SAMPLES
    assert card.frame_seconds == 0.02
    assert card.chunk_samples == 320 * tiny_program.CHUNK_FRAMES
    assert card.state_bytes == 4 * (3 * 8 + 8 * 8 + 8 * 8 + 8)


def test_a_full_context_card_has_no_chunk_and_no_step():
    card = Card.from_json(json.dumps(tiny_program.card(False)), "talk.pte")
    assert (card.chunk_samples, card.state_bytes) == (0, 0)
    forward = tiny_program.card(False)["methods"]["forward"]
    value = tiny_program.card(False, methods={"forward": forward, "step": forward})
    with pytest.raises(ModelError, match="one chunk of a streaming"):
        Card.from_json(json.dumps(value), "talk.pte")


def test_fields_that_a_later_export_adds_are_no_harm():
    assert read(colour="green").name == "tones"


@pytest.mark.parametrize("name", sorted(set(tiny_program.card(True)) - {"format", "version"}))
def test_each_missing_field_is_named(name):
    value = tiny_program.card(True)
    del value[name]
    with pytest.raises(ModelError, match=rf"talk\.pte.*{name} is missing"):
        Card.from_json(json.dumps(value), "talk.pte")


@pytest.mark.parametrize("name", sorted(set(tiny_program.card(True)) - {"format", "version"}))
def test_each_field_of_the_wrong_type_is_refused(name):
    with pytest.raises(ModelError, match=r"talk\.pte"):
        read(**{name: True})


@pytest.mark.parametrize("text", ["", "not json", "[1, 2]", "null", '"text"', "{}", '{"format":1}'])
def test_what_is_no_card_is_refused(text):
    with pytest.raises(ModelError, match="card"):
        Card.from_json(text, "talk.pte")


def test_a_newer_version_asks_for_an_upgrade():
    with pytest.raises(ModelError, match="upgrade rdsdk"):
        read(version=CARD_VERSION + 1)


@pytest.mark.parametrize("version", [0, -1, "1", None])
def test_a_version_that_is_none_is_refused(version):
    with pytest.raises(ModelError, match="version"):
        read(version=version)


FORWARD = tiny_program.card(True)["methods"]["forward"]
STEP = tiny_program.card(True)["methods"]["step"]
CONTEXT = tiny_program.card(True)["context"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "song"}, "song"),
        ({"vocabulary": None}, "no vocabulary"),
        ({"vocabulary": {"symbols": ["a", "a"], "blank": 0}}, "repeat"),
        ({"hop_samples": 160}, "overlap"),
        ({"overlap_samples": 79}, "overlap_samples is 79"),
        ({"overlap_samples": 80 + 320}, "expected 80 with 0 frames"),
        ({"context": CONTEXT | {"right_frames": 1}}, "expected 400 with 1 frames"),
        ({"context": CONTEXT | {"right_frames": -1}, "overlap_samples": 80}, "-1 frames"),
        ({"context": CONTEXT | {"right_frames": "1"}}, "wrong type"),
        # A chunk without its right context.
        ({"context": CONTEXT | {"right_frames": 1}, "overlap_samples": 80 + 320}, "step takes"),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"context": None}, "go together"),
        ({"context": {"chunk_frames": 4000, "left_frames": 8}}, "chunk"),
        ({"state": []}, "inputs"),
        ({"methods": {}}, "no method forward"),
        ({"methods": {"forward": FORWARD | {"inputs": ["waveform"]}}}, "inputs"),
        ({"methods": {"forward": FORWARD | {"max_samples": 5}}}, "5 samples"),
        ({"methods": {"forward": FORWARD, "step": FORWARD}}, "one chunk of a streaming"),
        ({"methods": {"forward": FORWARD, "step": STEP | {"outputs": []}}}, "step has inputs"),
        ({"hidden_layers": []}, "hidden_layers"),
        ({"training_data": [1]}, "list of text"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(changes, says):
    with pytest.raises(ModelError, match=says):
        read(**changes)
