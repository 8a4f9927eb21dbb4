"""A small recurrent word language model, for re-scoring what a recogniser might have heard.

An embedding, one LSTM layer with a projection and an adaptive softmax: a recurrent language model
(T. Mikolov et al. 2010, Interspeech), H. Sak et al. 2014 (arXiv 1402.1128) for the projection and
E. Grave et al. 2017 (arXiv 1609.04309) for a softmax in which rare words have narrow rows. The rows
that a word is read by may be those of the softmax, read the other way (O. Press and L. Wolf 2017,
arXiv 1608.05859; A. Baevski and M. Auli 2019, arXiv 1809.10853, for those of rare words).

Shapes: T words in a row, N of them side by side, V words known, P width of the projection, H of the
cell. Logarithms are natural.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.models.checkpoint import WEIGHTS, described, read_weights, write_whole

FORMAT = "rdsdk-rnnlm-checkpoint"
VERSION = 1
DESCRIPTION = "rnnlm.json"
END, UNKNOWN = "</s>", "<unk>"
"""The first two words: the end of a sentence, which also begins the next one, and all others."""
CUTOFFS = (3000, 10_000)
NARROWER = 2.0
"""Each class of rarer words has rows so many times narrower than the one before it."""
_EMBEDDING_DEVIATION = 0.1
_TIED_DEVIATION = 0.05
_FIELDS = {"format", "version", "config", "provenance"}
# Told once a process: no other implementation has projections.
warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")


@dataclass(frozen=True)
class RnnLmConfig:
    """Words and widths.

    Args:
        words: ``</s>``, ``<unk>``, then the words by falling frequency.
        embedding: width of a word's row; None: as wide as the projection, and one with the rows
            of the softmax.
        hidden: H, width of the cell.
        projection: P, width of what is handed on, narrower than the cell.
        cutoffs: the words before the first are in the softmax itself, those from each on are a
            class of their own.
        dropout: of rows and of what the LSTM gives, in training.

    Raises:
        ConfigError: a number is out of range, or the words are not as above.
    """

    words: tuple[str, ...]
    embedding: int | None = 192
    hidden: int = 512
    projection: int = 256
    cutoffs: tuple[int, ...] = CUTOFFS
    dropout: float = 0.15

    def __post_init__(self) -> None:
        if self.words[:2] != (END, UNKNOWN):
            raise ConfigError(
                f"the words begin with {list(self.words[:2])}, expected {[END, UNKNOWN]}"
            )
        if len(set(self.words)) < len(self.words) or not all(
            word and not any(letter.isspace() for letter in word) for word in self.words
        ):
            raise ConfigError("a word is there twice, is empty or holds a blank; take it out")
        if not 0 < self.projection < self.hidden or self.row_width < 1:
            raise ConfigError(
                f"got embedding {self.embedding}, hidden {self.hidden} and projection "
                f"{self.projection}, expected positive widths and a projection below hidden"
            )
        if not self.cutoffs or list(self.cutoffs) != sorted(set(self.cutoffs)):
            raise ConfigError(f"cutoffs are {list(self.cutoffs)}, expected rising numbers")
        if self.cutoffs[0] < 1 or self.cutoffs[-1] >= len(self.words):
            raise ConfigError(
                f"cutoffs are {list(self.cutoffs)}, expected numbers from 1 to below "
                f"{len(self.words)}, the count of words"
            )
        if self.projection < NARROWER ** len(self.cutoffs):
            raise ConfigError(
                f"a projection of {self.projection} leaves no width to the rarest words of "
                f"{len(self.cutoffs)} cutoffs; widen it"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}, expected a share from 0 to below 1")

    @property
    def row_width(self) -> int:
        """The width of what is read of a word."""
        return self.projection if self.embedding is None else self.embedding

    def to_dict(self) -> dict[str, object]:
        """A JSON value that ``from_dict`` reads."""
        return {**asdict(self), "words": list(self.words), "cutoffs": list(self.cutoffs)}

    @staticmethod
    def from_dict(value: dict[str, Any]) -> RnnLmConfig:
        """The config of a JSON value.

        Raises:
            ConfigError: fields are missing or unknown, of another type, or out of range.
        """
        known = {each.name for each in fields(RnnLmConfig)}
        if set(value) != known:
            raise ConfigError(
                f"config fields missing {sorted(known - set(value))}, "
                f"unknown {sorted(set(value) - known)}"
            )
        words, cutoffs = value["words"], value["cutoffs"]
        whole = [value["hidden"], value["projection"]]
        if not (
            isinstance(words, list)
            and all(isinstance(word, str) for word in words)
            and isinstance(cutoffs, list)
            and all(type(number) is int for number in [*cutoffs, *whole])
            and type(value["embedding"]) in (int, NoneType)
            and type(value["dropout"]) in (int, float)
        ):
            raise ConfigError(
                "expected a list of texts as words, a list of whole numbers as cutoffs, whole "
                "numbers as widths (null for an embedding of the softmax' own rows) and a number "
                "as dropout"
            )
        return RnnLmConfig(**{**value, "words": tuple(words), "cutoffs": tuple(cutoffs)})


def fitting_cutoffs(words: int) -> tuple[int, ...]:
    """The usual cutoffs as far as a vocabulary of so many words has room for them.

    A small vocabulary gets one: an adaptive softmax must have a class of rarer words.
    """
    return tuple(cut for cut in CUTOFFS if cut < words) or (max(1, words // 2),)


class State(NamedTuple):
    """What N sentences have been so far: hidden (N, P) and cell (N, H)."""

    hidden: Tensor
    cell: Tensor


class OutputRows(NamedTuple):
    """The rows (end - begin, D) of the words from ``begin`` to below ``end``, and what makes them
    as wide as the projection, (D, P); None where they are."""

    begin: int
    end: int
    rows: Tensor
    widen: Tensor | None


class RnnLm(nn.Module):
    """Words so far -> how likely each word is next."""

    def __init__(self, config: RnnLmConfig) -> None:
        super().__init__()
        self.config = config
        words = len(config.words)
        self.embedding: nn.Embedding | None = None
        if config.embedding is not None:
            self.embedding = nn.Embedding(words, config.embedding)
            nn.init.normal_(self.embedding.weight, std=_EMBEDDING_DEVIATION)
        self.lstm = nn.LSTM(config.row_width, config.hidden, proj_size=config.projection)
        self.output = nn.AdaptiveLogSoftmaxWithLoss(
            config.projection, words, config.cutoffs, div_value=NARROWER, head_bias=True
        )
        if config.embedding is None:
            for each in self.output_rows():
                nn.init.normal_(each.rows, std=_TIED_DEVIATION)
        self.dropout = nn.Dropout(config.dropout)

    def fresh_state(self, count: int) -> State:
        """The state of ``count`` sentences of which nothing has been said: zeros."""
        weight = self.output.head.weight
        return State(
            weight.new_zeros(count, self.config.projection),
            weight.new_zeros(count, self.config.hidden),
        )

    def forward(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Read words (T, N) int64 -> outputs (T, N, P) after each, and the state after the last."""
        rows = self.dropout(self.read(words))
        outputs, (hidden, cell) = self.lstm(rows, (state.hidden[None], state.cell[None]))
        return self.dropout(outputs), State(hidden[0], cell[0])

    def read(self, words: Tensor) -> Tensor:
        """What is read of words (...) int64: rows (..., E)."""
        if self.embedding is not None:
            rows: Tensor = self.embedding(words)
            return rows
        # Each class is asked for every word, and says zeros of those that it lacks.
        parts = []
        for each in self.output_rows():
            inside = (words >= each.begin) & (words < each.end)
            places = (words - each.begin).clamp(0, each.end - each.begin - 1)
            found = F.embedding(places, each.rows) * inside[..., None]
            parts.append(found if each.widen is None else found @ each.widen)
        return torch.stack([part.to(parts[0].dtype) for part in parts]).sum(dim=0)

    def output_rows(self) -> list[OutputRows]:
        """The rows of the softmax, those of the frequent words first."""
        cutoffs = self.output.cutoffs
        rows = [OutputRows(0, cutoffs[0], self.output.head.weight[: cutoffs[0]], None)]
        for (begin, end), tail in zip(pairwise(cutoffs), self.output.tail, strict=True):
            narrow, widened = (layer.get_parameter("weight") for layer in tail.children())
            rows.append(OutputRows(begin, end, widened, narrow))
        return rows

    def log_probs(self, outputs: Tensor) -> Tensor:
        """Outputs (..., P) -> log probabilities of the next word (..., V)."""
        flat: Tensor = self.output.log_prob(outputs.reshape(-1, outputs.shape[-1]))
        return flat.reshape(*outputs.shape[:-1], -1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats that words (...) cost after outputs (..., P).

        Much cheaper than ``log_probs``: only the classes that occur are computed.
        """
        flat = outputs.reshape(-1, outputs.shape[-1])
        log_probs: Tensor = self.output(flat, targets.reshape(-1)).output
        # Not torch's own mean, which is rounded to bfloat16 where log_probs are.
        return -log_probs.float().mean()

    def parameter_count(self) -> int:
        """All parameters."""
        return sum(parameter.numel() for parameter in self.parameters())


def save(folder: Path | str, model: RnnLm, provenance: dict[str, object]) -> Path:
    """Write ``rnnlm.json`` and ``model.safetensors`` into a folder, each whole or not at all.

    Args:
        provenance: licence, training_data, perplexities and what else is known of it.
    """
    content: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "config": model.config.to_dict(),
        "provenance": provenance,
    }
    return write_whole(Path(folder), WEIGHTS, model, DESCRIPTION, content)


def load(folder: Path | str) -> tuple[RnnLm, dict[str, object]]:
    """Read such a folder: the model, in eval mode on the CPU, and its provenance.

    Raises:
        CheckpointError: a file is missing or damaged, the format is another or newer, or the
            weights do not fit the config; the message names them.
    """
    folder = Path(folder)
    config, provenance = _read_description(folder)
    path = folder / WEIGHTS
    weights = read_weights(folder, DESCRIPTION)
    model = RnnLm(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit its config: {said}") from error
    if broken := [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]:
        raise CheckpointError(f"{path} is damaged: {broken} hold numbers that are not finite")
    return model.eval(), provenance


def _read_description(folder: Path) -> tuple[RnnLmConfig, dict[str, object]]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no recurrent language model: it has no {DESCRIPTION}; expected a folder "
            f"with {DESCRIPTION} and {WEIGHTS}, as `rdsdk prepare rnnlm` writes"
        )
    content = described(path, FORMAT, VERSION, _FIELDS)
    config, provenance = content["config"], content["provenance"]
    if not isinstance(config, dict) or not isinstance(provenance, dict):
        raise CheckpointError(f"{path}: 'config' and 'provenance' must be objects")
    try:
        return RnnLmConfig.from_dict(config), provenance
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
