"""What a student is made of: convolutions, widths, reuse pattern, context. Presets by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal, get_args

from rdsdk.errors import ConfigError

SAMPLE_RATE = 16_000
HOP_SAMPLES = 320
RECEPTIVE_FIELD_SAMPLES = 400
OVERLAP_SAMPLES = RECEPTIVE_FIELD_SAMPLES - HOP_SAMPLES
"""Samples that the next chunk needs again: frame t covers [320 t, 320 t + 400)."""

STREAMING_FIRST_NORM_EPSILON = 3e-4
"""About the power of quiet speech (-38 dB below full scale) after the first convolution."""

ExtractorNorm = Literal["group", "layer"]
Position = Literal["centred", "causal"]
ReusedMap = Literal["as_is", "softmax_again"]


@dataclass(frozen=True)
class ConvLayer:
    """One convolution of the extractor."""

    channels: int
    kernel: int
    stride: int


@dataclass(frozen=True)
class Context:
    """Chunk-wise attention: a frame sees its whole chunk, ``left_frames`` before it, and
    ``right_frames`` beyond it, which are read along with the chunk and again with the next
    (Y. Shi et al. 2021, Emformer, arXiv 2010.10759, section 3)."""

    chunk_frames: int
    left_frames: int
    right_frames: int = 0

    def __post_init__(self) -> None:
        if self.chunk_frames < 1 or min(self.left_frames, self.right_frames) < 0:
            raise ConfigError(
                "a context needs chunk_frames >= 1, left_frames >= 0 and right_frames >= 0, got "
                f"{self}"
            )


def reuse_pattern(name: str, layers: int = 12) -> tuple[int, ...]:
    """The owner of each layer's attention map, by the paper's names (arXiv 2305.11685, Table 3).

    ``"2by6"``: six groups of two layers, ``"3by4"``: four groups of three, ``"none"``: every layer
    owns its map. For another depth only the first number counts: groups of that many layers.

    Raises:
        ConfigError: the name is not of that form or the groups do not fill the layers.
    """
    if name == "none":
        return tuple(range(layers))
    group, _, groups = name.partition("by")
    if not (group.isdigit() and groups.isdigit() and int(group) > 0):
        raise ConfigError(f"unknown reuse pattern {name!r}; use 'none', '2by6', '3by4', ...")
    if int(group) * int(groups) != layers:
        raise ConfigError(
            f"reuse pattern {name!r} covers {int(group) * int(groups)} layers, the encoder has "
            f"{layers}"
        )
    return tuple(layer - layer % int(group) for layer in range(layers))


def reinvest_ffn(width: int, base_ffn: int, map_owner: Sequence[int], multiple_of: int = 48) -> int:
    """The feed-forward width that spends what reuse saved (arXiv 2305.11685, section 3.2).

    Each reuse layer saves the query and key projections, 2 (D^2 + D) parameters; one unit of
    feed-forward width costs 2 D + 1 parameters in every layer. The result is rounded down to
    ``multiple_of``, so it never costs more than it saved. With the published base widths it gives
    the published ones: (480, 640) -> 864 and (432, 600) -> 816.
    """
    reuse_layers = sum(owner != layer for layer, owner in enumerate(map_owner))
    saved = reuse_layers * 2 * (width * width + width)
    widened = base_ffn + saved // (len(map_owner) * (2 * width + 1))
    return max(base_ffn, widened - widened % multiple_of)


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides the shape and the arithmetic of a student.

    Args:
        convs: the extractor; receptive field 400 samples, hop 320.
        width: D, the encoder's width; the extractor's output is projected when it differs.
        ffn: feed-forward width of every layer.
        heads: attention heads.
        map_owner: for each layer the layer whose attention map it applies; its length is the
            number of layers.
        extractor_norm: ``"group"`` normalises the first convolution over time, as published;
            ``"layer"`` normalises every convolution over channels, frame by frame, which streams.
        first_norm_epsilon: of the first channel norm. It is a level: sound with a power well below
            it stays small, so that loud and soft moments remain different after the norm.
        conv_bias: whether the convolutions have a bias.
        mel_bands: M of the log-mel energies beside the convolutions (``rdsdk.models.energies``); 0,
            as published, leaves them out.
        position_kernel, position_groups: the position convolution.
        position: ``"centred"`` looks ahead half its kernel, as published; ``"causal"`` does not.
        context: chunk-wise attention, or None for full context (bidirectional).
        reused_map: ``"as_is"`` applies the owner's map, as the paper says; ``"softmax_again"``
            puts it through a second softmax first, as the released code and checkpoints do.
        dropout: rate in training, everywhere.

    Raises:
        ConfigError: a value is impossible; the message names it.
    """

    convs: tuple[ConvLayer, ...]
    width: int
    ffn: int
    heads: int
    map_owner: tuple[int, ...]
    extractor_norm: ExtractorNorm = "group"
    first_norm_epsilon: float = 1e-5
    conv_bias: bool = False
    mel_bands: int = 0
    position_kernel: int = 128
    position_groups: int = 16
    position: Position = "centred"
    context: Context | None = None
    reused_map: ReusedMap = "as_is"
    dropout: float = 0.1

    @property
    def layers(self) -> int:
        """The number of encoder layers."""
        return len(self.map_owner)

    @property
    def owners(self) -> tuple[int, ...]:
        """The layers that compute an attention map, in order."""
        return tuple(layer for layer, owner in enumerate(self.map_owner) if layer == owner)

    @property
    def head_width(self) -> int:
        """d, the width of one attention head."""
        return self.width // self.heads

    @property
    def overlap_samples(self) -> int:
        """What a call shares with the next: the rest of the last frame, and the right context."""
        return OVERLAP_SAMPLES + HOP_SAMPLES * (self.context.right_frames if self.context else 0)

    def __post_init__(self) -> None:
        for name in ("width", "ffn", "heads", "position_kernel", "position_groups"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a positive integer, got {value!r}")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.width % self.position_groups:
            raise ConfigError(
                f"width {self.width} is not a multiple of position_groups {self.position_groups}"
            )
        if not isinstance(self.mel_bands, int) or self.mel_bands < 0:
            raise ConfigError(f"mel_bands must be an integer from 0, got {self.mel_bands!r}")
        if not 0.0 < self.first_norm_epsilon < 1.0:
            raise ConfigError(
                f"first_norm_epsilon must be in (0, 1), got {self.first_norm_epsilon}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}")
        for name, allowed in (
            ("extractor_norm", get_args(ExtractorNorm)),
            ("position", get_args(Position)),
            ("reused_map", get_args(ReusedMap)),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} must be one of {list(allowed)}, got {getattr(self, name)!r}"
                )
        self._check_owners()
        self._check_convs()
        if self.context is not None and (
            self.position != "causal" or self.extractor_norm != "layer"
        ):
            raise ConfigError(
                "a chunked context needs position='causal' and extractor_norm='layer' (nothing "
                f"may look past the chunk), got position={self.position!r}, "
                f"extractor_norm={self.extractor_norm!r}"
            )

    def _check_owners(self) -> None:
        if not self.map_owner:
            raise ConfigError("map_owner is empty: the encoder needs at least one layer")
        for layer, owner in enumerate(self.map_owner):
            if not isinstance(owner, int) or not 0 <= owner <= layer:
                raise ConfigError(
                    f"layer {layer} reuses the attention map of layer {owner!r}, which is not "
                    "computed yet; an owner must be the layer itself or an earlier one"
                )
            if self.map_owner[owner] != owner:
                raise ConfigError(
                    f"layer {layer} reuses the map of layer {owner}, which itself reuses layer "
                    f"{self.map_owner[owner]}; name that one instead"
                )

    def _check_convs(self) -> None:
        hop = field = 1
        for conv in self.convs:
            if min(conv.channels, conv.kernel, conv.stride) < 1:
                raise ConfigError(f"a convolution needs positive numbers, got {conv}")
            if conv.kernel < conv.stride:
                raise ConfigError(
                    f"a convolution must not skip frames: its kernel is below its stride in {conv}"
                )
            field += (conv.kernel - 1) * hop
            hop *= conv.stride
        if (hop, field) != (HOP_SAMPLES, RECEPTIVE_FIELD_SAMPLES):
            raise ConfigError(
                f"the extractor has hop {hop} and receptive field {field} samples; both are part "
                f"of the frame contract: {HOP_SAMPLES} and {RECEPTIVE_FIELD_SAMPLES}"
            )

    def streaming(self, context: Context) -> EncoderConfig:
        """The same student with nothing that looks past its chunk."""
        return replace(
            self,
            context=context,
            position="causal",
            extractor_norm="layer",
            first_norm_epsilon=STREAMING_FIRST_NORM_EPSILON,
        )

    def to_dict(self) -> dict[str, object]:
        """A JSON value that ``from_dict`` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> EncoderConfig:
        """Read what ``to_dict`` wrote.

        Raises:
            ConfigError: a field is missing, unknown or of the wrong kind.
        """
        known = {field.name for field in fields(cls)}
        required = {"convs", "width", "ffn", "heads", "map_owner"}
        if unknown := sorted(set(value) - known):
            raise ConfigError(f"unknown architecture fields {unknown}; known: {sorted(known)}")
        if missing := sorted(required - set(value)):
            raise ConfigError(f"the architecture misses the fields {missing}")
        values = dict(value)
        try:
            values["convs"] = tuple(ConvLayer(**conv) for conv in values["convs"])  # type: ignore[attr-defined]
            values["map_owner"] = tuple(values["map_owner"])  # type: ignore[arg-type]
            if values.get("context") is not None:
                values["context"] = Context(**values["context"])  # type: ignore[arg-type]
            return cls(**values)  # type: ignore[arg-type]
        except TypeError as error:
            raise ConfigError(f"the architecture cannot be read: {error}") from error


def extractor_convs(first: int, middle: int, last: int) -> tuple[ConvLayer, ...]:
    """The published students' nine convolutions with three channel widths (official code)."""
    return (
        ConvLayer(first, 10, 5),
        ConvLayer(middle, 1, 1),
        *(ConvLayer(middle, 3, 2) for _ in range(4)),
        ConvLayer(last, 1, 1),
        *(ConvLayer(last, 2, 2) for _ in range(2)),
    )


def _published(width: int, ffn: int, pattern: str) -> EncoderConfig:
    return EncoderConfig(extractor_convs(128, 256, width), width, ffn, 12, reuse_pattern(pattern))


_ARM_MINI = EncoderConfig(
    extractor_convs(48, 96, 256),
    width=144,
    ffn=reinvest_ffn(144, 240, reuse_pattern("2by6")),
    heads=4,
    map_owner=reuse_pattern("2by6"),
    extractor_norm="layer",
    first_norm_epsilon=STREAMING_FIRST_NORM_EPSILON,
    position_kernel=64,
)

PRESETS: dict[str, EncoderConfig] = {
    "armhubert": _published(480, 864, "2by6"),
    "armhubert-s": _published(432, 816, "2by6"),
    "maskhubert": _published(480, 640, "none"),
    # A teacher of HuBERT's depth that two processor cores can train, and a student of its own
    # depth with about a fifth of its parameters, reuse reinvested as in the published ones.
    "arm-mini": _ARM_MINI,
    "teacher-mini": EncoderConfig(
        extractor_convs(48, 96, 256),
        width=256,
        ffn=1024,
        heads=4,
        map_owner=reuse_pattern("none"),
        extractor_norm="layer",
        first_norm_epsilon=STREAMING_FIRST_NORM_EPSILON,
        position_kernel=64,
    ),
    # English: a full-context teacher, and a streaming student with ARMHuBERT-S's encoder that can
    # take over its extractor.
    "english-teacher": EncoderConfig(
        extractor_convs(64, 128, 384),
        width=640,
        ffn=2560,
        heads=10,
        map_owner=reuse_pattern("none"),
        extractor_norm="layer",
        first_norm_epsilon=STREAMING_FIRST_NORM_EPSILON,
    ),
    "english": EncoderConfig(
        extractor_convs(64, 128, 384), 432, 816, 12, reuse_pattern("2by6")
    ).streaming(Context(chunk_frames=16, left_frames=128, right_frames=6)),
    # The same in the size of arm-mini, for two processor cores.
    "english-mini": _ARM_MINI.streaming(Context(chunk_frames=16, left_frames=128)),
    # Small ones of our own: xs recognises a closed vocabulary, tiny is for trying a pipeline out.
    "xs": EncoderConfig(
        extractor_convs(48, 96, 192),
        width=192,
        ffn=reinvest_ffn(192, 672, reuse_pattern("2by2", 4)),
        heads=4,
        map_owner=reuse_pattern("2by2", 4),
        position_kernel=32,
    ).streaming(Context(chunk_frames=16, left_frames=64)),
    "tiny": EncoderConfig(
        extractor_convs(8, 16, 24),
        width=32,
        ffn=48,
        heads=4,
        map_owner=reuse_pattern("2by2", 4),
        position_kernel=16,
        position_groups=4,
    ).streaming(Context(chunk_frames=8, left_frames=16)),
}


def preset(name: str) -> EncoderConfig:
    """A preset by name.

    Raises:
        ConfigError: no preset has that name; the message lists them.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
