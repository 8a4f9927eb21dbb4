"""A recipe becomes a run: its folder, its loaders, its trainer, and its resumable end."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning as L
import yaml
from lhotse import CutSet
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from rdsdk.data.batches import (
    EvaluationBatches,
    TrainingBatches,
    evaluation_batches,
    training_batches,
)
from rdsdk.data.kept_frames import KeptFrames
from rdsdk.data.manifest import read_cuts
from rdsdk.data.pieces import in_pieces
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.encoder import EncoderLayer
from rdsdk.models.student import Student
from rdsdk.models.tdnn import Tdnn
from rdsdk.training.callbacks import Interruption, KeepBest, Save
from rdsdk.training.frame_keeping import Keeping, keep_frames
from rdsdk.training.resuming import INTERRUPTED, resume_file_of
from rdsdk.training.run_recipe import RunRecipe
from rdsdk.training.sharding import Sharded


def run(
    recipe: RunRecipe,
    make_module: Callable[[], L.LightningModule],
    *,
    figure: str,
    steps: int | None,
    epochs: int | None = None,
    clip_norm: float | None = None,
    vocabulary: Vocabulary | None = None,
    provenance: dict[str, object] | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    prepare: Callable[[CutSet], CutSet] | None = None,
    save: Save = checkpoint.save,
    keeping: Keeping | None = None,
    piece_seconds: float | None = None,
    unlabelled: bool = False,
) -> int:
    """Train until ``steps`` or ``epochs`` are done.

    Args:
        make_module: called once, after everything random was seeded; ``hardware.compile`` and
            ``keeping`` are for a module whose ``student`` learns, and the latter for a ``tdnn``.
        figure: of validation, decides the best checkpoint (the lowest is best).
        clip_norm: gradients are scaled down to this norm; None leaves them.
        vocabulary: None takes recordings without transcripts.
        provenance: what the checkpoints say beside the recipe, the licence and the data.
        prepare: what is done to the utterances of train and of dev before they are used.
        save: writes what the module gives as its checkpoint.
        keeping: passes over train whose frames are kept in the run's folder and learnt from,
            instead of sound; an extractor must be frozen.
        piece_seconds: train's utterances are cut into pieces of about so long at most.
        unlabelled: utterances of train without a text are taken along, though there is a
            vocabulary.

    Returns:
        0 when the run is whole, ``INTERRUPTED`` when it can be resumed.

    Raises:
        ConfigError: the recipe asks for something impossible, or ``resume`` finds nothing.
        DataError: a manifest cannot be used.
        TrainingError: the loss became infinite or NaN; the message names the utterances.
    """
    output = Path(recipe.output)
    resume_file = resume_file_of(output, resume)
    L.seed_everything(recipe.seed, workers=True, verbose=False)
    module = make_module()
    if recipe.hardware.compile:
        student = module.student
        assert isinstance(student, Student)
        compile_layers(student)
    prepare = prepare or (lambda cuts: cuts)
    dev_cuts = prepare(read_cuts(recipe.dev))
    output.mkdir(parents=True, exist_ok=True)
    (output / "recipe.yaml").write_text(yaml.safe_dump(recipe.plain(), sort_keys=False))
    kept: dict[str, object] = {
        "recipe": recipe.plain(),
        "licence": recipe.licence,
        "training_data": recipe.training_data,
        **(provenance or {}),
    }
    interruption = Interruption(resume_file, recipe.save_every_steps)
    # Those that log come first: what they log belongs to the step just done.
    watching = [*callbacks, KeepBest(output, figure, kept, save), interruption, TQDMProgressBar(5)]
    trainer = _trainer(recipe, output, watching, steps, epochs, clip_norm)
    # Before the trainer starts processes: a bad manifest is told once, and at once.
    train_cuts = prepare(read_cuts(recipe.train, recipe.train_weights))
    if piece_seconds is not None:
        train_cuts = in_pieces(train_cuts, piece_seconds)
    data = Corpora(recipe, vocabulary, train_cuts, dev_cuts, keeping, unlabelled)
    trainer.fit(module, data, ckpt_path=resume_file if resume else None, weights_only=True)
    if interruption.interrupted:
        print(f"interrupted at step {trainer.global_step}; --resume goes on from {resume_file}")
        return INTERRUPTED
    if trainer.is_global_zero:
        # A finished run cannot be resumed, and its weights are in best/ and last/.
        resume_file.unlink(missing_ok=True)
        print(f"done: {trainer.global_step} steps; the best checkpoint is {output / 'best'}")
    return 0


def compile_layers(student: Student) -> None:
    """Compile what an encoder repeats, in place: attention maps and the rest of each layer.

    Once for all layers, instead of once for the whole student: a fraction of the time, and the
    compiler cannot take the convolutions of batches whose size changes (torch 2.13). A step on a
    GPU is mostly the launching of small kernels, which this fuses.
    """
    for layer in student.encoder.layers:
        assert isinstance(layer, EncoderLayer)
        layer.compile(dynamic=True)
        if layer.attention_map is not None:
            layer.attention_map.compile(dynamic=True)


class Corpora(L.LightningDataModule):
    """The loaders of a run, made when the trainer knows which of how many processes this one is.

    Each process trains on its share; each validates on all of dev.
    """

    def __init__(
        self,
        recipe: RunRecipe,
        vocabulary: Vocabulary | None,
        train: CutSet,
        dev: CutSet,
        keeping: Keeping | None = None,
        unlabelled: bool = False,
    ) -> None:
        super().__init__()
        self.recipe, self.vocabulary, self.train, self.dev = recipe, vocabulary, train, dev
        self.keeping, self.unlabelled = keeping, unlabelled
        # All machines see the output folder, and one of them writes it.
        self.prepare_data_per_node = False

    @property
    def _kept_folder(self) -> Path:
        return Path(self.recipe.output) / "frames"

    def prepare_data(self) -> None:
        """Called in one process, before the others go on."""
        if self.keeping is None:
            return
        assert self.trainer is not None
        module = self.trainer.lightning_module
        learns = getattr(module, "student", None) or module.tdnn
        assert isinstance(learns, Student | Tdnn)
        recipe = self.recipe
        plain = recipe.plain()
        keep_frames(
            learns,
            self._batches(),
            self.keeping,
            self._kept_folder,
            {name: plain[name] for name in ("train_weights", "augmentation", "seed")}
            | {"piece_seconds": plain.get("piece_seconds")}
            | {"longest_seconds": recipe.longest_seconds, "batch_seconds": recipe.batch_seconds},
            recipe.train,
            self.trainer.strategy.root_device,
            half=recipe.hardware.precision.startswith("bf16"),
        )

    def train_dataloader(self) -> TrainingBatches:
        assert self.trainer is not None
        kept = None
        if self.keeping is not None:
            kept = KeptFrames(self._kept_folder, self.keeping.passes)
        return self._batches(self.trainer.world_size, self.trainer.global_rank, kept)

    def _batches(
        self, world_size: int = 1, rank: int = 0, kept: KeptFrames | None = None
    ) -> TrainingBatches:
        return training_batches(
            self.train,
            self.vocabulary,
            batch_seconds=self.recipe.batch_seconds,
            workers=self.recipe.hardware.workers,
            seed=self.recipe.seed,
            augmentation=self.recipe.augmentation,
            world_size=world_size,
            rank=rank,
            longest_seconds=self.recipe.longest_seconds,
            kept=kept,
            unlabelled=self.unlabelled,
        )

    def val_dataloader(self) -> EvaluationBatches:
        return evaluation_batches(self.dev, self.vocabulary, self.recipe.batch_seconds)


def _trainer(
    recipe: RunRecipe,
    output: Path,
    callbacks: list[Callback],
    steps: int | None,
    epochs: int | None,
    clip_norm: float | None,
) -> L.Trainer:
    # The sampler already shards by rank, and a loader of its own state needs no more workers.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    hardware = recipe.hardware
    try:
        return L.Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=Sharded() if hardware.strategy == "fsdp" else hardware.strategy,
            precision=hardware.precision,  # type: ignore[arg-type]
            max_steps=-1 if steps is None else steps,
            max_epochs=-1 if epochs is None else epochs,
            accumulate_grad_batches=recipe.accumulate_batches,
            gradient_clip_val=clip_norm,
            val_check_interval=recipe.validate_every_steps * recipe.accumulate_batches,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            # Weights gathered in inference mode could not be trained with afterwards.
            inference_mode=hardware.strategy != "fsdp",
            enable_checkpointing=False,
            log_every_n_steps=20,
            callbacks=callbacks,
            logger=_loggers(recipe, output),
            default_root_dir=output,
        )
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"the run cannot be had here: {str(error).splitlines()[0]} hardware.accelerator is "
            f"{hardware.accelerator}, hardware.devices {hardware.devices}; choose "
            "others"
        ) from error


def _loggers(recipe: RunRecipe, output: Path) -> list[Logger]:
    loggers: list[Logger] = [TensorBoardLogger(output, name="", version="events")]
    if recipe.wandb is not None:
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError(
                f"wandb: {recipe.wandb} was asked for, but the package wandb is not installed; "
                "run: pip install wandb, or leave it out (TensorBoard events are always written)"
            )
        loggers.append(WandbLogger(project=recipe.wandb, save_dir=output))
    return loggers
