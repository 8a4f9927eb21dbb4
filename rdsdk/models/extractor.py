"""waveform (B, S) -> frames (B, T, C): nine convolutions, 400 samples a frame, 320 apart.

Shapes: B batch, S samples, T = (S - 80) // 320 frames, C channels of the last convolution.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.models.config import HOP_SAMPLES, OVERLAP_SAMPLES, EncoderConfig
from rdsdk.models.frame_conv import FrameConv, tap_matrix, windows

OFFSET_RANGE = 0.5
"""Of the fresh offsets of channel norms.

Offsets of zero let digital silence pass as zeros through every convolution and norm, each of which
then multiplies the gradient by 1 / sqrt(epsilon): measured norms reach millions and nothing else is
learnt. With these, silence is a constant of ordinary size after the first norm.
"""


def frame_count(samples: int) -> int:
    """Frames that S samples give: T = (S - 80) // 320, none below 400 samples."""
    return max(0, (samples - OVERLAP_SAMPLES) // HOP_SAMPLES)


def cosine_basis(size: int) -> Tensor:
    """The orthonormal discrete cosine transform (DCT-II), one basis vector a row."""
    tone, tap = torch.arange(size)[:, None], torch.arange(size)[None, :]
    basis = torch.cos(math.pi / size * (tap + 0.5) * tone) * math.sqrt(2 / size)
    basis[0] = size**-0.5
    return basis


class TimeNorm(nn.Module):
    """GroupNorm with one group a channel: each channel is normalised over the whole recording.

    Its statistics see every sample, padding included, so a row of a padded batch does not equal
    the same recording alone, and nothing with this norm can stream. As published.

    Spelled with what it follows, a convolution of samples: mean and variance of every channel come
    from the mean and covariance of the windows (k samples, not O channels), and the norm becomes
    the convolution's own weights. The wide result is written once and never read for statistics.
    """

    def __init__(self, channels: int, kernel: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(Tensor(channels).fill_(1.0))
        self.bias = nn.Parameter(Tensor(channels).fill_(0.0))
        self.epsilon = epsilon
        # Speech is mostly low tones. Among cosines its covariance is nearly diagonal; among
        # samples a filter of high tones would be a small difference of large numbers.
        self.register_buffer("basis", cosine_basis(kernel), persistent=False)

    def forward(self, conv: FrameConv, waveform: Tensor, frames: int) -> Tensor:
        """The first ``frames`` frames of norm(conv(waveform (B, S))): (B, frames, O).

        The convolution's bias is not read: taking the mean off takes it off too.
        """
        kernel, stride = conv.conv.kernel, conv.conv.stride
        assert isinstance(self.basis, Tensor)
        blocks = waveform.shape[1] // stride
        rows_blk = windows(waveform[:, : blocks * stride, None], 0, kernel, stride)
        # Windows that reach past the end are in no statistics.
        whole = blocks - (-(-kernel // stride) - 1)
        tones_bnk = F.linear(rows_blk[:, :whole], self.basis)
        centred_bnk = tones_bnk - tones_bnk.mean(dim=1, keepdim=True)
        covariance_bkk = torch.bmm(centred_bnk.transpose(1, 2), centred_bnk) / whole
        weight_ok = F.linear(tap_matrix(conv.weight, 0, kernel), self.basis)
        variance_bo = ((weight_ok @ covariance_bkk) * weight_ok).sum(dim=-1)
        scale_bo = (variance_bo + self.epsilon).rsqrt() * self.weight
        scaled_bko = (weight_ok * scale_bo[..., None]).transpose(1, 2)
        padded_bnk = F.pad(centred_bnk, (0, 0, 0, blocks - whole))
        return torch.bmm(padded_bnk[:, :frames], scaled_bko) + self.bias


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each time step: it knows no other moment, so it streams."""

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__(channels, eps=epsilon)
        nn.init.uniform_(self.bias, -OFFSET_RANGE, OFFSET_RANGE)


class Extractor(nn.Module):
    """The convolutional front end (wav2vec 2.0, arXiv 2006.11477, section 2).

    Each convolution gives L // s frames of L; the 80 samples after the last hop make that T at the
    end, and none of these T frames depends on a window that reached past the last sample.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        inputs = [1, *(conv.channels for conv in config.convs)]
        self.convs = nn.ModuleList(
            FrameConv(channels, conv, config.conv_bias)
            for channels, conv in zip(inputs, config.convs, strict=False)
        )
        norms: list[nn.Module] = [nn.Identity() for _ in config.convs]
        if config.extractor_norm == "group":
            norms[0] = TimeNorm(config.convs[0].channels, config.convs[0].kernel)
        else:
            norms = [
                ChannelNorm(conv.channels, config.first_norm_epsilon if index == 0 else 1e-5)
                for index, conv in enumerate(config.convs)
            ]
        self.norms = nn.ModuleList(norms)

    def forward(self, waveform: Tensor) -> Tensor:
        """waveform (B, S), S >= 400, in [-1, 1] at 16 kHz -> frames (B, T, C)."""
        frames = (waveform.shape[1] - OVERLAP_SAMPLES) // HOP_SAMPLES
        used = HOP_SAMPLES * frames + OVERLAP_SAMPLES
        x_blc = waveform[:, :used, None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            if isinstance(norm, TimeNorm):
                assert isinstance(conv, FrameConv)
                x_blc = norm(conv, waveform, used // conv.conv.stride)
            else:
                x_blc = norm(conv(x_blc))
            x_blc = F.gelu(x_blc)
        return x_blc
