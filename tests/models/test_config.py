from __future__ import annotations

from dataclasses import replace

import pytest

from rdsdk.errors import ConfigError
from rdsdk.models.config import (
    PRESETS,
    Context,
    ConvLayer,
    EncoderConfig,
    preset,
    reinvest_ffn,
    reuse_pattern,
)
from rdsdk.models.student import Student


@pytest.mark.parametrize(
    ("name", "with_heads", "without_heads"),
    [
        ("armhubert", 26_448_448, 22_015_552),
        ("armhubert-s", 22_394_080, 18_403_552),
        ("maskhubert", 26_635_840, 22_202_944),
    ],
)
def test_published_presets_have_their_published_size(
    name: str, with_heads: int, without_heads: int
) -> None:
    assert Student(preset(name), projection_width=768).parameter_count() == with_heads
    assert Student(preset(name)).parameter_count() == without_heads


def test_reuse_patterns_name_the_owner_of_each_layer() -> None:
    assert reuse_pattern("2by6") == (0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10)
    assert reuse_pattern("3by4") == (0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9)
    assert reuse_pattern("none", 3) == (0, 1, 2)
    assert reuse_pattern("3by2", 6) == (0, 0, 0, 3, 3, 3)


@pytest.mark.parametrize("name", ["2by5", "by", "0by12", "twice", "2by6by1"])
def test_an_impossible_reuse_pattern_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="reuse pattern"):
        reuse_pattern(name)


def test_reinvestment_gives_the_published_widths_and_never_costs_more_than_it_saved() -> None:
    assert reinvest_ffn(480, 640, reuse_pattern("2by6")) == preset("armhubert").ffn == 864
    assert reinvest_ffn(432, 600, reuse_pattern("2by6")) == preset("armhubert-s").ffn == 816
    assert reinvest_ffn(480, 640, reuse_pattern("none")) == 640
    base = Student(replace(preset("armhubert"), ffn=640, map_owner=reuse_pattern("none")))
    spent = Student(preset("armhubert"))
    assert 0 <= base.parameter_count() - spent.parameter_count() < 12 * 48 * (2 * 480 + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map_owner": (0, 2, 2, 3)}, "layer 1 reuses the attention map of layer 2"),
        ({"map_owner": (0, 0, 1, 3)}, "which itself reuses layer 0"),
        ({"map_owner": (-1, 0)}, "layer -1"),
        ({"map_owner": ()}, "at least one layer"),
        ({"width": 30}, "not a multiple of 4 heads"),
        ({"heads": 0}, "heads must be a positive integer"),
        ({"position_groups": 5}, "position_groups 5"),
        ({"position": "sideways"}, "position must be one of"),
        ({"position": "centred"}, "nothing may look past the chunk"),
        ({"extractor_norm": "group"}, "nothing may look past the chunk"),
        ({"dropout": 1.0}, "dropout"),
        ({"convs": (ConvLayer(8, 10, 5),)}, "hop 5 and receptive field 10"),
    ],
)
def test_an_impossible_architecture_is_refused_by_name(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(preset("tiny"), **changes)


def test_a_context_needs_a_chunk() -> None:
    with pytest.raises(ConfigError, match="chunk_frames"):
        Context(chunk_frames=0, left_frames=4)


def test_an_unknown_preset_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match="armhubert-s"):
        preset("armhubert-xl")


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_its_dictionary(name: str) -> None:
    assert EncoderConfig.from_dict(preset(name).to_dict()) == preset(name)


def test_a_misspelt_or_missing_architecture_field_is_named() -> None:
    value = preset("tiny").to_dict()
    with pytest.raises(ConfigError, match="widht"):
        EncoderConfig.from_dict({**value, "widht": 3})
    with pytest.raises(ConfigError, match="heads"):
        EncoderConfig.from_dict({k: v for k, v in value.items() if k != "heads"})
    with pytest.raises(ConfigError, match="cannot be read"):
        EncoderConfig.from_dict({**value, "context": {"chunk": 4}})
