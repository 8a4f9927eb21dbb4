"""Small checkpoints with attention that is not flat, and artefacts lowered once a session."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mobile_export import products
from mobile_export.coreml import ExportedPackage, export_coreml
from mobile_export.coreml_interpreter import MODEL, read_model
from mobile_export.executorch import Exported, export
from mobile_export.programs import METHODS
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import Context, ConvLayer, EncoderConfig, preset
from rdsdk.models.student import Student
from tests.mobile_export.shared_exports import shared, shared_package
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

# As cheap to lower as a student can be with all its parts: two convolutions instead of nine,
# groups of layers that lie across each other, so that maps can be crossed, and right context.
SMALL = replace(
    preset("tiny").streaming(Context(chunk_frames=4, left_frames=8, right_frames=2)),
    convs=(ConvLayer(8, 10, 5), ConvLayer(24, 79, 64)),
    map_owner=(0, 1, 0, 1),
    position_kernel=8,
)
SMALL_FULL = replace(
    SMALL,
    context=None,
    position="centred",
    extractor_norm="group",
    map_owner=(0, 0),
)


def make_checkpoint(config: EncoderConfig, text: bool = True, seed: int = 2) -> Checkpoint:
    torch.manual_seed(seed)
    vocabulary = Vocabulary.characters() if text else None
    student = sharpen(Student(config, None if vocabulary is None else len(vocabulary))).eval()
    return Checkpoint(student, vocabulary, {"licence": "CC0", "training_data": ["nothing"]})


def make_small(config: EncoderConfig = SMALL, seed: int = 2) -> Checkpoint:
    """A checkpoint whose biases matter, too, and with the projection heads of distillation."""
    made = make_checkpoint(config, seed=seed)
    with_heads = Student(config, made.student.symbols, projection_width=64)
    with_heads.load_state_dict(made.student.state_dict(), strict=False)
    made.student = with_heads.eval()
    for name, parameter in made.student.named_parameters():
        if name.endswith("bias") and parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture(scope="session")
def small() -> Checkpoint:
    return make_small()


@pytest.fixture(scope="session")
def small_fp32(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """With every method, and hidden states of the first layer beside the last."""

    def make(folder: Path) -> Exported:
        return export(small, folder / "small.pte", "fp32", method_names=METHODS, layers=[1])

    return shared(tmp_path_factory, "small-fp32", make)


@pytest.fixture(scope="session")
def small_int8(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    def make(folder: Path) -> Exported:
        path = folder / "small.pte"
        return export(small, path, "int8", name="small-test", measured={"wer": 0.5})

    return shared(tmp_path_factory, "small-int8", make)


@pytest.fixture(scope="session")
def cut_fp32(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The same with the norms outside of the delegate, so that maps go from call to call."""
    path = tmp_path_factory.mktemp("cut-fp32") / "small.pte"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(products, "WIDEST_NORM", 0)
        return export(small, path, "fp32", method_names=METHODS, layers=[1])


@pytest.fixture(scope="session")
def cut_int8(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("cut-int8") / "small.pte"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(products, "WIDEST_NORM", 0)
        return export(small, path, "int8")


@pytest.fixture(scope="session")
def streaming() -> Checkpoint:
    return make_checkpoint(STREAMING)


@pytest.fixture(scope="session")
def full_context() -> Checkpoint:
    return make_checkpoint(FULL_CONTEXT, text=False)


@pytest.fixture(scope="session")
def full_context_fp32(
    full_context: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    def make(folder: Path) -> Exported:
        return export(full_context, folder / "features.pte", "fp32")

    return shared(tmp_path_factory, "full-context-fp32", make)


@pytest.fixture
def assets() -> Path:
    return Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="session")
def exact_packages(
    streaming: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A float32 Core ML package of each function of the streaming student."""

    def of(function: str) -> ExportedPackage:
        def make(folder: Path) -> ExportedPackage:
            path = folder / f"{function}.mlpackage"
            return export_coreml(streaming, path, "fp32", functions=[function])

        return shared_package(tmp_path_factory, f"exact-{function}", make)

    return {function: of(function).path for function in ("forward", "step")}


@pytest.fixture(scope="session")
def streaming_package(
    streaming: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> ExportedPackage:
    """Both functions, int8."""

    def make(folder: Path) -> ExportedPackage:
        path = folder / "tiny.mlpackage"
        return export_coreml(streaming, path, "int8", name="tiny-test", measured={"wer": 0.5})

    return shared_package(tmp_path_factory, "package-int8", make)


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
