"""Flatbuffers as JSON values, by the compiler that the executorch package brings for lowering."""

from __future__ import annotations

import importlib.resources
import json
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import executorch.data.bin


def schema_path(package: str, *parts: str) -> Path:
    """A schema inside a package, found without importing it: some of these import for seconds.

    Raises:
        FileNotFoundError: the installed package has no such file.
    """
    spec = find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder, *parts)
        if path.is_file():
            return path
    raise FileNotFoundError(f"{package} does not hold {'/'.join(parts)}; reinstall executorch")


def decode(schema: Path, buffers: Sequence[bytes], *options: str) -> list[Any]:
    """Each buffer as the JSON value that its schema makes of it.

    Raises:
        ValueError: a buffer is not of this schema.
    """
    if not buffers:
        return []
    compiler = importlib.resources.files(executorch.data.bin) / "flatc"
    with tempfile.TemporaryDirectory() as folder, importlib.resources.as_file(compiler) as flatc:
        paths = [Path(folder) / f"{number}.bin" for number in range(len(buffers))]
        for path, buffer in zip(paths, buffers, strict=True):
            path.write_bytes(buffer)
        how = ["--json", "--strict-json", "--raw-binary", "--defaults-json", *options]
        done = subprocess.run(
            [str(flatc), *how, "-o", folder, str(schema), "--", *map(str, paths)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ValueError(f"flatc cannot read it: {(done.stderr or done.stdout).strip()[-300:]}")
        return [json.loads(path.with_suffix(".json").read_bytes()) for path in paths]
