"""Transformers' HubertModel in the shape of an ``EncoderConfig``, and its weights in a student."""

from __future__ import annotations

from typing import Any

from rdsdk.models.config import EncoderConfig
from rdsdk.models.student import Student
from rdsdk.training.transformers_import import import_transformers

_NAMES = {
    "masked_spec_embed": "encoder.mask_embedding",
    "feature_projection.layer_norm": "encoder.frame_norm",
    "feature_projection.projection": "encoder.projection",
    "encoder.pos_conv_embed.conv": "encoder.position_conv.conv",
    "encoder.layer_norm": "encoder.position_norm",
    "attention.q_proj": "attention_map.query",
    "attention.k_proj": "attention_map.key",
    "attention.v_proj": "attention_output.value",
    "attention.out_proj": "attention_output.output",
    "feed_forward.intermediate_dense": "ffn_in",
    "feed_forward.output_dense": "ffn_out",
    "final_layer_norm": "ffn_norm",
}


def hubert_like(config: EncoderConfig) -> Any:
    """A HubertModel (random, ready to run) that does what a student without reuse does."""
    transformers = import_transformers()
    return transformers.HubertModel(
        transformers.HubertConfig(
            conv_dim=[conv.channels for conv in config.convs],
            conv_kernel=[conv.kernel for conv in config.convs],
            conv_stride=[conv.stride for conv in config.convs],
            num_feat_extract_layers=len(config.convs),
            conv_bias=config.conv_bias,
            feat_extract_norm=config.extractor_norm,
            hidden_size=config.width,
            intermediate_size=config.ffn,
            num_attention_heads=config.heads,
            num_hidden_layers=config.layers,
            num_conv_pos_embeddings=config.position_kernel,
            num_conv_pos_embedding_groups=config.position_groups,
        )
    ).eval()


def student_of(hubert: Any, config: EncoderConfig) -> Student:
    """A student with the weights of such a HubertModel."""
    student = Student(config)
    student.load_state_dict(
        {_renamed(name): _image(_renamed(name), t) for name, t in hubert.state_dict().items()}
    )
    return student.eval()


def _renamed(name: str) -> str:
    parts = name.split(".")
    if parts[:2] == ["feature_extractor", "conv_layers"]:
        kind = {"conv": "convs", "layer_norm": "norms"}[parts[3]]
        return f"extractor.{kind}.{parts[2]}.{parts[4]}"
    if parts[:2] == ["encoder", "layers"]:
        inner = ".".join(parts[3:])
        if parts[3] == "layer_norm":
            inner = inner.replace("layer_norm.", "attention_norm.", 1)
        for theirs, ours in _NAMES.items():
            inner = inner.replace(theirs + ".", ours + ".", 1)
        return f"encoder.layers.{parts[2]}.{inner}"
    for theirs, ours in _NAMES.items():
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


def _image(name: str, tensor: Any) -> Any:
    """Students convolve images of height one."""
    is_conv = ".convs." in name or ".position_conv." in name
    return tensor.unsqueeze(2) if is_conv and tensor.ndim == 3 else tensor
