"""waveform (B, S) -> frames (B, T, C): nine valid convolutions, 400 samples a frame, 320 apart.

Shapes: B batch, S samples, T = (S - 80) // 320 frames, C channels of the last convolution.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.models.config import HOP_SAMPLES, OVERLAP_SAMPLES, ConvLayer, EncoderConfig

OFFSET_RANGE = 0.5
"""Of the fresh offsets of channel norms.

Offsets of zero let digital silence pass as zeros through every convolution and norm, each of which
then multiplies the gradient by 1 / sqrt(epsilon): measured norms reach millions and nothing else is
learnt. With these, silence is a constant of ordinary size after the first norm.
"""


def frame_count(samples: int) -> int:
    """Frames that S samples give: T = (S - 80) // 320, none below 400 samples."""
    return max(0, (samples - OVERLAP_SAMPLES) // HOP_SAMPLES)


class TimeNorm(nn.Module):
    """GroupNorm with one group a channel: each channel is normalised over the whole recording.

    Its statistics see every sample, padding included, so a row of a padded batch does not equal
    the same recording alone, and nothing with this norm can stream. As published.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(Tensor(channels).fill_(1.0))
        self.bias = nn.Parameter(Tensor(channels).fill_(0.0))
        self.epsilon = epsilon

    def forward(self, x_bc1s: Tensor) -> Tensor:
        # Spelled with means, because the mobile back end takes means and leaves group_norm out.
        mean = x_bc1s.mean(dim=-1, keepdim=True)
        centred = x_bc1s - mean
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        normalised = centred * (variance + self.epsilon).rsqrt()
        return normalised * self.weight[:, None, None] + self.bias[:, None, None]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each time step: it knows no other moment, so it streams."""

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__(channels, eps=epsilon)
        nn.init.uniform_(self.bias, -OFFSET_RANGE, OFFSET_RANGE)

    def forward(self, x_bc1s: Tensor) -> Tensor:
        return super().forward(x_bc1s.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _convolution(inputs: int, conv: ConvLayer, bias: bool) -> nn.Conv2d:
    """Takes images of height one: mobile back ends run those whole, plain sequences not."""
    made = nn.Conv2d(inputs, conv.channels, (1, conv.kernel), stride=(1, conv.stride), bias=bias)
    nn.init.kaiming_normal_(made.weight)
    return made


class Extractor(nn.Module):
    """The convolutional front end (wav2vec 2.0, arXiv 2006.11477, section 2)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        inputs = [1, *(conv.channels for conv in config.convs)]
        self.convs = nn.ModuleList(
            _convolution(channels, conv, config.conv_bias)
            for channels, conv in zip(inputs, config.convs, strict=False)
        )
        norms: list[nn.Module] = [nn.Identity() for _ in config.convs]
        if config.extractor_norm == "group":
            norms[0] = TimeNorm(config.convs[0].channels)
        else:
            norms = [
                ChannelNorm(conv.channels, config.first_norm_epsilon if index == 0 else 1e-5)
                for index, conv in enumerate(config.convs)
            ]
        self.norms = nn.ModuleList(norms)

    def forward(self, waveform: Tensor) -> Tensor:
        """waveform (B, S), S >= 400, in [-1, 1] at 16 kHz -> frames (B, T, C)."""
        x_bc1s = waveform[:, None, None, :]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x_bc1s = F.gelu(norm(conv(x_bc1s)))
        return x_bc1s.squeeze(2).transpose(1, 2)
