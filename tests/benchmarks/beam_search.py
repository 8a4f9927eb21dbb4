"""How long a beam search takes, and what it does to made-up English: one run, one thread.

``python -m tests.benchmarks.beam_search TEXT --lm FILE [--model model.pte]``

Sentences of the text become log_probs as a CTC model gives them: peaks of a frame, blanks between
them, and mistakes: letters that are taken for others, that are missed, and ones that nobody said.
So the word error rates say what a search repairs of such mistakes, not what it does for a model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rdsdk.decoding.decoder import Decoder, new_decoder
from rdsdk.decoding.settings import BeamSettings
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.evaluation.wer import error_rates

FRAME_SECONDS = 0.02
FRAMES_PER_SYMBOL = 3.4  # 14 to 15 letters a second
CHUNK_FRAMES = 16
VOCABULARY = Vocabulary.characters()


def made_up_log_probs(
    sentence: str, rng: np.random.Generator, mistaken: float = 0.2, missed: float = 0.08
) -> np.ndarray:
    """log_probs (T, V) of a sentence, with so many of its letters in doubt."""
    rows = []

    def add(shares: dict[int, float]) -> None:
        logits = rng.normal(0, 1.0, len(VOCABULARY))
        noise = np.exp(logits) / np.exp(logits).sum()
        sure = sum(shares.values())
        row = (1 - sure) * noise
        for symbol, share in shares.items():
            row[symbol] += share
        rows.append(row)

    def pause(least: int) -> None:
        for _ in range(least + rng.poisson(FRAMES_PER_SYMBOL - 1 - least)):
            add({VOCABULARY.blank: rng.uniform(0.97, 0.999)})

    for symbol in VOCABULARY.encode(sentence):
        kind, share = rng.random(), rng.uniform(0.3, 0.7)
        if kind < mistaken:
            add({symbol: 0.95 * share, int(rng.integers(2, len(VOCABULARY))): 0.95 * (1 - share)})
        elif kind < mistaken + missed:
            add({symbol: 0.95 * share, VOCABULARY.blank: 0.95 * (1 - share)})
        else:
            add({symbol: rng.uniform(0.9, 0.99)})
        pause(1)
    for _ in range(10):
        pause(1)
    return np.log(np.array(rows)).astype(np.float32)


def read(decoder: Decoder, log_probs: np.ndarray) -> str:
    """A sentence in chunks, each followed by the question for a partial."""
    words = []
    for at in range(0, len(log_probs), CHUNK_FRAMES):
        words += decoder.feed(log_probs[at : at + CHUNK_FRAMES])
        decoder.unfinished()
    words += decoder.end()
    return " ".join(word.text for word in words)


def measure(sentences: Sequence[str], spoken: Sequence[np.ndarray], **how: object) -> dict:
    """Read everything with one decoder; seconds of work for a second of sound, and errors."""
    begin = time.perf_counter()
    decoder = new_decoder(VOCABULARY, **how)  # type: ignore[arg-type]
    prepared = time.perf_counter()
    heard = [read(decoder, log_probs) for log_probs in spoken]
    work = time.perf_counter() - prepared
    sound = sum(map(len, spoken)) * FRAME_SECONDS
    return {
        "prepare_seconds": round(prepared - begin, 3),
        "real_time_factor": round(work / sound, 5),
        "wer": round(error_rates(sentences, heard).wer, 4),
        "settled_a_minute": round(getattr(decoder, "settled", 0) / sound * 60, 2),
    }


def acoustic_real_time_factor(model: str, seconds: float) -> float:
    """The same for an artefact on noise, streamed with a greedy decoder, one thread."""
    import rdsdk

    stream = rdsdk.load(model, 1).stream(partials=False)
    waveform = 0.1 * np.random.default_rng(0).normal(size=round(16_000 * seconds))
    stream.feed(waveform[:16_000].astype(np.float32))
    begin = time.perf_counter()
    stream.feed(waveform.astype(np.float32))
    return (time.perf_counter() - begin) / seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="a sentence a line; the last ones are taken")
    parser.add_argument("--lm", type=Path, required=True)
    parser.add_argument("--model", help="an artefact to compare the time with")
    parser.add_argument("--sentences", type=int, default=60)
    parser.add_argument("--beams", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    lines = arguments.text.read_text(encoding="utf-8").splitlines()[-10_000:]
    sentences = [str(s) for s in np.random.default_rng(0).choice(lines, arguments.sentences)]
    rng = np.random.default_rng(1)
    spoken = [made_up_log_probs(sentence, rng) for sentence in sentences]
    rows = {"greedy": measure(sentences, spoken)}
    for size in arguments.beams:
        rows[f"beam {size}"] = measure(sentences, spoken, beam=BeamSettings(beam_size=size))
        with_lm = BeamSettings(arguments.lm, beam_size=size)
        rows[f"beam {size}, language model"] = measure(sentences, spoken, beam=with_lm)
    size = arguments.beams[0]
    with_lm = BeamSettings(arguments.lm, beam_size=size)
    names = ["Rdsdk", "Dostoyevsky", "New York"]
    rows[f"beam {size}, language model, hotwords"] = measure(
        sentences, spoken, beam=with_lm, hotwords=names
    )
    value = {"seconds": sum(map(len, spoken)) * FRAME_SECONDS, "rows": rows}
    if arguments.model:
        value["acoustic_real_time_factor"] = acoustic_real_time_factor(arguments.model, 60.0)
    if arguments.json:
        print(json.dumps(value, indent=1))
        return 0
    table = Table(title=f"{value['seconds']:.0f} s of made-up log_probs, one thread")
    for name in (
        "",
        "real-time factor",
        "of the model's",
        "word errors",
        "to prepare s",
        "settled",
    ):
        table.add_column(name)
    for name, row in rows.items():
        share = "-"
        if arguments.model:
            share = f"{row['real_time_factor'] / value['acoustic_real_time_factor']:.2f}"
        table.add_row(
            name,
            f"{row['real_time_factor']:.4f}",
            share,
            f"{100 * row['wer']:.1f} %",
            f"{row['prepare_seconds']:.2f}",
            f"{row['settled_a_minute']:.1f} a minute",
        )
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
