"""What a model of this shape costs: multiply-accumulates (MACs), counted layer by layer.

Counted are convolutions, linear layers and the two products of attention, biases and everything
elementwise (norms, activations, softmax) not, as is usual (and as torch's FlopCounterMode does, at
two operations a MAC). One call on one recording; attention grows with its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rdsdk.models.config import OVERLAP_SAMPLES, SAMPLE_RATE, Context, ConvLayer, EncoderConfig
from rdsdk.models.energies import macs_per_frame
from rdsdk.models.student import Student


@dataclass(frozen=True)
class Shape:
    """The sizes that decide a cost: of a student, or of a HuBERT-class teacher.

    Args:
        convs: the extractor.
        width, ffn, map_owner, position_kernel, position_groups: as ``EncoderConfig``.
        context: of a student that streams: its left frames are seen beside the recording's own,
            its right ones are read twice.
        projection_width: of the projection heads, one a layer; None without.
        symbols: of a CTC head; None without.
        gate_outputs: of WavLM's gated relative position, a linear layer a head (8); else 0.
        mel_bands: of energies beside the extractor; 0 without.
        projected: whether a linear layer follows the extractor whatever its width, as in teachers.
    """

    convs: tuple[ConvLayer, ...]
    width: int
    ffn: int
    map_owner: tuple[int, ...]
    position_kernel: int = 128
    position_groups: int = 16
    context: Context | None = None
    projection_width: int | None = None
    symbols: int | None = None
    gate_outputs: int = 0
    mel_bands: int = 0
    projected: bool = False


@dataclass(frozen=True)
class Macs:
    """MACs by part."""

    extractor: int
    position: int
    attention: int
    feed_forward: int
    heads: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.extractor + self.position + self.attention + self.feed_forward + self.heads


def student_shape(
    config: EncoderConfig, projection_width: int | None = None, symbols: int | None = None
) -> Shape:
    """The shape of a student, with or without heads."""
    return Shape(
        config.convs,
        config.width,
        config.ffn,
        config.map_owner,
        config.position_kernel,
        config.position_groups,
        config.context,
        projection_width,
        symbols,
        mel_bands=config.mel_bands,
    )


def macs(shape: Shape, samples: int) -> Macs:
    """MACs of one recording of so many samples at 16 kHz."""
    length, inputs, extractor = samples, 1, 0
    for conv in shape.convs:
        length = (length - conv.kernel) // conv.stride + 1
        extractor += length * conv.kernel * inputs * conv.channels
        inputs = conv.channels
    width, frames = shape.width, length
    if shape.mel_bands:
        extractor += frames * macs_per_frame(shape.mel_bands, inputs)
    if shape.projected or inputs != width:
        extractor += frames * inputs * width
    left, again = 0, 0
    if shape.context is not None:
        left = shape.context.left_frames
        again = -(-frames // shape.context.chunk_frames) * shape.context.right_frames
    read, seen = frames + again, left + frames + again
    owners = sum(layer == owner for layer, owner in enumerate(shape.map_owner))
    layers = len(shape.map_owner)
    # An owner has queries, keys and their product; every layer values, output and the mixing.
    attention = layers * (2 * read * width * width + read * seen * width)
    attention += owners * (2 * read * width * width + read * seen * width)
    attention += layers * read * width * shape.gate_outputs
    return Macs(
        extractor,
        frames * shape.position_kernel * width * width // shape.position_groups,
        attention,
        layers * 2 * read * width * shape.ffn,
        frames * width * (layers * (shape.projection_width or 0) + (shape.symbols or 0)),
    )


def macs_per_second(shape: Shape, seconds: float = 10.0) -> float:
    """MACs for a second of audio in a recording of ``seconds``."""
    return macs(shape, round(seconds * SAMPLE_RATE) + OVERLAP_SAMPLES).total / seconds


def parameter_count(
    config: EncoderConfig, projection_width: int | None = None, symbols: int | None = None
) -> int:
    """Parameters of a student, without memory for them."""
    with torch.device("meta"):
        return Student(config, symbols, projection_width).parameter_count()


def listed_convs(
    channels: Sequence[int], kernels: Sequence[int], strides: Sequence[int]
) -> tuple[ConvLayer, ...]:
    """Convolutions from three lists, as transformers' configurations hold them."""
    return tuple(ConvLayer(*sizes) for sizes in zip(channels, kernels, strides, strict=True))
