"""Compilers for the samples of the kits: found, or the reason why their tests do not run here."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import cmake
import pytest

KITS = Path(__file__).parents[2] / "mobile_export" / "kits"
STAND_INS = Path(__file__).parent / "android_stand_ins"


def missing(what: str) -> None:
    """Skip where a tool is not to be had; fail where the run says that it must be there."""
    if os.environ.get("RDSDK_REQUIRE_COMPILERS"):
        pytest.fail(f"{what} must be installed for this run")
    pytest.skip(f"no {what} here: this sample is not built")


def key_of(files: Sequence[Path], *more: str) -> str:
    """Changes with any of the files."""
    digest = hashlib.sha256(" ".join(more).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def run(command: Sequence[str | Path], **how: object) -> subprocess.CompletedProcess[str]:
    """Run to the end, with what was said in the failure."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=500, **how
    )
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}\n{done.stderr}"
    return done


def build_stream(cache: pytest.Cache, folder: Path) -> Path:
    """The C++ sample, built from the sources as a kit holds them; kept while they do not change."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None or shutil.which("make") is None:
        missing("C++ compiler and make")
    sources = sorted(path for path in (KITS / "cpp").iterdir() if path.suffix != ".md")
    kept = Path(cache.mkdir(f"stream-{key_of(sources, version('executorch'))}")) / "stream"
    if not kept.exists():
        tool = Path(cmake.CMAKE_BIN_DIR) / "cmake"
        spec = importlib.util.find_spec("executorch")
        assert spec is not None
        assert spec.submodule_search_locations
        prefix = next(iter(spec.submodule_search_locations))
        # Unoptimised for the build's sake: what takes time is inside the runtime.
        flags = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O1 -Werror"]
        run([tool, "-S", KITS / "cpp", "-B", folder, f"-DCMAKE_PREFIX_PATH={prefix}", *flags])
        run([tool, "--build", folder])
        shutil.copy(folder / "stream", kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)
    return kept


def kotlin_jars() -> Path:
    """The folder of a Kotlin compiler's jars."""
    spec = importlib.util.find_spec("run_kotlin_kernel")
    if spec is None or not spec.submodule_search_locations or shutil.which("java") is None:
        missing("java and Kotlin compiler (pip install --no-deps kotlin-jupyter-kernel)")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "jars"


def build_kotlin(cache: pytest.Cache, folder: Path) -> str:
    """The Kotlin sample and the stand-ins, compiled: the class path to run them with."""
    jars = kotlin_jars()
    libraries = sorted(
        [*jars.glob("kotlin-stdlib-*.jar"), *jars.glob("kotlinx-serialization-*.jar")]
    )
    sources = sorted([*(KITS / "android").glob("*.kt"), *STAND_INS.glob("*.kt")])
    classes = Path(cache.mkdir(f"kotlin-{key_of(sources, version('kotlin-jupyter-kernel'))}"))
    if not (classes / "done").exists():
        compiler = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*"]
        done = run(
            [
                *compiler,
                "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
                *sources,
                *("-no-stdlib", "-Werror", "-d", folder),
                *("-classpath", os.pathsep.join(map(str, libraries))),
            ]
        )
        assert "warning" not in done.stderr
        shutil.copytree(folder, classes, dirs_exist_ok=True)
        (classes / "done").touch()
    return os.pathsep.join(map(str, [classes, *libraries]))
