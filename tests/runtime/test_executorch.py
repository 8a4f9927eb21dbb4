import subprocess
import sys

import pytest

from rdsdk.runtime import executorch


def test_noise_is_held_back_and_the_rest_is_passed_on(capsys):
    with executorch.quiet() as said:
        print("[cpuinfo_utils.cpp:71] Reading file /sys/x\nsomething real", file=sys.stderr)
    assert capsys.readouterr().err == "something real\n"
    assert said.last() == ": something real"


def test_what_a_failure_said_is_kept_off_the_screen_but_not_lost(capsys):
    with pytest.raises(RuntimeError), executorch.quiet() as said:  # noqa: PT012
        print("[method.cpp:1] the reason", file=sys.stderr)
        raise RuntimeError
    assert capsys.readouterr().err == ""
    assert said.last() == ": [method.cpp:1] the reason"


def test_silence_says_nothing(capsys):
    with executorch.quiet() as said:
        pass
    assert said.last() == ""
    assert capsys.readouterr().err == ""


def test_a_process_without_an_error_stream_can_load_programs(streaming_pte):
    code = (
        f"import os; os.close(2); import rdsdk; print(rdsdk.load({str(streaming_pte)!r}).card.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "tones\n")


def test_threads_are_set_for_the_process_and_only_what_runs_is_imported(streaming_pte):
    code = (
        "import rdsdk, sys\n"
        "from rdsdk.runtime import executorch\n"
        f"path = {str(streaming_pte)!r}\n"
        "rdsdk.load(path, threads=3)\n"
        "rdsdk.load(path, threads=3)\n"
        "print(executorch.binding()._threadpool_get_thread_count())\n"
        "try:\n"
        "    rdsdk.load(path, threads=2)\n"
        "except rdsdk.ConfigError as error:\n"
        "    print(error)\n"
        # The exporter and torchao would cost seconds and a page of warnings.
        "print([m for m in ('torchao', 'executorch.exir', 'pandas') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    count, error, modules = done.stdout.splitlines()
    assert count == "3"
    assert "already runs with 3" in error
    assert modules == "[]"
    assert done.stderr == ""
