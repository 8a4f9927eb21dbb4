"""Where results may go."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from rdsdk import cli
from rdsdk.errors import ConfigError
from rdsdk.outputs import require_apart, require_file, require_folder


def test_a_file_needs_a_folder_and_is_none(tmp_path: Path) -> None:
    require_file(tmp_path / "new")
    (tmp_path / "old").write_text("")
    require_file(tmp_path / "old")
    for path in (tmp_path, tmp_path / "no" / "x", tmp_path / "old" / "x"):
        with pytest.raises(ConfigError, match="a file in a folder that exists"):
            require_file(path)


def test_a_folder_is_not_below_a_file(tmp_path: Path) -> None:
    require_folder(tmp_path)
    require_folder(tmp_path / "new" / "newer")
    (tmp_path / "old").write_text("")
    for path in (tmp_path / "old", tmp_path / "old" / "x" / "y"):
        with pytest.raises(ConfigError, match="old is a file"):
            require_folder(path)


def test_what_is_read_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    require_apart([tmp_path / "out"], [tmp_path / "in"])
    for path in (tmp_path / "in", tmp_path / "link", tmp_path / "x" / ".." / "in"):
        with pytest.raises(ConfigError, match="would be written over"):
            require_apart([path], [tmp_path / "in"])


def test_a_file_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(arguments: list[str]) -> int:
        (tmp_path / "no" / "x").write_text("")
        return 0

    module = ModuleType("elsewhere")
    module.main = fails  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rdsdk.evaluation.cli", module)
    assert cli.main(["evaluate"]) == 2
    said = capsys.readouterr().err
    assert said == f"rdsdk: error: {tmp_path / 'no' / 'x'}: No such file or directory\n"
