from pathlib import Path

import pytest

from rdsdk.errors import ModelError
from rdsdk.runtime.artefact import read_artefact, seal


@pytest.fixture
def copy(streaming_pte, tmp_path) -> Path:
    path = tmp_path / "copy.pte"
    path.write_bytes(streaming_pte.read_bytes())
    return path


def test_an_intact_artefact_is_read_whole(copy):
    assert read_artefact(copy) == copy.read_bytes()


def make_text(path: Path) -> None:
    path.write_text("a recipe for soup, several lines long, and no model\n")


def make_bare_mark(path: Path) -> None:
    path.write_bytes(b"\x3c\0\0\0ET12")


def make_other_header(path: Path) -> None:
    path.write_bytes(b"\x3c\0\0\0ET12eh99" + bytes(100))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "is a folder"),
        (Path.touch, "is empty"),
        (make_text, "not an ExecuTorch program"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(500)), "not an ExecuTorch program"),
        (make_bare_mark, "cut off"),
        (make_other_header, "no readable extended header"),
        (lambda path: (path.parent / "model.pte").symlink_to(path), "cannot read"),
    ],
)
def test_what_is_no_artefact_is_a_model_error_that_names_it(tmp_path, make, says):
    path = tmp_path / "model.pte"
    make(path)
    with pytest.raises(ModelError, match=says) as caught:
        read_artefact(path)
    assert "model.pte" in str(caught.value)


def test_every_truncation_is_found(copy):
    data = copy.read_bytes()
    # The last few bytes of the segments may be padding that the header does not count.
    for length in [*range(0, 64), *range(64, len(data) - 64, 997)]:
        copy.write_bytes(data[:length])
        with pytest.raises(ModelError):
            read_artefact(copy)


def test_a_program_that_starts_outside_itself_is_refused(copy):
    data = bytearray(copy.read_bytes())
    data[0:4] = b"\xff\xff\xff\x7f"
    copy.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="does not start inside"):
        read_artefact(copy)


def test_parts_that_overlap_are_refused(copy):
    data = bytearray(copy.read_bytes())
    data[24:32] = (8).to_bytes(8, "little")
    copy.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="overlap"):
        read_artefact(copy)


def test_a_sealed_artefact_is_read(copy):
    copy.write_bytes(seal(copy.read_bytes()))
    assert read_artefact(copy) == copy.read_bytes()


def test_a_changed_byte_breaks_the_seal(copy):
    sealed = seal(copy.read_bytes())
    for at in [*range(8, 64, 7), *range(64, len(sealed) - 12, 1999), len(sealed) - 1]:
        changed = bytearray(sealed)
        changed[at] ^= 0x10
        copy.write_bytes(bytes(changed))
        with pytest.raises(ModelError, match=r"damaged|cut off|extended header"):
            read_artefact(copy)
