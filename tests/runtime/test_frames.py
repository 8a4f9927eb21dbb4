"""Re-blocking: however samples come, the frames are those of the whole recording at once."""

import numpy as np
import pytest
import tiny_program
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdsdk.audio.frames import TAIL_FRAMES
from rdsdk.errors import ModelError
from rdsdk.runtime.chunks import ChunkedFrames
from rdsdk.runtime.program import Program
from rdsdk.runtime.samples import Samples
from rdsdk.runtime.windows import WindowedFrames

HOP = tiny_program.HOP
CHUNK = HOP * tiny_program.CHUNK_FRAMES


@pytest.fixture(scope="module")
def streaming(streaming_pte) -> Program:
    return Program(streaming_pte)


@pytest.fixture(scope="module")
def full(full_pte) -> Program:
    return Program(full_pte)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def collect(frames, waveform, sizes=()):
    outputs, at = [], 0
    for size in sizes:
        outputs += frames.feed(waveform[at : at + size])
        at += size
    outputs += frames.feed(waveform[at:])
    outputs += frames.finish()
    if not outputs:
        return np.zeros((0, 8), np.float32), np.zeros((0, 10), np.float32)
    return (
        np.concatenate([output.hidden for output in outputs]),
        np.concatenate([output.log_probs for output in outputs]),
    )


def eager_streaming(waveform: np.ndarray) -> tuple[np.ndarray, int]:
    """The module on the whole, filled up to whole chunks, with the state after a chunk of silence;
    and how many frames hold real samples."""
    module, (_, *fresh) = tiny_program.eager()
    _, _, *state = module(torch.zeros(1, CHUNK + 80), *fresh)
    real = max(1, -(-(len(waveform) - 80) // HOP))
    padded = np.pad(waveform, (0, -(-real * HOP // CHUNK) * CHUNK + 80 - len(waveform)))
    _, hidden, *_ = module(torch.from_numpy(padded)[None], *state)
    return hidden[0, :real].detach().numpy(), real


@pytest.mark.parametrize(
    "samples",
    [1, 79, 80, 81, 400, 401, CHUNK - 1, CHUNK + 79, CHUNK + 80, CHUNK + 81, 10 * CHUNK + 333],
)
def test_chunks_give_a_frame_for_every_sample_and_none_for_padding(streaming, samples):
    waveform = noise(samples)
    wanted, frames = eager_streaming(waveform)
    hidden, log_probs = collect(ChunkedFrames(streaming), waveform)
    assert len(hidden) == frames
    assert len(log_probs) == frames + TAIL_FRAMES
    assert np.allclose(hidden, wanted, atol=1e-5)


def test_a_stream_begins_in_silence_and_not_out_of_nothing(streaming):
    waveform = noise(5 * CHUNK)
    hidden, _ = collect(ChunkedFrames(streaming), waveform)
    out_of_nothing = streaming.forward(waveform[: CHUNK + 80]).hidden
    assert not np.allclose(hidden[: len(out_of_nothing)], out_of_nothing, atol=1e-3)


def test_finishing_twice_gives_nothing_more(streaming):
    frames = ChunkedFrames(streaming)
    list(frames.feed(noise(3 * CHUNK + 80)))
    assert len(list(frames.finish())) == 3  # ten frames of silence, in chunks of four
    assert list(frames.finish()) == []
    frames.reset()
    assert list(frames.finish()) == []


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(0, 20 * CHUNK),
    sizes=st.lists(st.integers(0, 3 * CHUNK), max_size=20),
    call_seconds=st.sampled_from([0.01, 0.3, 5.0]),
)
def test_chunks_are_the_same_for_any_blocks_and_any_number_a_call(
    streaming, samples, sizes, call_seconds
):
    waveform = noise(samples)
    whole = collect(ChunkedFrames(streaming), waveform)
    parts = collect(ChunkedFrames(streaming, call_seconds), waveform, sizes)
    for got, wanted in zip(parts, whole, strict=True):
        assert got.shape == wanted.shape
        assert np.allclose(got, wanted, atol=1e-5)


def test_several_chunks_go_through_the_program_at_once(streaming, monkeypatch):
    lengths = []
    forward = streaming.forward
    monkeypatch.setattr(
        streaming, "forward", lambda w, s=None: (lengths.append(len(w)), forward(w, s))[1]
    )
    frames = ChunkedFrames(streaming, call_seconds=0.8)
    lengths.clear()  # the silence before it
    list(frames.feed(noise(25 * CHUNK + 80)))
    assert [(length - 80) // CHUNK for length in lengths] == [10, 10, 5]


def test_a_failed_call_loses_no_samples(streaming, monkeypatch):
    waveform = noise(6 * CHUNK + 80)
    wanted, _ = collect(ChunkedFrames(streaming), waveform)
    frames = ChunkedFrames(streaming)
    got = [output.hidden for output in frames.feed(waveform[: 2 * CHUNK])]

    def fail(*_):
        raise ModelError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(streaming, "forward", fail)
        with pytest.raises(ModelError):
            list(frames.feed(waveform[2 * CHUNK : 5 * CHUNK]))
    got += [output.hidden for output in frames.feed(waveform[5 * CHUNK :])]
    got += [output.hidden for output in frames.finish()]
    assert np.allclose(np.concatenate(got), wanted, atol=1e-5)


def eager_full(waveform: np.ndarray) -> np.ndarray:
    module, _ = tiny_program.eager(streaming=False)
    return module(torch.from_numpy(waveform)[None])[1][0].detach().numpy()


@pytest.mark.parametrize("samples", [720, 10_000, tiny_program.MAX_SAMPLES])
def test_what_fits_a_full_context_program_is_one_call(full, samples, monkeypatch):
    calls = []
    forward = full.forward
    monkeypatch.setattr(full, "forward", lambda w: (calls.append(len(w)), forward(w))[1])
    waveform = noise(samples)
    hidden, _ = collect(WindowedFrames(full), waveform, sizes=[500, 700])
    assert calls == [samples]
    assert np.allclose(hidden, eager_full(waveform), atol=1e-5)


@pytest.mark.parametrize("extra", [1, 319, 320, 40_000, 2 * tiny_program.MAX_SAMPLES + 77])
def test_windows_join_without_a_seam(full, extra):
    waveform = noise(tiny_program.MAX_SAMPLES + extra)
    # The model sees 15 frames either side, fewer than the margin: windows must be exact.
    hidden, _ = collect(WindowedFrames(full), waveform)
    assert hidden.shape == ((len(waveform) - 80) // HOP, 8)
    assert np.allclose(hidden, eager_full(waveform), atol=1e-5)


def test_a_margin_below_what_the_model_sees_shows_at_the_seam(full):
    waveform = noise(2 * tiny_program.MAX_SAMPLES)
    hidden, _ = collect(WindowedFrames(full, margin_seconds=0.0), waveform)
    assert np.abs(hidden - eager_full(waveform)).max() > 1e-2


@settings(max_examples=15, deadline=None)
@given(
    samples=st.integers(0, 3 * tiny_program.MAX_SAMPLES),
    sizes=st.lists(st.integers(0, tiny_program.MAX_SAMPLES), max_size=8),
)
def test_windows_are_the_same_for_any_blocks(full, samples, sizes):
    waveform = noise(samples)
    whole = collect(WindowedFrames(full), waveform)
    for got, wanted in zip(collect(WindowedFrames(full), waveform, sizes), whole, strict=True):
        assert got.shape == wanted.shape
        assert np.allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 80, 399, 719])
def test_a_recording_below_the_minimum_is_padded(full, samples):
    waveform = noise(samples)
    hidden, _ = collect(WindowedFrames(full), waveform)
    frames = max(1, -(-(samples - 80) // HOP))
    wanted = eager_full(np.pad(waveform, (0, 720 - samples)))[:frames]
    assert np.allclose(hidden, wanted, atol=1e-5)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_a_queue_of_samples_keeps_their_order(steps):
    queue, wanted, number = Samples(), np.zeros(0, np.float32), 0
    for added, dropped in steps:
        block = np.arange(number, number + added, dtype=np.float32)
        number += added
        queue.add(block)
        wanted = np.concatenate([wanted, block])
        block[:] = -1  # the caller may reuse its buffer
        queue.drop(min(dropped, len(wanted)))
        wanted = wanted[min(dropped, len(wanted)) :]
        assert len(queue) == len(wanted)
        assert np.array_equal(queue.first(len(wanted)), wanted)
    assert queue.total == number
