"""Where each phone really is: a checkpoint aligns the corpus it learnt from anew.

``rdsdk prepare phones`` knows where words are, and shares the time of each among its phones
by rule of thumb. A model that learnt from such targets hears better than they are: inside each word
the likeliest way through its phones, by what the model says of the frames, gives the next model
better ones (Viterbi training; B.-H. Juang and L. R. Rabiner 1990). Of several pronunciations the
likeliest is taken. ``rdsdk prepare realignment --help``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from rdsdk.data.alignment import FRAME_CENTRE_SECONDS, HOP_SECONDS
from rdsdk.data.batches import evaluation_batches
from rdsdk.data.letter_to_sound import sounded
from rdsdk.data.manifest import read_cuts
from rdsdk.data.pronunciations import pocketsphinx_dictionary
from rdsdk.data.telling import tell_error
from rdsdk.data.word_spans import read_word_spans
from rdsdk.decoding.pronunciation import in_symbols, read_dictionary
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError, RdsdkError
from rdsdk.training.imitation import Imitated, load_imitated, teacher_log_probs

Ways = Mapping[str, Sequence[tuple[int, ...]]]
"""The symbols of each way to say a word, by the word in capitals."""
Span = tuple[str, float, float]
"""A word, or a phone, and where it starts and ends, in seconds."""

PRIOR_SHARE = 0.5
"""Of the logarithm of how common a phone is, taken off what the model says of a frame: a model of
blurred targets says common phones too often."""
WORD_EDGE_SECONDS = 0.0078
"""PocketSphinx counts frames of 10 ms whose middle is 12.8 ms after their start, so that the edge
between two of them lies here after the second's."""
_NEVER = -1e9


def best_path(scores_tv: np.ndarray, symbols: Sequence[int]) -> tuple[float, list[int]]:
    """The best score of ``symbols`` in order over all T frames, each at least one, and the frame
    at which each begins; T is at least their number."""
    frames = scores_tv[:, list(symbols)]
    best = np.full(len(symbols), _NEVER)
    best[0] = frames[0, 0]
    moved = np.zeros(frames.shape, bool)
    for t in range(1, len(frames)):
        before = np.concatenate([[_NEVER], best[:-1]])
        moved[t] = before > best
        best = np.maximum(best, before) + frames[t]
    starts, symbol = [0] * len(symbols), len(symbols) - 1
    for t in range(len(frames) - 1, 0, -1):
        if moved[t, symbol]:
            starts[symbol] = t
            symbol -= 1
    return float(best[-1]), starts


def align_word(scores_tv: np.ndarray, ways: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """(symbol, first frame) of the likeliest way to say a word that takes these T frames.

    A word too short for any of them is cut off: the shortest way's first T symbols.
    """
    fitting = [way for way in ways if len(way) <= len(scores_tv)]
    if not fitting:
        shortest = min(ways, key=len)[: len(scores_tv)]
        return [(symbol, frame) for frame, symbol in enumerate(shortest)]
    found = [(*best_path(scores_tv, way), way) for way in fitting]
    _, starts, way = max(found, key=lambda item: item[0])
    return list(zip(way, starts, strict=True))


def align_words(
    scores_tv: np.ndarray, words: Sequence[Span], ways: Ways
) -> list[tuple[int, float, float]]:
    """(symbol, start, end) in seconds for what is said in T frames.

    Raises:
        DataError: a word has no pronunciation.
    """
    alignment: list[tuple[int, float, float]] = []
    free = 0
    for word, start, end in words:
        if not ways.get(word.upper()):
            raise DataError(f"{word!r} has no pronunciation; give a dictionary that has it")
        first, last = (max(free, _frame(second + WORD_EDGE_SECONDS)) for second in (start, end))
        first, last = min(first, len(scores_tv) - 1), min(max(last, first + 1), len(scores_tv))
        free = last
        symbols = align_word(scores_tv[first:last], ways[word.upper()])
        edges = [*(first + frame for _, frame in symbols), last]
        alignment += [
            (symbol, _edge_seconds(a), _edge_seconds(b))
            for (symbol, _), a, b in zip(symbols, edges, edges[1:], strict=False)
        ]
    return alignment


def realign(
    model: Imitated,
    vocabulary: Vocabulary,
    manifest: Path,
    spans: Path,
    out: Path,
    ways: Ways,
    progress: Progress,
    sound_out: bool = False,
) -> float:
    """Write ``manifest`` with new alignments and texts to ``out``, in the same folder.

    Args:
        model: of phones, in eval mode; a student hears in its own context.
        vocabulary: what it writes.
        spans: the words of each utterance, as ``rdsdk.data.phones`` keeps them.
        sound_out: guess words that ``ways`` lacks (``rdsdk.data.letter_to_sound``).

    Returns:
        The share of the spoken time that another phone has now.

    Raises:
        ConfigError: espeak-ng is not installed.
        DataError: a file is missing or damaged, or a word has no pronunciation.
    """
    cuts = read_cuts(manifest)  # which tells what is wrong with it
    lines = manifest.read_text(encoding="utf-8").splitlines()
    rows = {row["id"]: row for row in (json.loads(line) for line in lines if line.strip())}
    words = read_word_spans(spans)
    if sound_out:
        said = {word for spoken in words.values() for word, _, _ in spoken}
        guessed = sounded(sorted(word for word in said if word.upper() not in ways))
        ways = {**ways, **in_symbols({w: [p] for w, p in guessed.items()}, vocabulary)}
    prior = _prior(list(rows.values()), vocabulary.symbols)
    task = progress.add_task(f"realign {manifest.name}", total=len(rows))
    changed = spoken = 0.0
    part = out.with_name(f"{out.name}.part")
    with part.open("w", encoding="utf-8") as made:
        # Of similar lengths together, for padding costs as much as sound, and the longest first:
        # the memory of a batch serves all that follow, and would else grow with every length.
        for batch in evaluation_batches(cuts.sort_by_duration(ascending=False), batch_seconds=24):
            heard = teacher_log_probs([model], batch)
            for name, log_probs, frames in zip(
                batch.ids, heard, batch.frame_counts.tolist(), strict=True
            ):
                if name not in words:
                    raise DataError(f"{spans} has no words for {name}; make the corpus anew")
                scores = log_probs[:frames].float().numpy() - PRIOR_SHARE * prior
                alignment = [
                    (vocabulary.symbols[symbol], start, end)
                    for symbol, start, end in align_words(scores, words[name], ways)
                ]
                row = rows[name]
                if "alignment" in row:
                    total, other = _differing(row["alignment"], alignment)
                    spoken, changed = spoken + total, changed + other
                text = " ".join(phone for phone, _, _ in alignment)
                made.write(json.dumps(row | {"text": text, "alignment": alignment}) + "\n")
                progress.advance(task)
    part.replace(out)
    return changed / spoken if spoken else 0.0


def _frame(second: float) -> int:
    """The first frame whose centre is not before a second."""
    return max(0, math.ceil((second - FRAME_CENTRE_SECONDS) / HOP_SECONDS - 1e-9))


def _edge_seconds(frame: int) -> float:
    """Half-way between the centres of a frame and the one before it."""
    return round(max(0.0, (frame - 0.5) * HOP_SECONDS + FRAME_CENTRE_SECONDS), 4)


def _prior(rows: Sequence[Mapping[str, Any]], symbols: Sequence[str]) -> np.ndarray:
    """log of the share of the spoken time that each symbol has, (V,); the same for all that have
    none, so that nothing is favoured where nothing is known."""
    seconds = dict.fromkeys(symbols, 0.0)
    for row in rows:
        for phone, start, end in row.get("alignment", ()):
            seconds[phone] = seconds.get(phone, 0.0) + end - start
    shares = np.array([max(seconds[symbol], HOP_SECONDS) for symbol in symbols])
    return np.asarray(np.log(shares / shares.sum()))


def _differing(old: Sequence[Span], new: Sequence[Span]) -> tuple[float, float]:
    """Seconds in which something is said, by ``new``, and those of them in which it is another
    phone than by ``old``."""
    total = same = 0.0
    before = list(old)
    for phone, start, end in new:
        total += end - start
        same += sum(
            max(0.0, min(end, b) - max(start, a)) for other, a, b in before if other == phone
        )
    return total, total - same


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="rdsdk prepare realignment",
        description="Align a corpus of phones anew, by a model that learnt from it.",
    )
    add = made.add_argument
    add(
        "checkpoint",
        type=Path,
        help="a folder or a bundled name, of a student or a teacher that writes phones",
    )
    add("manifests", type=Path, nargs="+", help="of a corpus that rdsdk prepare phones made")
    add("--spans", type=Path, help="its words (default: word_spans.jsonl beside the manifest)")
    add("--dictionary", type=Path, help="pronunciations (default: PocketSphinx's dictionary)")
    add("--sound-out", action="store_true", help="guess words that it lacks, by espeak-ng")
    add("--suffix", default="realigned", help="of the new manifests' names (default: %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the manifests are made, 2 when an input is missing."""
    options = parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        model, vocabulary = load_imitated(options.checkpoint)
        if vocabulary is None:
            raise ConfigError(f"{options.checkpoint} writes no phones; fine-tune it first")
        dictionary = read_dictionary(options.dictionary or pocketsphinx_dictionary())
        ways = in_symbols(dictionary, vocabulary)
        with Progress(console=console) as progress:
            for manifest in options.manifests:
                spans = options.spans or manifest.parent / "word_spans.jsonl"
                out = manifest.with_name(f"{manifest.stem}-{options.suffix}.jsonl")
                changed = realign(
                    model, vocabulary, manifest, spans, out, ways, progress, options.sound_out
                )
                console.print(
                    f"{out}: {changed:.1%} of what is said is another phone now", soft_wrap=True
                )
    except RdsdkError as error:
        tell_error(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
