"""The whole student: extractor, encoder, and the heads it was given.

Shapes: B batch, S samples, T = (S - 80) // 320 frames, D width, V symbols, P projection width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn

from rdsdk.models.config import HOP_SAMPLES, OVERLAP_SAMPLES, Context, EncoderConfig
from rdsdk.models.ctc import CTCHead
from rdsdk.models.encoder import Encoder
from rdsdk.models.energies import Energies
from rdsdk.models.extractor import Extractor
from rdsdk.models.state import EncoderState


class StudentOutput(NamedTuple):
    """What one pass gives."""

    hidden: list[Tensor]
    """(B, T, D) after each layer."""
    log_probs: Tensor | None
    """(B, T, V), or None for a student without a CTC head."""


class Student(nn.Module):
    """waveform -> hidden states, and log_probs if it has a CTC head.

    Args:
        config: the architecture.
        symbols: V, outputs of the CTC head; None leaves the head out.
        projection_width: P of the per-layer projection heads that distillation compares with the
            teacher's hidden states (12 heads of 768 as published); None leaves them out.
    """

    def __init__(
        self,
        config: EncoderConfig,
        symbols: int | None = None,
        projection_width: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.extractor = Extractor(config)
        channels = config.convs[-1].channels
        self.energies = Energies(config.mel_bands, channels) if config.mel_bands else None
        self.encoder = Encoder(config)
        self.ctc_head = None if symbols is None else CTCHead(config.width, symbols, config.dropout)
        self.projections = (
            None
            if projection_width is None
            else nn.ModuleList(
                nn.Linear(config.width, projection_width) for _ in range(config.layers)
            )
        )

    def forward(
        self,
        waveform: Tensor,
        state: EncoderState | None = None,
        *,
        sample_counts: Tensor | None = None,
        frame_mask: Tensor | None = None,
        context: Context | Literal["full", "configured"] = "configured",
        followed: bool = False,
    ) -> tuple[StudentOutput, EncoderState]:
        """waveform (B, S) -> (output, next state).

        When streaming, ``waveform`` is whole chunks of 320-sample hops and the
        ``config.overlap_samples`` that follow them, which are given again at the start of the next
        call: the extractor's valid convolutions need no state of their own. ``followed`` says that
        they are there. The other arguments are those of ``Encoder``;
        ``sample_counts`` (B,) are the real samples of each row of a padded batch. Padding changes
        nothing of a shorter row, except with ``extractor_norm="group"``, whose statistics over
        time include the padding (as in the published models).
        """
        frame_counts = (
            None if sample_counts is None else (sample_counts - OVERLAP_SAMPLES) // HOP_SAMPLES
        )
        # By its class: what shards a student wraps its methods, and one within another is too much.
        return Student.hear(
            self,
            self.extractor(waveform),
            state,
            waveform=waveform,
            frame_counts=frame_counts,
            frame_mask=frame_mask,
            context=context,
            followed=followed,
        )

    def hear(
        self,
        frames: Tensor,
        state: EncoderState | None = None,
        *,
        waveform: Tensor | None = None,
        energies: Tensor | None = None,
        frame_counts: Tensor | None = None,
        frame_mask: Tensor | None = None,
        context: Context | Literal["full", "configured"] = "configured",
        followed: bool = False,
    ) -> tuple[StudentOutput, EncoderState]:
        """The same from the extractor's frames (B, T, C); arguments as for ``Encoder``. With
        ``mel_bands`` M the ``waveform`` (B, S) that they are of must come along, or its
        ``energies`` (B, T, 3 M)."""
        if self.energies is not None and energies is not None:
            frames = frames + self.energies.joined(energies)
        elif self.energies is not None:
            assert waveform is not None, "this student hears energies of the waveform, too"
            frames = frames + self.energies(waveform)
        hidden, state = self.encoder(
            frames,
            state,
            frame_counts=frame_counts,
            frame_mask=frame_mask,
            context=context,
            followed=followed,
        )
        log_probs = None if self.ctc_head is None else self.ctc_head(hidden[-1])
        return StudentOutput(hidden, log_probs), state

    def copy(self, config: EncoderConfig | None = None) -> Student:
        """The same weights in a student of their own, ready to run; in another architecture that
        they fit if one is given.

        Built anew: a deep copy of a weight-normed module shares its class with the original, and
        folding the norm of one would break the other.
        """
        made = Student(config or self.config, self.symbols, self.projection_width)
        made.load_state_dict(self.state_dict())
        return made.eval()

    def embed(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) -> (B, T, D): what the forward pass masks and gives to its layers."""
        return self.encoder.project(self.frames(waveform))

    def frames(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) -> (B, T, C): what the encoder hears."""
        convolved: Tensor = self.extractor(waveform)
        return convolved if self.energies is None else convolved + self.energies(waveform)

    def project(self, hidden: list[Tensor]) -> list[Tensor]:
        """Each layer's hidden state through its projection head: (B, T, P) a layer."""
        assert self.projections is not None, "this student was made without projection heads"
        return [head(x) for head, x in zip(self.projections, hidden, strict=True)]

    @property
    def symbols(self) -> int | None:
        """V, the outputs of the CTC head, or None without one."""
        return None if self.ctc_head is None else self.ctc_head.linear.out_features

    @property
    def projection_width(self) -> int | None:
        """P of the projection heads, or None without them."""
        if self.projections is None:
            return None
        head = self.projections[0]
        assert isinstance(head, nn.Linear)
        return head.out_features

    def parameter_count(self) -> int:
        """All parameters; weight-norm's magnitudes count, as in the published figures."""
        return sum(parameter.numel() for parameter in self.parameters())
