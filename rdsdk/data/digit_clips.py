"""Single training clips of a digit corpus, composed from a bank: what is said, by whom, how spaced.

Each clip is made from its own Generator, so clip 17 is the same whatever was made before it and in
whichever process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rdsdk.data.acoustics import (
    SAMPLE_RATE,
    Treatment,
    change_tempo,
    fade,
    resample_voice,
    set_level,
    treat,
    trim,
)
from rdsdk.data.digit_drafts import Draft, other_mouth, quiet, surround, token_draft
from rdsdk.data.digit_sources import Bank, Token
from rdsdk.data.other_clips import (
    long_crop,
    no_speech,
    other_phrase,
    other_word,
    sentence,
    short_phrase,
    turned_round,
)
from rdsdk.data.word_clips import DIGITS
from rdsdk.errors import DataError

# The recorded digits are all band-limited; the rest of the positives and the negatives are limited
# in such shares that about two thirds of either class are.
BAND_SHARE_POSITIVE = 0.37
BAND_SHARE_NEGATIVE = 0.64
# Sentences are Opus recordings already; the others go through the codec to be no cleaner.
OPUS_SHARE = {"human": 0.8, "cut": 0.1, "synthetic": 0.5, "sentence": 0.1, "noise": 0.3}
NOISE_CREDIT = (" + ESC-10 (K. J. Piczak)", " + CC BY 3.0 (noise)")


@dataclass(frozen=True)
class Clip:
    """A finished clip: ``text`` is "" for a negative, ``made_of`` the kind of its speech."""

    waveform: np.ndarray
    text: str
    speaker: str
    source: str
    licence: str
    made_of: str
    treatment: Treatment | None


def frames_needed(text: str) -> int:
    """The least number of 20 ms frames in which CTC can spell ``text``: a frame a character, and
    one more between two equal ones."""
    letters = text.replace(" ", "|")
    return len(letters) + sum(a == b for a, b in pairwise(letters))


def _mouthed(token: Token, rng: np.random.Generator) -> np.ndarray:
    """One word by another voice, trimmed as closely as trimmed recordings vary."""
    waveform = token.waveform
    if token.kind == "synthetic" or rng.random() < 0.6:
        waveform = trim(waveform, float(rng.uniform(26, 42)))
    return other_mouth(waveform, rng, longest_seconds=1.3)


def isolated(bank: Bank, rng: np.random.Generator) -> Draft:
    """One digit of one voice."""
    digit = str(rng.choice(DIGITS))
    kinds = {"human": 0.45, "cut": 0.25, "synthetic": 0.30}
    # A digit seldom met in sentences must not be heard from the same few mouths all the time.
    weights = np.array([w * min(1, len(bank.by_digit[k, digit]) / 20) for k, w in kinds.items()])
    if not weights.sum():
        raise DataError(f"nobody says {digit}; every digit needs at least one recording")
    tokens = bank.by_digit[str(rng.choice(list(kinds), p=weights / weights.sum())), digit]
    token = tokens[int(rng.integers(len(tokens)))]
    waveform = surround(_mouthed(token, rng), rng)
    return Draft(waveform, digit, token.speaker, token.source, token.licence, token.kind)


def _one_voice(bank: Bank, rng: np.random.Generator, count: int) -> list[Token]:
    shares = {"human": 0.5, "cut": 0.1, "synthetic": 0.4}
    kinds = [kind for kind in shares if bank.string_speakers[kind]]
    weights = np.array([shares[kind] for kind in kinds])
    if not kinds:
        raise DataError("no speaker has two digits; digit strings need one who has")
    kind = str(rng.choice(kinds, p=weights / weights.sum()))
    said = bank.by_speaker[str(rng.choice(bank.string_speakers[kind]))]
    digits = [str(rng.choice(sorted(said))) for _ in range(count)]
    return [said[digit][int(rng.integers(len(said[digit])))] for digit in digits]


def _joined(
    tokens: Sequence[Token], rng: np.random.Generator, gap: Callable[[np.ndarray], np.ndarray]
) -> Draft:
    """Tokens of one voice one after the other, all shifted by the same amount, about one level."""
    shift = float(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
    tempo = float(np.exp(rng.uniform(np.log(0.75), np.log(1.35))))
    pieces = []
    for number, token in enumerate(tokens):
        waveform = trim(token.waveform, 38) if token.kind != "human" else token.waveform
        waveform = resample_voice(waveform, shift * float(rng.uniform(0.97, 1.03)))
        if len(waveform) / tempo > 0.16 * SAMPLE_RATE:
            waveform = change_tempo(waveform, tempo * float(rng.uniform(0.93, 1.07)))
        waveform = fade(set_level(waveform, -25 + float(rng.uniform(-3, 3))))
        pieces += [waveform] if number == 0 else [gap(waveform), waveform]
    text = " ".join(token.text for token in tokens)
    first = tokens[0]
    waveform = surround(np.concatenate(pieces), rng)
    return Draft(waveform, text, first.speaker, first.source, first.licence, first.kind)


def string(bank: Bank, rng: np.random.Generator) -> Draft:
    """Two to ten digits of one voice: run together, evenly spaced, slow, or in groups."""
    tokens = _one_voice(bank, rng, int(rng.integers(2, 11)))
    low, high = ((0.0, 0.08), (0.08, 0.3), (0.3, 0.8), (0.0, 0.12))[style := int(rng.integers(4))]

    def gap(after: np.ndarray) -> np.ndarray:
        grouped = style == 3 and rng.random() < 0.3
        seconds = rng.uniform(0.3, 0.8) if grouped else rng.uniform(low, high)
        return quiet(after, float(seconds), rng)

    return _joined(tokens, rng, gap)


def apart(bank: Bank, rng: np.random.Generator) -> Draft:
    """One to four digits with long pauses, some of them filled with a passing noise."""
    tokens = _one_voice(bank, rng, int(rng.integers(1, 5)))

    def gap(after: np.ndarray) -> np.ndarray:
        seconds = float(rng.uniform(0.8, 2.5))
        pause = quiet(after, seconds, rng)
        if rng.random() < 0.5:
            name_and_noise = bank.noises[int(rng.integers(len(bank.noises)))]
            event = np.resize(name_and_noise[1], len(pause))
            pause = pause + fade(set_level(event, -25 - float(rng.uniform(0, 20))), 0.05)
        return pause

    return _joined(tokens, rng, gap)


def spoken_string(bank: Bank, rng: np.random.Generator) -> Draft:
    """A string spoken as a whole by a synthetic voice, so that the digits run into one another."""
    return token_draft(bank.spoken_strings, rng, keep_text=True)


@dataclass(frozen=True)
class Kind:
    """A kind of clip: its share of the corpus in hours, and about how long one is."""

    compose: Callable[[Bank, np.random.Generator], Draft]
    share: float
    mean_seconds: float
    positive: bool


KINDS: dict[str, Kind] = {
    "isolated": Kind(isolated, 0.22, 1.1, True),
    "string": Kind(string, 0.19, 5.4, True),
    "spoken-string": Kind(spoken_string, 0.05, 3.9, True),
    "apart": Kind(apart, 0.03, 5.0, True),
    "other-word": Kind(other_word, 0.15, 1.1, False),
    "short-phrase": Kind(short_phrase, 0.04, 1.4, False),
    "long-crop": Kind(long_crop, 0.10, 3.5, False),
    "sentence": Kind(sentence, 0.15, 6.5, False),
    "other-phrase": Kind(other_phrase, 0.04, 2.2, False),
    "no-speech": Kind(no_speech, 0.03, 1.5, False),
    "turned-round": Kind(turned_round, 0.03, 1.0, False),
}


def make_clip(bank: Bank, kind: str, seed: int, number: int) -> Clip:
    """Clip ``number`` of a kind, the same for the same bank and seed."""
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind), number])
    draft = KINDS[kind].compose(bank, rng)
    waveform = draft.waveform
    # 80 samples of context, then 320 a frame; two frames to spare for a first and a last blank.
    missing = (frames_needed(draft.text) + 2) * 320 + 80 - len(waveform) if draft.text else 0
    if missing > 0:
        waveform = np.pad(waveform, (missing // 2, missing - missing // 2))
    # What is made of the recorded digits is narrow as it is.
    free = KINDS[kind].positive or draft.made_of == "human"
    share = BAND_SHARE_POSITIVE if free else BAND_SHARE_NEGATIVE
    if not np.abs(waveform).max(initial=0.0):
        words = (draft.text, draft.speaker, draft.source, draft.licence, draft.made_of)
        return Clip(waveform, *words, treatment=None)
    treated, treatment = treat(waveform, rng, bank.noises, share, OPUS_SHARE[draft.made_of])
    source, licence = draft.source, draft.licence
    if treatment.noise not in (None, "hiss"):
        source, licence = source + NOISE_CREDIT[0], licence + NOISE_CREDIT[1]
    return Clip(treated, draft.text, draft.speaker, source, licence, draft.made_of, treatment)
