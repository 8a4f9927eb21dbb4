"""Published checkpoints -> ours: the official ARMHuBERT ``.ckpt`` + ``.yaml``.

The YAML holds the architecture as Python expressions in strings; they are parsed as literals with
``+`` and ``*`` only, never evaluated. The ``.ckpt`` is read without unpickling code.
"""

from __future__ import annotations

import argparse
import ast
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import ConvLayer, EncoderConfig
from rdsdk.models.student import Student

_PREFIX = "student_model."


def parse_expression(text: object) -> object:
    """A list literal that may be built with ``+`` and ``*``: ``"[(1, 2)] + [(3, 4)] * 2"``.

    Raises:
        ConfigError: anything else stands in it.
    """
    if not isinstance(text, str):
        return text

    def value(node: ast.expr) -> object:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = value(node.left), value(node.right)
            if isinstance(left, list) and isinstance(right, list):
                return left + right
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            left, right = value(node.left), value(node.right)
            if isinstance(left, int):
                left, right = right, left
            # The bound keeps a hostile file from asking for all the memory there is.
            if isinstance(left, list) and isinstance(right, int) and len(left) * right <= 1000:
                return left * right
        else:
            return ast.literal_eval(node)
        raise ValueError("only lists can be added, and repeated up to 1000 entries")

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"cannot read {text!r}: expected list literals joined by + and *; {error}"
        ) from error


def config_from_official(section: Mapping[str, object]) -> EncoderConfig:
    """The ``distiller:`` section of an official YAML -> our architecture.

    Raises:
        ConfigError: a field is missing, or says something this student cannot be (names it).
    """
    fixed = {
        "extractor_mode": "default",
        "layer_type": "transformer",
        "activation_fn": "gelu",
        "layer_norm_first": False,
        "pos_conv_depth": 1,
        "enable_tr_layer": False,
        "pred_head_inter_dim": 0,
        "attn_type": "",
    }
    for name, expected in fixed.items():
        if section.get(name, expected) != expected:
            raise ConfigError(
                f"the official configuration has {name}: {section[name]!r}; only {expected!r} can "
                "be imported"
            )
    try:
        convs = parse_expression(section["conv_feature_layers"])
        pattern = parse_expression(section["reuse_pattern"])
        if not isinstance(pattern, list) or not all(isinstance(own, bool) for own in pattern):
            raise ConfigError(f"reuse_pattern must be a list of True and False, got {pattern!r}")
        if len(pattern) != section["encoder_layers"]:
            raise ConfigError(
                f"reuse_pattern has {len(pattern)} entries for {section['encoder_layers']} layers"
            )
        if not pattern or not pattern[0]:
            raise ConfigError("reuse_pattern starts with a reuse: the first layer must own a map")
        owners: list[int] = []
        for layer, own in enumerate(pattern):
            owners.append(layer if own else owners[-1])
        if not isinstance(convs, list):
            raise ConfigError(f"conv_feature_layers must be a list, got {convs!r}")
        return EncoderConfig(
            convs=tuple(ConvLayer(*conv) for conv in convs),
            width=section["encoder_embed_dim"],  # type: ignore[arg-type]
            ffn=section["encoder_ffn_embed_dim"],  # type: ignore[arg-type]
            heads=section["encoder_attention_heads"],  # type: ignore[arg-type]
            map_owner=tuple(owners),
            conv_bias=bool(section["conv_bias"]),
            position_kernel=section["conv_pos"],  # type: ignore[arg-type]
            position_groups=section["conv_pos_groups"],  # type: ignore[arg-type]
            reused_map="softmax_again",
            dropout=section.get("dropout", 0.1),  # type: ignore[arg-type]
        )
    except KeyError as error:
        raise ConfigError(f"the official configuration misses {error}") from error
    except TypeError as error:
        raise ConfigError(f"the official configuration cannot be read: {error}") from error


def rename_official(name: str, layers: int) -> str | None:
    """An official weight's name -> ours; None for one that the published student never uses."""
    parts = name.split(".")
    fixed = {
        "mask_emb": "encoder.mask_embedding",
        "layer_norm.weight": "encoder.frame_norm.weight",
        "layer_norm.bias": "encoder.frame_norm.bias",
        "post_extract_proj.weight": "encoder.projection.weight",
        "post_extract_proj.bias": "encoder.projection.bias",
        "encoder.layer_norm.weight": "encoder.position_norm.weight",
        "encoder.layer_norm.bias": "encoder.position_norm.bias",
        "encoder.pos_conv.0.bias": "encoder.position_conv.conv.bias",
        "encoder.pos_conv.0.weight_g": (
            "encoder.position_conv.conv.parametrizations.weight.original0"
        ),
        "encoder.pos_conv.0.weight_v": (
            "encoder.position_conv.conv.parametrizations.weight.original1"
        ),
    }
    if name in fixed:
        return fixed[name]
    if parts[:2] == ["feature_extractor", "conv_layers"] and len(parts) == 5:
        kind = {"0": "convs", "2": "norms"}.get(parts[3])
        return None if kind is None else f"extractor.{kind}.{parts[2]}.{parts[4]}"
    if parts[0] == "proj_head" and parts[2:3] == ["lin_proj"]:
        return f"projections.{parts[1]}.{parts[3]}"
    if parts[:2] == ["encoder", "layers"] and parts[2].isdigit() and int(parts[2]) < layers:
        inner = {
            "self_attn.q_proj": "attention_map.query",
            "self_attn.k_proj": "attention_map.key",
            "self_attn.v_proj": "attention_output.value",
            "self_attn.out_proj": "attention_output.output",
            "self_attn_layer_norm": "attention_norm",
            "fc1": "ffn_in",
            "fc2": "ffn_out",
            "final_layer_norm": "ffn_norm",
        }.get(".".join(parts[3:-1]))
        return None if inner is None else f"encoder.layers.{parts[2]}.{inner}.{parts[-1]}"
    return None


def import_official(ckpt: Path | str, yaml_file: Path | str) -> Checkpoint:
    """An official ARMHuBERT Lightning checkpoint and its YAML -> a checkpoint with its heads.

    Raises:
        CheckpointError: a file is missing, unsafe or damaged, or weights are missing, misshapen or
            unknown.
        ConfigError: the YAML describes something else than such a student.
    """
    section = _read_section(Path(yaml_file))
    config = config_from_official(section)
    width = section.get("final_dim")
    pred_width = section.get("pred_head_final_dim", 0)
    weights = _read_official_weights(Path(ckpt))
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in weights.items():
        ours = rename_official(name, config.layers)
        if ours is None:
            unknown.append(name)
        else:
            renamed[ours] = _as_image(ours, tensor.float())
    if unknown:
        raise CheckpointError(
            f"{ckpt} holds {len(unknown)} weights no published student has: {unknown[:5]}"
        )
    heads = [t for n, t in renamed.items() if n.startswith("projections.") and t.ndim == 2]
    projection_width = heads[0].shape[0] if heads else None
    student = Student(config, projection_width=projection_width)
    checkpoint.load_weights(student, renamed, str(ckpt))
    provenance: dict[str, object] = {
        "source": "official ARMHuBERT checkpoint",
        "files": [Path(ckpt).name, Path(yaml_file).name],
        "final_dim": width,
        "pred_head_final_dim": pred_width,
    }
    return Checkpoint(student.eval(), None, provenance)


def _as_image(name: str, tensor: Tensor) -> Tensor:
    """One-dimensional convolution weights (O, I, k) -> ours, images of height one (O, I, 1, k)."""
    is_conv = name.startswith(("extractor.convs.", "encoder.position_conv.conv."))
    return tensor.unsqueeze(2) if is_conv and tensor.ndim == 3 else tensor


def _read_section(path: Path) -> Mapping[str, object]:
    import yaml  # only importing needs it; it is in the train extra

    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the checkpoint's YAML beside it")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    section = content.get("distiller") if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise ConfigError(f"{path} has no 'distiller:' section; is it the checkpoint's own YAML?")
    return section


def _read_official_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected an official Lightning .ckpt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} cannot be read safely: {str(error).splitlines()[0]}; expected a torch "
            "checkpoint that holds tensors only (other objects would run code and are refused)"
        ) from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    weights = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in (state.items() if isinstance(state, dict) else ())
        if isinstance(name, str) and name.startswith(_PREFIX) and isinstance(tensor, Tensor)
    }
    if not weights:
        raise CheckpointError(f"{path} holds no weights named '{_PREFIX}...'; is it a student?")
    return weights


def main(arguments: list[str] | None = None) -> int:
    """``rdsdk import CKPT YAML -o FOLDER``."""
    parser = argparse.ArgumentParser(
        prog="rdsdk import", description="Import an official ARMHuBERT checkpoint."
    )
    parser.add_argument("ckpt", type=Path, help="the Lightning .ckpt of the student")
    parser.add_argument("yaml", type=Path, help="the YAML that came with it")
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint folder")
    options = parser.parse_args(arguments)
    imported = import_official(options.ckpt, options.yaml)
    checkpoint.save(options.output, imported)
    config = imported.student.config
    print(
        f"{options.output}: {imported.student.parameter_count():,} parameters, "
        f"{config.layers} layers of width {config.width}, owners {list(config.owners)}"
    )
    return 0
