"""The published format: the released code's own outputs, and files that are refused."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import released_student
import torch
import yaml

from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.importers import config_from_official, import_official, main, parse_expression

ASSETS = Path(__file__).parents[1] / "assets" / "official"
CKPT, YAML = ASSETS / "official_student_tiny.ckpt", ASSETS / "official_student_tiny.yaml"


@pytest.fixture
def section() -> dict[str, object]:
    return yaml.safe_load(YAML.read_text())["distiller"]


@torch.no_grad()
def test_an_imported_checkpoint_gives_the_released_codes_outputs(tmp_path: Path) -> None:
    assert main([str(CKPT), str(YAML), "-o", str(tmp_path / "student")]) == 0
    student = checkpoint.load(tmp_path / "student").student
    published = np.load(ASSETS / "official_student_tiny.npz")
    waveform = torch.from_numpy(published["waveform"])
    features = student.encoder.project(student.extractor(waveform))
    np.testing.assert_allclose(features, published["features"], atol=1e-4)
    output, _ = student(waveform)
    np.testing.assert_allclose(torch.stack(output.hidden, 1), published["layers"], atol=1e-4)
    projections = student.project(output.hidden)
    np.testing.assert_allclose(torch.stack(projections, 1), published["projections"], atol=1e-4)
    np.testing.assert_allclose(projections[-1], published["x"], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("pattern", "owners"),
    [("[True, False, False] * 2", (0, 0, 0, 3, 3, 3)), ("[True] * 3 + [False]", (0, 1, 2, 2))],
)
def test_other_widths_and_patterns_give_the_released_outputs_too(
    tmp_path: Path, section: dict[str, object], pattern: str, owners: tuple[int, ...]
) -> None:
    convs = [(8, 10, 5), (24, 1, 1), *[(24, 3, 2)] * 4, (40, 1, 1), *[(40, 2, 2)] * 2]
    own = [layer == owner for layer, owner in enumerate(owners)]
    weights = released_student.random_weights(convs, 36, 52, own, 32, 3, 20)
    changes = {
        "conv_feature_layers": "[(8, 10, 5)] + [(24, 1, 1)] + [(24, 3, 2)] * 4 + [(40, 1, 1)] "
        "+ [(40, 2, 2)] * 2",
        "conv_pos": 32,
        "conv_pos_groups": 3,
        "encoder_layers": len(owners),
        "encoder_embed_dim": 36,
        "encoder_ffn_embed_dim": 52,
        "encoder_attention_heads": 6,
        "reuse_pattern": pattern,
    }
    (tmp_path / "student.yaml").write_text(yaml.safe_dump({"distiller": {**section, **changes}}))
    named = {f"student_model.{name}": tensor for name, tensor in weights.items()}
    torch.save({"state_dict": named}, tmp_path / "student.ckpt")
    student = import_official(tmp_path / "student.ckpt", tmp_path / "student.yaml").student
    assert student.config.map_owner == owners
    waveform = torch.randn(20_000) * 0.1
    layers, projections = released_student.layers_and_projections(
        weights, convs, own, 6, 3, waveform
    )
    output, _ = student(waveform[None])
    for ours, theirs in zip(output.hidden, layers, strict=True):
        np.testing.assert_allclose(ours[0], theirs, atol=1e-4)
    for ours, theirs in zip(student.project(output.hidden), projections, strict=True):
        np.testing.assert_allclose(ours[0], theirs, atol=1e-4)
    # Negative control: a map that is not put through the second softmax shows.
    student.encoder.config = replace(student.config, reused_map="as_is")
    wrong, _ = student(waveform[None])
    assert (wrong.hidden[-1][0] - layers[-1]).abs().max() > 1e-2


@torch.no_grad()
def test_the_papers_reuse_does_not_give_the_released_outputs() -> None:
    student = import_official(CKPT, YAML).student
    student.encoder.config = replace(student.config, reused_map="as_is")
    published = np.load(ASSETS / "official_student_tiny.npz")
    output, _ = student(torch.from_numpy(published["waveform"]))
    assert np.abs(torch.stack(output.hidden, 1).numpy() - published["layers"]).max() > 1e-3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[(16, 10, 5)] + [(32, 1, 1)] * 2", [(16, 10, 5), (32, 1, 1), (32, 1, 1)]),
        ("2 * [True, False]", [True, False, True, False]),
        ("[True]", [True]),
    ],
)
def test_expressions_of_the_yaml_are_parsed(text: str, value: object) -> None:
    assert parse_expression(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "[1] * 10 ** 9",
        "[[0] * 1000] * 1000 * 1000",
        "[x for x in (1, 2)]",
        "[1] * -1 + 'a'",
        "(1",
        "[" * 500,
    ],
)
def test_anything_else_in_an_expression_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        parse_expression(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_type": "conformer"}, "layer_type"),
        ({"layer_norm_first": True}, "layer_norm_first"),
        ({"reuse_pattern": "[True, False]"}, "2 entries for 6 layers"),
        ({"reuse_pattern": "[False] + [True] * 5"}, "first layer must own"),
        ({"reuse_pattern": "[1, 2, 3, 4, 5, 6]"}, "True and False"),
        ({"encoder_ffn_embed_dim": None}, "ffn"),
    ],
)
def test_what_the_student_cannot_be_is_refused_by_name(
    section: dict[str, object], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_official({**section, **changes})


def test_another_reuse_pattern_becomes_its_owners(section: dict[str, object]) -> None:
    config = config_from_official({**section, "reuse_pattern": "([True] + [False] * 2) * 2"})
    assert config.map_owner == (0, 0, 0, 3, 3, 3)
    assert config.reused_map == "softmax_again"


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "owned",))  # type: ignore[return-value]

    bad = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"student_model.x": Evil()}}, bad)
    with pytest.raises(CheckpointError, match="read safely"):
        import_official(bad, YAML)
    bad.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="read safely"):
        import_official(bad, YAML)
    assert not (tmp_path / "owned").exists()


def test_damaged_or_wrong_files_are_typed_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        import_official(tmp_path / "none.ckpt", YAML)
    with pytest.raises(CheckpointError, match="does not exist"):
        import_official(CKPT, tmp_path / "none.yaml")
    (tmp_path / "half.ckpt").write_bytes(CKPT.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"half\.ckpt"):
        import_official(tmp_path / "half.ckpt", YAML)
    (tmp_path / "other.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not YAML"):
        import_official(CKPT, tmp_path / "other.yaml")
    (tmp_path / "other.yaml").write_text("training: {}")
    with pytest.raises(ConfigError, match="distiller"):
        import_official(CKPT, tmp_path / "other.yaml")


def test_missing_unknown_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    content = torch.load(CKPT, weights_only=True)
    weights = content["state_dict"]
    for change, message in (
        (lambda w: w.pop("student_model.mask_emb"), r"missing weights \(1\).*mask_embedding"),
        (
            lambda w: w.update({"student_model.layer_norm.bias": torch.zeros(3)}),
            r"misshapen.*frame_norm\.bias: got \(3,\), expected \(48,\)",
        ),
        (lambda w: w.update({"student_model.novel.weight": torch.zeros(3)}), r"novel\.weight"),
    ):
        changed = dict(weights)
        change(changed)
        torch.save({"state_dict": changed}, tmp_path / "changed.ckpt")
        with pytest.raises(CheckpointError, match=message):
            import_official(tmp_path / "changed.ckpt", YAML)
