"""The published student written out once more, plainly, on weights under their published names.

It shares no code with rdsdk.models, so that an import can be checked for any widths and reuse
pattern. Batch 1 only, as the released code mixes up batch and heads of a reused map otherwise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def random_weights(
    convs: list[tuple[int, int, int]],
    width: int,
    ffn: int,
    pattern: list[bool],
    kernel: int,
    groups: int,
    head_width: int,
) -> Weights:
    """Random weights of such a student; attention is enlarged, as random maps are nearly flat."""
    torch.manual_seed(3)
    weights: Weights = {}

    def linear(name: str, outputs: int, inputs: int, scale: float = 1.0) -> None:
        weights[f"{name}.weight"] = scale * torch.randn(outputs, inputs) / inputs**0.5
        weights[f"{name}.bias"] = 0.1 * torch.randn(outputs)

    def norm(name: str, size: int) -> None:
        weights[f"{name}.weight"] = 1 + 0.1 * torch.randn(size)
        weights[f"{name}.bias"] = 0.1 * torch.randn(size)

    inputs = 1
    for index, (channels, conv_kernel, _) in enumerate(convs):
        fan_in = inputs * conv_kernel
        conv = torch.randn(channels, inputs, conv_kernel) * (2 / fan_in) ** 0.5
        weights[f"feature_extractor.conv_layers.{index}.0.weight"] = conv
        inputs = channels
    norm("feature_extractor.conv_layers.0.2", convs[0][0])
    norm("layer_norm", inputs)
    if inputs != width:
        linear("post_extract_proj", width, inputs)
    weights["mask_emb"] = torch.rand(width)
    weights["encoder.pos_conv.0.weight_g"] = 1 + 0.1 * torch.rand(1, 1, kernel)
    weights["encoder.pos_conv.0.weight_v"] = torch.randn(width, width // groups, kernel)
    weights["encoder.pos_conv.0.bias"] = 0.1 * torch.randn(width)
    norm("encoder.layer_norm", width)
    for layer, own in enumerate(pattern):
        base = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj") if own else ():
            linear(f"{base}.self_attn.{name}", width, width, scale=3.0)
        linear(f"{base}.self_attn.v_proj", width, width)
        linear(f"{base}.self_attn.out_proj", width, width)
        norm(f"{base}.self_attn_layer_norm", width)
        linear(f"{base}.fc1", ffn, width)
        linear(f"{base}.fc2", width, ffn)
        norm(f"{base}.final_layer_norm", width)
        linear(f"proj_head.{layer}.lin_proj", head_width, width)
    return weights


def layers_and_projections(
    weights: Weights,
    convs: list[tuple[int, int, int]],
    pattern: list[bool],
    heads: int,
    groups: int,
    waveform: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:
    """Each layer's output (T, D) and its projection (T, P) for a waveform (S,)."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5
        )

    x = waveform[None, None]
    for index, (channels, _, stride) in enumerate(convs):
        x = F.conv1d(x, weights[f"feature_extractor.conv_layers.{index}.0.weight"], stride=stride)
        if index == 0:
            scale = "feature_extractor.conv_layers.0.2"
            x = F.group_norm(x, channels, weights[f"{scale}.weight"], weights[f"{scale}.bias"])
        x = F.gelu(x)
    x = norm("layer_norm", x[0].T)
    if "post_extract_proj.weight" in weights:
        x = linear("post_extract_proj", x)
    direction = weights["encoder.pos_conv.0.weight_v"]
    length = direction.pow(2).sum(dim=(0, 1), keepdim=True).sqrt()
    kernel = direction / length * weights["encoder.pos_conv.0.weight_g"]
    padding = kernel.shape[-1] // 2
    bias = weights["encoder.pos_conv.0.bias"]
    positions = F.conv1d(x.T[None], kernel, bias, padding=padding, groups=groups)
    positions = positions[..., : len(x)]  # an even kernel gives one frame too many
    x = norm("encoder.layer_norm", x + F.gelu(positions)[0].T)
    layers, projections = [], []
    for layer, own in enumerate(pattern):
        base = f"encoder.layers.{layer}"

        def split(x: Tensor) -> Tensor:
            return x.reshape(len(x), heads, -1).transpose(0, 1)

        if own:
            query = split(linear(f"{base}.self_attn.q_proj", x))
            key = split(linear(f"{base}.self_attn.k_proj", x))
            owned = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(dim=-1)
            applied = owned
        else:
            applied = owned.softmax(dim=-1)  # the second softmax of the released code
        mixed = applied @ split(linear(f"{base}.self_attn.v_proj", x))
        mixed = linear(f"{base}.self_attn.out_proj", mixed.transpose(0, 1).flatten(1))
        x = norm(f"{base}.self_attn_layer_norm", x + mixed)
        widened = linear(f"{base}.fc2", F.gelu(linear(f"{base}.fc1", x)))
        x = norm(f"{base}.final_layer_norm", x + widened)
        layers.append(x)
        projections.append(linear(f"proj_head.{layer}.lin_proj", x))
    return layers, projections
