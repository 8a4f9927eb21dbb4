"""Frames of a frozen extractor that are kept: the run is the one without, or says why not."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from run_process import finish
from safetensors.torch import load_file

from rdsdk.data.alignment import PADDING
from rdsdk.data.batch import Batch
from rdsdk.data.batches import TrainingBatches, training_batches
from rdsdk.data.kept_frames import KeptFrames
from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError
from rdsdk.models import checkpoint, tdnn
from rdsdk.models.config import preset
from rdsdk.models.student import Student
from rdsdk.models.tdnn import Tdnn, TdnnCheckpoint, TdnnConfig
from rdsdk.training.cli import main
from rdsdk.training.fingerprint import of_extractor
from rdsdk.training.frame_keeping import Keeping, keep_frames

FROZEN = ("--optimisation.freeze_extractor", "true", "--optimisation.learning_rate", "2e-3")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "last" / checkpoint.WEIGHTS)


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture
def begun(recipe: Path, tmp_path: Path) -> list[str]:
    """A run from a checkpoint, so that every run has the same extractor."""
    torch.manual_seed(3)
    student = Student(preset("tiny"), symbols=29)
    folder = checkpoint.save(
        tmp_path / "begun", checkpoint.Checkpoint(student, Vocabulary.characters())
    )
    lines = recipe.read_text()
    assert "preset: tiny" in lines
    recipe.write_text(lines.replace("preset: tiny", f"checkpoint: {folder}"))
    return ["--config", str(recipe), *FROZEN]


@pytest.mark.parametrize("aligned", ["0", "8"])
def test_a_run_with_kept_frames_is_the_run_without(
    begun: list[str], tmp_path: Path, aligned: str
) -> None:
    common = [*begun, "--regularisation.aligned_start_steps", aligned]
    common += ["augmentation.speed_probability=0.5", "augmentation.gain_probability=0.5"]
    runs = {}
    for name, options in {
        "without": [],
        "kept": ["kept_passes=2"],
        "other sound": ["kept_passes=2", "augmentation.gain_probability=0.9", "seed=1"],
    }.items():
        runs[name] = tmp_path / name.replace(" ", "-")
        assert main([*common, *options, f"output={runs[name]}"]) == 0
    assert furthest(weights(runs["without"]), weights(runs["kept"])) < 1e-4
    # Negative control.
    assert furthest(weights(runs["without"]), weights(runs["other sound"])) > 1e-3
    assert {path.name for path in (runs["kept"] / "frames").iterdir()} == {
        "kept.json",
        "pass-0.safetensors",
        "pass-1.safetensors",
    }


def batches_of(corpus: tuple[Path, Path], kept: KeptFrames | None = None, workers: int = 0):
    cuts = read_cuts(corpus[0])
    return training_batches(cuts, Vocabulary.characters(), 8.0, workers, seed=5, kept=kept)


def test_kept_batches_are_the_batches_and_what_the_extractor_makes_of_them(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    student = Student(preset("tiny")).eval()
    cpu = torch.device("cpu")
    keep_frames(student, batches_of(corpus), Keeping(2), tmp_path / "kept", {}, [], cpu, half=False)
    kept = pickle.loads(pickle.dumps(KeptFrames(tmp_path / "kept")))
    sounding, silent = batches_of(corpus), batches_of(corpus, kept, workers=1)
    for epoch in range(3):
        for loader in (sounding, silent):
            loader.set_epoch(epoch)
        for heard, read in zip(sounding, silent, strict=True):
            assert (read.ids, read.texts) == (heard.ids, heard.texts)
            assert torch.equal(read.tokens, heard.tokens)
            assert torch.equal(read.sample_counts, heard.sample_counts)
            assert torch.equal(read.frame_targets, heard.frame_targets)
            assert read.waveforms.shape == (len(heard), 0)
            with torch.no_grad():
                frames = student.extractor(heard.waveforms)
            for row, count in enumerate(heard.frame_counts.tolist()):
                assert torch.allclose(read.frames[row, :count], frames[row, :count], atol=1e-5)
                assert not read.frames[row, count:].any()
                assert (read.frame_targets[row, count:] == PADDING).all()


def test_frames_are_kept_once_and_anew_for_another_extractor(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, file = tmp_path / "kept", tmp_path / "kept" / "pass-0.safetensors"
    cpu = torch.device("cpu")
    manifest = tmp_path / "corpus.jsonl"
    manifest.write_bytes(corpus[0].read_bytes())

    def made(
        seed: int, how: dict[str, object], passes: int = 1, teachers: tuple[Student, ...] = ()
    ) -> int:
        torch.manual_seed(seed)
        student = Student(preset("tiny"))
        sources = [str(manifest)]
        keeping = Keeping(passes, teachers)
        keep_frames(student, batches_of(corpus), keeping, folder, how, sources, cpu, half=True)
        assert json.loads((folder / "kept.json").read_text())["extractor"] == of_extractor(student)
        return file.stat().st_mtime_ns

    first = made(0, {"seed": 5})
    assert load_file(file).popitem()[1].dtype in (torch.bfloat16, torch.int64, torch.int16)
    assert made(0, {"seed": 5}) == first
    second = made(1, {"seed": 5})
    assert second > first
    third = made(1, {"seed": 6})
    assert third > second
    # The same file with other alignments.
    manifest.write_text(manifest.read_text().replace('"A", 0.1,', '"A", 0.12,'))
    assert manifest.read_bytes() != corpus[0].read_bytes()
    fourth = made(1, {"seed": 6})
    assert fourth > third
    # Another teacher says other things, and one that has learnt since, too.
    teacher = Student(preset("tiny"), symbols=29)
    fifth = made(1, {"seed": 6}, teachers=(teacher,))
    assert fifth > fourth
    assert made(1, {"seed": 6}, teachers=(teacher,)) == fifth
    torch.nn.init.zeros_(teacher.ctc_head.linear.weight)
    assert made(1, {"seed": 6}, teachers=(teacher,)) > fifth
    # A run that was interrupted in the first pass has no description, and starts over.
    (folder / "kept.json").unlink()
    with pytest.raises(DataError, match="no kept frames, or not all"):
        KeptFrames(folder)


def test_data_that_changed_since_is_told(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    cpu, folder = torch.device("cpu"), tmp_path / "kept"
    student = Student(preset("tiny"))
    keep_frames(student, batches_of(corpus), Keeping(1), folder, {}, [], cpu, half=True)
    with pytest.raises(DataError, match="not among the kept frames"):
        KeptFrames(folder).utterance(0, "somebody else")


@pytest.mark.parametrize(
    "options",
    [
        ["kept_passes=-1"],
        ["kept_passes=1", "optimisation.freeze_extractor=false"],
        ["kept_passes=1", "regularisation.mel_start_steps=2"],
        ["kept_passes=1", "regularisation.flat_start_steps=2"],
    ],
)
def test_what_needs_the_sound_is_refused(begun: list[str], options: list[str]) -> None:
    with pytest.raises(ConfigError, match="kept_passes"):
        main([*begun, *options])


def interrupted_at(batch: int, batches: TrainingBatches) -> TrainingBatches:
    """Ctrl-C, so many batches on."""
    each, count = type(batches).__iter__, 0

    class Interrupted(type(batches)):  # type: ignore[misc]
        def __iter__(self) -> Iterator[Batch]:
            nonlocal count
            for one in each(self):
                count += 1
                if count > batch:
                    raise KeyboardInterrupt
                yield one

    batches.__class__ = Interrupted
    return batches


def test_keeping_goes_on_after_the_last_whole_pass(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    student, cpu = Student(preset("tiny")), torch.device("cpu")

    def kept_in(name: str, batches: TrainingBatches, passes: int = 3) -> Path:
        folder = tmp_path / name
        keep_frames(student, batches, Keeping(passes), folder, {}, [], cpu, half=True)
        return folder

    whole = kept_in("whole", batches_of(corpus))
    length = len(batches_of(corpus))
    with pytest.raises(KeyboardInterrupt):
        kept_in("parts", interrupted_at(length + 1, batches_of(corpus)))
    parts = tmp_path / "parts"
    assert KeptFrames(parts).passes == 1
    with pytest.raises(DataError, match="no kept frames, or not all"):
        KeptFrames(parts, 3)
    first = (parts / "pass-0.safetensors").stat().st_mtime_ns
    assert kept_in("parts", batches_of(corpus)) == parts
    assert (parts / "pass-0.safetensors").stat().st_mtime_ns == first
    for number in range(3):
        file = f"pass-{number}.safetensors"
        assert (parts / file).read_bytes() == (whole / file).read_bytes()
    # A run that asks for fewer takes the first of them.
    assert KeptFrames(kept_in("parts", batches_of(corpus), 2), 2).passes == 2
    assert (parts / "pass-0.safetensors").stat().st_mtime_ns == first


def test_what_teachers_say_is_kept_too(begun: list[str], tmp_path: Path) -> None:
    """With energies, and teachers of other extractors and of none."""
    torch.manual_seed(9)
    vocabulary = Vocabulary.characters()
    student = Student(replace(preset("tiny"), mel_bands=20), symbols=29)
    torch.nn.init.normal_(student.energies.join.weight, std=0.1)
    teacher = Student(preset("tiny"), symbols=29)
    for name, each in (("begun", student), ("teacher", teacher)):
        checkpoint.save(tmp_path / name, checkpoint.Checkpoint(each, vocabulary))
    small = Tdnn(TdnnConfig(width=16, bottleneck=8, reaches=(1,), heads=2, mel_bands=20), 29)
    tdnn.save(tmp_path / "tdnn", TdnnCheckpoint(small, vocabulary, {}))
    teachers = f"imitation.teachers=[{tmp_path / 'teacher'}, {tmp_path / 'tdnn'}]"
    common = [*begun, "imitation.weight=2.0", "augmentation.gain_probability=0.5"]
    runs = {}
    for name, options in {
        "asked each time": [teachers],
        "asked once": [teachers, "kept_passes=3"],
        "nobody asked": ["kept_passes=3"],
    }.items():
        runs[name] = weights_of_run([*common, *options], tmp_path / name.replace(" ", "-"))
    assert furthest(runs["asked each time"], runs["asked once"]) < 1e-4
    assert furthest(runs["asked each time"], runs["nobody asked"]) > 1e-3
    (kept,) = (tmp_path / "asked-once" / "frames").glob("pass-0*")
    kinds = {name.split()[0] for name in load_file(kept)}
    assert kinds >= {"frames", "energies", "teacher_log_probs", "samples"}


def weights_of_run(command: list[str], output: Path) -> dict[str, torch.Tensor]:
    assert main([*command, f"output={output}"]) == 0
    return weights(output)


def test_a_teacher_with_the_same_extractor_hears_the_frames_that_are_kept(
    begun: list[str], tmp_path: Path
) -> None:
    source = checkpoint.load(tmp_path / "begun")
    torch.manual_seed(9)
    alike = Student(preset("tiny"), symbols=29)
    alike.extractor.load_state_dict(source.student.extractor.state_dict())
    checkpoint.save(tmp_path / "alike", checkpoint.Checkpoint(alike, Vocabulary.characters()))
    teacher_is = f"imitation.teachers=[{tmp_path / 'alike'}]"
    heard = weights_of_run([*begun, teacher_is], tmp_path / "heard")
    kept = weights_of_run([*begun, teacher_is, "kept_passes=2"], tmp_path / "kept")
    assert furthest(heard, kept) < 1e-4


def test_a_sharded_student_hears_kept_frames(begun: list[str], tmp_path: Path) -> None:
    runs = {"plain": ["hardware.strategy=auto"], "sharded": ["hardware.strategy=fsdp"]}
    runs["other"] = [*runs["sharded"], "seed=1"]
    for name, options in runs.items():
        # Each in a process of its own: one that has a process group keeps it.
        output = f"output={tmp_path / name}"
        code, told = finish("finetune", *begun, "kept_passes=1", *options, output)
        assert code == 0, told
    plain = weights(tmp_path / "plain")
    assert furthest(plain, weights(tmp_path / "sharded")) < 1e-6
    assert furthest(plain, weights(tmp_path / "other")) > 1e-4
