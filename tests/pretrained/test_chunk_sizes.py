"""One set of trained weights serves every latency: streamed equals offline with the chunk mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import rdsdk
from rdsdk.audio import files
from rdsdk.evaluation.transcribers import text_of
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import Context

RECORDINGS = sorted((Path(__file__).parents[1] / "assets" / "digits").glob("*.flac"))


@pytest.fixture(scope="module")
def bundled() -> Checkpoint:
    return checkpoint.load(Path(rdsdk.bundled_models()["digits"]).parent / "digits")


@pytest.mark.parametrize("chunk_frames", [4, 8, 16, 32])
def test_streamed_in_any_chunk_size_the_words_are_those_of_offline(
    bundled: Checkpoint, chunk_frames: int
) -> None:
    assert bundled.vocabulary is not None
    student = checkpoint.in_context(bundled, chunk_frames, None).student
    chunk = 320 * chunk_frames
    texts = []
    for recording in RECORDINGS:
        waveform = files.read(recording)
        padded = np.pad(waveform, (0, -(len(waveform) - 80) % chunk))[None]
        with torch.no_grad():
            whole, _ = student(torch.from_numpy(padded))
            other, _ = bundled.student(
                torch.from_numpy(padded), context=Context(2 * chunk_frames, 64)
            )
            pieces, state = [], None
            for start in range(0, padded.shape[1] - 80, chunk):
                output, state = student(
                    torch.from_numpy(padded[:, start : start + chunk + 80]), state
                )
                pieces.append(output.log_probs)
        streamed = torch.cat(pieces, dim=1)[0]
        torch.testing.assert_close(streamed, whole.log_probs[0], atol=1e-3, rtol=0)
        texts.append(text_of(streamed, bundled.vocabulary))
        assert texts[-1] == text_of(whole.log_probs[0], bundled.vocabulary)
        # Negative control: another chunk mask says something else.
        assert (other.log_probs[0, : len(streamed)] - streamed).abs().max() > 0.5
    assert all(len(text.split()) >= 3 for text in texts)
