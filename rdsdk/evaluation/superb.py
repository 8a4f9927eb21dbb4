"""A student as an upstream of s3prl, so that SUPERB's tasks (arXiv 2105.01051) can run on it.

s3prl finds upstreams by folder. In its checkout, a file ``s3prl/upstream/rdsdk/hubconf.py`` with ::

    from rdsdk.evaluation.superb import rdsdk_local

and that module imported in ``s3prl/hub.py`` like those beside it; then ::

    python run_downstream.py -m train -u rdsdk_local -k CHECKPOINT_FOLDER -d ctc -c CONFIG -n NAME

What it asks of an upstream is this file's class; s3prl itself is not needed, and was not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.config import HOP_SAMPLES, RECEPTIVE_FIELD_SAMPLES, Context
from rdsdk.training.teachers import inputs_of


class UpstreamExpert(nn.Module):
    """What s3prl calls an upstream: recordings in, the hidden states of each layer out.

    Args:
        ckpt: a checkpoint folder of ours (an imported or distilled student).
        model_config: "full" lets a streaming student see whole recordings, a number of frames gives
            it chunks of that many; None leaves it its own context.

    Raises:
        CheckpointError: the folder holds no whole checkpoint.
        ConfigError: another ``model_config``.
    """

    def __init__(self, ckpt: str | Path, model_config: str | None = None, **_: Any) -> None:
        super().__init__()
        loaded = checkpoint.load(Path(ckpt))
        self.whole = model_config == "full"
        if model_config is not None and not self.whole:
            if not model_config.isdigit() or int(model_config) < 1:
                raise ConfigError(
                    f'model_config is "full" or a number of frames, got {model_config!r}'
                )
            loaded = checkpoint.in_context(loaded, int(model_config), None)
        self.student = loaded.student

    def get_downsample_rates(self, key: str) -> int:
        """Samples a frame: 320, whatever is asked."""
        return HOP_SAMPLES

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Recordings (S,) of any lengths -> ``hidden_states``: what enters the first layer and what
        leaves each, all (B, T, D). Shorter recordings are padded; what is said of padding means
        nothing, and s3prl cuts it off.
        """
        counts = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        waveforms = pad_sequence(list(wavs), batch_first=True)
        lacking = RECEPTIVE_FIELD_SAMPLES - waveforms.shape[1]
        if lacking > 0:
            waveforms = nn.functional.pad(waveforms, (0, lacking))
        context: Context | Any = "full" if self.whole else "configured"
        with inputs_of(self.student.encoder.layers[0]) as entered:
            output, _ = self.student(
                waveforms,
                sample_counts=counts.clamp(min=RECEPTIVE_FIELD_SAMPLES),
                context=context,
            )
        # Right context enters behind the frames that it belongs to, and leaves no hidden states.
        first = entered[0][:, : output.hidden[0].shape[1]]
        return {"hidden_states": [first, *output.hidden]}


def rdsdk_local(ckpt: str, model_config: str | None = None, **others: Any) -> UpstreamExpert:
    """The entry that s3prl's hub looks for."""
    return UpstreamExpert(ckpt, model_config, **others)
