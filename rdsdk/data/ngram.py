"""Text -> a word n-gram language model for ``--lm``: counted, pruned, quantised, measured.

Modified Kneser-Ney smoothing (Chen and Goodman 1998) as KenLM's ``lmplz`` estimates it (Heafield et
al. 2013), in KenLM's trie with 8-bit probabilities, back-offs and compressed pointers. The text has
a sentence a line, in the alphabet of the model that it is for; .gz, .bz2 and .xz are read too. The
last sentences are held out to tell the perplexity, unless --held-out is 0.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import lzma
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from rdsdk.data.kenlm import find_programs
from rdsdk.errors import ConfigError, DataError, RdsdkError
from rdsdk.outputs import require_file

MAX_ORDER = 6  # of KenLM as PyPI's source compiles it
PRUNE = (0, 0, 1, 1)
"""N-grams of each order that were not seen more often are dropped, if nothing else is said."""
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass(frozen=True)
class NgramReport:
    """What was built. Perplexity is of the held-out sentences, per word and sentence end; memory is
    the peak of KenLM's largest process (never below that of the one that started it).
    """

    size_mb: float
    ngrams: tuple[int, ...]
    words: int
    held_out_words: int
    unknown_share: float | None
    perplexity: float | None
    perplexity_of_known: float | None
    seconds: float
    peak_memory_mb: float


def build_lm(
    texts: Sequence[Path],
    output: Path,
    order: int = 4,
    prune: Sequence[int] | None = None,
    held_out: float = 0.1,
    max_mb: float | None = None,
    memory: str = "1G",
    kenlm: Path | None = None,
) -> NgramReport:
    """Build a language model.

    Args:
        texts: files with a sentence a line.
        output: the binary; nothing is left there when it fails.
        order: words in the longest n-gram.
        prune: n-grams of each order that were not seen more often are dropped; the last number
            goes for all higher orders, the first must be 0 to keep every word. None is ``PRUNE``,
            of as many orders as there are.
        held_out: this share of the sentences, the last ones, measure and are not learnt from.
        max_mb: larger is an error (10^6 bytes).
        memory: what ``lmplz`` may sort in, as it understands it (1G, 50%).
        kenlm: the folder of KenLM's programs; None looks on the PATH.

    Raises:
        ConfigError: a number is out of range, the output cannot be written, or KenLM is not there.
        DataError: a text cannot be read or is too little, or the model is larger than ``max_mb``.
    """
    if not 2 <= order <= MAX_ORDER:
        raise ConfigError(f"order is {order}, expected 2 to {MAX_ORDER}")
    if not 0 <= held_out < 1:
        raise ConfigError(f"held_out is {held_out}, expected a share from 0 to below 1")
    prune = PRUNE[:order] if prune is None else prune
    if len(prune) > order or list(prune) != sorted(prune) or any(least < 0 for least in prune):
        raise ConfigError(
            f"prune is {list(prune)}, expected at most {order} numbers that do not fall"
        )
    require_file(output)
    programs = find_programs(kenlm)
    begin = time.perf_counter()
    # Beside the output, so that the finished file is only renamed.
    with tempfile.TemporaryDirectory(dir=output.absolute().parent) as name:
        work = Path(name)
        words, held_out_words = _split(texts, work / "train", work / "held_out", held_out)
        limits = [str(least) for least in prune]
        counting = ["-o", str(order), "-S", memory, "-T", str(work), "--discount_fallback"]
        files = ["--text", str(work / "train"), "--arpa", str(work / "arpa")]
        _run([str(programs["lmplz"]), *counting, *files, "--prune", *limits])
        quantised = ["-q", "8", "-b", "8", "-a", "64"]
        tree = ["trie", str(work / "arpa"), str(work / "binary")]
        _run([str(programs["build_binary"]), *quantised, *tree])
        size_mb = (work / "binary").stat().st_size / 1e6
        if max_mb is not None and size_mb > max_mb:
            raise DataError(
                f"the language model has {size_mb:.1f} MB, more than {max_mb:g}; prune more (now "
                f"{' '.join(limits)}) or take a lower order (now {order})"
            )
        measured = _measure(programs["query"], work) if held_out_words else {}
        ngrams = _ngrams(work / "arpa")
        (work / "binary").replace(output)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return NgramReport(
        size_mb=round(size_mb, 3),
        ngrams=ngrams,
        words=words,
        held_out_words=held_out_words,
        unknown_share=measured.get("unknown"),
        perplexity=measured.get("including"),
        perplexity_of_known=measured.get("excluding"),
        seconds=round(time.perf_counter() - begin, 1),
        # Linux counts in KiB, macOS in bytes.
        peak_memory_mb=round(peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024), 1),
    )


def _split(texts: Sequence[Path], train: Path, test: Path, held_out: float) -> tuple[int, int]:
    """Write the sentences into two files; the words of each."""
    lines = [line for text in texts for line in sentences(text)]
    learnt = len(lines) - round(held_out * len(lines))
    for path, part in ((train, lines[:learnt]), (test, lines[learnt:])):
        path.write_text("".join(f"{line}\n" for line in part), encoding="utf-8")
    words = [sum(len(s.split()) for s in part) for part in (lines[:learnt], lines[learnt:])]
    if not words[0]:
        raise DataError(f"there are no words to learn from in {', '.join(map(str, texts))}")
    return words[0], words[1]


def sentences(path: Path) -> Iterator[str]:
    """The lines of a text, plain or packed, that are not empty, with single blanks between words.

    Raises:
        DataError: the file cannot be read as text.
    """
    opener = _OPENERS.get(path.suffix, open)
    try:
        file: IO[str]
        with opener(path, "rt", encoding="utf-8") as file:
            for line in file:
                text = " ".join(line.split())
                if text:
                    yield text
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from None


def _measure(query: Path, work: Path) -> dict[str, float]:
    """Perplexities, with and without unknown words, and the share of these."""
    with (work / "held_out").open("rb") as file:
        said = _run([str(query), "-v", "summary", str(work / "binary")], stdin=file)
    values = dict(line.rsplit("\t", 1) for line in said.splitlines() if "\t" in line)
    numbers = {name.rstrip(":"): float(value) for name, value in values.items()}
    return {
        "including": round(numbers["Perplexity including OOVs"], 2),
        "excluding": round(numbers["Perplexity excluding OOVs"], 2),
        "unknown": round(numbers["OOVs"] / numbers["Tokens"], 5),
    }


def _ngrams(arpa: Path) -> tuple[int, ...]:
    counts = []
    with arpa.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("ngram "):
                counts.append(int(line.split("=")[1]))
            elif counts:
                break
    return tuple(counts)


def _run(command: Sequence[str], stdin: IO[bytes] | None = None) -> str:
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())[-400:]
        raise DataError(f"KenLM's {Path(command[0]).name} failed: {said}")
    return done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Build a language model and print its report as JSON; 2 when something is wrong."""
    parser = argparse.ArgumentParser(prog="rdsdk prepare ngram", description=__doc__)
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--order", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument(
        "--prune",
        type=int,
        nargs="+",
        metavar="N",
        help="drop n-grams of each order seen no more often than this (default: of "
        f"{' '.join(map(str, PRUNE))}, as many as there are orders)",
    )
    parser.add_argument(
        "--held-out", type=float, default=0.1, metavar="SHARE", help="(default: %(default)s)"
    )
    parser.add_argument("--max-mb", type=float, metavar="MB", help="fail if it gets larger")
    parser.add_argument("--memory", default="1G", help="to sort in (default: %(default)s)")
    parser.add_argument(
        "--kenlm", type=Path, metavar="FOLDER", help="of its programs (rdsdk prepare kenlm)"
    )
    arguments = vars(parser.parse_args(argv))
    try:
        report = build_lm(**arguments)
    except RdsdkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(report), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
