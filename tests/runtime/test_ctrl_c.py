"""Ctrl-C at any moment leaves what was heard, and ends what it should end."""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
from tiny_program import SAMPLE_RATE, tones

import rdsdk
from rdsdk import cli
from rdsdk.commands import transcribe
from rdsdk.runtime.ctrl_c import ctrl_c_waits
from rdsdk.runtime.segmenter import Segmenter
from rdsdk.runtime.stream import Stream

SPEECH = tones("ABC DE" + 10 * "_" + "F GH" + 12 * "_" + "AB CA")
TEXTS = ["ABC DE", "F GH", "AB CA"]


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def pressed_in(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, before: bool = True
) -> None:
    """Press it once, when ``owner.name`` is first called or is about to return."""
    whole: Callable[..., object] = getattr(owner, name)
    pressed = []

    def called(*arguments: object) -> object:
        first = not pressed
        pressed.append(True)
        if first and before:
            ctrl_c()
        result = whole(*arguments)
        if first and not before:
            ctrl_c()
        return result

    monkeypatch.setattr(owner, name, called)


def listen(source: object, model: object) -> tuple[list[str], bool]:
    heard: list[str] = []
    try:
        for segment in rdsdk.transcribe(source, model=rdsdk.load(model)):
            heard.append(segment.text)
    except KeyboardInterrupt:
        return heard, True
    return heard, False


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("owner", "name"), [(Stream, "feed"), (Segmenter, "feed"), (Stream, "finish")]
)
def test_while_a_block_is_recognised_it_waits(monkeypatch, streaming_pte, owner, name, before):
    pressed_in(monkeypatch, owner, name, before)
    assert listen((SPEECH, SAMPLE_RATE), streaming_pte) == (TEXTS, True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_between_the_segments_of_one_block_the_others_still_come(streaming_pte):
    transcription = rdsdk.load(streaming_pte).transcribe(iter([SPEECH]))
    heard = [next(transcription).text]
    # As Python does it when Ctrl-C comes while a generator is being gone on with.
    heard.append(transcription._segments.throw(KeyboardInterrupt).text)
    with pytest.raises(KeyboardInterrupt):
        heard.extend(segment.text for segment in transcription)
    assert heard == TEXTS


def test_where_a_block_is_waited_for_it_comes_at_once(streaming_pte):
    def blocks():
        yield SPEECH
        ctrl_c()
        raise AssertionError("it did not come")

    assert listen(blocks(), streaming_pte) == (TEXTS, True)


def test_a_second_one_comes_at_once():
    reached = []

    def press_twice() -> None:
        with ctrl_c_waits():
            ctrl_c()
            reached.append("after one")
            ctrl_c()
            reached.append("after two")

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert reached == ["after one"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("name", ["feed", "finish"])
def test_what_is_torn_by_a_second_one_is_not_gone_on_with(monkeypatch, streaming_pte, name):
    finished = []
    whole: Callable[..., list[rdsdk.Segment]] = getattr(Stream, name)

    def torn(self: Stream, *arguments: object) -> list[rdsdk.Segment]:
        ctrl_c()
        finished.append("after one")
        ctrl_c()
        return whole(self, *arguments)

    monkeypatch.setattr(Stream, name, torn)
    if name == "feed":
        monkeypatch.setattr(Stream, "finish", lambda self: finished.append("finish"))
    heard, interrupted = listen((SPEECH, SAMPLE_RATE), streaming_pte)
    assert interrupted
    assert heard == ([] if name == "feed" else TEXTS[: len(heard)])
    assert finished == ["after one"]


def test_other_threads_and_other_handlers_are_left_alone():
    came = []

    def elsewhere() -> None:
        with ctrl_c_waits():
            came.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    signal.signal(signal.SIGINT, lambda number, frame: came.append("theirs"))
    try:
        with ctrl_c_waits():
            ctrl_c()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert came == [True, "theirs"]


@pytest.mark.parametrize("owner", [transcribe, Segmenter, Stream], ids=["show", "search", "finish"])
def test_the_command_shows_what_was_heard(monkeypatch, streaming_pte, capsys, owner):
    name = {transcribe: "show", Segmenter: "feed", Stream: "finish"}[owner]
    pressed_in(monkeypatch, owner, name)
    raw = np.round(SPEECH * 32767).astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    # A block holds all of it, so that all of it was heard.
    monkeypatch.setattr("rdsdk.audio.files.read_raw", lambda *_: iter([SPEECH]))
    assert cli.main(["transcribe", "-", "--model", str(streaming_pte)]) == cli.INTERRUPTED
    assert capsys.readouterr() == ("\n".join(TEXTS) + "\n", "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_long_recording_gives_its_first_segments_before_it_is_heard_to_the_end(streaming_pte):
    long = np.concatenate([SPEECH, np.zeros(600 * SAMPLE_RATE, np.float32)])
    fed = []

    recognizer = rdsdk.load(streaming_pte)
    feed = Stream.feed

    def feeding(self, block, *more):
        fed.append(len(block))
        return feed(self, block, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stream, "feed", feeding)
        with recognizer.transcribe((long, SAMPLE_RATE)) as transcription:
            assert next(transcription).text == TEXTS[0]
    assert sum(fed) <= 5 * SAMPLE_RATE
