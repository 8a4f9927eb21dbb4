"""A recurrent language model on its way through a text, a step at a time, and where it stands."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rdsdk.errors import CheckpointError, ConfigError, DataError, TrainingError
from rdsdk.models.rnnlm import RnnLm, RnnLmConfig, State, fitting_cutoffs
from rdsdk.training.rnnlm_text import Text

FORGET = 0.05
"""The probability that a stream starts a span with nothing in mind, as a first sentence does."""
_CLIP_NORM = 1.0
_FLOOR = 0.02
_MEASURED_WORDS = 2000  # at once
_RECENT = 100  # steps
_MOST_NATS = 700.0  # of which a float holds the exponential
_FREE = ("minutes", "precision")  # may be others when a run goes on
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True)
class Settings:
    """What decides what is learnt.

    Args:
        words: that are known at most, ``</s>`` and ``<unk>`` among them.
        epochs: passes over the text.
        minutes: the run ends after so many, if they are over before the epochs; None: never.
        batch: streams side by side.
        span: words of a stream that a step learns from.
        learning_rate: at its highest.
        held_out: share of the sentences.
        seed: of the weights, of dropout, and of where spans begin.
        warmup_steps: until the learning rate is at its highest.
        precision: one of ``PRECISIONS``; in the second products are of bfloat16 numbers, which is
            faster where the processor multiplies them.
        embedding, hidden, projection, dropout: as in ``RnnLmConfig``.

    Raises:
        ConfigError: a number is out of range.
    """

    words: int = 24_000
    epochs: int = 3
    minutes: float | None = None
    batch: int = 64
    span: int = 35
    learning_rate: float = 3e-3
    held_out: float = 0.01
    seed: int = 0
    warmup_steps: int = 200
    precision: str = PRECISIONS[0]
    embedding: int | None = None
    hidden: int = 512
    projection: int = 256
    dropout: float = 0.15

    def __post_init__(self) -> None:
        for name, least in (("words", 3), ("epochs", 1), ("batch", 1), ("span", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least {least}")
        for name in ("learning_rate", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}, expected a positive number")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}, expected a share from 0 to below 1")
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps is {self.warmup_steps}, expected 0 or more")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision is {self.precision!r}, expected {' or '.join(map(repr, PRECISIONS))}"
            )


class Run:
    """A model on its way through a text; everything drawn depends on the seed and the step only,
    so that a run goes on as if it had never stopped.

    Raises:
        DataError: the text is too little for its streams.
    """

    def __init__(self, text: Text, settings: Settings) -> None:
        self.text, self.settings = text, settings
        words = len(text.words)
        torch.manual_seed(settings.seed)
        config = RnnLmConfig(
            text.words,
            settings.embedding,
            settings.hidden,
            settings.projection,
            fitting_cutoffs(words),
            settings.dropout,
        )
        self.model = RnnLm(config).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.streams = text.streams(settings.batch)
        # An epoch begins up to a span late, so that spans are not cut alike each time.
        self.spans = (len(self.streams) - settings.span) // settings.span
        if self.spans < 1:
            raise DataError(
                f"the text has {len(text.train)} words, too few for {settings.batch} streams of "
                f"{2 * settings.span} words at least; take more text, or a smaller --batch or "
                "--span"
            )
        self.steps = 0
        self.state = self.model.fresh_state(settings.batch)
        self.losses: list[float] = []
        self._seconds_before, self._begun, self._steps_before = 0.0, time.perf_counter(), 0

    def seconds(self) -> float:
        """Spent so far, before an interruption too."""
        return self._seconds_before + time.perf_counter() - self._begun

    def share(self) -> float:
        """Of the run that is done: of its epochs or its minutes, whichever is more."""
        by_steps = self.steps / (self.settings.epochs * self.spans)
        minutes = self.settings.minutes
        return max(by_steps, 0 if minutes is None else self.seconds() / 60 / minutes)

    def step(self) -> None:
        """Learn from the next span of all streams.

        Raises:
            TrainingError: the loss is infinite or NaN; nothing was updated.
        """
        settings = self.settings
        epoch, place = divmod(self.steps, self.spans)
        late = np.random.default_rng([settings.seed, 0, epoch]).integers(settings.span)
        begin = int(late) + place * settings.span
        span = self.streams[begin : begin + settings.span + 1].long()
        torch.manual_seed(
            int(np.random.SeedSequence([settings.seed, 1, self.steps]).generate_state(1)[0])
        )
        kept = (torch.rand(settings.batch, 1) >= FORGET).float() * (place > 0)
        state = State(*(each.detach() * kept for each in self.state))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * self._rate()
        halved = settings.precision == PRECISIONS[1]
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            outputs, self.state = self.model(span[:-1], state)
            loss = self.model.loss(outputs, span[1:])
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.steps}; nothing was updated. Lower the "
                "learning rate"
            )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM)
        self.optimizer.step()
        self.steps += 1
        self.losses = [*self.losses[1 - _RECENT :], loss.item()]

    def _rate(self) -> float:
        """The factor on the learning rate: a line up, and a cosine over the whole run down."""
        up = min(1.0, (self.steps + 1) / (self.settings.warmup_steps + 1))
        return up * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.share()))))

    def held_out_perplexity(self) -> float | None:
        """The perplexity of the held-out sentences; None without any."""
        if not self.text.held_out:
            return None
        self.model.eval()
        nats = sum(_cost(self.model, batch) for batch in _batches(self.text.held_out))
        self.model.train()
        return math.exp(min(nats / self.text.held_out_words, _MOST_NATS))

    def speed(self) -> float:
        """Words a second, since it was begun or resumed."""
        done = (self.steps - self._steps_before) * self.settings.batch * self.settings.span
        return done / (time.perf_counter() - self._begun)

    def perplexity(self) -> float:
        """Of the last steps, in training."""
        return math.exp(min(float(np.mean(self.losses)), _MOST_NATS))

    def _same(self) -> dict[str, Any]:
        """What must be alike for a run to go on; its minutes and precision may be others."""
        same = {name: value for name, value in asdict(self.settings).items() if name not in _FREE}
        return {**same, "text": self.text.checksum}

    def save(self, path: Path) -> None:
        """Write all that is needed to go on, whole or not at all."""
        part = path.with_suffix(".part")
        kept = {
            "same": self._same(),
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": tuple(each.detach() for each in self.state),
            "steps": self.steps,
            "losses": self.losses,
            "seconds": self.seconds(),
        }
        torch.save(kept, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from such a file.

        Raises:
            CheckpointError: it is damaged.
            ConfigError: it is of another text or other settings.
        """
        try:
            kept = torch.load(path, weights_only=True)
            same = kept["same"]
        except Exception as error:  # torch raises whatever its unpickler and zip reader do
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{path} is damaged ({said}); begin the run anew") from error
        if other := [name for name, value in self._same().items() if same.get(name) != value]:
            raise ConfigError(
                f"{path} is of a run with another {', '.join(other)}; resume it as it was begun, "
                "or choose another output"
            )
        self.model.load_state_dict(kept["weights"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.state = State(*kept["state"])
        self.steps = self._steps_before = kept["steps"]
        self.losses, self._seconds_before = kept["losses"], kept["seconds"]
        self._begun = time.perf_counter()


def _batches(sentences: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Sentences of about one length together."""
    batch: list[np.ndarray] = []
    for sentence in sorted(sentences, key=len):
        if batch and (len(batch) + 1) * len(sentence) > _MEASURED_WORDS:
            yield batch
            batch = []
        batch.append(sentence)
    yield batch


@torch.no_grad()
def _cost(model: RnnLm, sentences: Sequence[np.ndarray]) -> float:
    """Nats of sentences (L,), each from a fresh state and after an end of sentence."""
    targets = pad_sequence([torch.from_numpy(each).long() for each in sentences], padding_value=-1)
    spoken: Tensor = targets >= 0
    # An end of sentence is 0, and stands in for what is behind a sentence, too.
    words = torch.cat([torch.zeros_like(targets[:1]), targets[:-1].clamp(min=0)])
    outputs, _ = model(words, model.fresh_state(len(sentences)))
    return float(model.loss(outputs[spoken], targets[spoken])) * int(spoken.sum())
