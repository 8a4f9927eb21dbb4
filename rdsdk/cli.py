"""``rdsdk``: the command line. Errors are one line and exit code 2, never a traceback."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import rdsdk
from rdsdk.errors import ConfigError, RdsdkError


class _Elsewhere(NamedTuple):
    """A command whose module needs an extra of the install and reads its own arguments."""

    module: str
    extra: str
    help: str


# Imported by name and only when called: the base install has none of their dependencies.
_ELSEWHERE = {
    "teach": _Elsewhere("rdsdk.training.teach", "train", "train a teacher of phones"),
    "finetune": _Elsewhere("rdsdk.training.cli", "train", "train a student on transcripts"),
    "distill": _Elsewhere("rdsdk.training.distill", "train", "distil a teacher into a student"),
    "evaluate": _Elsewhere("rdsdk.evaluation.cli", "train", "error rates of a model"),
    "probe": _Elsewhere(
        "rdsdk.evaluation.probe", "train", "a small head on a frozen model: PR, ASR"
    ),
    "analyze": _Elsewhere("rdsdk.evaluation.analyze", "train", "how alike layers are"),
    "export": _Elsewhere("mobile_export.cli", "export", "checkpoint -> artefact, proven"),
    "verify": _Elsewhere("mobile_export.verify_cli", "export", "is an artefact its checkpoint's?"),
    "import": _Elsewhere("rdsdk.models.importers", "train", "published checkpoint -> ours"),
}
# Commands of several parts: what each does, and its parts.
_GROUPS = {
    "prepare": (
        "corpora, language models and lexicons to learn and search with",
        {
            "digits": _Elsewhere("rdsdk.data.digits", "train", "a corpus of spoken digits"),
            "synthetic": _Elsewhere(
                "rdsdk.data.synthetic_speech", "train", "lines of text in synthetic voices"
            ),
            "pseudo": _Elsewhere(
                "rdsdk.training.pseudo_labels", "train", "texts that two recognisers heard alike"
            ),
            "phones": _Elsewhere(
                "rdsdk.data.phones", "train", "speech with texts -> aligned phones"
            ),
            "noises": _Elsewhere("rdsdk.data.noise", "train", "recordings in which nobody speaks"),
            "realignment": _Elsewhere(
                "rdsdk.training.realignment", "train", "phones aligned anew, by a model of them"
            ),
            "kenlm": _Elsewhere("rdsdk.data.kenlm", "train", "the programs that ngram runs"),
            "ngram": _Elsewhere("rdsdk.data.ngram", "train", "text -> a word language model"),
            "rnnlm": _Elsewhere(
                "rdsdk.training.rnnlm_training", "train", "text -> a recurrent word language model"
            ),
            "lexicon": _Elsewhere("rdsdk.data.lexicon", "train", "how its words are pronounced"),
        },
    ),
    "tune": (
        "a trained model's settings, on development data",
        {
            "search": _Elsewhere(
                "rdsdk.evaluation.search_tuning", "train", "the weights of a beam search"
            ),
            "operating-point": _Elsewhere(
                "rdsdk.training.operating_point", "train", "words found against words invented"
            ),
        },
    ),
}
_HERE = {
    "transcribe": "recordings or a microphone -> text",
    "features": "a recording -> hidden states in a .npy file",
    "info": "what a model says about itself",
    "bench": "how fast a model is here, and how much memory it takes",
    "doctor": "what listening needs, and whether the microphone hears",
}
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 when something was wrong with the input, said in one line on the error stream; 130
        when interrupted, with what was printed kept.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        # Here, so that a reader that went away shows inside the try.
        sys.stdout.flush()
    except RdsdkError as error:
        print(f"rdsdk: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has enough, as with `| head`. Python would complain once more on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise  # not about a file that somebody named
        print(f"rdsdk: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return code


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] in _ELSEWHERE:
        return _call_elsewhere(arguments[0], _ELSEWHERE[arguments[0]], arguments[1:])
    if arguments and arguments[0] in _GROUPS:
        return _call_part(arguments[0], arguments[1:])
    parser = argparse.ArgumentParser(
        prog="rdsdk", description="Distil, export and run small speech models."
    )
    parser.add_argument("--version", action="version", version=f"rdsdk {rdsdk.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _HERE.items():
        module = importlib.import_module(f"rdsdk.commands.{name}")
        command = commands.add_parser(name, help=text, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    others = {name: elsewhere.help for name, elsewhere in _ELSEWHERE.items()}
    for name, text in (others | {name: text for name, (text, _) in _GROUPS.items()}).items():
        commands.add_parser(name, help=text, add_help=False)
    parsed = parser.parse_args(arguments)
    code: int = parsed.run(parsed)
    return code


def _call_part(group: str, arguments: list[str]) -> int:
    text, parts = _GROUPS[group]
    if not arguments or arguments[0] not in parts:
        parser = argparse.ArgumentParser(prog=f"rdsdk {group}", description=f"{text}.")
        commands = parser.add_subparsers(required=True, metavar="WHAT")
        for name, part in parts.items():
            commands.add_parser(name, help=part.help, add_help=False)
        parser.parse_args(arguments)  # ends here: help, or what is wrong
    return _call_elsewhere(f"{group} {arguments[0]}", parts[arguments[0]], arguments[1:])


def _call_elsewhere(name: str, elsewhere: _Elsewhere, arguments: list[str]) -> int:
    try:
        module = importlib.import_module(elsewhere.module)
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("rdsdk", "mobile_export"):
            raise  # our own fault, not a missing extra
        raise ConfigError(
            f"rdsdk {name} needs {missing or 'a package'} that is not installed or does not load "
            f"({error}); run: pip install 'rdsdk[{elsewhere.extra}]'"
        ) from error
    return int(module.main(arguments) or 0)


if __name__ == "__main__":
    sys.exit(main())
