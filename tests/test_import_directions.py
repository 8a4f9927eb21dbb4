"""Which room may import which: read from the sources, imports inside functions included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("rdsdk", "mobile_export", "demo_app")
CORE = ("rdsdk.audio", "rdsdk.decoding", "rdsdk.errors", "rdsdk.outputs")
BELOW_TRAINING = (*CORE, "rdsdk.models", "rdsdk.data")
# For each room, what it may import of this project besides itself.
ALLOWED: dict[str, tuple[str, ...]] = {
    "rdsdk.errors": (),
    "rdsdk.outputs": ("rdsdk.errors",),
    "rdsdk.pretrained": (),
    "rdsdk.audio": ("rdsdk.errors",),
    "rdsdk.decoding": ("rdsdk.errors",),
    # A recurrent language model is an ExecuTorch program, run through the same door as the others.
    "rdsdk.decoding.rnnlm": (
        "rdsdk.errors",
        "rdsdk.decoding",
        "rdsdk.runtime.executorch",
        "rdsdk.runtime.artefact",
    ),
    "rdsdk.models": ("rdsdk.errors", "rdsdk.decoding.vocabulary"),
    # A bundled model's weights have its name.
    "rdsdk.models.checkpoint": (
        "rdsdk.errors",
        "rdsdk.decoding.vocabulary",
        "rdsdk.models",
        "rdsdk.pretrained",
    ),
    "rdsdk.data": ("rdsdk.errors", "rdsdk.outputs", "rdsdk.audio", "rdsdk.decoding.vocabulary"),
    # Files of pronunciations are read in one way.
    "rdsdk.data.pronunciations": ("rdsdk.decoding", "rdsdk.errors", "rdsdk.data"),
    "rdsdk.data.lexicon": ("rdsdk.decoding", "rdsdk.errors", "rdsdk.outputs", "rdsdk.data"),
    "rdsdk.training": (*BELOW_TRAINING, "rdsdk.evaluation"),
    # An artefact is judged through the same public names that everybody runs it with.
    "rdsdk.evaluation": (*BELOW_TRAINING, "rdsdk.training", "rdsdk"),
    "rdsdk.runtime": (*CORE, "rdsdk.pretrained"),
    "rdsdk.commands": (*CORE, "rdsdk.runtime"),
    "rdsdk.cli": ("rdsdk", "rdsdk.errors"),
    "rdsdk": (*CORE, "rdsdk.runtime"),
    "mobile_export": (
        "rdsdk.models",
        "rdsdk.decoding.vocabulary",
        "rdsdk.errors",
        "rdsdk.outputs",
    ),
    # A proof runs the artefact as its users do, and reads its bytes as they do.
    "mobile_export.agreement": ("rdsdk.models", "rdsdk.runtime.program"),
    "mobile_export.outside_time": (
        "rdsdk.models",
        "rdsdk.runtime.artefact",
        "rdsdk.runtime.card",
        "rdsdk.runtime.executorch",
    ),
    "mobile_export.verify": (
        "rdsdk.models",
        "rdsdk.decoding",
        "rdsdk.errors",
        "rdsdk.runtime.artefact",
        "rdsdk.runtime.program",
    ),
    # A search that goes with an artefact is the runtime's, and is asked for as it is there.
    "mobile_export.cli": ("rdsdk.models", "rdsdk.audio", "rdsdk.decoding", "rdsdk.errors"),
    "mobile_export.listening": (*BELOW_TRAINING, "rdsdk.runtime"),
    "mobile_export.word_errors": (*BELOW_TRAINING, "rdsdk.evaluation", "rdsdk.runtime"),
    # A kit says what a phone must hear and say, so it hears and speaks as the runtime does.
    "mobile_export.kit": (
        "rdsdk.models.checkpoint",
        "rdsdk.audio",
        "rdsdk.errors",
        "rdsdk.runtime.program",
    ),
    "mobile_export.vectors": (*CORE, "rdsdk.runtime"),
    # What an artefact's last bytes mean is written down once, where they are read.
    "mobile_export.executorch": (
        "rdsdk.models",
        "rdsdk.decoding",
        "rdsdk.errors",
        "rdsdk.runtime.artefact",
    ),
    "mobile_export.rnnlm": (
        "rdsdk.models.rnnlm",
        "rdsdk.decoding.rnnlm",
        "rdsdk.errors",
        "rdsdk.runtime.artefact",
    ),
    "mobile_export.rnnlm_agreement": (
        "rdsdk.models.rnnlm",
        "rdsdk.decoding.rnnlm",
        "rdsdk.errors",
    ),
    "mobile_export.coreml_delegate": (
        "rdsdk.models",
        "rdsdk.decoding.vocabulary",
        "rdsdk.errors",
        "rdsdk.runtime.artefact",
    ),
    "demo_app": ("rdsdk",),
}


def modules() -> list[Path]:
    return [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The longest entry of the table that the module lies in; the root package only by itself."""
    rooms = [room for room in ALLOWED if module == room or module.startswith(room + ".")]
    rooms = [room for room in rooms if room != "rdsdk" or module == "rdsdk"]
    if not rooms:
        raise AssertionError(f"{module} is in no room of the table")
    return max(rooms, key=len)


def imports_of(source: str, module: str, is_package: bool) -> set[str]:
    """The project's modules that a source imports; ``from a import b`` counts as a.b if that is
    a module, else as a."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                home = module.split(".")[: None if is_package and node.level == 1 else -1]
                home = home[: len(home) - (node.level - 1 - (is_package and node.level > 1))]
                base = ".".join([*home, *([base] if base else [])])
            for alias in node.names:
                inner = ROOT.joinpath(*base.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                found.add(f"{base}.{alias.name}" if is_module else base)
    return {name for name in found if name.split(".")[0] in PACKAGES}


def forbidden(source: str, module: str, is_package: bool = False) -> list[str]:
    room = room_of(module)

    def is_allowed(name: str) -> bool:
        if name == room or (name.startswith(room + ".") and room != "rdsdk"):
            return True
        # mobile_export.verify may import the rest of its own package.
        if name.split(".")[0] == module.split(".")[0] != "rdsdk":
            return True
        return any(
            name == allowed or (allowed != "rdsdk" and name.startswith(allowed + "."))
            for allowed in ALLOWED[room]
        )

    return sorted(name for name in imports_of(source, module, is_package) if not is_allowed(name))


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_room_imports_only_what_it_may(path):
    found = forbidden(path.read_text(encoding="utf-8"), name_of(path), path.name == "__init__.py")
    assert not found, f"{name_of(path)} must not import {found}"


@pytest.mark.parametrize(
    ("module", "source", "caught"),
    [
        ("rdsdk.runtime.stream", "from rdsdk.models.ctc import CtcStudent", "rdsdk.models.ctc"),
        ("rdsdk.runtime.stream", "import rdsdk.training", "rdsdk.training"),
        ("rdsdk.runtime.stream", "def f():\n    import rdsdk.data.batches", "rdsdk.data.batches"),
        ("rdsdk.runtime.stream", "from ..models import ctc", "rdsdk.models.ctc"),
        ("rdsdk.runtime.stream", "from rdsdk import training", "rdsdk.training"),
        ("rdsdk.audio.files", "from rdsdk.decoding.greedy import GreedyDecoder", "rdsdk.decoding."),
        ("rdsdk.decoding.greedy", "from rdsdk.audio.files import read", "rdsdk.audio.files"),
        ("rdsdk.models.ctc", "from rdsdk.decoding.greedy import x", "rdsdk.decoding.greedy"),
        ("rdsdk.models.ctc", "import rdsdk", "rdsdk"),
        ("mobile_export.programs", "from rdsdk.runtime.program import Program", "rdsdk.runtime."),
        ("mobile_export.verify", "from rdsdk.runtime.stream import Stream", "rdsdk.runtime.stream"),
        ("demo_app.terminal", "from rdsdk.runtime.stream import Stream", "rdsdk.runtime.stream"),
        ("rdsdk.commands.info", "import mobile_export.card", "mobile_export.card"),
    ],
)
def test_a_forbidden_import_is_caught(module, source, caught):
    (found,) = forbidden(source, module)
    assert found.startswith(caught)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rdsdk.runtime.stream", "from rdsdk.audio.samples import mono\nimport numpy"),
        ("rdsdk.runtime.stream", "from .program import Program"),
        ("mobile_export.verify", "from rdsdk.runtime.program import Program"),
        ("mobile_export.verify", "from mobile_export.programs import x"),
        ("demo_app.terminal", "import rdsdk\nfrom rdsdk import load"),
        ("rdsdk.data.batches", "from rdsdk.decoding.vocabulary import Vocabulary"),
    ],
)
def test_an_allowed_import_is_not_caught(module, source):
    assert forbidden(source, module) == []


def test_all_rooms_were_read():
    assert len(modules()) > 30
    assert {room_of(name_of(path)) for path in modules()} >= {"rdsdk.runtime", "rdsdk.models"}
