"""Learning from a teacher's log_probs: the loss by hand, and a run that follows its teacher."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from rdsdk.data.batch import Batch
from rdsdk.data.batches import training_batches
from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError
from rdsdk.models import checkpoint
from rdsdk.models.config import Context, preset
from rdsdk.models.extractor import Extractor
from rdsdk.models.student import Student
from rdsdk.training.cli import main
from rdsdk.training.finetuning import Finetuning, Optimisation, Regularisation
from rdsdk.training.imitation import (
    Imitation,
    heard_once,
    imitation_loss,
    teacher_log_probs,
)
from rdsdk.training.student_teacher import copy_front_end


def test_the_loss_is_the_divergence_of_real_frames() -> None:
    teacher = torch.tensor([[[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]]).log()
    student = torch.tensor([[[0.25, 0.75], [0.9, 0.1], [0.8, 0.2]]]).log()
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    got = imitation_loss(student, teacher, torch.tensor([2]))
    assert float(got) == pytest.approx(first / 2, abs=1e-6)
    # With the third frame, which was padding above, the answer is another.
    third = 0.2 * math.log(0.2 / 0.8) + 0.8 * math.log(0.8 / 0.2)
    whole = imitation_loss(student, teacher, torch.tensor([3]))
    assert float(whole) == pytest.approx((first + third) / 3, abs=1e-6)


def test_padding_that_is_not_a_number_takes_no_part() -> None:
    student = torch.randn(2, 4, 3).log_softmax(dim=-1).requires_grad_()
    teacher = torch.randn(2, 4, 3).log_softmax(dim=-1)
    teacher[1, 2:] = float("nan")
    loss = imitation_loss(student, teacher, torch.tensor([4, 2]))
    assert math.isfinite(loss.item())
    loss.backward()
    assert student.grad is not None
    assert not student.grad[1, 2:].any()


def saved_teacher(folder: Path) -> Path:
    """A teacher that is sure of the blank everywhere."""
    torch.manual_seed(1)
    teacher = Student(preset("tiny"), symbols=29)
    assert teacher.ctc_head is not None
    teacher.ctc_head.linear.bias.data[Vocabulary.characters().blank] = 20.0
    return checkpoint.save(folder, checkpoint.Checkpoint(teacher, Vocabulary.characters()))


def last_imitation(run: Path) -> float:
    events = EventAccumulator(str(run / "events"))
    events.Reload()
    return float(events.Scalars("train/imitation")[-1].value)


def test_a_run_comes_to_say_what_its_teacher_says(recipe: Path, tmp_path: Path) -> None:
    folder = saved_teacher(tmp_path / "teacher")
    common = ["--config", str(recipe), "optimisation.steps=40", "optimisation.learning_rate=4e-3"]
    common += [f"imitation.teachers=[{folder}]", "validate_every_steps=40"]
    said = {}
    for weight in ("20", "0.0001"):
        run = tmp_path / weight
        assert main([*common, f"imitation.weight={weight}", f"output={run}"]) == 0
        said[weight] = last_imitation(run)
    assert said["20"] < 0.2 * said["0.0001"]


def unlabelled(manifest: Path) -> Path:
    """The same recordings, which nobody has written down."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows:
        del row["text"], row["alignment"]
        row["id"] += "-unlabelled"
    path = manifest.with_stem(manifest.stem + "-unlabelled")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_speech_without_texts_is_learnt_from_with_a_teacher(
    recipe: Path, corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = saved_teacher(tmp_path / "teacher")
    silent = unlabelled(corpus[0])
    common = ["--config", str(recipe), f"train=[{silent}]"]
    with pytest.raises(DataError, match=r"name imitation\.teachers"):
        main(common)
    common += [f"imitation.teachers=[{folder}]", "validate_every_steps=40"]
    common += ["optimisation.steps=40", "optimisation.freeze_extractor=true"]
    said = {}
    for name, options in {
        "heard": ["optimisation.learning_rate=4e-3"],
        "kept": ["optimisation.learning_rate=4e-3", "kept_passes=2"],
        "not learnt": ["optimisation.learning_rate=1e-9"],
    }.items():
        run = tmp_path / name.replace(" ", "-")
        assert main([*common, *options, f"output={run}"]) == 0
        said[name] = last_imitation(run)
    # No other loss has anything to learn from.
    assert said["heard"] < 0.2 * said["not learnt"]
    assert said["kept"] < 0.2 * said["not learnt"]


def test_a_text_that_nobody_knows_is_no_silence(corpus: tuple[Path, Path]) -> None:
    torch.manual_seed(0)
    vocabulary = Vocabulary.characters()
    student = Student(preset("tiny"), symbols=29)
    module = Finetuning(student, vocabulary, Optimisation(), Regularisation())
    both = [corpus[0], unlabelled(corpus[0])]
    batch = next(iter(training_batches(read_cuts(both), vocabulary, 12.0, unlabelled=True)))
    assert batch.labelled is not None
    assert 0 < int(batch.labelled.sum()) < len(batch)
    known = batch.labelled
    counts = batch.frame_counts
    with torch.no_grad():
        output, _ = student(batch.waveforms, sample_counts=batch.sample_counts)
    got = module._loss(output.log_probs, counts, batch)
    part = replace(
        batch, tokens=batch.tokens[known], token_counts=batch.token_counts[known], labelled=None
    )
    expected = module._loss(output.log_probs[known], counts[known], part)
    torch.testing.assert_close(got, expected)
    as_silence = module._loss(output.log_probs, counts, replace(batch, labelled=None))
    assert (as_silence - expected).abs() > 1e-2


def test_a_teacher_of_other_symbols_is_refused(recipe: Path, tmp_path: Path) -> None:
    student = Student(preset("tiny"), symbols=3)
    other = checkpoint.save(
        tmp_path / "other", checkpoint.Checkpoint(student, Vocabulary.words(["NO", "YES"]))
    )
    with pytest.raises(ConfigError, match="the same symbols"):
        main(["--config", str(recipe), f"imitation.teachers=[{other}]"])


def test_a_teacher_that_streams_may_hear_the_whole(sound: Batch) -> None:
    torch.manual_seed(2)
    teacher = Student(preset("tiny").streaming(Context(4, 4)), symbols=29).eval()
    said = {}
    for whole, context in ((False, "configured"), (True, "full")):
        expected, _ = teacher(sound.waveforms, sample_counts=sound.sample_counts, context=context)
        said[whole] = teacher_log_probs([teacher], sound, whole)
        torch.testing.assert_close(said[whole], expected.log_probs)
        # The same of frames that its extractor made before.
        again = teacher_log_probs([teacher], heard_once(teacher, sound), whole)
        torch.testing.assert_close(again, expected.log_probs)
    assert (said[True] - said[False]).abs().max() > 1e-3


def test_a_narrowed_student_learns_from_the_one_that_it_shares_its_ears_with(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_teacher(tmp_path / "teacher")
    torch.manual_seed(5)
    student = Student(preset("tiny"), symbols=29)
    begun = checkpoint.Checkpoint(student, Vocabulary.characters())
    begins = checkpoint.save(tmp_path / "student", begun)
    command = ["--config", str(recipe), "optimisation.freeze_extractor=true", "student.ffn=40"]
    command += ["student.preset=null", f"student.checkpoint={begins}", "imitation.whole=true"]
    command += [f"imitation.teachers=[{folder}]", "optimisation.steps=2", "validate_every_steps=2"]
    heard = []

    def counted(extractor: Extractor, waveform: Tensor) -> Tensor:
        if torch.is_grad_enabled() or extractor.training:
            heard.append("student")
        return plain(extractor, waveform)

    plain = Extractor.forward
    monkeypatch.setattr(Extractor, "forward", counted)
    for copied in (False, True):
        run = tmp_path / f"copied-{copied}"
        heard.clear()
        assert main([*command, f"imitation.copy_extractor={copied}", f"output={run}"]) == 0
        # Its own extractor makes frames in training only where the teacher's makes others.
        assert bool(heard) != copied
        learnt = checkpoint.load(run / "last").student
        assert learnt.config.ffn == 40
        teachers = checkpoint.load(folder).student.extractor.state_dict()
        ours = learnt.extractor.state_dict()
        assert all(torch.equal(ours[name], teachers[name]) for name in teachers) == copied


def test_what_needs_a_teacher_is_refused_without_one() -> None:
    for setting in ("whole", "copy_extractor"):
        with pytest.raises(ConfigError, match=r"imitation\.teachers"):
            Imitation(**{setting: True})


def test_an_extractor_of_another_shape_is_not_copied() -> None:
    teacher = Student(preset("tiny"))
    last = replace(teacher.config.convs[-1], channels=8)
    student = Student(replace(teacher.config, convs=(*teacher.config.convs[:-1], last)))
    with pytest.raises(ConfigError, match="whose convs is"):
        copy_front_end(teacher, student)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_a_weight_that_imitates_nobody_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        Imitation("somewhere", weight)
