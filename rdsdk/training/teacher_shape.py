"""The shape of a teacher by its name or its config.json: nothing is downloaded, no weights read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.config import EncoderConfig
from rdsdk.models.cost import Shape, listed_convs, parameter_count, student_shape
from rdsdk.training.transformers_import import import_transformers

FAMILIES = ("hubert", "wavlm", "wav2vec2")
_LARGE: dict[str, object] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_LARGE_STABLE = {**_LARGE, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
# What differs from the defaults of transformers' config class, which are those of the Base models.
KNOWN: dict[str, tuple[str, dict[str, object]]] = {
    "facebook/hubert-base-ls960": ("hubert", {}),
    "facebook/hubert-large-ll60k": ("hubert", {**_LARGE_STABLE, "conv_bias": True}),
    "microsoft/wavlm-base": ("wavlm", {}),
    "microsoft/wavlm-base-plus": ("wavlm", {}),
    "microsoft/wavlm-large": ("wavlm", _LARGE_STABLE),
    "facebook/wav2vec2-base": ("wav2vec2", {}),
    "facebook/wav2vec2-base-960h": ("wav2vec2", {}),
    "facebook/wav2vec2-large": ("wav2vec2", _LARGE),
    "facebook/wav2vec2-large-lv60": ("wav2vec2", {**_LARGE_STABLE, "conv_bias": True}),
}
BUNDLES = {
    "HUBERT_BASE": "facebook/hubert-base-ls960",
    "HUBERT_LARGE": "facebook/hubert-large-ll60k",
    "WAVLM_BASE": "microsoft/wavlm-base",
    "WAVLM_BASE_PLUS": "microsoft/wavlm-base-plus",
    "WAVLM_LARGE": "microsoft/wavlm-large",
    "WAV2VEC2_BASE": "facebook/wav2vec2-base",
    "WAV2VEC2_LARGE": "facebook/wav2vec2-large",
    "WAV2VEC2_LARGE_LV60K": "facebook/wav2vec2-large-lv60",
}


@dataclass(frozen=True)
class TeacherShape:
    """What a plan needs to know of a teacher."""

    name: str
    layers: int
    width: int
    heads: int
    parameters: int
    cost: Shape


def teacher_shape(source: str) -> TeacherShape:
    """The shape behind a source that ``load_teacher`` takes.

    Raises:
        ConfigError: it is neither a folder with a readable config.json or model.json nor a known
            name; the message lists those.
    """
    if checkpoint.is_saved(source):
        return _ours(source)
    name = source.removeprefix("torchaudio:").removeprefix("torchaudio/")
    name = BUNDLES.get(name, name)
    if (Path(source) / "config.json").is_file():
        return _transformers(source, _read(source))
    if name in KNOWN:
        family, changed = KNOWN[name]
        return _transformers(source, _config(family, changed))
    raise ConfigError(
        f"the shape of the teacher {source!r} is not known without loading it; give a local folder "
        f"with a config.json, an rdsdk checkpoint, or one of {', '.join([*KNOWN, *BUNDLES])}"
    )


def _ours(folder: str) -> TeacherShape:
    description = checkpoint.read_description(folder)
    config = EncoderConfig.from_dict(description["architecture"])  # type: ignore[arg-type]
    return TeacherShape(
        folder,
        config.layers,
        config.width,
        config.heads,
        parameter_count(config),
        student_shape(config),
    )


def _config(family: str, changed: dict[str, object]) -> Any:
    transformers = import_transformers()
    classes = {
        "hubert": transformers.HubertConfig,
        "wavlm": transformers.WavLMConfig,
        "wav2vec2": transformers.Wav2Vec2Config,
    }
    return classes[family](**changed)


def _read(folder: str) -> Any:
    transformers = import_transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder}/config.json cannot be read: {error}") from error
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"{folder} holds a model of type {config.model_type!r}; teachers are {list(FAMILIES)}"
        )
    return config


def _transformers(name: str, config: Any) -> TeacherShape:
    with torch.device("meta"):
        model = import_transformers().AutoModel.from_config(config)
    return TeacherShape(
        name,
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        sum(parameter.numel() for parameter in model.parameters()),
        Shape(
            listed_convs(config.conv_dim, config.conv_kernel, config.conv_stride),
            config.hidden_size,
            config.intermediate_size,
            tuple(range(config.num_hidden_layers)),
            config.num_conv_pos_embeddings,
            config.num_conv_pos_embedding_groups,
            gate_outputs=8 if config.model_type == "wavlm" else 0,
            projected=True,
        ),
    )
