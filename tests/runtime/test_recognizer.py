import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_program
import torch
from tiny_program import SAMPLE_RATE, tones

import rdsdk
import rdsdk.pretrained
from rdsdk.errors import AudioError, ModelError
from rdsdk.runtime import recognizer as module
from rdsdk.runtime.endpoint import EndpointRules
from rdsdk.runtime.program import Program

SPEECH = tones("ABC DE" + 10 * "_" + "F GH" + 12 * "_" + "AB CA")
TEXTS = ["ABC DE", "F GH", "AB CA"]


@pytest.fixture(scope="module")
def recognizer(streaming_pte) -> rdsdk.Recognizer:
    return rdsdk.load(streaming_pte)


@pytest.fixture
def wav(tmp_path) -> Path:
    path = tmp_path / "speech.wav"
    soundfile.write(path, SPEECH, SAMPLE_RATE)
    return path


@pytest.fixture
def bundled(streaming_pte, tmp_path, monkeypatch) -> Path:
    """A folder of bundled models with one named english."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    (folder / "english.pte").write_bytes(streaming_pte.read_bytes())
    monkeypatch.setattr(rdsdk.pretrained, "__path__", [str(folder)])
    module._kept.cache_clear()
    return folder


def texts(segments) -> list[str]:
    return [segment.text for segment in segments]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_transcribed(recognizer, wav, kind):
    assert texts(recognizer.transcribe(kind(wav))) == TEXTS


@pytest.mark.parametrize("rate", [16_000, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_array_with_its_rate_is_transcribed(recognizer, rate, channels):
    at = np.arange(0, len(SPEECH), SAMPLE_RATE / rate)
    samples = np.interp(at, np.arange(len(SPEECH)), SPEECH)
    assert texts(recognizer.transcribe((np.stack([samples] * channels, 1), rate))) == TEXTS


def test_blocks_are_transcribed_as_they_come(recognizer):
    asked = []

    def blocks():
        for at in range(0, len(SPEECH), 1600):
            asked.append(at)
            yield SPEECH[at : at + 1600]

    segments = recognizer.transcribe(blocks())
    assert next(segments).text == "ABC DE"
    assert asked[-1] < 0.5 * len(SPEECH)
    assert texts(segments) == TEXTS[1:]


def test_only_final_segments_are_given(recognizer):
    assert all(segment.is_final for segment in recognizer.transcribe((SPEECH, SAMPLE_RATE)))


def test_segments_of_forty_minutes_arrive_while_it_is_read(recognizer):
    """The source never ends: only the sound around the first segments may be asked for."""
    seconds = 0

    def endless():
        nonlocal seconds
        while seconds < 2400:
            seconds += 5
            yield np.resize(SPEECH, 5 * SAMPLE_RATE)

    segments = recognizer.transcribe(endless())
    early = [next(segments) for _ in range(3)]
    assert seconds <= 10
    assert texts(early)[0] == "ABC DE"


def test_a_full_context_model_transcribes_beyond_its_window(full_pte):
    long = np.concatenate([SPEECH] * 4)
    assert len(long) > tiny_program.MAX_SAMPLES
    got = texts(rdsdk.load(full_pte).transcribe((long, SAMPLE_RATE)))
    assert " ".join(got).replace(" ", "") == 4 * "ABCDEFGHABCA"


def test_the_rules_can_be_chosen(recognizer):
    rules = EndpointRules(trailing_silence_seconds=30)
    assert len(list(recognizer.transcribe((SPEECH, SAMPLE_RATE), rules))) == 1


def test_features_are_the_models_hidden_states(recognizer, wav):
    features = recognizer.features(wav)
    frames = -(-(len(SPEECH) - 80) // 320)
    assert (features.shape, features.dtype) == ((frames, tiny_program.WIDTH), np.float32)
    from_array = recognizer.features((SPEECH, SAMPLE_RATE))
    assert np.allclose(features, from_array, atol=1e-2)  # the file has 16 bits


def test_full_context_features_are_those_of_the_module(full_pte):
    features = rdsdk.load(full_pte).features((SPEECH, SAMPLE_RATE))
    eager, _ = tiny_program.eager(streaming=False)
    wanted = eager(torch.from_numpy(SPEECH)[None])[1][0].detach()
    assert np.allclose(features, wanted, atol=1e-5)


def test_a_features_model_gives_features_and_refuses_text(features_pte):
    recognizer = rdsdk.load(features_pte)
    assert recognizer.features((SPEECH, SAMPLE_RATE), layer=6).shape[1] == tiny_program.WIDTH
    with pytest.raises(ModelError, match="features"):
        recognizer.transcribe((SPEECH, SAMPLE_RATE))


@pytest.mark.parametrize("layer", [0, 2, -2])
def test_a_layer_that_is_not_held_is_named(recognizer, layer):
    with pytest.raises(ModelError, match=f"layer 1 only, not of layer {layer}"):
        recognizer.features((SPEECH, SAMPLE_RATE), layer=layer)


def test_threads_may_share_a_recognizer(recognizer):
    found: dict[int, list[str]] = {}

    def work(index: int) -> None:
        found[index] = texts(recognizer.transcribe((SPEECH, SAMPLE_RATE)))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(6), TEXTS)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("missing.wav", "no such file"),
        ((np.zeros(0), 16_000), "no samples"),
        ((SPEECH,), r"tuple of \(ndarray\)"),
        ((SPEECH, "fast"), "tuple"),
        ((SPEECH, 10), "sample rate"),
        (SPEECH, "without its sample rate"),
        (7, "got a int"),
        ((16_000, SPEECH), r"got a tuple of \(int, ndarray\)"),
        (torch.zeros(1, 16_000), "without its sample rate"),
        ((np.zeros(1), 48_000), "too short: its 1 samples at 48000 Hz"),
        ("a" * 300 + ".wav", "cannot read"),
        ("nul\0.wav", "cannot read"),
    ],
)
def test_a_source_that_is_none_fails_at_once(recognizer, source, says):
    with pytest.raises(AudioError, match=says):
        recognizer.transcribe(source)


@pytest.mark.parametrize("blocks", [[], [np.zeros(0)]])
def test_blocks_without_a_sample_are_an_error(recognizer, blocks):
    with pytest.raises(AudioError, match="no samples"):
        list(recognizer.transcribe(blocks))


def test_nan_in_a_recording_raises_after_the_segments_before_it(recognizer):
    bad = SPEECH.copy()
    bad[60_000] = np.nan
    blocks = [bad[at : at + 8000] for at in range(0, len(bad), 8000)]
    segments = recognizer.transcribe(blocks)
    assert next(segments).text == "ABC DE"
    with pytest.raises(AudioError, match="block 7"):
        list(segments)


def test_a_model_that_fails_raises_after_the_segments_before_it(streaming_pte, monkeypatch):
    program = Program(streaming_pte)
    recognizer, forward, heard = rdsdk.Recognizer(program), program.forward, []

    def fail_late(waveform, state=None):
        heard.append(len(waveform))
        if sum(heard) > len(SPEECH):
            raise ModelError("no memory")
        return forward(waveform, state)

    waveform = np.concatenate([SPEECH, SPEECH, SPEECH])
    segments = recognizer.transcribe(waveform[at : at + 8_000] for at in range(0, 200_000, 8_000))
    given = []
    monkeypatch.setattr(program, "forward", fail_late)
    monkeypatch.setattr(program, "step", fail_late)
    with pytest.raises(ModelError, match="no memory"):
        given.extend(segments)
    assert texts(given)[:2] == TEXTS[:2]
    assert given[-1].is_final


def test_a_bundled_name_is_loaded_and_is_the_default(bundled, wav):
    assert rdsdk.bundled_models() == {"english": bundled / "english.pte"}
    assert rdsdk.load("english").path == bundled / "english.pte"
    assert rdsdk.load().path == bundled / "english.pte"
    assert texts(rdsdk.transcribe(wav)) == TEXTS
    assert texts(rdsdk.transcribe(wav, "english")) == TEXTS


def test_the_model_of_transcribe_stays_loaded_until_its_file_changes(bundled, wav, monkeypatch):
    loads = []
    load = module.load
    monkeypatch.setattr(module, "load", lambda path: (loads.append(path), load(path))[1])
    for _ in range(3):
        list(rdsdk.transcribe(wav))
    assert len(loads) == 1
    model = bundled / "english.pte"
    model.write_bytes(model.read_bytes())
    list(rdsdk.transcribe(wav))
    assert len(loads) == 2


def test_transcribe_takes_a_recognizer(recognizer, wav):
    assert texts(rdsdk.transcribe(wav, recognizer)) == TEXTS


def test_an_unknown_name_lists_the_bundled_ones(bundled):
    with pytest.raises(ModelError, match="no model is named 'sevens'; bundled models: english"):
        rdsdk.load("sevens")


def test_no_bundled_model_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr(rdsdk.pretrained, "__path__", [str(tmp_path)])
    with pytest.raises(ModelError, match="none in this installation"):
        rdsdk.load("english")


@pytest.mark.parametrize("model", ["missing.pte", "some/folder/model", Path("english")])
def test_a_path_that_is_missing_is_called_a_file(bundled, model):
    with pytest.raises(ModelError, match="no such file"):
        rdsdk.load(model)


def test_a_file_without_suffix_is_found(streaming_pte, tmp_path, monkeypatch):
    (tmp_path / "mine").write_bytes(streaming_pte.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert rdsdk.load("mine").card.name == "tones"
