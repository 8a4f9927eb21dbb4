"""A teacher of phones that is no student: log-mel energies, convolutions in time, full context.

Where speech is scarce, this learns more of it than a front end of samples and attention alone, and
an hour of two processor cores takes it through a hundred hours of sound. Its mistakes are others
than a student's: what both say together is right more often than either, and that is what a student
can learn (``rdsdk.training.imitation``).

Factored time-delay layers (D. Povey et al. 2018, "Semi-orthogonal low-rank matrix factorization for
deep neural networks", section 2.3, without the constraint), which halve the frame rate after the
first few; attention with a bias for near frames (O. Press et al., arXiv 2108.12409) in two places.

Shapes: B batch, S samples, T = (S - 80) // 320 frames, U = (T + 1) // 2 pairs of frames, D width,
M mel bands, V symbols.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.models.channel_dropout import ChannelDropout
from rdsdk.models.checkpoint import (
    WEIGHTS,
    described,
    load_weights,
    located,
    read_weights,
    write_whole,
)
from rdsdk.models.config import HOP_SAMPLES, OVERLAP_SAMPLES, RECEPTIVE_FIELD_SAMPLES
from rdsdk.models.extractor import frame_count
from rdsdk.models.log_mel import FFT_SAMPLES, mel_filters, mel_power

FORMAT = "rdsdk-tdnn"
VERSION = 1
DESCRIPTION = "tdnn.json"
_FIELDS = {"format", "version", "architecture", "vocabulary", "provenance"}
_COLUMNS = 2
"""Of energies a frame: one each 10 ms."""
_PAIR = 2
"""Frames that the slow layers take as one."""
_FLOOR = 1e-6
_HERTZ = (40.0, 7600.0)
_DEVIATION = 3.0  # of log energies around their mean, about


@dataclass(frozen=True)
class TdnnConfig:
    """The architecture.

    Args:
        width: D, of the layers at 25 frames a second; those before, at 50, have half of it.
        bottleneck: what each layer passes through; the layers at 50 frames a second have half.
        fast_layers: layers at 50 frames a second.
        reaches: for each layer at 25, how many frames (of 40 ms) it hears to either side.
        heads: of the attention after the middle layer and after the last.
        mel_bands: M.
        dropout: share of each layer's channels that is silent for a whole utterance in training.

    Raises:
        ConfigError: a value is impossible; the message names it.
    """

    width: int = 512
    bottleneck: int = 128
    fast_layers: int = 2
    reaches: tuple[int, ...] = (1, 1, 2, 3, 3, 1, 1, 2, 3, 3)
    heads: int = 4
    mel_bands: int = 80
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("width", "bottleneck", "heads", "mel_bands"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.reaches or min(self.reaches) < 1 or self.fast_layers < 0:
            raise ConfigError(
                "a Tdnn needs fast_layers >= 0 and some reaches of one frame or more, got "
                f"{self.fast_layers} and {list(self.reaches)}"
            )
        if self.width % (2 * self.heads) or self.bottleneck % 2:
            raise ConfigError(
                f"width {self.width} must be a multiple of twice the {self.heads} heads, and "
                f"bottleneck {self.bottleneck} even"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}")

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> TdnnConfig:
        """Read what ``dataclasses.asdict`` gave.

        Raises:
            ConfigError: a field is missing, unknown or of the wrong kind.
        """
        if wrong := set(value) ^ {each.name for each in fields(cls)}:
            raise ConfigError(f"architecture fields missing or unknown: {sorted(wrong)}")
        values = dict(value)
        try:
            values["reaches"] = tuple(values["reaches"])  # type: ignore[arg-type]
            return cls(**values)  # type: ignore[arg-type]
        except TypeError as error:
            raise ConfigError(f"the architecture cannot be read: {error}") from error


class TdnnOutput(NamedTuple):
    """What one pass gives, both (B, T, V), normalised over V."""

    log_probs: Tensor
    """For searching, and for losses over sequences."""
    frame_log_probs: Tensor
    """Of a second output, for a loss over single frames beside the other one (D. Povey et al. 2016,
    "Purely sequence-trained neural networks", section 2.7)."""


class FactoredLayer(nn.Module):
    """x (B, T, D) -> the same and more: a frame and one ``reach`` before, through a bottleneck, and
    of that again a frame and one ``reach`` behind."""

    def __init__(self, width: int, bottleneck: int, reach: int, dropout: float) -> None:
        super().__init__()
        self.reach = reach
        self.norm = nn.LayerNorm(width)
        self.narrow = nn.Linear(2 * width, bottleneck, bias=False)
        self.widen = nn.Linear(2 * bottleneck, width)
        self.dropout = ChannelDropout(dropout)

    def forward(self, x_btd: Tensor, real_bt1: Tensor) -> Tensor:
        # What a norm or a bias makes of padding is not silent.
        y = self.norm(x_btd) * real_bt1
        y = self.narrow(torch.cat([_shifted(y, self.reach), y], dim=-1)) * real_bt1
        y = self.widen(torch.cat([y, _shifted(y, -self.reach)], dim=-1))
        added: Tensor = self.dropout(F.relu(y))
        return x_btd + added


class NearAttention(nn.Module):
    """Attention whose heads prefer near frames to four times as far ones each, the last none."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * (width // 2))
        self.joined = nn.Linear(width // 2, width)
        self.dropout = ChannelDropout(dropout)

    def forward(self, x_bud: Tensor, real_bu: Tensor) -> Tensor:
        """x (B, U, D) and which frames are real -> (B, U, D)."""
        at = torch.arange(x_bud.shape[1], device=x_bud.device)
        slopes = 0.25 ** torch.arange(1, self.heads + 1, device=x_bud.device)
        slopes[-1] = 0.0
        far_uu = (at[:, None] - at).abs().to(x_bud.dtype)
        bias = (-slopes[:, None, None].to(x_bud.dtype) * far_uu)[None]
        bias = bias.masked_fill(~real_bu[:, None, None], -torch.inf)
        qkv = self.queries_keys_values(self.norm(x_bud)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        added: Tensor = self.dropout(self.joined(heard.transpose(1, 2).flatten(2)))
        return x_bud + added


class Tdnn(nn.Module):
    """waveform -> what is said in each frame.

    Args:
        config: the architecture.
        symbols: V.
    """

    def __init__(self, config: TdnnConfig, symbols: int) -> None:
        super().__init__()
        self.config, self.symbols = config, symbols
        width, half = config.width, config.width // 2
        self.heard = nn.Linear(3 * _COLUMNS * config.mel_bands, half)
        self.heard_norm = nn.LayerNorm(half)
        self.fast = nn.ModuleList(
            FactoredLayer(half, config.bottleneck // 2, 1, config.dropout)
            for _ in range(config.fast_layers)
        )
        self.paired = nn.Linear(3 * half, width)
        self.layers = nn.ModuleList(
            FactoredLayer(width, config.bottleneck, reach, config.dropout)
            for reach in config.reaches
        )
        count = len(config.reaches)
        self.attention_after = (count // 2, count - 1)
        self.attention = nn.ModuleList(
            NearAttention(width, config.heads, config.dropout) for _ in self.attention_after
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, _PAIR * symbols)
        self.frame_out = nn.Linear(width, _PAIR * symbols)

    def energies(self, waveform: Tensor, frame_counts: Tensor) -> Tensor:
        """waveform (B, S) -> (B, T, 2, M) log-mel energies less the recording's mean of each; zeros
        behind a row's ``frame_counts``."""
        frames = frame_count(waveform.shape[1])
        hop = HOP_SAMPLES // _COLUMNS
        # Centred in the transform's window as usual, which begins with the frame.
        before = (FFT_SAMPLES - RECEPTIVE_FIELD_SAMPLES) // 2
        length = (frames * _COLUMNS - 1) * hop + before + RECEPTIVE_FIELD_SAMPLES
        padded = F.pad(waveform.float(), (0, max(0, length - waveform.shape[1])))[:, before:length]
        window = torch.hann_window(RECEPTIVE_FIELD_SAMPLES, device=waveform.device)
        windows = padded.unfold(1, RECEPTIVE_FIELD_SAMPLES, hop) * window
        power = mel_power(windows, mel_filters(self.config.mel_bands, *_HERTZ))
        energies = torch.log(power + _FLOOR).unflatten(1, (frames, _COLUMNS))
        real = _real(frame_counts, frames)[..., None, None]
        mean = (energies * real).sum(1, keepdim=True) / frame_counts.clamp(min=1).view(-1, 1, 1, 1)
        return (energies - mean) * real / _DEVIATION

    def forward(
        self,
        waveform: Tensor,
        *,
        sample_counts: Tensor | None = None,
        frame_mask: Tensor | None = None,
        band_mask: Tensor | None = None,
    ) -> TdnnOutput:
        """waveform (B, S), S >= 400, in [-1, 1] at 16 kHz -> both outputs.

        Args:
            sample_counts: (B,) real samples of each row of a padded batch, which then says of a
                shorter row what it says of that alone.
            frame_mask: (B, T), frames that are not heard.
            band_mask: (B, M), bands that are not heard.
        """
        if sample_counts is None:
            sample_counts = torch.full((len(waveform),), waveform.shape[1])
        sample_counts = sample_counts.to(waveform.device)
        real = torch.arange(waveform.shape[1], device=waveform.device)
        waveform = waveform * (real < sample_counts[:, None])
        frame_counts = (sample_counts - OVERLAP_SAMPLES).clamp(min=0) // HOP_SAMPLES
        energies = self.exact(waveform, frame_counts)
        return self.hear(energies, frame_counts, frame_mask=frame_mask, band_mask=band_mask)

    @torch.no_grad()
    def exact(self, waveform: Tensor, frame_counts: Tensor) -> Tensor:
        """``energies`` as ``hear`` takes them, (B, T, 2 M), in float32 where the rest is not:
        powers differ by more than bfloat16 can tell."""
        with torch.autocast(waveform.device.type, enabled=False):
            return self.energies(waveform, frame_counts).flatten(2)

    def hear(
        self,
        energies: Tensor,
        frame_counts: Tensor,
        *,
        frame_mask: Tensor | None = None,
        band_mask: Tensor | None = None,
    ) -> TdnnOutput:
        """The same from ``energies`` (B, T, 2 M) of rows of so many frames (B,)."""
        frames, x = energies.shape[1], energies
        if frame_mask is not None:
            x = x.masked_fill(frame_mask[..., None], 0.0)
        if band_mask is not None:
            x = x.masked_fill(band_mask.repeat(1, _COLUMNS)[:, None], 0.0)
        x = F.pad(x, (0, 0, 0, frames % _PAIR)).to(self.heard.weight.dtype)
        real_bt1 = _real(frame_counts, x.shape[1])[..., None]
        x = self.heard_norm(F.relu(self.heard(_neighbours(x))))
        for layer in self.fast:
            x = layer(x, real_bt1)
        x = x * real_bt1
        earlier = _shifted(x, 1)[:, ::_PAIR]
        x = F.relu(self.paired(torch.cat([earlier, x[:, ::2], x[:, 1::2]], dim=-1)))
        real_bu = _real((frame_counts + 1) // _PAIR, x.shape[1])
        for index, layer in enumerate(self.layers):
            x = layer(x, real_bu[..., None])
            if index in self.attention_after:
                x = self.attention[self.attention_after.index(index)](x, real_bu)
        x = self.norm(x)
        return TdnnOutput(self._said(self.out, x, frames), self._said(self.frame_out, x, frames))

    def _said(self, head: nn.Module, x_bud: Tensor, frames: int) -> Tensor:
        said = head(x_bud).unflatten(-1, (_PAIR, self.symbols)).flatten(1, 2)
        return F.log_softmax(said[:, :frames].float(), dim=-1)

    def parameter_count(self) -> int:
        """All parameters."""
        return sum(parameter.numel() for parameter in self.parameters())


def _shifted(x_btd: Tensor, frames: int) -> Tensor:
    """What was so many frames before; zeros where nothing was."""
    if frames >= 0:
        return F.pad(x_btd, (0, 0, frames, 0))[:, : x_btd.shape[1]]
    return F.pad(x_btd, (0, 0, 0, -frames))[:, -frames:]


def _neighbours(x_btd: Tensor) -> Tensor:
    return torch.cat([_shifted(x_btd, 1), x_btd, _shifted(x_btd, -1)], dim=-1)


def _real(counts: Tensor, frames: int) -> Tensor:
    return torch.arange(frames, device=counts.device) < counts[:, None]


@dataclass
class TdnnCheckpoint:
    """A teacher with what is needed to understand its outputs and where it came from."""

    tdnn: Tdnn
    vocabulary: Vocabulary
    provenance: dict[str, object]


def save(folder: Path | str, checkpoint: TdnnCheckpoint) -> Path:
    """Write ``tdnn.json`` and ``model.safetensors`` into a folder, each whole or not at all."""
    content: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": asdict(checkpoint.tdnn.config),
        "vocabulary": checkpoint.vocabulary.to_dict(),
        "provenance": checkpoint.provenance,
    }
    return write_whole(Path(folder), WEIGHTS, checkpoint.tdnn, DESCRIPTION, content)


def is_saved(folder: Path | str) -> bool:
    """Whether a folder, or a bundled name, is such a teacher."""
    return (located(folder) / DESCRIPTION).is_file()


def load(folder: Path | str) -> TdnnCheckpoint:
    """Read such a folder, or a bundled teacher's by its name; it is in eval mode on the CPU.

    Raises:
        CheckpointError: a file is missing or damaged, the format is another or newer, or the
            weights do not fit the architecture; the message names them.
    """
    folder = located(folder)
    path = folder / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no such teacher: it has no {DESCRIPTION}; expected a folder with "
            f"{DESCRIPTION} and {WEIGHTS}, as `rdsdk teach` writes"
        )
    content = described(path, FORMAT, VERSION, _FIELDS)
    try:
        config = TdnnConfig.from_dict(content["architecture"])  # type: ignore[arg-type]
        vocabulary = Vocabulary.from_dict(content["vocabulary"])  # type: ignore[arg-type]
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    tdnn = Tdnn(config, len(vocabulary))
    load_weights(tdnn, read_weights(folder, DESCRIPTION), str(folder / WEIGHTS))
    provenance = content["provenance"]
    if not isinstance(provenance, dict):
        raise CheckpointError(f"{path}: 'provenance' must be an object")
    return TdnnCheckpoint(tdnn.eval(), vocabulary, provenance)
