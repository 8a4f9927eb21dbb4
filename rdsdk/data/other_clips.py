"""Clips of a digit corpus in which no digit is to be heard: words, sentences, noises.

A digit word inside a running sentence counts as none: people who read aloud give no digits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdsdk.data.acoustics import SAMPLE_RATE, fade, hiss, trim
from rdsdk.data.digit_drafts import Draft, other_mouth, surround, token_draft
from rdsdk.data.digit_sources import Bank, may_stand_alone
from rdsdk.data.word_clips import DIGITS, WordSpan, read_mono
from rdsdk.errors import DataError


def _from_sentence(
    bank: Bank, rng: np.random.Generator, utterance: str, start: float, end: float
) -> Draft:
    row = bank.row_of[utterance]
    margin = rng.uniform(0.0, 0.03)
    waveform = read_mono(Path(row["audio"]))
    first = max(0, round((start - margin) * SAMPLE_RATE))
    waveform = waveform[first : round((end + margin) * SAMPLE_RATE)]
    if end - start < 1.3 and rng.random() < 0.6:
        waveform = trim(waveform, float(rng.uniform(26, 42)))
    longest = 1.3 if end - start < 1.1 else None
    waveform = surround(other_mouth(waveform, rng, longest), rng)
    return Draft(waveform, "", str(row["speaker"]), row["source"], row["licence"], "sentence")


def other_word(bank: Bank, rng: np.random.Generator) -> Draft:
    """One word that is no digit, often one that sounds like a digit."""
    chance = rng.random()
    if bank.other_words and (chance < 0.25 or not bank.all_words):
        return token_draft(bank.other_words, rng, keep_text=False)
    near = bank.near_words if chance < 0.55 and bank.near_words else bank.all_words
    spans = bank.spans_of_word[str(rng.choice(near))]
    span = spans[int(rng.integers(len(spans)))]
    return _from_sentence(bank, rng, span.utterance, span.start, span.end)


def crop(bank: Bank, rng: np.random.Generator, shortest: float, longest: float) -> Draft:
    """Some words in a row out of a sentence, none of them a digit, about a drawn length."""
    if not bank.aligned:
        raise DataError("no sentence could be aligned with its transcript; give speech with texts")
    for _ in range(100):
        spans = bank.words[bank.aligned[int(rng.integers(len(bank.aligned)))]].spans
        wished = float(np.exp(rng.uniform(np.log(shortest), np.log(longest))))
        first = int(rng.integers(len(spans)))
        run: list[WordSpan] = []
        for span in spans[first:]:
            if not may_stand_alone([*(s.word for s in run), span.word]) and run:
                break
            run.append(span)
            if span.end - run[0].start >= wished:
                break
        length = run[-1].end - run[0].start
        if may_stand_alone([s.word for s in run]) and 0.15 <= length <= 1.5 * longest:
            return _from_sentence(bank, rng, run[0].utterance, run[0].start, run[-1].end)
    raise DataError("the sentences have no stretch without digit words; add ordinary speech")


def short_phrase(bank: Bank, rng: np.random.Generator) -> Draft:
    return crop(bank, rng, 0.3, 1.2)


def long_crop(bank: Bank, rng: np.random.Generator) -> Draft:
    return crop(bank, rng, 1.0, 6.0)


def sentence(bank: Bank, rng: np.random.Generator) -> Draft:
    """A whole sentence (digit words and all: in running speech they are no digits) of at most 12 s,
    or a stretch of a longer recording."""
    rows = bank.with_digits if bank.with_digits and rng.random() < 0.25 else bank.sentences
    row = rows[int(rng.integers(len(rows)))]
    waveform = read_mono(Path(row["audio"]))
    most = 12 * SAMPLE_RATE
    if len(waveform) > most:
        first = int(rng.integers(len(waveform) - most))
        waveform = fade(waveform[first : first + most])
    if rng.random() < 0.5:
        waveform = other_mouth(waveform, rng)
    return Draft(waveform, "", str(row["speaker"]), row["source"], row["licence"], "sentence")


def turned_round(bank: Bank, rng: np.random.Generator) -> Draft:
    """A recorded digit played backwards: otherwise whoever is heard in those recordings, or their
    room, would give away that it is a digit. Not "nine", which backwards is nearly "nine"."""
    digit = str(rng.choice([digit for digit in DIGITS if digit != "NINE"]))
    tokens = bank.by_digit["human", digit]
    if not tokens:
        raise DataError(f"no recording of {digit}; every digit needs at least one")
    token = tokens[int(rng.integers(len(tokens)))]
    waveform = surround(other_mouth(token.waveform[::-1].copy(), rng, 1.3), rng)
    return Draft(waveform, "", token.speaker, token.source, token.licence, token.kind)


def other_phrase(bank: Bank, rng: np.random.Generator) -> Draft:
    return token_draft(bank.other_phrases, rng, keep_text=False)


def no_speech(bank: Bank, rng: np.random.Generator) -> Draft:
    """A noise, hiss, a hum, a tone, clicks, or nothing at all, 0.2 to 5 s."""
    seconds = float(np.exp(rng.uniform(np.log(0.2), np.log(5))))
    samples = round(seconds * SAMPLE_RATE)
    time = np.arange(samples) / SAMPLE_RATE
    chance = rng.random()
    if chance < 0.5:
        name, noise = bank.noises[int(rng.integers(len(bank.noises)))]
        waveform = np.resize(np.roll(noise, -int(rng.integers(len(noise)))), samples)
        source, licence = f"ESC-10 {name} (K. J. Piczak)", "CC BY 3.0"
        return Draft(waveform.astype(np.float32), "", "none", source, licence, "noise")
    if chance < 0.7:
        waveform = hiss(rng, samples) * 0.1
    elif chance < 0.85:
        base = float(rng.choice([50, 60, rng.uniform(100, 3000)]))
        orders = np.arange(1, int(rng.integers(2, 8)))
        waves = np.sin(
            2 * np.pi * base * orders[:, None] * time + rng.uniform(0, 6, (len(orders), 1))
        )
        waveform = (waves / orders[:, None] ** 2).sum(axis=0) * 0.1
    elif chance < 0.93:
        waveform = np.zeros(samples)
        waveform[rng.integers(samples, size=int(rng.integers(1, 8)))] = 0.5
    else:
        waveform = np.zeros(samples)
    waveform = waveform.astype(np.float32)
    return Draft(waveform, "", "none", "generated", "no rights claimed", "noise")
