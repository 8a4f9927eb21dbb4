"""``rdsdk bench`` on real artefacts, small passes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rdsdk import cli
from rdsdk.commands import bench
from rdsdk.errors import ConfigError, ModelError
from rdsdk.runtime.machine import machine, peak_resident_mb, resident_mb
from rdsdk.runtime.measurement import measure_apart, probe_waveform

ASSETS = Path(__file__).parent.parent / "assets"
QUICK = ("--seconds", "2", "--passes", "2")


@pytest.fixture
def measured(tmp_path, capsys):
    def run(model: str, *options: str) -> tuple[dict, str]:
        path = tmp_path / "figures.json"
        assert cli.main(["bench", model, *QUICK, "--json", str(path), *options]) == 0
        return json.loads(path.read_text()), capsys.readouterr().out

    return run


def test_a_streaming_model_has_steps(streaming_pte, measured):
    figures, table = measured(str(streaming_pte), "--threads", "1", "2")
    assert [run["threads"] for run in figures["runs"]] == [1, 2]
    for run in figures["runs"]:
        assert run["name"] == "tones"
        steps = run["steps"]
        # 2 s in chunks of 80 ms, but for the samples that the last one lacks, twice.
        assert (steps["count"], steps["chunk_ms"]) == (2 * 24, 80.0)
        assert 0 < steps["p50_ms"] <= steps["p95_ms"] <= steps["p99_ms"] < 2000
        assert 0 < run["fastest_pass"] <= run["real_time_factor"] <= run["slowest_pass"]
        # The steps are the streamed pass, but for its end.
        assert run["streamed_real_time_factor"] * 2 > 0.5 * 24 * steps["p50_ms"] / 1000
        assert 0 < run["load_seconds"] < run["first_result_seconds"]
        assert 0 < run["before_load_mb"] < run["peak_mb"]
    assert figures["size_bytes"] == streaming_pte.stat().st_size
    assert figures["machine"]["usable_cores"] == len(os.sched_getaffinity(0))
    assert table.startswith("streaming.pte: tones, fp32, 0.1 MB\n")
    assert "a step is a chunk of 80 ms" in table
    rows = [line for line in table.splitlines() if re.match(r"\| +[12] \|", line)]
    p50 = figures["runs"][0]["steps"]["p50_ms"]
    assert len(rows) == 2
    assert f" {p50:.1f} / " in rows[0]
    assert len({len(row) for row in rows}) == 1


def test_a_full_context_model_has_none(full_pte, measured):
    figures, table = measured(str(full_pte), "--threads", "1")
    (run,) = figures["runs"]
    assert run["steps"] is run["streamed_real_time_factor"] is None
    assert run["real_time_factor"] > 0
    assert "a step" not in table
    assert "| - |" in " ".join(table.split())


def test_the_bundled_model_by_name(measured):
    figures, table = measured("digits", "--threads", "1", "--seconds", "4", "--passes", "1")
    (run,) = figures["runs"]
    assert (run["name"], run["precision"]) == ("digits", "int8")
    assert run["steps"]["chunk_ms"] == 1280.0
    assert "digits.pte: digits, int8, 2.3 MB" in table


def test_features_can_be_measured_too(features_pte):
    done: list[tuple[int, int]] = []
    found = measure_apart(features_pte, 1, 2.0, 2, lambda *pass_of: done.append(pass_of))
    assert done == [(1, 2), (2, 2)]
    assert found.steps is not None


def test_live_text_is_measured_with_its_search(measured):
    clip = ASSETS / "unseen" / "ls-7312-92432-0000.flac"
    figures, table = measured(
        "english", "--threads", "1", "--seconds", "4", "--passes", "1", "--recording", str(clip)
    )
    (run,) = figures["runs"]
    text = run["text"]
    assert figures["recording"] == str(clip)
    assert (text["sound_seconds"], text["block_ms"]) == (4.0, 320.0)
    assert text["words"] > 3
    assert 0 < text["p50_ms"] <= text["p95_ms"] <= text["p99_ms"]
    assert text["fastest_pass"] == text["real_time_factor"] == text["slowest_pass"]
    # Language models and search come on top of the network.
    assert text["real_time_factor"] > run["streamed_real_time_factor"]
    assert text["peak_mb"] > run["peak_mb"] + 30
    assert "live text, real-time factor" in table
    assert "4.0 s of speech, live, in blocks of 320 ms" in table


def test_without_a_recording_there_is_no_text(streaming_pte, measured):
    figures, table = measured(str(streaming_pte), "--threads", "1")
    assert figures["recording"] is figures["runs"][0]["text"] is None
    assert "live" not in table


def test_a_full_context_model_gives_text_when_the_sound_is_over(full_pte):
    sound = ASSETS / "unseen" / "ls-7312-92432-0000.flac"
    done: list[tuple[int, int]] = []
    found = measure_apart(full_pte, 1, 2.0, 2, lambda *of: done.append(of), sound)
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.text is not None
    assert (found.text.block_ms, found.text.sound_seconds) == (320.0, 2.0)
    assert found.text.end_ms > 0


def test_features_have_no_live_text(features_pte):
    sound = ASSETS / "unseen" / "ls-7312-92432-0000.flac"
    with pytest.raises(ModelError, match="gives features and no text"):
        measure_apart(features_pte, 1, 2.0, 1, recording=sound)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--recording", "no.flac"], "no.flac"),
        (["digits", "--recording", str(Path(__file__))], "test_bench.py"),
        (["digits", "--threads", "0"], "threads is 0, expected at least 1"),
        (["digits", "--seconds", "0.5"], "seconds is 0.5, expected 1 to 3600"),
        (["digits", "--seconds", "nan"], "seconds is nan"),
        (["digits", "--passes", "0"], "passes is 0"),
        (["nothing"], "no model is named 'nothing'; bundled models: digits"),
        (["nothing.pte"], "no such file: nothing.pte"),
        (["digits", "--json", "no/such/folder.json"], "cannot write no/such/folder.json"),
        # Found in the other process, where the model is loaded.
        (["digits", "--seconds", "2", "--threads", "1"], "expected at least 2.57"),
    ],
)
def test_what_cannot_be_measured_is_one_line(capsys, arguments, message):
    assert cli.main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rdsdk: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_damaged_model_is_refused_before_a_process_is_started(streaming_pte, tmp_path, capsys):
    path = tmp_path / "cut.pte"
    path.write_bytes(streaming_pte.read_bytes()[:2000])
    assert cli.main(["bench", str(path), *QUICK]) == 2
    assert "cut" in capsys.readouterr().err


def test_a_process_that_dies_is_an_error_that_says_how(streaming_pte, monkeypatch, tmp_path):
    killed = tmp_path / "killed.sh"
    killed.write_text("#!/bin/sh\necho out of memory >&2\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(ModelError, match="killed by signal 9: out of memory"):
        measure_apart(streaming_pte, 1, 2.0, 1)


def test_threads_by_default_double_up_to_all_cores():
    assert bench._default_threads(1) == [1]
    assert bench._default_threads(2) == [1, 2]
    assert bench._default_threads(6) == [1, 2, 4, 6]
    assert bench._default_threads(8) == [1, 2, 4, 8]


def test_the_peak_is_of_this_process_and_not_of_the_one_that_started_it():
    held = bytearray(os.urandom(2**20) * 300)
    code = "from rdsdk.runtime.machine import peak_resident_mb; print(peak_resident_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = peak_resident_mb()
    assert own is not None
    assert float(done.stdout) < 150 < len(held) / 2**20 < own


def test_the_machine_is_described():
    found = machine(("rdsdk", "no-such-package"))
    assert found["processor"]
    assert found["versions"]["rdsdk"]
    assert found["versions"]["no-such-package"] is None
    assert found["memory_mb"] > (resident_mb() or 0) > 0
    json.dumps(found)


def test_the_sound_is_always_the_same():
    waveform = probe_waveform(1.5)
    assert waveform.shape == (24_000,)
    assert (waveform == probe_waveform(1.5)).all()
    assert 0.1 < abs(waveform).max() < 1


def test_help_says_what_is_measured(capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for what in ("real-time factor", "peak of resident memory", "--threads N", "--recording"):
        assert what in text


def test_a_plan_is_checked_by_whoever_measures(streaming_pte):
    with pytest.raises(ConfigError, match="passes is 0"):
        measure_apart(Path(streaming_pte), 1, 2.0, 0)
