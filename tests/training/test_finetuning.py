"""Runs of ``rdsdk finetune``: whole, interrupted, resumed, in two processes, and refused."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from run_process import finish, start
from safetensors.torch import load_file

from rdsdk.data.alignment import frame_targets, said_symbols
from rdsdk.data.augment import Timing
from rdsdk.data.batch import Batch
from rdsdk.data.batches import evaluation_batches
from rdsdk.data.manifest import read_cuts
from rdsdk.data.waveform import load_waveform
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError, TrainingError
from rdsdk.models import checkpoint
from rdsdk.models.config import Context, EncoderConfig, extractor_convs, preset
from rdsdk.models.student import Student
from rdsdk.training.cli import main
from rdsdk.training.finetuning import Finetuning, Optimisation, Regularisation
from rdsdk.training.recipe import StudentChoice, read_recipe
from rdsdk.training.schedule import warmup_cosine
from rdsdk.training.sequence_loss import PhoneTrigram, lattice_free_mmi


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / checkpoint.WEIGHTS)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def code_of(*arguments: str) -> int:
    code, _ = finish("finetune", *arguments)
    return code


def test_a_run_learns_keeps_its_best_and_logs(recipe: Path, tmp_path: Path) -> None:
    longer = ["--optimisation.steps", "300", "--optimisation.learning_rate", "4e-3"]
    arguments = ["--config", str(recipe), *longer, "--validate_every_steps", "100"]
    starts = ["--regularisation.mel_start_steps", "60", "--regularisation.flat_start_steps", "140"]
    still = ["--regularisation.frame_mask_probability", "0"]
    assert main([*arguments, *starts, *still]) == 0
    run = tmp_path / "run"
    dev = [json.loads(line) for line in (run / "dev.jsonl").read_text().splitlines()]
    assert [row["step"] for row in dev] == [100, 200, 300]
    assert dev[-1]["dev/loss"] < 0.5 * dev[0]["dev/loss"]
    assert dev[-1]["dev/cer"] < 0.8
    best = checkpoint.load(run / "best")
    kept = best.provenance["dev"]
    assert isinstance(kept, dict)
    assert kept["dev/score"] == min(row["dev/score"] for row in dev)
    assert best.provenance["training_data"] == ["melodies"]
    assert best.vocabulary == Vocabulary.characters()
    assert list((run / "events").glob("events.out.*"))
    assert not (run / "resume.ckpt").exists()


def test_an_aligned_start_teaches_the_letters_and_where_they_are(
    recipe: Path, corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = ["--config", str(recipe), "--optimisation.steps", "240"]
    starts = ["--regularisation.mel_start_steps", "40"]
    starts += ["--regularisation.aligned_start_steps", "200"]
    fast = ["--optimisation.learning_rate", "4e-3", "--validate_every_steps", "240"]
    assert main([*arguments, *starts, *fast]) == 0
    best = checkpoint.load(tmp_path / "run" / "best")
    assert best.vocabulary is not None
    right = frames = 0
    for cut in read_cuts(corpus[1]):
        waveform = torch.from_numpy(load_waveform(cut))
        with torch.no_grad():
            output, _ = best.student(waveform[None])
        assert output.log_probs is not None
        heard = output.log_probs[0].argmax(dim=-1)
        said = frame_targets(cut, best.vocabulary, len(heard), Timing())
        voiced = said != best.vocabulary.blank
        right += int((heard == said)[voiced].sum())
        frames += int(voiced.sum())
    assert right > 0.6 * frames


def test_sequence_steps_learn_what_was_said_against_all_that_could_be(
    recipe: Path, corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    """From one start: what a sequence loss lowers is the sequence loss, more than its frames do."""
    arguments = ["--config", str(recipe), "--validate_every_steps", "60"]
    start = ["--regularisation.mel_start_steps", "40", "--regularisation.aligned_start_steps"]
    first = ["--optimisation.steps", "200", "--optimisation.learning_rate", "4e-3"]
    begun = str(tmp_path / "begun")
    assert main([*arguments, *first, *start, "160", "--output", begun]) == 0
    student = ["--student.checkpoint", f"{begun}/last", "--student.preset", "null"]
    student += ["--student.context", "null", "--optimisation.steps", "60"]
    losses = {}
    for name in ("sequence", "aligned"):
        kind = "sequence_steps" if name == "sequence" else "aligned_start_steps"
        how = [f"--regularisation.{kind}", "60", "--output", str(tmp_path / name)]
        assert main([*arguments, *student, *how]) == 0
        losses[name] = sequence_loss(tmp_path / name / "last", corpus)
    before = sequence_loss(Path(begun) / "last", corpus)
    assert losses["sequence"] < losses["aligned"] < before


def sequence_loss(folder: Path, corpus: tuple[Path, Path]) -> float:
    """Of dev's alignments, by train's trigram."""
    source = checkpoint.load(folder)
    vocabulary = source.vocabulary
    assert vocabulary is not None
    said = [said_symbols(cut, vocabulary) or [] for cut in read_cuts(corpus[0])]
    trigram, total = PhoneTrigram.of(said, len(vocabulary)), 0.0
    for batch in evaluation_batches(read_cuts(corpus[1]), vocabulary):
        with torch.no_grad():
            output, _ = source.student.eval()(batch.waveforms, sample_counts=batch.sample_counts)
        assert output.log_probs is not None
        assert batch.frame_targets is not None
        loss = lattice_free_mmi(output.log_probs, batch.frame_counts, batch.frame_targets, trigram)
        total += loss.item()
    return total


def test_an_aligned_start_without_alignments_says_what_is_missing(
    recipe: Path, corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in corpus[0].read_text().splitlines()]
    for row in rows:
        row["audio"] = str(corpus[0].parent / row["audio"])
        del row["alignment"]
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe.write_text(recipe.read_text().replace(str(corpus[0]), str(plain)))
    for losses in ("aligned_start_steps", "sequence_steps"):
        with pytest.raises(DataError, match="need alignments, and none is in"):
            main(["--config", str(recipe), f"--regularisation.{losses}", "4"])


def test_a_checkpoint_may_be_given_energies_when_it_is_learnt_further(
    recipe: Path, tmp_path: Path
) -> None:
    student, vocabulary = Student(preset("tiny"), symbols=3), Vocabulary.words(["A", "B"])
    checkpoint.save(tmp_path / "deaf", checkpoint.Checkpoint(student, vocabulary, {}))
    hearing = StudentChoice(checkpoint=str(tmp_path / "deaf"), mel_bands=20).build(vocabulary)
    assert hearing.config == replace(student.config, mel_bands=20)
    waveform = torch.randn(1, 320 * 16 + 80)
    torch.testing.assert_close(
        hearing.eval()(waveform)[0].log_probs, student.eval()(waveform)[0].log_probs
    )
    # And learns them with the extractor frozen, from kept frames too.
    arguments = ["--config", str(recipe), "--student.mel_bands", "20"]
    arguments += ["--optimisation.freeze_extractor", "true"]
    assert code_of(*arguments) == 0
    learnt = checkpoint.load(tmp_path / "run" / "last").student
    assert learnt.energies is not None
    assert learnt.energies.join.weight.abs().max() > 0
    assert code_of(*arguments, "--output", str(tmp_path / "kept"), "--kept_passes", "1") == 0
    kept = checkpoint.load(tmp_path / "kept" / "last").student
    assert kept.energies is not None
    assert kept.energies.join.weight.abs().max() > 0


def test_a_checkpoint_may_be_widened_when_it_is_learnt_further(tmp_path: Path) -> None:
    student = Student(preset("tiny"), symbols=3)
    vocabulary = Vocabulary.words(["A", "B"])
    checkpoint.save(tmp_path, checkpoint.Checkpoint(student, vocabulary, {}))
    wider = StudentChoice(checkpoint=str(tmp_path), ffn=64).build(vocabulary).eval()
    waveform = torch.randn(1, 8000)
    (said, _), (expected, _) = wider(waveform), student.eval()(waveform)
    torch.testing.assert_close(said.log_probs, expected.log_probs, atol=1e-5, rtol=1e-5)
    assert wider.config.ffn == 64
    assert StudentChoice(preset="tiny", ffn=64).build(vocabulary).config.ffn == 64
    width = student.config.width
    both = StudentChoice(checkpoint=str(tmp_path), width=2 * width, ffn=64).build(vocabulary).eval()
    torch.testing.assert_close(
        both(waveform)[0].log_probs, expected.log_probs, atol=1e-5, rtol=1e-5
    )
    assert (both.config.width, both.config.ffn) == (2 * width, 64)
    same_width = StudentChoice(checkpoint=str(tmp_path), width=width).build(vocabulary)
    assert same_width.config == student.config
    assert StudentChoice(preset="tiny", width=2 * width).build(vocabulary).config.width == 2 * width
    with pytest.raises(ConfigError, match=rf"student.width is {width + 8}, expected .* {width} or"):
        StudentChoice(checkpoint=str(tmp_path), width=width + 8).build(vocabulary)


def test_interrupted_and_resumed_equals_uninterrupted(recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text().replace("steps: 8", "steps: 60")
    assert "dropout: 0.0" in text
    recipe.write_text(text.replace("dropout: 0.0", "dropout: 0.1"))
    whole = ["--config", str(recipe), "--output", str(tmp_path / "whole")]
    assert code_of(*whole) == 0
    process = start("finetune", "--config", str(recipe), "--hardware.workers", "1")
    resume_file = tmp_path / "run" / "resume.ckpt"
    deadline = time.monotonic() + 120
    while not resume_file.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 3, output
    assert "--resume goes on" in output
    step = torch.load(resume_file, weights_only=True)["global_step"]
    assert 2 <= step < 60
    # Without --resume the unfinished run is not overwritten.
    with pytest.raises(ConfigError, match="unfinished run"):
        main(["--config", str(recipe)])
    assert code_of("--config", str(recipe), "--resume") == 0
    assert same(weights(tmp_path / "whole" / "last"), weights(tmp_path / "run" / "last"))
    # Negative control: another seed gives other weights.
    assert code_of(*whole, "--output", str(tmp_path / "other"), "--seed", "1") == 0
    assert not same(weights(tmp_path / "whole" / "last"), weights(tmp_path / "other" / "last"))


def test_steps_after_the_last_validation_are_kept(recipe: Path, tmp_path: Path) -> None:
    common = ["--config", str(recipe), "optimisation.steps=5", "optimisation.average_decay=0"]
    folders = {}
    for validated in (3, 5, 9):
        output = tmp_path / f"every{validated}"
        assert main([*common, f"validate_every_steps={validated}", f"output={output}"]) == 0
        folders[validated] = output
    final = weights(folders[5] / "last")
    assert same(weights(folders[3] / "last"), final)
    assert same(weights(folders[9] / "best"), final)
    # Negative control: what was validated at step 3 is another.
    assert not same(weights(folders[3] / "best"), final)


def test_ctrl_c_leaves_a_resumable_run(recipe: Path, tmp_path: Path) -> None:
    process = start("finetune", "--config", str(recipe), "--optimisation.steps", "100000")
    resume_file = tmp_path / "run" / "resume.ckpt"
    deadline = time.monotonic() + 120
    while not resume_file.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 3, output
    assert "Traceback" not in output
    assert torch.load(resume_file, weights_only=True)["global_step"] >= 2


def test_two_processes_run_together_and_leave_a_checkpoint(recipe: Path, tmp_path: Path) -> None:
    process = start(
        "finetune",
        *("--config", str(recipe), "--hardware.devices", "2", "--hardware.strategy", "ddp"),
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert checkpoint.load(tmp_path / "run" / "best").provenance["licence"] == "CC0"


def test_a_bfloat16_step_trains(recipe: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(recipe), "--hardware.precision", "bf16-mixed"]
    assert main([*arguments, "--optimisation.steps", "4"]) == 0
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run" / "last").values())


def test_a_checkpoint_is_fine_tuned_from_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    distilled = Student(preset("tiny"), projection_width=16)
    folder = checkpoint.save(tmp_path, checkpoint.Checkpoint(distilled))
    student = StudentChoice(checkpoint=str(folder)).build(Vocabulary.characters())
    assert student.projections is None
    assert student.symbols == 29
    assert torch.equal(
        student.encoder.layers[0].ffn_in.weight,  # type: ignore[union-attr]
        distilled.encoder.layers[0].ffn_in.weight,  # type: ignore[union-attr]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimisation.learning_rat", "1"], "learning_rat"),
        (["--seed", "many"], "seed"),
        (["--student.preset", "xxl"], "unknown preset 'xxl'"),
        (["--student.checkpoint", "somewhere"], "exactly one of preset and checkpoint"),
        (["--resume"], "nothing to resume"),
        (["--resume", "seed=1"], "nothing to resume"),
        (["--hardware.accelerator", "gpus"], "cannot be had here"),
        (["--optimisation.steps", "0"], "steps >= 1"),
        (["--student.preset", "armhubert"], "chunk_frames were given for a full-context student"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(
    recipe: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        main(["--config", str(recipe), *arguments])


def test_a_misspelt_key_in_the_yaml_is_named(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("batch_seconds", "batch_secconds"))
    with pytest.raises(ConfigError, match="batch_secconds"):
        read_recipe(["--config", str(recipe)])


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="digits"):
        read_recipe(["--config", "no-such-recipe"])


def test_a_loss_that_is_not_finite_names_its_utterances(recipe: Path, tmp_path: Path) -> None:
    broken = Student(preset("tiny"), symbols=29)
    broken.ctc_head.linear.bias.data[:] = float("nan")  # type: ignore[union-attr]
    folder = checkpoint.save(
        tmp_path / "broken", checkpoint.Checkpoint(broken, Vocabulary.characters())
    )
    text = recipe.read_text().replace("preset: tiny", f"checkpoint: {folder}")
    recipe.write_text(text)
    with pytest.raises(TrainingError, match="melody-0-"):
        main(["--config", str(recipe)])


def test_a_batch_without_any_target_teaches_nothing_and_breaks_nothing() -> None:
    vocabulary = Vocabulary.characters()
    student = Student(preset("tiny"), symbols=len(vocabulary))
    module = Finetuning(student, vocabulary, Optimisation(), Regularisation())
    module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    tokens = torch.tensor([vocabulary.encode("A B")])
    waveforms = 0.1 * torch.randn(1, 16_080)
    batch = Batch(waveforms, torch.tensor([16_080]), tokens, torch.tensor([3]), ["a"], ["A B"])
    output, _ = student(waveforms)
    assert output.log_probs is not None
    assert module._flat_loss(output.log_probs, batch.frame_counts, batch).item() == 0.0
    one = Batch(waveforms, batch.sample_counts, tokens, batch.token_counts, ["a"], ["AB"])
    assert module._flat_loss(output.log_probs, batch.frame_counts, one).item() > 0.0


def test_contexts_are_drawn_alike_on_every_device_and_after_a_resume() -> None:
    vocabulary = Vocabulary.characters()
    config = replace(preset("tiny"), context=Context(8, 16, right_frames=3))
    student = Student(config, symbols=len(vocabulary))
    module = Finetuning(
        student, vocabulary, Optimisation(), Regularisation(chunk_frames=(4, 8, None))
    )
    drawn = [module.draw_context(step) for step in range(60)]
    assert drawn == [module.draw_context(step) for step in range(60)]
    assert {str(context) for context in drawn} == {
        str(Context(4, 16, 3)),
        str(Context(8, 16, 3)),
        "full",
    }


def test_the_schedule_rises_then_falls() -> None:
    factors = [warmup_cosine(step, 100, 10) for step in range(101)]
    assert factors[0] < 0.1
    assert max(factors) == factors[10] == 1.0
    assert factors == sorted(factors[:11]) + sorted(factors[11:], reverse=True)
    assert 0 < factors[-1] < 0.03
    student = Student(preset("tiny"), symbols=len(Vocabulary.characters()))
    chosen = Optimisation(steps=100, warmup_steps=10, learning_rate=1e-3, last_rate=0.25)
    task = Finetuning(student, Vocabulary.characters(), chosen, Regularisation())
    schedule = task.configure_optimizers()["lr_scheduler"]["scheduler"]
    for factor in schedule.lr_lambdas:
        assert [factor(step) for step in (10, 100, 200)] == [1.0, 0.25, 0.25]
    with pytest.raises(ConfigError, match="last_rate is -1"):
        Optimisation(last_rate=-1)


def test_a_student_without_a_head_is_refused() -> None:
    config = EncoderConfig(extractor_convs(8, 8, 8), 8, 8, 2, (0,), position_groups=1)
    with pytest.raises(ConfigError, match="CTC head"):
        Finetuning(Student(config), Vocabulary.characters(), Optimisation(), Regularisation())
