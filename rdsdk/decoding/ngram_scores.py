"""Word language models for ``rdsdk.decoding.trie_search``: none, and KenLM's by its own module.

The names are those of ``flashlight.lib.text.decoder``, for which this stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rdsdk.errors import ConfigError


class LMState:
    """Words so far. Two are the same only if they are the same object."""

    __slots__ = ("kenlm",)

    def __init__(self, kenlm: Any = None) -> None:
        self.kenlm = kenlm


class LM:
    """Scores labels after states; subclasses say how."""

    def start(self, start_with_nothing: bool) -> Any:
        """The state before the first word: of a sentence, or of which nothing is known."""
        raise NotImplementedError

    def score(self, state: Any, label: int) -> tuple[Any, float]:
        """The state after a word, and its score."""
        raise NotImplementedError

    def finish(self, state: Any) -> tuple[Any, float]:
        """The state after the end of a sentence, and its score."""
        raise NotImplementedError


class ZeroLM(LM):
    """All words are alike."""

    def start(self, start_with_nothing: bool) -> LMState:
        return LMState()

    def score(self, state: LMState, label: int) -> tuple[LMState, float]:
        return LMState(), 0.0

    def finish(self, state: LMState) -> tuple[LMState, float]:
        return LMState(), 0.0


class KenLM(LM):
    """Decimal logarithms of words by their place in ``words``.

    Raises:
        ConfigError: the module ``kenlm`` is not installed.
        OSError: it does not take the file.
    """

    def __init__(self, path: str, words: Sequence[str]) -> None:
        try:
            import kenlm
        except ImportError as error:
            raise ConfigError(
                f"a word language model needs KenLM's module ({error}); run: pip install "
                "camel-kenlm (wheels for Linux and macOS), or kenlm (needs a C++ compiler)"
            ) from error
        self._state = kenlm.State
        config = kenlm.Config()
        config.load_method = kenlm.LoadMethod.LAZY
        self._model = kenlm.Model(path, config)
        self._score = self._model.BaseScore
        self._words = list(words)

    def start(self, start_with_nothing: bool) -> LMState:
        state = self._state()
        if start_with_nothing:
            self._model.NullContextWrite(state)
        else:
            self._model.BeginSentenceWrite(state)
        return LMState(state)

    def score(self, state: LMState, label: int) -> tuple[LMState, float]:
        after = self._state()
        score = self._score(state.kenlm, self._words[label], after)
        return LMState(after), score

    def finish(self, state: LMState) -> tuple[LMState, float]:
        after = self._state()
        return LMState(after), self._score(state.kenlm, "</s>", after)
