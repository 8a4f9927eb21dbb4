"""log_probs, a language model and searches that the tests of the beam share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdsdk.decoding.beam import BeamDecoder
from rdsdk.decoding.search import BeamSearch
from rdsdk.decoding.segment import Word
from rdsdk.decoding.settings import BeamSettings
from rdsdk.decoding.vocabulary import Vocabulary

LETTERS = Vocabulary(("_", "|", "A", "B", "C"))
WORDS = Vocabulary.words(["YES", "NO", "STOP"])
WIDE = 1e9

# log10 of probabilities: (history, word) for bigrams, (word,) for the rest; and back-off weights.
PROBABILITIES = {
    ("<unk>",): -3.0,
    ("</s>",): -0.9,
    ("AB",): -0.6,
    ("AC",): -0.7,
    ("CAB",): -0.9,
    ("B",): -1.1,
    ("<s>", "AB"): -0.4,
    ("AB", "AC"): -1.6,
    ("AB", "CAB"): -0.2,
    ("CAB", "</s>"): -0.3,
}
BACKOFFS = {"<s>": -0.3, "AB": -0.5, "AC": -0.1, "CAB": -0.4, "B": 0.0}


def write_arpa(
    path: Path,
    probabilities: dict[tuple[str, ...], float] = PROBABILITIES,
    backoffs: dict[str, float] = BACKOFFS,
) -> Path:
    unigrams = {words[0]: p for words, p in probabilities.items() if len(words) == 1}
    unigrams["<s>"] = -99.0
    bigrams = {words: p for words, p in probabilities.items() if len(words) == 2}
    lines = ["\\data\\", f"ngram 1={len(unigrams)}", f"ngram 2={len(bigrams)}", "", "\\1-grams:"]
    lines += [f"{p}\t{word}\t{backoffs.get(word, 0.0)}" for word, p in unigrams.items()]
    lines += ["", "\\2-grams:", *(f"{p}\t{' '.join(words)}" for words, p in bigrams.items())]
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))
    return path


def random_frames(seed: int, length: int, symbols: int, spread: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, spread, (length, symbols))
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def frames(path: str, vocabulary: Vocabulary = LETTERS, sure: float = 0.9) -> np.ndarray:
    """log_probs (T, V) whose likeliest symbols spell ``path``, one frame a character."""
    probabilities = np.full((len(path), len(vocabulary)), (1 - sure) / (len(vocabulary) - 1))
    for row, symbol in zip(probabilities, path, strict=True):
        row[vocabulary.symbols.index(symbol)] = sure
    return np.log(probabilities).astype(np.float32)


def between(log_probs: np.ndarray, frame: int, **shares: float) -> np.ndarray:
    """The same frames, but one of them shared by some symbols of ``LETTERS``."""
    log_probs = log_probs.copy()
    row = np.full(len(LETTERS), 1e-3)
    for symbol, share in shares.items():
        row[LETTERS.symbols.index(symbol)] = share
    log_probs[frame] = np.log(row / row.sum())
    return log_probs


def search(
    vocabulary: Vocabulary = LETTERS, hotwords: tuple[str, ...] = (), **settings: object
) -> BeamSearch:
    return BeamSearch(vocabulary, BeamSettings(**settings), hotwords)  # type: ignore[arg-type]


def decode(searched: BeamSearch, log_probs: np.ndarray, *sizes: int) -> list[Word]:
    """The words of frames fed in portions of these sizes, the rest at once."""
    decoder, words, at = BeamDecoder(searched), [], 0
    for size in (*sizes, len(log_probs)):
        words += decoder.feed(log_probs[at : at + size])
        at += size
    return words + decoder.end()


def text(words: list[Word]) -> str:
    return " ".join(word.text for word in words)
