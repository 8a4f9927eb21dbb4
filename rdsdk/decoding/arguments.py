"""``--beam``, ``--lm``, ``--hotwords``: the same on every command that writes text."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from rdsdk.decoding.settings import BeamSettings, Search
from rdsdk.errors import ConfigError

Group = Any
"""argparse keeps the type of its groups to itself."""


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """A group of options; ``decoding`` reads them."""
    group = parser.add_argument_group(
        "how text is found: as the model says, by the likeliest symbols, or by a beam search"
    )
    group.add_argument(
        "--greedy", action="store_true", help="the likeliest symbols, whatever the model says"
    )
    add_search_arguments(group)
    group.add_argument(
        "--no-lm", action="store_true", help="search without the model's own language models"
    )
    group.add_argument(
        "--no-rnnlm", action="store_true", help="search without its recurrent language model alone"
    )
    group.add_argument(
        "--hotwords",
        metavar="WORD,WORD",
        help="search, expecting these names and terms; or @FILE with one a line",
    )


def add_search_arguments(group: Group) -> None:
    """The options of a beam search alone; ``search`` reads them."""
    default = BeamSettings()
    group.add_argument(
        "--beam",
        nargs="?",
        type=_beam_size,
        const=default.beam_size,
        metavar="SIZE",
        help="search with so many hypotheses (--beam alone: %(const)s)",
    )
    group.add_argument(
        "--symbols-per-frame",
        type=int,
        metavar="N",
        help="of each frame try only the likeliest so many, which makes room for a larger beam",
    )
    group.add_argument(
        "--sum-alignments",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="score the sum over all alignments of a text instead of its likeliest one",
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
        "--rnnlm",
        type=Path,
        metavar="FILE",
        help="weigh what was found again, with a recurrent language model (rdsdk prepare rnnlm)",
    )
    group.add_argument(
        "--rnnlm-share",
        type=float,
        metavar="X",
        help=f"of --lm-weight, 0 to 1 (default: {default.rnnlm_share})",
    )
    group.add_argument(
        "--word-score",
        type=float,
        metavar="NATS",
        help=f"added for each word of --lm or --lexicon (default: {default.word_score:g})",
    )


def decoding(
    arguments: argparse.Namespace, own: BeamSettings | None = None
) -> tuple[Search | None, tuple[str, ...]]:
    """The search and the hotwords that the arguments ask for. None is the model's ``own`` search,
    greedy if it has none; what is asked for changes the model's own, if it has one.

    Raises:
        ConfigError: a value is out of range, weighs a language model that is not there, or is of
            a search and --greedy is there too, or there is no language model to leave out.
    """
    hotwords = _hotwords(arguments.hotwords)
    if arguments.no_lm:
        if own is None or own.lm is None or arguments.lm is not None:
            raise ConfigError("--no-lm leaves out a model's own language model; there is none here")
        own = replace(own, lm=None, rnnlm=None)
    if arguments.no_rnnlm:
        if own is None or own.rnnlm is None:
            raise ConfigError(
                "--no-rnnlm leaves out a model's own recurrent language model; there is none here"
            )
        own = replace(own, rnnlm=None)
    asked = search(arguments, own)
    if asked is None and (arguments.no_lm or arguments.no_rnnlm):
        asked = own
    if arguments.greedy:
        if hotwords or asked is not None:
            raise ConfigError("--greedy searches nothing; leave it or the search's options out")
        return "greedy", ()
    if asked is None and hotwords and own is None:
        asked = BeamSettings()
    return asked, hotwords


def search(arguments: argparse.Namespace, own: BeamSettings | None = None) -> BeamSettings | None:
    """The search that the arguments ask for, None if for none; it begins as ``own``.

    Raises:
        ConfigError: a value is out of range, or weighs what is not there.
    """
    names = (
        "lm",
        "lexicon",
        "symbols_per_frame",
        "sum_alignments",
        "lm_weight",
        "word_score",
        "rnnlm",
        "rnnlm_share",
    )
    values = {name: getattr(arguments, name) for name in names}
    values["beam_size"] = arguments.beam
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        return None
    changed = replace(own or BeamSettings(), **given)
    if "lm_weight" in given and changed.lm is None:
        raise ConfigError("--lm-weight goes with a language model; give one with --lm")
    if "rnnlm_share" in given and changed.rnnlm is None:
        raise ConfigError("--rnnlm-share goes with a recurrent language model; give --rnnlm")
    if "word_score" in given and changed.lm is None and changed.lexicon is None:
        raise ConfigError("--word-score goes with a language model or a lexicon; give --lm")
    return changed


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
