"""``rdsdk finetune``: a recipe in, a run folder out, with the best checkpoint in ``best/``."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import yaml
from lhotse import CutSet
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from rdsdk.data.batches import (
    EvaluationBatches,
    TrainingBatches,
    evaluation_batches,
    training_batches,
)
from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.training.callbacks import Interruption, KeepBest
from rdsdk.training.finetuning import Finetuning
from rdsdk.training.recipe import FinetuneRecipe, read_recipe

RESUME_FILE = "resume.ckpt"


def main(arguments: Sequence[str] | None = None) -> int:
    """``rdsdk finetune --config NAME_OR_FILE [--resume] [--key value ...]``.

    Returns 0 when the run is whole, 3 when it was interrupted and can be resumed.
    """
    recipe, resume = read_recipe(list(arguments or []))
    return finetune(recipe, resume)


def finetune(recipe: FinetuneRecipe, resume: bool = False) -> int:
    """Run a recipe. See ``main`` for what it returns.

    Raises:
        ConfigError: the recipe asks for something impossible, or ``resume`` finds nothing.
        DataError: a manifest cannot be used.
        TrainingError: the loss became infinite or NaN; the message names the utterances.
    """
    output = Path(recipe.output)
    resume_file = output / RESUME_FILE
    if resume and not resume_file.is_file():
        raise ConfigError(f"nothing to resume: {resume_file} does not exist; leave --resume out")
    if resume_file.is_file() and not resume:
        raise ConfigError(
            f"{output} holds an unfinished run; go on with --resume, or choose another output"
        )
    L.seed_everything(recipe.seed, workers=True, verbose=False)
    vocabulary = recipe.vocabulary()
    student = recipe.student.build(vocabulary)
    module = Finetuning(
        student, vocabulary, recipe.optimisation, recipe.regularisation, recipe.seed
    )
    if recipe.hardware.compile:
        module.student.compile(dynamic=True)
    dev_cuts = read_cuts(recipe.dev)
    output.mkdir(parents=True, exist_ok=True)
    (output / "recipe.yaml").write_text(yaml.safe_dump(_plain(recipe), sort_keys=False))

    provenance: dict[str, object] = {
        "recipe": _plain(recipe),
        "language": recipe.language,
        "licence": recipe.licence,
        "training_data": recipe.training_data,
    }
    interruption = Interruption(resume_file, recipe.save_every_steps)
    trainer = _trainer(
        recipe,
        output,
        [KeepBest(output, "dev/score", provenance), interruption, TQDMProgressBar(5)],
    )
    # Before the trainer starts processes: a bad manifest is told once, and at once.
    data = Corpora(recipe, vocabulary, read_cuts(recipe.train, recipe.train_weights), dev_cuts)
    trainer.fit(module, data, ckpt_path=resume_file if resume else None, weights_only=True)
    if interruption.interrupted:
        print(f"interrupted at step {trainer.global_step}; --resume goes on from {resume_file}")
        return 3
    if trainer.is_global_zero:
        # A finished run cannot be resumed, and its weights are in best/ and last/.
        resume_file.unlink(missing_ok=True)
        print(f"done: {trainer.global_step} steps; the best checkpoint is {output / 'best'}")
    return 0


class Corpora(L.LightningDataModule):
    """The loaders of a run, made when the trainer knows which of how many processes this one is.

    Each process trains on its share; each validates on all of dev.
    """

    def __init__(
        self, recipe: FinetuneRecipe, vocabulary: Vocabulary, train: CutSet, dev: CutSet
    ) -> None:
        super().__init__()
        self.recipe, self.vocabulary, self.train, self.dev = recipe, vocabulary, train, dev

    def train_dataloader(self) -> TrainingBatches:
        assert self.trainer is not None
        return training_batches(
            self.train,
            self.vocabulary,
            batch_seconds=self.recipe.batch_seconds,
            workers=self.recipe.hardware.workers,
            seed=self.recipe.seed,
            augmentation=self.recipe.augmentation,
            world_size=self.trainer.world_size,
            rank=self.trainer.global_rank,
            longest_seconds=self.recipe.longest_seconds,
        )

    def val_dataloader(self) -> EvaluationBatches:
        return evaluation_batches(self.dev, self.vocabulary, self.recipe.batch_seconds)


def _trainer(recipe: FinetuneRecipe, output: Path, callbacks: list[L.Callback]) -> L.Trainer:
    hardware = recipe.hardware
    # The sampler already shards by rank, and a loader of its own state needs no more workers.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    return L.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy=hardware.strategy,
        precision=hardware.precision,  # type: ignore[arg-type]
        max_steps=recipe.optimisation.steps,
        max_epochs=-1,
        accumulate_grad_batches=recipe.accumulate_batches,
        gradient_clip_val=recipe.optimisation.clip_norm,
        val_check_interval=recipe.validate_every_steps * recipe.accumulate_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        log_every_n_steps=20,
        callbacks=callbacks,
        logger=TensorBoardLogger(output, name="", version="events"),
        default_root_dir=output,
    )


def _plain(recipe: FinetuneRecipe) -> dict[str, object]:
    """The recipe as JSON values (tuples become lists)."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    values = plain(dataclasses.asdict(recipe))
    assert isinstance(values, dict)
    return values
