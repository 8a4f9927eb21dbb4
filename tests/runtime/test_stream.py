import numpy as np
import pytest
import tiny_program
from feeding import hear, rounded
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_program import SAMPLE_RATE, tones

from rdsdk.errors import AudioError, ConfigError, ModelError
from rdsdk.runtime.endpoint import EndpointRules
from rdsdk.runtime.program import Program
from rdsdk.runtime.recognizer import Recognizer
from rdsdk.runtime.stream import Stream

SPEECH = tones("ABC DE" + 10 * "_" + "F GH" + 12 * "_" + "AB CA")


@pytest.fixture(scope="module")
def program(streaming_pte) -> Program:
    return Program(streaming_pte)


@pytest.fixture(scope="module")
def full(full_pte) -> Program:
    return Program(full_pte)


def test_what_was_written_is_heard_with_its_times(program):
    first, second, third = hear(Stream(program), SPEECH)
    assert [s.text for s in (first, second, third)] == ["ABC DE", "F GH", "AB CA"]
    # Four frames of tone and four of silence a symbol; a frame sees 5 ms into the next.
    assert first.words[0].start == pytest.approx(0.0, abs=0.021)
    assert first.words[0].end == pytest.approx(0.40, abs=0.021)
    assert first.words[1].start == pytest.approx(0.64, abs=0.021)
    assert second.start == pytest.approx(1.76, abs=0.021)
    assert min(word.confidence for s in (first, second, third) for word in s.words) > 0.99


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 20_000), max_size=40).map(tuple),
    text=st.text("ABC _", max_size=14),
)
def test_any_block_sizes_give_the_same_final_segments(program, sizes, text):
    waveform = np.concatenate([SPEECH[:40_000], tones(text + "_"), SPEECH[40_000:]])
    wanted = rounded(hear(Stream(program), waveform))
    assert rounded(hear(Stream(program), waveform, sizes)) == wanted
    assert len(wanted) >= 2


def test_single_samples_are_heard_too(program):
    waveform = tones("AB C")
    assert rounded(hear(Stream(program), waveform, (1,) * 3000)) == rounded(
        hear(Stream(program), waveform)
    )


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 40_000), max_size=10).map(tuple))
def test_a_full_context_model_hears_the_same_in_any_blocks(full, sizes):
    waveform = np.concatenate([SPEECH, SPEECH, SPEECH])
    assert len(waveform) > tiny_program.MAX_SAMPLES
    wanted = rounded(hear(Stream(full), waveform))
    assert [text for text, *_ in wanted][:2] == ["ABC DE", "F GH"]
    assert rounded(hear(Stream(full), waveform, sizes)) == wanted


def test_segments_come_while_sound_is_still_fed(program):
    stream = Stream(program)
    given_early = []
    for at in range(0, len(SPEECH) // 2, 1600):
        given_early += [s for s in stream.feed(SPEECH[at : at + 1600]) if s.is_final]
    assert [s.text for s in given_early] == ["ABC DE"]


def test_partials_lead_to_the_final_text_and_their_stable_part_holds(program):
    stream, partials = Stream(program), []
    for at in range(0, 28_000, 400):
        for segment in stream.feed(SPEECH[at : at + 400]):
            if segment.is_final:
                assert segment.text == "ABC DE"
                assert all(segment.text.startswith(p.stable) for p in partials)
                assert [p.text for p in partials] == ["A", "AB", "ABC", "ABC D", "ABC DE"]
                return
            partials.append(segment)
    pytest.fail("no segment became final")


def test_what_was_shown_and_is_nothing_is_taken_back(program, monkeypatch):
    stream = Stream(program)
    at, shown = 0, ""
    while shown != "ABC":
        for segment in stream.feed(SPEECH[at : at + 400]):
            shown = segment.text
        at += 400
    monkeypatch.setattr(stream._segmenter, "partial", lambda: None)
    (taken_back,) = stream.feed(np.zeros(400, np.float32))
    assert (taken_back.text, taken_back.words, taken_back.is_final) == ("", (), False)
    assert taken_back.start == taken_back.end == stream.seconds
    assert stream.feed(np.zeros(400, np.float32)) == []


def test_partials_can_be_left_out(program):
    stream = Stream(program, partials=False)
    segments = []
    for at in range(0, len(SPEECH), 400):
        segments += stream.feed(SPEECH[at : at + 400])
    assert all(segment.is_final for segment in segments)


def test_the_last_word_is_taken_though_its_chunk_is_not_full(program):
    waveform = tones("AB")[: 8 * 320 + 4 * 320 - 100]  # ends inside the last tone
    (segment,) = hear(Stream(program), waveform)
    assert segment.text == "AB"
    assert segment.end <= len(waveform) / SAMPLE_RATE


@pytest.mark.parametrize("samples", [1, 50, 100, 399, 400, 1000])
def test_times_stay_inside_very_short_recordings(program, samples):
    for segment in hear(Stream(program), tones("A")[:samples]):
        assert 0 <= segment.start < segment.end <= samples / SAMPLE_RATE


def test_the_rules_decide_where_segments_end(program):
    patient = Stream(program, EndpointRules(trailing_silence_seconds=60.0))
    assert [s.text for s in hear(patient, SPEECH)] == ["ABC DEF GHAB CA"]
    hasty = Stream(program, EndpointRules(max_segment_seconds=0.5))
    assert [s.text for s in hear(hasty, tones("ABC D EFG"))] == ["ABC", "D EFG"]


def test_other_sample_rates_are_heard(program):
    time = np.arange(0, len(SPEECH) / SAMPLE_RATE, 1 / 48_000)
    loud = np.interp(time, np.arange(len(SPEECH)) / SAMPLE_RATE, SPEECH)
    stream, segments = Stream(program), []
    for at in range(0, len(loud), 4800):
        segments += stream.feed(np.round(loud[at : at + 4800] * 32767).astype(np.int16), 48_000)
    segments += stream.finish()
    assert [s.text for s in segments if s.is_final] == ["ABC DE", "F GH", "AB CA"]
    assert stream.seconds == pytest.approx(len(SPEECH) / SAMPLE_RATE, abs=0.01)


@pytest.mark.parametrize("rates", [(16_000, 48_000), (48_000, 16_000), (48_000, 44_100)])
def test_the_rate_cannot_change_in_a_stream(program, rates):
    stream = Stream(program)
    stream.feed(np.zeros(1000), rates[0])
    with pytest.raises(ConfigError, match="reset"):
        stream.feed(np.zeros(1000), rates[1])
    stream.reset()
    stream.feed(np.zeros(1000), rates[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_block_is_refused_and_the_stream_goes_on_without_it(program, bad):
    stream, segments = Stream(program), []
    segments += stream.feed(SPEECH[:5000])
    poisoned = SPEECH[5000:9000].copy()
    poisoned[77] = bad
    with pytest.raises(AudioError, match="not numbers"):
        stream.feed(poisoned)
    segments += stream.feed(SPEECH[5000:])
    segments += stream.finish()
    assert rounded([s for s in segments if s.is_final]) == rounded(hear(Stream(program), SPEECH))


def test_a_failing_program_loses_neither_sound_nor_segments(program, monkeypatch):
    stream = Stream(program)
    forward, calls = program.forward, []

    def fail_once(waveform, state=None):
        calls.append(len(waveform))
        if len(calls) == 2:
            raise ModelError("no memory")
        return forward(waveform, state)

    monkeypatch.setattr(program, "forward", fail_once)
    waveform = np.concatenate([SPEECH, SPEECH, SPEECH])
    assert len(waveform) > 6 * SAMPLE_RATE  # more than one call
    with pytest.raises(ModelError):
        stream.feed(waveform)
    segments = stream.feed(np.zeros(0, np.float32)) + stream.finish()
    monkeypatch.undo()
    assert rounded([s for s in segments if s.is_final]) == rounded(hear(Stream(program), waveform))


def test_streams_of_one_program_do_not_hear_each_other(program):
    one, other, heard = Stream(program), Stream(program), ([], [])
    first, second = tones("ABC"), tones("FGH")
    for at in range(0, len(first), 900):
        heard[0].extend(one.feed(first[at : at + 900]))
        heard[1].extend(other.feed(second[at : at + 900]))
    assert one.finish()[-1].text == "ABC"
    assert other.finish()[-1].text == "FGH"


def test_a_finished_stream_says_so_until_it_is_reset(program):
    stream = Stream(program)
    hear(stream, tones("AB"))
    assert stream.finish() == []
    with pytest.raises(ConfigError, match=r"reset\(\)"):
        stream.feed(np.zeros(10))
    stream.reset()
    assert stream.seconds == 0
    assert [s.text for s in hear(stream, tones("C"))] == ["C"]


def test_a_stream_in_a_with_block_is_over_after_it(program):
    with Stream(program) as stream:
        stream.feed(tones("AB"))
    assert stream.finish() == []


def test_a_stream_that_heard_nothing_finishes_with_nothing(program):
    stream = Stream(program)
    stream.feed(np.zeros(0, np.float32))
    assert stream.finish() == []


def test_whole_word_models_are_heard(words_pte):
    waveform = tones("ABB_C")
    (segment,) = hear(Stream(Program(words_pte)), waveform, (777,) * 10)
    assert segment.text == "A B B C"


def test_a_model_without_text_cannot_be_streamed(features_pte):
    with pytest.raises(ModelError, match="features"):
        Stream(Program(features_pte))


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 9_000), max_size=12))
def test_features_and_text_come_from_one_pass(program, sizes):
    stream, at, segments, frames = Stream(program), 0, [], []
    for number, size in enumerate(sizes):
        block = SPEECH[at : at + size]
        at += size
        if number % 3 == 2:  # some blocks are only read, so their frames are not asked for
            segments += stream.feed(block[:0])
        frames.append(stream.features(block))
    frames += [stream.features(SPEECH[at:]), stream.features()]
    segments += stream.finish()
    expected = Recognizer(program).features((SPEECH, SAMPLE_RATE))
    np.testing.assert_allclose(np.concatenate(frames), expected, atol=1e-5)
    finals = [segment for segment in segments if segment.is_final]
    assert rounded(finals) == rounded(hear(Stream(program), SPEECH))


def test_after_the_last_features_only_the_segments_remain(program):
    stream = Stream(program)
    assert stream.features(SPEECH[:100]).shape == (0, tiny_program.WIDTH)
    assert stream.features(SPEECH).shape[1] == tiny_program.WIDTH
    stream.features()
    for call in (stream.feed, stream.features):
        with pytest.raises(ConfigError, match="finished"):
            call(SPEECH)
    assert stream.finish()
    stream.reset()
    assert [s.text for s in hear(stream, SPEECH)] == ["ABC DE", "F GH", "AB CA"]


def test_features_of_another_rate_have_the_same_number_of_frames(program):
    slow = Stream(program)
    frames = [slow.features(np.repeat(SPEECH, 3), 48_000), slow.features()]
    expected = Recognizer(program).features((SPEECH, SAMPLE_RATE))
    assert sum(map(len, frames)) == len(expected)


def test_a_failure_in_between_loses_no_features(program, monkeypatch):
    """What the calls before the failing one gave comes with the next features, not with a feed."""
    waveform = np.concatenate([SPEECH, SPEECH, SPEECH])
    stream, forward, calls = Stream(program), program.forward, []

    def fail_twice(waveform, state=None):
        calls.append(len(waveform))
        if len(calls) in (2, 3):
            raise ModelError("no memory")
        return forward(waveform, state)

    with monkeypatch.context() as broken:
        broken.setattr(program, "forward", fail_twice)
        for hear_on in (stream.features, stream.feed):
            with pytest.raises(ModelError):
                hear_on(waveform[: len(waveform) if hear_on == stream.features else 0])
        frames = [stream.features(waveform[:0]), stream.features()]
    expected = Recognizer(program).features((waveform, SAMPLE_RATE))
    assert len(calls) > 3
    np.testing.assert_allclose(np.concatenate(frames), expected, atol=1e-5)
    # Frames that a feed read are not asked for: they do not come with what follows.
    stream.reset()
    stream.feed(waveform)
    assert len(stream.features()) < len(expected) / 2
    stream.finish()


def test_a_failure_while_features_are_asked_for_loses_no_words(program, monkeypatch):
    stream = Stream(program)
    half = len(SPEECH) // 2
    stream.features(SPEECH[:half])

    def fail(*_):
        raise ModelError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(program, "forward", fail)
        for block in (SPEECH[half:], None):
            with pytest.raises(ModelError):
                stream.features(block)
    stream.features()
    assert [s.text for s in stream.finish()] == ["ABC DE", "F GH", "AB CA"]
