"""Small checkpoints with attention that is not flat, and artefacts lowered once a session."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mobile_export.coreml import ExportedPackage, export_coreml
from mobile_export.coreml_interpreter import MODEL, read_model
from mobile_export.executorch import Exported, export
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import EncoderConfig, preset
from rdsdk.models.student import Student
from tests.models.conftest import sharpen

STREAMING = preset("tiny")
FULL_CONTEXT = replace(
    preset("tiny"),
    context=None,
    position="centred",
    extractor_norm="group",
    map_owner=(0, 0, 2),
    reused_map="softmax_again",
)


def make_checkpoint(config: EncoderConfig, text: bool = True, seed: int = 2) -> Checkpoint:
    torch.manual_seed(seed)
    vocabulary = Vocabulary.characters() if text else None
    student = sharpen(Student(config, None if vocabulary is None else len(vocabulary))).eval()
    return Checkpoint(student, vocabulary, {"licence": "CC0", "training_data": ["nothing"]})


@pytest.fixture(scope="session")
def streaming() -> Checkpoint:
    return make_checkpoint(STREAMING)


@pytest.fixture(scope="session")
def full_context() -> Checkpoint:
    return make_checkpoint(FULL_CONTEXT, text=False)


@pytest.fixture(scope="session")
def streaming_int8(streaming: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("int8") / "tiny.pte"
    return export(streaming, path, "int8", name="tiny-test", measured={"wer": 0.5})


@pytest.fixture(scope="session")
def streaming_fp32(streaming: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(streaming, tmp_path_factory.mktemp("fp32") / "tiny.pte", "fp32")


@pytest.fixture(scope="session")
def full_context_fp32(
    full_context: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    return export(full_context, tmp_path_factory.mktemp("full") / "features.pte", "fp32")


@pytest.fixture
def assets() -> Path:
    return Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="session")
def exact_packages(
    streaming: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A float32 Core ML package of each function of the streaming student."""
    folder = tmp_path_factory.mktemp("exact")
    return {
        name: export_coreml(streaming, folder / f"{name}.mlpackage", "fp32", functions=[name]).path
        for name in ("forward", "step")
    }


@pytest.fixture(scope="session")
def streaming_package(
    streaming: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> ExportedPackage:
    """Both functions, int8."""
    path = tmp_path_factory.mktemp("package") / "tiny.mlpackage"
    return export_coreml(streaming, path, "int8", name="tiny-test", measured={"wer": 0.5})


@pytest.fixture(scope="session")
def full_context_package(
    full_context: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> ExportedPackage:
    """Whole recordings of any length, int8, iOS 17."""
    path = tmp_path_factory.mktemp("package") / "features.mlpackage"
    return export_coreml(full_context, path, "int8")


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[Path, Callable[[Any], None]], Path]:
    """A copy of a package whose ``Model`` proto went through a function."""

    def edit(package: Path, change: Callable[[Any], None]) -> Path:
        path = tmp_path / "edited.mlpackage"
        if path != package:
            shutil.copytree(package, path)
        model = read_model(path)
        change(model)
        (path / MODEL).write_bytes(model.SerializeToString())
        return path

    return edit


def operations(model: Any, function: str = "main") -> list[Any]:
    """The operations of one function of a ``Model`` proto, in order."""
    found = model.mlProgram.functions[function]
    return list(found.block_specializations[found.opset].operations)
