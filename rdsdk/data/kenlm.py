"""KenLM's programs ``lmplz``, ``build_binary`` and ``query``, compiled from its source on PyPI.

``rdsdk prepare kenlm -o FOLDER`` takes a minute. It needs a C++ compiler, cmake, make and
Boost; on Debian: apt-get install g++ make libboost-{program-options,system,thread,test}-dev.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rdsdk.errors import ConfigError
from rdsdk.outputs import require_folder

PROGRAMS = ("lmplz", "build_binary", "query")
VERSION = "0.3.0"
SHA256 = "c4628bb9fb63c8a6f9240035b8b037385cfc404cb72e933cf48878291edac1e8"


def find_programs(folder: Path | None = None) -> dict[str, Path]:
    """The programs by their names: in a folder, beside this Python, or on the PATH.

    Raises:
        ConfigError: one of them is not there.
    """
    places = [str(folder)] if folder is not None else [str(Path(sys.executable).parent), None]
    found = {}
    for name in PROGRAMS:
        path = next(filter(None, (shutil.which(name, path=place) for place in places)), None)
        if path is None:
            where = folder or "the PATH"
            raise ConfigError(
                f"KenLM's {name} is not in {where}; build it with rdsdk prepare kenlm -o "
                "FOLDER, and give that folder with --kenlm"
            )
        found[name] = Path(path)
    return found


def build(folder: Path) -> dict[str, Path]:
    """Download, check and compile KenLM; its programs are put into the folder.

    Raises:
        ConfigError: the folder is a file; the source cannot be had or is another one, or does
            not compile here.
    """
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    if cmake is None:
        raise ConfigError("compiling KenLM needs cmake; run: pip install cmake")
    require_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run([*pip, "--no-binary", "kenlm", "--dest", str(work), f"kenlm=={VERSION}"])
        archive = work / f"kenlm-{VERSION}.tar.gz"
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != SHA256:
            raise ConfigError(f"kenlm {VERSION} has SHA-256 {digest}, expected {SHA256}")
        with tarfile.open(archive) as source:
            source.extractall(work, filter="data")
        # Its CMake files are older than what new versions of CMake take by themselves.
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_POLICY_VERSION_MINIMUM=3.5"]
        _run([cmake, "-S", str(work / f"kenlm-{VERSION}"), "-B", str(work / "build"), *options])
        jobs = str(os.cpu_count() or 1)
        _run([cmake, "--build", str(work / "build"), "--parallel", jobs, "--target", *PROGRAMS])
        for program in PROGRAMS:
            shutil.copy2(work / "build" / "bin" / program, folder / program)
    return find_programs(folder)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-500:]
        raise ConfigError(
            f"{Path(command[0]).name} failed: {said}; compiling KenLM needs a C++ compiler, make "
            "and Boost (see rdsdk prepare kenlm --help)"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Build the programs and say where they are."""
    parser = argparse.ArgumentParser(prog="rdsdk prepare kenlm", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    for path in build(parser.parse_args(argv).output).values():
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
