import json
import threading

import numpy as np
import pytest
import tiny_program
import torch

from rdsdk.errors import ConfigError, ModelError
from rdsdk.runtime.program import Program

CHUNK = tiny_program.HOP * tiny_program.CHUNK_FRAMES


@pytest.fixture(scope="module")
def program(streaming_pte) -> Program:
    return Program(streaming_pte)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def test_forward_is_the_eager_module(program):
    module, (_, *state) = tiny_program.eager()
    waveform = noise(5 * CHUNK + 80)
    wanted = module(torch.from_numpy(waveform)[None], *state)
    got = program.forward(waveform)
    assert np.allclose(got.log_probs, wanted[0][0].detach(), atol=1e-5)
    assert np.allclose(got.hidden, wanted[1][0].detach(), atol=1e-5)
    for name, tensor in zip(program.card.state, wanted[2:], strict=True):
        assert np.allclose(got.state[name], tensor.detach(), atol=1e-5)


def test_the_state_matters_and_carries_a_stream_over_calls(program):
    waveform = noise(6 * CHUNK + 80)
    whole = program.forward(waveform)
    first = program.forward(waveform[: 2 * CHUNK + 80])
    second = program.forward(waveform[2 * CHUNK :], first.state)
    assert np.allclose(np.concatenate([first.hidden, second.hidden]), whole.hidden, atol=1e-5)
    forgotten = program.forward(waveform[2 * CHUNK :])
    assert np.abs(forgotten.hidden - second.hidden).max() > 1e-2


def test_a_step_is_forward_of_one_chunk_and_both_hand_on_the_same_state(program):
    waveform = noise(4 * CHUNK + 80)
    whole = program.forward(waveform)
    first = program.step(waveform[: CHUNK + 80])
    middle = program.forward(waveform[CHUNK : 3 * CHUNK + 80], first.state)
    last = program.step(waveform[3 * CHUNK :], middle.state)
    got = np.concatenate([first.hidden, middle.hidden, last.hidden])
    assert np.allclose(got, whole.hidden, atol=1e-5)
    for name, array in whole.state.items():
        assert np.allclose(last.state[name], array, atol=1e-5)
    # Negative control: without the state in between it is another sound.
    assert np.abs(program.step(waveform[3 * CHUNK :]).hidden - last.hidden).max() > 1e-2


def test_a_step_takes_one_chunk_and_nothing_else(program, full_pte):
    for samples in (2 * CHUNK + 80, CHUNK, CHUNK + 81):
        with pytest.raises(ModelError, match=rf"{CHUNK + 80} to {CHUNK + 80} samples"):
            program.step(noise(samples))
    with pytest.raises(ModelError, match="full-context model"):
        Program(full_pte).step(noise(CHUNK + 80))


def test_an_artefact_without_a_step_method_steps_by_forward(program, tmp_path):
    methods = {"forward": tiny_program.card(True)["methods"]["forward"]}
    older = Program(tiny_program.build(tmp_path / "older.pte", methods=methods))
    assert set(older.card.methods) == {"forward"}
    waveform = noise(CHUNK + 80)
    assert np.allclose(older.step(waveform).hidden, program.step(waveform).hidden, atol=1e-5)


def test_a_step_that_the_card_promises_must_be_there(tmp_path, monkeypatch):
    real = tiny_program.card(True)
    only = real | {"methods": {"forward": real["methods"]["forward"]}}
    path = tiny_program.build(tmp_path / "lies.pte", **only)
    monkeypatch.setattr(Program, "_read_card", lambda self: json.dumps(real))
    with pytest.raises(ModelError, match="step"):
        Program(path)


def test_the_inputs_are_not_changed(program):
    waveform, state = noise(CHUNK + 80), program.fresh_state()
    kept = waveform.copy()
    program.forward(waveform, state)
    assert np.array_equal(waveform, kept)
    assert all(not array.any() for array in state.values())


def test_read_only_and_strided_samples_are_taken(program):
    waveform = noise(2 * (CHUNK + 80))[::2]
    wanted = program.forward(waveform.copy()).hidden
    waveform.flags.writeable = False
    assert np.array_equal(program.forward(waveform).hidden, wanted)


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(0, np.float32),
        np.zeros(CHUNK, np.float32),
        np.zeros(CHUNK + 81, np.float32),
        np.zeros(tiny_program.MAX_SAMPLES + CHUNK, np.float32),
        np.zeros((1, CHUNK + 80), np.float32),
    ],
)
def test_a_length_that_the_program_does_not_take_is_refused(program, waveform):
    with pytest.raises(ModelError, match="expected"):
        program.forward(waveform)


def test_a_state_of_another_model_is_refused(program):
    state = program.fresh_state()
    state = {**state, "valid": np.zeros((1, 99), np.float32)}
    with pytest.raises(ModelError, match="state"):
        program.forward(noise(CHUNK + 80), state)


def test_threads_share_a_program_without_mixing(program):
    waveforms = [noise(8 * CHUNK + 80, seed) for seed in range(6)]
    wanted = [program.forward(waveform).hidden for waveform in waveforms]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            if not np.array_equal(program.forward(waveforms[index]).hidden, wanted[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_replacing_the_file_changes_nothing(streaming_pte, tmp_path):
    path = tmp_path / "model.pte"
    path.write_bytes(streaming_pte.read_bytes())
    program = Program(path)
    wanted = program.forward(noise(CHUNK + 80)).hidden
    path.write_bytes(b"")
    assert np.array_equal(program.forward(noise(CHUNK + 80)).hidden, wanted)


@pytest.mark.parametrize("threads", [0, -3])
def test_fewer_than_one_thread_is_refused(streaming_pte, threads):
    with pytest.raises(ConfigError, match="at least 1"):
        Program(streaming_pte, threads=threads)


def test_threads_that_come_too_late_are_refused(program, streaming_pte):
    with pytest.raises(ConfigError, match="too late"):
        Program(streaming_pte, threads=7)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"version": 1,', '"version": 2,', "upgrade rdsdk"),
        ('{"format"', '["format"', "not JSON"),
        ('"licence"', '"license"', "licence is missing"),
        ('"max_samples": 128080', '"max_samples": 929360', "input waveform"),
        ('"shape": [1, 3, 8]', '"shape": [1, 5, 8]', "input positions"),
        ('"shape": [1, 8]', '"shape": [1, 7]', "input valid"),
        (', "H"]', "     ]", "output log_probs"),
    ],
)
def test_a_card_that_does_not_fit_its_program_is_refused(altered, old, new, says):
    with pytest.raises(ModelError, match=says):
        Program(altered(old, new))
