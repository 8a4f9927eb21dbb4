"""``rdsdk features``: the hidden states of a recording as a NumPy file."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from rdsdk.commands.console import warnings_in_one_line
from rdsdk.errors import ConfigError
from rdsdk.outputs import require_file, usual_mode
from rdsdk.runtime.recognizer import DEFAULT_MODEL, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``rdsdk features``."""
    parser.add_argument("file", metavar="FILE", help="a sound file")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="OUT.npy",
        help="where to write the array (T, D) of float32, 50 rows a second",
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a .pte file or a bundled name (default: %(default)s)",
    )
    parser.add_argument(
        "--layer",
        type=int,
        default=-1,
        help="encoder layer, counted from 1, of those in the model (rdsdk info); -1 is the last "
        "(default)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="processor threads to use")


def run(arguments: argparse.Namespace) -> int:
    """Compute the features and write them; an existing file is replaced only by a whole one."""
    output: Path = arguments.output
    # Before the work, not after it.
    require_file(output)
    recognizer = load(arguments.model, arguments.threads)
    with warnings_in_one_line():
        features = recognizer.features(arguments.file, arguments.layer)
    _write(output, features)
    rows, width = features.shape
    print(f"{output}: {rows} frames of {width} features, float32")
    return 0


def _write(output: Path, features: np.ndarray) -> None:
    try:
        descriptor, name = tempfile.mkstemp(dir=output.parent, suffix=".part")
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.save(file, features)
        part.chmod(usual_mode(0o666))
        part.replace(output)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
