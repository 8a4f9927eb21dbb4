"""Frozen teachers: waveforms -> the hidden states of every layer, of the unmasked and masked input.

``load_teacher`` takes HuBERT, WavLM and wav2vec 2.0 as transformers checkpoints or torchaudio
bundles, and our own checkpoints. Every source gives the same thing: the residual stream as it
leaves each transformer layer. In pre-norm (Large) models that is before the encoder's final layer
norm, which belongs to no layer. It is what distillation compares with: fairseq's
``layer_results``, in the released ARMHuBERT code, and torchaudio's ``extract_features``, in
DPHuBERT. transformers' last ``hidden_states`` entry lies after that norm in version 4 and before
it in version 5.24.

Shapes: B batch, S samples, T = (S - 80) // 320 frames, D width, H heads, C extractor channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

from rdsdk.errors import CheckpointError, ConfigError, DataError
from rdsdk.models.checkpoint import is_saved
from rdsdk.models.config import HOP_SAMPLES, OVERLAP_SAMPLES, RECEPTIVE_FIELD_SAMPLES
from rdsdk.models.extractor import frame_count

Precision = Literal["auto", "float32", "bfloat16"]

TORCHAUDIO_PREFIX = "torchaudio:"


class TeacherOutput(NamedTuple):
    """The targets of one batch."""

    unmasked: list[Tensor]
    """(B, T, D) after each transformer layer, first to last, of the unmasked input."""
    masked: list[Tensor] | None
    """The same of the masked input; None when no mask was given."""


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """The hidden states (B, T, D) that a layer is called with inside the block, call by call."""
    entered: list[Tensor] = []

    def keep(layer: nn.Module, arguments: Any, named: Any) -> None:
        entered.append(arguments[0] if arguments else named["hidden_states"])

    handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield entered
    finally:
        handle.remove()


class Teacher(nn.Module, ABC):
    """A frozen model: always in eval mode, without gradients.

    Args:
        name: for people and for provenance.
        layers: L, transformer layers.
        width: D.
        heads: H.
        mask_embedding: (D,) what replaces a masked frame after the feature projection; None for a
            model that came without one.
        normalize_epsilon: each recording is brought to zero mean and unit variance over its real
            samples, with this added to the variance; None leaves waveforms as they are.
        mask_padding: real frames do not attend to padding, and padding is silence to the position
            convolution. Without it, padding is heard as digital silence, as transformers documents
            for models whose preprocessor has ``return_attention_mask=False`` (HuBERT Base).
        precision: ``"auto"`` is bfloat16 autocast on GPUs that have it, else float32.
        one_batch: run the unmasked and the masked pass as one batch of 2 B; None does so on a GPU
            only. On a CPU neither was reliably faster (2 and 4 rows of 5 s, Base models, one
            thread), and two passes take half the memory.
    """

    def __init__(
        self,
        name: str,
        layers: int,
        width: int,
        heads: int,
        *,
        mask_embedding: Tensor | None,
        normalize_epsilon: float | None = None,
        mask_padding: bool = True,
        precision: Precision = "auto",
        one_batch: bool | None = None,
    ) -> None:
        super().__init__()
        if precision not in get_args(Precision):
            raise ConfigError(
                f"a teacher's precision is one of {list(get_args(Precision))}, got {precision!r}"
            )
        self.name = name
        self.layers = layers
        self.width = width
        self.heads = heads
        self.normalize_epsilon = normalize_epsilon
        self.mask_padding = mask_padding
        self.precision = precision
        self.one_batch = one_batch
        self.mask_embedding: Tensor | None
        self.register_buffer("mask_embedding", mask_embedding, persistent=False)

    @property
    def can_mask(self) -> bool:
        """Whether a frame mask can be given."""
        return self.mask_embedding is not None

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever the module around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, waveforms: Tensor, sample_counts: Tensor, frame_mask: Tensor | None = None
    ) -> TeacherOutput:
        """Both passes over one extraction of the convolutional features.

        Args:
            waveforms: (B, S) in [-1, 1] at 16 kHz, zero beyond each row's samples.
            sample_counts: (B,) real samples of each row.
            frame_mask: (B, T) bool, True where the teacher's own mask embedding replaces the
                projected features.

        Raises:
            ConfigError: a shape is wrong, or a mask was given to a teacher without an embedding.
            DataError: the batch is shorter than one frame.
        """
        self._check(waveforms, sample_counts, frame_mask)
        with self._autocast(waveforms.device):
            features = self._extract(self._normalized(waveforms, sample_counts))
            counts = self._frame_counts(features, sample_counts)
            if frame_mask is None:
                return TeacherOutput(self._encode(features, counts, None), None)
            if not self._joins(waveforms.device):
                return TeacherOutput(
                    self._encode(features, counts, None),
                    self._encode(features, counts, frame_mask),
                )
            both = self._encode(
                torch.cat([features, features]),
                None if counts is None else torch.cat([counts, counts]),
                torch.cat([torch.zeros_like(frame_mask), frame_mask]),
            )
        rows = len(waveforms)
        return TeacherOutput([h[:rows] for h in both], [h[rows:] for h in both])

    @torch.no_grad()
    def hidden_states(self, waveforms: Tensor, sample_counts: Tensor) -> list[Tensor]:
        """(B, T, D) as it enters the first transformer layer, then after each: L + 1, unmasked.

        What SUPERB's tasks mix (arXiv 2105.01051); the arguments are those of ``forward``.

        Raises:
            ConfigError: a shape is wrong.
            DataError: the batch is shorter than one frame.
        """
        with inputs_of(self._first_layer()) as entered:
            layers = self(waveforms, sample_counts).unmasked
        # Right context enters behind the frames that it belongs to, and leaves no hidden states.
        return [entered[0][:, : layers[0].shape[1]], *layers]

    @torch.no_grad()
    def attention_maps(self, waveforms: Tensor, sample_counts: Tensor) -> list[Tensor]:
        """The attention map (B, H, T, T) that each layer applies: a row is a frame's weights over
        all frames and sums to 1. Rows of padding mean nothing.

        Raises:
            ConfigError: a shape is wrong.
            DataError: the batch is shorter than one frame.
        """
        self._check(waveforms, sample_counts, None)
        with self._autocast(waveforms.device):
            features = self._extract(self._normalized(waveforms, sample_counts))
            return self._maps(features, self._frame_counts(features, sample_counts))

    @abstractmethod
    def _extract(self, waveforms: Tensor) -> Tensor:
        """waveforms (B, S) -> convolutional features (B, T, C)."""

    @abstractmethod
    def _encode(
        self, features: Tensor, frame_counts: Tensor | None, frame_mask: Tensor | None
    ) -> list[Tensor]:
        """features (B, T, C) -> (B, T, D) after each layer. ``frame_counts`` (B,) None: no padding
        is hidden. ``features`` must be left as they are."""

    @abstractmethod
    def _first_layer(self) -> nn.Module:
        """The first transformer layer, called with x (B, T, D)."""

    @abstractmethod
    def _maps(self, features: Tensor, frame_counts: Tensor | None) -> list[Tensor]:
        """features (B, T, C) -> the attention map (B, H, T, T) of each layer."""

    def _freeze(self) -> None:
        self.requires_grad_(False)
        self.train(False)

    def _masked(self, projected: Tensor, frame_mask: Tensor | None) -> Tensor:
        """projected (B, T, D) -> a new tensor with the mask embedding at masked frames."""
        if frame_mask is None:
            return projected.clone()
        assert self.mask_embedding is not None
        embedding = self.mask_embedding.to(projected.dtype)
        return torch.where(frame_mask[..., None], embedding, projected)

    def _normalized(self, waveforms: Tensor, sample_counts: Tensor) -> Tensor:
        waveforms = waveforms.float()
        if self.normalize_epsilon is None:
            return waveforms
        index = torch.arange(waveforms.shape[1], device=waveforms.device)
        real = index < sample_counts[:, None].to(waveforms.device)
        counts = real.sum(dim=1, keepdim=True)
        centred = (waveforms - (waveforms * real).sum(dim=1, keepdim=True) / counts) * real
        variance = centred.square().sum(dim=1, keepdim=True) / counts
        return centred / (variance + self.normalize_epsilon).sqrt()

    def _frame_counts(self, features: Tensor, sample_counts: Tensor) -> Tensor | None:
        if not self.mask_padding:
            return None
        counts = (sample_counts.to(features.device) - OVERLAP_SAMPLES) // HOP_SAMPLES
        # Never 0: a row without any frame to attend to would be NaN.
        return counts.clamp(1, features.shape[1])

    def _joins(self, device: torch.device) -> bool:
        return device.type == "cuda" if self.one_batch is None else self.one_batch

    def _autocast(self, device: torch.device) -> torch.autocast:
        wanted = self.precision == "bfloat16" or (
            self.precision == "auto"
            and device.type == "cuda"
            and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        return torch.autocast(device.type, torch.bfloat16, enabled=wanted)

    def _check(self, waveforms: Tensor, sample_counts: Tensor, frame_mask: Tensor | None) -> None:
        if waveforms.ndim != 2 or sample_counts.shape != waveforms.shape[:1]:
            raise ConfigError(
                "a teacher takes waveforms (B, S) and sample_counts (B,), got "
                f"{tuple(waveforms.shape)} and {tuple(sample_counts.shape)}"
            )
        rows, samples = waveforms.shape
        frames = frame_count(samples)
        if frames < 1:
            raise DataError(
                f"a batch of {samples} samples is shorter than one frame of "
                f"{RECEPTIVE_FIELD_SAMPLES}; leave such recordings out"
            )
        if frame_mask is None:
            return
        if frame_mask.dtype != torch.bool or frame_mask.shape != (rows, frames):
            raise ConfigError(
                f"the frame mask of {samples} samples is bool ({rows}, {frames}), got "
                f"{frame_mask.dtype} {tuple(frame_mask.shape)}"
            )
        if self.mask_embedding is None:
            raise ConfigError(
                f"the teacher {self.name} came without a mask embedding, so it has no masked pass; "
                "use the transformers checkpoint of that model (torchaudio's bundles leave the "
                "embedding out), or a loss of unmasked targets only"
            )


def check_geometry(kernels: Sequence[int], strides: Sequence[int], source: str) -> None:
    """Refuse an extractor whose frames are not ours.

    Raises:
        CheckpointError: the hop is not 320 samples or the receptive field not 400.
    """
    hop = field = 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    if (hop, field) != (HOP_SAMPLES, RECEPTIVE_FIELD_SAMPLES):
        raise CheckpointError(
            f"the extractor of {source} has a frame of {field} samples every {hop}; students have "
            f"one of {RECEPTIVE_FIELD_SAMPLES} every {HOP_SAMPLES}, and so must their teacher"
        )


def load_teacher(
    source: str | Path,
    *,
    precision: Precision = "auto",
    one_batch: bool | None = None,
    mask_padding: bool | None = None,
    normalize: bool | None = None,
    whole: bool = False,
) -> Teacher:
    """A teacher by folder or name, on the CPU.

    Args:
        source: a folder of a transformers checkpoint or of ours, the name of a bundled one of ours
            (``english``), a Hugging Face hub name (``facebook/hubert-base-ls960``), or
            ``torchaudio:HUBERT_BASE``.
        precision, one_batch: see :class:`Teacher`.
        mask_padding: None does as the checkpoint says. transformers: its preprocessor's
            ``return_attention_mask``; without a preprocessor, yes for layer-norm extractors (Large)
            and no for group-norm ones (Base). torchaudio and ours: yes.
        normalize: zero mean and unit variance for each recording. None does as the checkpoint says.
            transformers: its preprocessor's ``do_normalize``; without a preprocessor, yes for
            layer-norm extractors, as these were trained. torchaudio: as the bundle. Ours: never.
        whole: a streaming one of ours hears each recording as a whole, as all others do anyway.

    Raises:
        CheckpointError: there is no such model, or it is damaged, of an unknown architecture, or
            cannot be had (offline).
        ConfigError: a package is missing, or an option does not go with the source.
    """
    text = str(source)
    if text.startswith(TORCHAUDIO_PREFIX):
        from rdsdk.training.torchaudio_teacher import load_bundle

        return load_bundle(
            text.removeprefix(TORCHAUDIO_PREFIX),
            precision=precision,
            one_batch=one_batch,
            mask_padding=mask_padding,
            normalize=normalize,
        )
    folder = Path(source).expanduser()
    if is_saved(folder):
        from rdsdk.training.student_teacher import load_student

        if mask_padding is not None or normalize is not None:
            raise ConfigError(
                f"{text} is an rdsdk checkpoint: it hides padding and takes waveforms as they are; "
                "leave mask_padding and normalize out"
            )
        return load_student(folder, whole=whole, precision=precision, one_batch=one_batch)
    from rdsdk.training.transformers_teacher import load_transformers

    return load_transformers(
        text if not folder.exists() else str(folder),
        precision=precision,
        one_batch=one_batch,
        mask_padding=mask_padding,
        normalize=normalize,
    )
