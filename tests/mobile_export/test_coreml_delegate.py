"""ExecuTorch's Core ML delegate: one call, and the package inside it proven."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mobile_export.coreml_delegate as delegate_room
from mobile_export.coreml import ExportedPackage, reference
from mobile_export.coreml_delegate import (
    Delegated,
    delegated_method,
    export_coreml_pte,
    prove_delegate,
    read_delegate_card,
    unpack_delegate,
    verify_coreml_pte,
)
from rdsdk.errors import ExportError, ModelError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.runtime.recognizer import bundled_models
from tests.mobile_export.conftest import STREAMING, make_checkpoint


@pytest.fixture(scope="module")
def exported(streaming: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportedPackage:
    path = tmp_path_factory.mktemp("delegate") / "tiny.pte"
    return export_coreml_pte(streaming, path, "int8", name="tiny-test")


@pytest.fixture(scope="module")
def unpacked(exported: ExportedPackage, tmp_path_factory: pytest.TempPathFactory) -> Delegated:
    return unpack_delegate(exported.path, tmp_path_factory.mktemp("payload") / "package")


def test_all_of_the_method_is_one_call_of_core_ml(
    exported: ExportedPackage, unpacked: Delegated
) -> None:
    assert exported.report["verdict"] == "passed"
    assert exported.report["target"] == "coreml-pte"
    assert exported.report["methods"]["forward"]["delegate_calls"] == 1
    assert exported.report["agreement"]["calls"] == 6
    assert exported.report["agreement"]["worst_snr_db"] > 25
    assert exported.report["float32_agreement"]["forward"]["worst_snr_db"] > 110
    method = exported.card["methods"]["forward"]
    assert method["min_samples"] == method["max_samples"] == 2640
    assert len(unpacked.inputs) == len(method["inputs"]) == 5
    assert len(unpacked.outputs) == len(method["outputs"]) == 6
    assert unpacked.inputs[0] == "waveform"
    assert [item.name for item in exported.path.parent.iterdir()] == ["tiny.pte"]


def test_a_file_is_proven_again_later(
    streaming: Checkpoint, full_context: Checkpoint, exported: ExportedPackage
) -> None:
    assert read_delegate_card(exported.path) == json.loads(json.dumps(exported.card))
    report = verify_coreml_pte(streaming, exported.path)
    assert report["agreement"] == exported.report["agreement"]
    with pytest.raises(ExportError, match="another architecture"):
        verify_coreml_pte(full_context, exported.path)
    changed = make_checkpoint(STREAMING)
    # Too little to be seen beside what int8 costs.
    changed.student.encoder.layers[1].ffn_out.bias.data += 1e-3  # type: ignore[union-attr,operator]
    with pytest.raises(ExportError, match=r"bias of linear .* differs"):
        verify_coreml_pte(changed, exported.path)


def test_the_package_of_another_student_is_refused(
    streaming: Checkpoint, unpacked: Delegated
) -> None:
    student = reference(streaming)
    method = delegated_method(student)
    assert not prove_delegate(student, method, unpacked, "int8", None).faults
    changed = reference(make_checkpoint(STREAMING, seed=3))
    (found, *_) = prove_delegate(changed, method, unpacked, "int8", None).faults
    assert "int8 needs 14 dB" in found
    # Two states taken for each other.
    swapped = list(unpacked.outputs)
    swapped[0], swapped[1] = swapped[1], swapped[0]
    mixed = Delegated(unpacked.interpreter, unpacked.inputs, tuple(swapped))
    (found, *_) = prove_delegate(student, method, mixed, "int8", None).faults
    assert "int8 needs 14 dB" in found


def test_a_method_with_something_outside_the_delegate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="all of it must be one call of Core ML's"):
        unpack_delegate(bundled_models()["digits"], tmp_path / "package")


def test_a_failed_check_leaves_no_file(
    streaming: Checkpoint,
    exported: ExportedPackage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The lowering is that of the right student, the checkpoint another's.
    lowered = exported.path.read_bytes()[:-12]
    monkeypatch.setattr(delegate_room, "lower_to_core_ml", lambda *_: lowered)
    changed = make_checkpoint(STREAMING, seed=3)
    path = tmp_path / "model.pte"
    path.write_bytes(b"older")
    with pytest.raises(ExportError, match="does not do what its checkpoint does"):
        export_coreml_pte(changed, path, "fp32")
    assert [item.name for item in tmp_path.iterdir()] == ["model.pte"]
    assert path.read_bytes() == b"older"


def test_what_cannot_be_exported_is_refused(streaming: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"unknown precision 'palette4'.*fp16"):
        export_coreml_pte(streaming, tmp_path / "model.pte", "palette4")
    with pytest.raises(ExportError, match=r"does not end in \.pte"):
        export_coreml_pte(streaming, tmp_path / "model.mlpackage")
    with pytest.raises(ExportError, match="is not a folder"):
        export_coreml_pte(streaming, tmp_path / "nowhere" / "model.pte")


def test_a_damaged_file_is_refused(exported: ExportedPackage, tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    data = bytearray(exported.path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="is damaged"):
        unpack_delegate(path, tmp_path / "package")
