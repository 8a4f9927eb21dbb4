"""The English recipes fit each other, and run one after the other in miniature."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny_teachers import tiny

from rdsdk.data import noise, phones
from rdsdk.data.manifest import read_cuts
from rdsdk.data.phones import PHONES
from rdsdk.data.pronunciations import pocketsphinx_dictionary, pronounced, read_pronunciations
from rdsdk.decoding.pronunciation import in_symbols, read_dictionary
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint, tdnn
from rdsdk.models.config import Context, preset
from rdsdk.models.student import Student
from rdsdk.training import cli, distill, realignment, teach
from rdsdk.training.distill_recipe import read_command
from rdsdk.training.recipe import read_recipe

SPEECH = Path(__file__).parent.parent / "assets" / "speech" / "manifest.jsonl"
TINY = ["student.preset=tiny", "student.reuse=2by2", "student.ffn=48"]
"""A student of a distillation, small enough for a test."""


def test_each_stage_starts_from_what_the_one_before_leaves() -> None:
    aligned = read_recipe(["--config", "english-teacher-phones"])[0]
    teacher = read_recipe(["--config", "english-teacher"])[0]
    distilled = read_command(["--config", "english-distil"]).recipe
    english = read_recipe(["--config", "english"])[0]
    assert teacher.student.checkpoint == f"{aligned.output}/last"
    assert distilled.teacher == english.imitation.teachers[0] == f"{teacher.output}/best"
    assert english.student.checkpoint == f"{distilled.output}/last"
    assert aligned.lexicon == teacher.lexicon == english.lexicon == list(PHONES)
    assert aligned.regularisation.aligned_start_steps >= aligned.optimisation.steps
    # The student can take over its teacher's extractor, and is ARMHuBERT-S behind it.
    assert aligned.student.preset is not None
    student, source = distilled.student.config(), preset(aligned.student.preset)
    for name in ("convs", "extractor_norm", "first_norm_epsilon", "conv_bias"):
        assert getattr(student, name) == getattr(source, name)
    published = preset("armhubert-s")
    for name in ("width", "ffn", "heads", "map_owner"):
        assert getattr(student, name) == getattr(published, name)
    assert replace(student, dropout=0.1) == preset("english")


def test_the_small_chain_fits_each_other_too() -> None:
    teacher = read_recipe(["--config", "teacher-mini"])[0]
    distilled = read_command(["--config", "english-mini-distil"]).recipe
    english = read_recipe(["--config", "english-mini"])[0]
    assert distilled.teacher == f"{teacher.output}/best"
    assert english.student.checkpoint == f"{distilled.output}/last"
    assert english.lexicon == teacher.lexicon == list(PHONES)
    assert english.regularisation.aligned_start_steps == english.optimisation.steps
    sequence = read_recipe(["--config", "english-mini-sequence"])[0]
    assert sequence.student.checkpoint == f"{english.output}/last"
    assert sequence.lexicon == english.lexicon
    learnt = sequence.regularisation
    assert learnt.aligned_start_steps + learnt.sequence_steps == sequence.optimisation.steps
    whole = read_recipe(["--config", "english-mini-whole"])[0]
    assert whole.student.checkpoint == f"{sequence.output}/last"
    assert whole.lexicon == sequence.lexicon
    assert whole.regularisation.sequence_steps == whole.optimisation.steps
    assert not whole.optimisation.freeze_extractor
    ahead = read_recipe(["--config", "english-mini-ahead"])[0]
    assert ahead.student.checkpoint == f"{whole.output}/best"
    grown = replace(ahead.student, checkpoint=None, ffn=None, context=None)
    assert grown == replace(whole.student, checkpoint=None)
    changed = replace(ahead, student=whole.student, output=whole.output)
    assert changed == replace(
        whole, optimisation=ahead.optimisation, regularisation=ahead.regularisation
    )
    assert ahead.regularisation.sequence_steps == ahead.optimisation.steps
    masked = read_recipe(["--config", "english-mini-masked"])[0]
    assert masked.student.checkpoint == f"{ahead.output}/best"
    assert replace(masked.student, checkpoint=None) == replace(grown, dropout=0.0)
    assert masked.lexicon == ahead.lexicon
    assert masked.regularisation.sequence_steps == masked.optimisation.steps
    assert masked.regularisation.channel_dropout
    wide = read_recipe(["--config", "english-mini-wide"])[0]
    assert wide.student.checkpoint == f"{masked.output}/last"
    assert wide.student.width == 2 * preset("english-mini").width
    assert replace(wide.student, checkpoint=None, width=None) == replace(grown, dropout=0.0)
    assert wide.regularisation.sequence_steps == wide.optimisation.steps
    assert "noises" in wide.train[1]
    small = read_recipe(["--config", "english-mini-small"])[0]
    assert small.student.checkpoint == wide.student.checkpoint
    assert small.imitation.teachers == (f"{wide.output}/last",)
    assert small.optimisation.freeze_extractor == small.imitation.copy_extractor
    assert small.regularisation.sequence_steps == small.optimisation.steps
    assert (small.train, small.augmentation) == (wide.train, wide.augmentation)
    assert small.student.ffn is not None
    assert ahead.student.ffn is not None
    plain = preset("english-mini")
    teacher_config = replace(plain, width=wide.student.width, ffn=ahead.student.ffn)
    sizes = [
        Student(config, symbols=len(small.vocabulary())).parameter_count()
        for config in (replace(plain, ffn=small.student.ffn), teacher_config)
    ]
    assert 0.32 < sizes[0] / sizes[1] < 1 / 3
    other = teach.read_recipe(["--config", "english-tdnn"])[0]
    taught = read_recipe(["--config", "english-mini-taught"])[0]
    assert taught.student.checkpoint == f"{small.output}/last"
    assert taught.imitation.teachers == (f"{wide.output}/last", f"{other.output}/last")
    assert (other.lexicon, other.train, other.dev) == (small.lexicon, small.train, small.dev)
    deep = teach.read_recipe(["--config", "english-tdnn-deep"])[0]
    bundled = tdnn.load("english-tdnn-deep")
    assert bundled.tdnn.config == deep.tdnn
    assert bundled.vocabulary == small.vocabulary()
    assert (deep.lexicon, deep.train, deep.dev) == (other.lexicon, other.train, other.dev)
    assert deep.regularisation == other.regularisation
    # TRAINING.md says how the second one is asked for.
    command = (Path(__file__).parents[2] / "TRAINING.md").read_text()
    (reaches,) = re.findall(r'english-tdnn-deep seed=1 "(tdnn\.reaches=\[[\d,]+\])"', command)
    second = teach.read_recipe(["--config", "english-tdnn-deep", reaches])[0]
    again = tdnn.load("english-tdnn-deep-2")
    assert again.tdnn.config == second.tdnn != deep.tdnn
    assert again.vocabulary == bundled.vocabulary
    last = read_recipe(["--config", "english-mini-deep"])[0]
    assert last.student.checkpoint == f"{taught.output}/last"
    assert last.imitation.teachers == ("english-tdnn-deep",)
    assert (last.lexicon, last.train, last.dev) == (taught.lexicon, taught.train, taught.dev)
    assert last.augmentation == taught.augmentation
    once_more = read_recipe(["--config", "english-mini-again"])[0]
    assert once_more.student == replace(last.student, checkpoint=f"{last.output}/last")
    assert once_more.imitation.teachers == ("english-tdnn-deep-2", f"{last.output}/last")
    assert once_more.kept_passes
    assert once_more.regularisation.sequence_steps == once_more.optimisation.steps
    assert (once_more.train, once_more.augmentation) == (last.train, last.augmentation)
    patient = read_recipe(["--config", "english-mini-patient"])[0]
    said = f"{once_more.output}/last"
    assert patient.student == replace(once_more.student, checkpoint=said)
    assert patient.imitation == replace(
        once_more.imitation, weight=2.0, teachers=("english-tdnn-deep-2", said)
    )
    assert patient.regularisation.sequence_steps == patient.optimisation.steps
    assert (patient.train, patient.kept_passes) == (once_more.train, 0)
    assert english.kept_passes
    assert english.optimisation.freeze_extractor
    student = distilled.student.config()
    assert student.convs == preset("teacher-mini").convs
    assert replace(student, dropout=0.1) == preset("english-mini")


def test_the_small_chain_runs(tmp_path: Path) -> None:
    corpus = tmp_path / "phones"
    sources = ["--train", str(SPEECH), "--dev", str(SPEECH), "--out", str(corpus)]
    assert phones.main([*sources, "--workers", "1"]) == 0
    manifests = {
        name: [f"train=[{corpus / f'train{name}.jsonl'}]", f"dev=[{corpus / f'dev{name}.jsonl'}]"]
        for name in ("", "-realigned")
    }
    few = ["batch_seconds=8", "optimisation.steps=2", "validate_every_steps=2"]
    few += ["hardware.precision=32-true", "hardware.workers=0"]
    warm = ["optimisation.warmup_steps=1"]
    teacher, distilled, english = (tmp_path / name for name in ("teacher", "distilled", "english"))
    learn = ["--config", "teacher-mini", *few, *warm, *manifests[""], f"output={teacher}"]
    learn += ["student.preset=tiny", "regularisation.mel_start_steps=1"]
    assert cli.main(learn) == 0
    realign = [str(teacher / "best"), *(str(corpus / f"{name}.jsonl") for name in ("train", "dev"))]
    assert realignment.main(realign) == 0
    follow = ["--config", "english-mini-distil", *few, *TINY, *manifests[""]]
    assert distill.main([*follow, f"teacher={teacher / 'best'}", f"output={distilled}"]) == 0
    last = ["--config", "english-mini", *few, *warm, *manifests["-realigned"], "kept_passes=1"]
    last += ["augmentation.noise=null", "augmentation.noise_probability=0"]
    last += [f"student.checkpoint={distilled / 'last'}", f"output={english}"]
    assert cli.main(last) == 0
    further = ["--config", "english-mini-sequence", *few, *manifests["-realigned"], *warm]
    further += ["augmentation.noise=null", "augmentation.noise_probability=0", "kept_passes=1"]
    further += ["student.ffn=64", "regularisation.aligned_start_steps=1", "piece_seconds=2"]
    sequence = tmp_path / "sequence"
    further += [f"student.checkpoint={english / 'last'}", f"output={sequence}"]
    assert cli.main(further) == 0
    kept = load_file(sequence / "frames" / "pass-0.safetensors")
    names = [name.removeprefix("frames ") for name in kept if name.startswith("frames")]
    assert sorted(names)[:2] == ["kathleen-arctic_a0012#1", "kathleen-arctic_a0012#2"]
    made = checkpoint.load(sequence / "best")
    assert made.student.config.context is not None
    assert made.student.config.ffn == 64
    theirs = checkpoint.load(teacher / "best").student.extractor.state_dict()
    ours = made.student.extractor.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    whole = ["--config", "english-mini-whole", *few, *manifests["-realigned"], *warm]
    whole += ["augmentation.noise=null", "augmentation.noise_probability=0", "piece_seconds=2"]
    whole += [f"student.checkpoint={sequence / 'last'}", f"output={tmp_path / 'whole'}"]
    assert cli.main(whole) == 0
    learnt = checkpoint.load(tmp_path / "whole" / "best").student
    assert learnt.config == made.student.config
    moved = learnt.extractor.state_dict()
    assert not any(torch.equal(moved[name], theirs[name]) for name in theirs)
    ahead = ["--config", "english-mini-ahead", *whole[2:-2], "student.ffn=72"]
    ahead += [f"student.checkpoint={tmp_path / 'whole' / 'best'}", f"output={tmp_path / 'ahead'}"]
    assert cli.main(ahead) == 0
    grown = checkpoint.load(tmp_path / "ahead" / "best").student.config
    assert grown == replace(learnt.config, ffn=72, context=Context(16, 128, 6))
    masked = ["--config", "english-mini-masked", *whole[2:-2], "piece_seconds=2"]
    masked += [f"student.checkpoint={tmp_path / 'ahead' / 'best'}", f"output={tmp_path / 'masked'}"]
    assert cli.main(masked) == 0
    assert checkpoint.load(tmp_path / "masked" / "best").student.config == grown
    soundfile.write(tmp_path / "hum.wav", np.sin(np.arange(20_000) / 40) / 9, 16_000)
    assert noise.main([str(tmp_path), "--pattern", "*.wav", "--out", str(tmp_path / "noises")]) == 0
    noises = tmp_path / "noises" / "noises.jsonl"
    heard_from = f"train=[{corpus / 'train-realigned.jsonl'}, {noises}]"
    width = 2 * grown.width
    wide = ["--config", "english-mini-wide", *whole[2:-2], "piece_seconds=2", heard_from]
    wide += [f"student.checkpoint={tmp_path / 'masked' / 'last'}", f"output={tmp_path / 'wide'}"]
    assert cli.main([*wide, f"student.width={width}"]) == 0
    widest = checkpoint.load(tmp_path / "wide" / "best").student.config
    assert widest == replace(grown, width=width, position_groups=2 * grown.position_groups)
    small = ["--config", "english-mini-small", *wide[2:-1], "student.ffn=40"]
    small += [f"imitation.teachers=[{tmp_path / 'wide' / 'last'}]", f"output={tmp_path / 'small'}"]
    assert cli.main(small) == 0
    learnt = checkpoint.load(tmp_path / "small" / "last").student
    assert learnt.config == replace(grown, ffn=40)
    heard = checkpoint.load(tmp_path / "wide" / "last").student.extractor.state_dict()
    ours = learnt.extractor.state_dict()
    assert all(torch.equal(ours[name], heard[name]) for name in heard)
    other = ["--config", "english-tdnn", *few, *manifests["-realigned"], heard_from, *warm]
    other += ["augmentation.noise=null", "augmentation.noise_probability=0", "piece_seconds=2"]
    other += ["tdnn.width=32", "tdnn.bottleneck=16", "tdnn.reaches=[1,2]"]
    assert teach.main([*other, f"output={tmp_path / 'tdnn'}"]) == 0
    assert tdnn.load(tmp_path / "tdnn" / "last").provenance["language"] == "en"
    teachers = f"{tmp_path / 'wide' / 'last'},{tmp_path / 'tdnn' / 'last'}"
    taught = ["--config", "english-mini-taught", *wide[2:-1], f"imitation.teachers=[{teachers}]"]
    taught += [f"student.checkpoint={tmp_path / 'small' / 'last'}", f"output={tmp_path / 'taught'}"]
    assert cli.main(taught) == 0
    assert checkpoint.load(tmp_path / "taught" / "last").student.config == learnt.config
    deep = ["--config", "english-mini-deep", *wide[2:-1], "student.ffn=72", "student.mel_bands=16"]
    deep += [f"imitation.teachers=[{tmp_path / 'tdnn' / 'last'}]", f"output={tmp_path / 'deep'}"]
    assert cli.main([*deep, f"student.checkpoint={tmp_path / 'taught' / 'last'}"]) == 0
    heard_more = replace(learnt.config, ffn=72, mel_bands=16, context=Context(16, 128, 12))
    assert checkpoint.load(tmp_path / "deep" / "last").student.config == heard_more
    again = ["--config", "english-mini-again", *wide[2:-1], "student.ffn=72", "hardware.devices=1"]
    again += ["student.mel_bands=16", "kept_passes=1", f"output={tmp_path / 'again'}"]
    teachers = f"{tmp_path / 'tdnn' / 'last'},{tmp_path / 'deep' / 'last'}"
    again += [f"student.checkpoint={tmp_path / 'deep' / 'last'}"]
    assert cli.main([*again, f"imitation.teachers=[{teachers}]"]) == 0
    assert checkpoint.load(tmp_path / "again" / "last").student.config == heard_more
    patient = ["--config", "english-mini-patient", *again[2:-3], f"output={tmp_path / 'patient'}"]
    patient += [f"student.checkpoint={tmp_path / 'again' / 'last'}"]
    teachers = f"{tmp_path / 'tdnn' / 'last'},{tmp_path / 'again' / 'last'}"
    assert cli.main([*patient, f"imitation.teachers=[{teachers}]"]) == 0
    assert checkpoint.load(tmp_path / "patient" / "last").student.config == heard_more


def test_the_stages_run_one_after_the_other(tmp_path: Path) -> None:
    spelt = tmp_path / "phones.jsonl"
    pronounced(read_cuts(SPEECH), read_pronunciations())[0].to_file(spelt)
    common = [f"train=[{spelt}]", f"dev=[{spelt}]", "hardware.accelerator=cpu"]
    common += ["batch_seconds=8", "optimisation.steps=2", "validate_every_steps=2"]
    common += ["hardware.precision=32-true", "hardware.workers=0"]
    common += ["augmentation.noise=null", "augmentation.noise_probability=0"]
    few = "optimisation.warmup_steps=1"
    teacher, student = tmp_path / "teacher", tmp_path / "student"

    def finetune(name: str, output: Path, *more: str) -> int:
        return cli.main(["--config", name, *common, few, f"output={output}", *more])

    start = ("student.checkpoint=null", "student.preset=tiny")
    assert finetune("english-teacher", teacher, *start) == 0
    arguments = ["--config", "english-distil", *common, *TINY, f"teacher={teacher / 'best'}"]
    assert distill.main([*arguments, f"output={student}"]) == 0
    given = (f"student.checkpoint={student / 'last'}", f"imitation.teachers=[{teacher / 'best'}]")
    assert finetune("english", tmp_path / "english", *given) == 0
    made = checkpoint.load(tmp_path / "english" / "best")
    assert made.student.config.context is not None
    assert made.vocabulary is not None
    assert made.provenance["licence"] == "CC BY 4.0"
    # Its symbols are the phones of the dictionary that makes words of them.
    said = read_dictionary(pocketsphinx_dictionary())
    assert sum(map(len, in_symbols(said, made.vocabulary).values())) > 0.99 * len(said)
    # A teacher of other symbols would be noticed before anything is trained.
    with pytest.raises(ConfigError, match="the same symbols"):
        finetune("english", tmp_path / "other", *given, "lexicon=null", "units=characters")


def test_the_commands_from_hubert_and_librispeech_run_in_miniature(tmp_path: Path) -> None:
    training = (SPEECH.parents[3] / "TRAINING.md").read_text(encoding="utf-8")
    block = next(each for each in training.split("```") if "--config armhubert-s-960h " in each)
    commands = [shlex.split(line) for line in block.replace("\\\n", "").strip().splitlines()]
    assert [command[:2] for command in commands] == [
        ["rdsdk", "distill"],
        ["rdsdk", "finetune"],
        ["rdsdk", "export"],
    ]
    hubert = tmp_path / "hubert"
    tiny("hubert", large=False).save_pretrained(hubert)
    few = ["batch_seconds=8", "hardware.accelerator=cpu", "hardware.precision=32-true"]
    few += ["hardware.workers=0", "hardware.devices=1", "hardware.strategy=auto"]
    few += [f"train=[{SPEECH}]", f"dev=[{SPEECH}]", "validate_every_steps=2"]
    distilled, english = tmp_path / "distilled", tmp_path / "english"
    options = [*few, *TINY, "accumulate_batches=1", "optimisation.epochs=1"]
    options += [f"teacher={hubert}", f"output={distilled}"]
    assert distill.main([*commands[0][2:], *options]) == 0
    options = [*few, "optimisation.steps=2", "optimisation.warmup_steps=1", f"output={english}"]
    options += ["augmentation.noise=null", "augmentation.noise_probability=0"]
    assert cli.main([*commands[1][2:], *options, f"student.checkpoint={distilled / 'last'}"]) == 0
    made = checkpoint.load(english / "best")
    assert made.vocabulary == Vocabulary.characters()
    assert made.student.config.context == Context(16, 128, 6)
    assert made.provenance["training_data"] == [
        "LibriSpeech 960 h (V. Panayotov et al. 2015; CC BY 4.0)"
    ]
