"""``--beam``, ``--lm``, ``--hotwords``: the same on every command that writes text."""

from __future__ import annotations

import argparse
from pathlib import Path

from rdsdk.decoding.settings import BeamSettings
from rdsdk.errors import ConfigError


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """A group of options; ``decoding`` reads them."""
    default = BeamSettings()
    group = parser.add_argument_group(
        "how text is found: the likeliest symbols, or a beam search (pip install 'rdsdk[lm]')"
    )
    group.add_argument(
        "--beam",
        nargs="?",
        type=_beam_size,
        const=default.beam_size,
        metavar="SIZE",
        help="search with so many hypotheses (--beam alone: %(const)s)",
    )
    group.add_argument(
        "--lm",
        type=Path,
        metavar="FILE",
        help="search with a word n-gram language model, KenLM's binary or ARPA, and its words only",
    )
    group.add_argument(
        "--lexicon",
        type=Path,
        metavar="FILE",
        help="how words are pronounced (CMUdict's format), for a model whose symbols are phones",
    )
    group.add_argument(
        "--lm-weight",
        type=float,
        metavar="X",
        help=f"how much it counts beside the sound (default: {default.lm_weight})",
    )
    group.add_argument(
        "--word-score",
        type=float,
        metavar="NATS",
        help=f"added for each word with a language model (default: {default.word_score:g})",
    )
    group.add_argument(
        "--hotwords",
        metavar="WORD,WORD",
        help="search, expecting these names and terms; or @FILE with one a line",
    )


def decoding(arguments: argparse.Namespace) -> tuple[BeamSettings | None, tuple[str, ...]]:
    """The beam search and the hotwords that the arguments ask for; None and none is greedy.

    Raises:
        ConfigError: a value is out of range, or weighs a language model that is not given.
    """
    hotwords = _hotwords(arguments.hotwords)
    weights = {"lm_weight": arguments.lm_weight, "word_score": arguments.word_score}
    given = {name: value for name, value in weights.items() if value is not None}
    if given and arguments.lm is None:
        option = next(iter(given)).replace("_", "-")
        raise ConfigError(f"--{option} goes with a language model; give one with --lm")
    files = {"lm": arguments.lm, "lexicon": arguments.lexicon}
    if arguments.beam is None and not any(files.values()) and not hotwords:
        return None, ()
    if arguments.beam is not None:
        given["beam_size"] = arguments.beam
    return BeamSettings(**files, **given), hotwords


def _hotwords(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    if text.startswith("@"):
        path = Path(text[1:])
        try:
            parts = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the hotwords in {path} cannot be read: {error}") from None
    else:
        parts = text.split(",")
    words = tuple(part.strip() for part in parts if part.strip())
    if not words:
        raise ConfigError(f"--hotwords {text} holds no word")
    return words


def _beam_size(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        # A file that follows --beam is taken for its size.
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number; write --beam=50, or the files before --beam"
        ) from None
