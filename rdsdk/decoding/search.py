"""What beam decoders of one model share: the words, their trie, the language model, the hotwords.

Building it takes a second or two for a large vocabulary; a decoder of it costs nothing, so one
``BeamSearch`` serves any number of streams.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rdsdk.decoding.language_model import LN_10, load_kenlm, search_library, words_of
from rdsdk.decoding.pronunciation import in_symbols, phrase, read_dictionary
from rdsdk.decoding.rescoring import Rescorer
from rdsdk.decoding.rnnlm import load_rnnlm
from rdsdk.decoding.settings import BeamSettings
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.decoding.word_scores import WordScores
from rdsdk.errors import ConfigError

_NEVER = -math.inf
IMPOSSIBLE = -1e4  # a log probability; finite, so that sums over frames stay numbers
END_OF_WORD, NEVER = "</word>", "<never>"
ONE_BREATH = 1.0
"""Nats that a word costs whose last phone lasts until the next word: without, a long "ah" would be
as good as "a a a"."""
_TILT, _TILTED = 1e-6, 4096  # nats a frame; frames
_HISTORIES = 20
_HOMOPHONES = 6  # so many words can end in one place of flashlight-text's trie


class BeamSearch:
    """Four kinds of search, by what there is to go by.

    - Characters with a language model, or a vocabulary with a lexicon: only their words can come
      out, and hotwords.
    - Characters alone: any spelling; hotwords are preferred spellings.
    - Whole words as symbols: these words, those of the lexicon if there is one; a language model
      says which follow each other.
    - Phones with pronunciations: the words of ``settings.lexicon``, with a language model those of
      both. No symbol of the model ends a word, so that one is added. It takes a frame, which must
      say nothing new: it is as likely there as the blank, or nearly as the frame before's likeliest
      symbol.

    Words are written with the symbols of the vocabulary: a language model or a hotword in another
    case is taken in the case that the symbols have.

    Attributes:
        vocabulary: what is searched for: the model's, or that and what ends a word.
        columns: V, outputs of the model.

    Raises:
        ConfigError: there is nothing to read a language model with, a hotword or most words of it
            cannot be written with the vocabulary's symbols, or the lexicon is missing or in
            other phones.
        DataError: the lexicon is damaged.
        ModelError: the language model cannot be read.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        settings: BeamSettings | None = None,
        hotwords: Sequence[str] = (),
    ) -> None:
        self.vocabulary = vocabulary
        self.columns = len(vocabulary)
        self.settings = settings or BeamSettings()
        self._library: Any = search_library()
        self._spoken: list[tuple[str, ...]] = []  # by label
        self._scale = 1.0
        self._allowed: np.ndarray | None = None
        self._trie: Any = None
        self._sums = self.settings.sum_alignments
        self._scores: WordScores | None = None
        if self.settings.lexicon is not None:
            self.hotwords = tuple(" ".join(hotword.split()) for hotword in hotwords)
            self._lm = self._pronounced(self.settings.lexicon)
            self._scores = self._weighed_again()
            return
        self.hotwords = tuple(self._spelled_hotword(hotword) for hotword in hotwords)
        if vocabulary.word_boundary is None:
            self._lm = self._whole_words()
        elif self.settings.lm is not None or vocabulary.lexicon is not None:
            self._lm = self._lexicon()
        else:
            self._lm = self._characters()

    @property
    def is_pronounced(self) -> bool:
        """Whether words come from pronunciations: then a hypothesis says which word ends where."""
        return self.settings.lexicon is not None

    def spoken(self, label: int) -> tuple[str, ...]:
        """The word of a label; the words of one that is a hotword of several."""
        return self._spoken[label]

    def new(self) -> Any:
        """A decoder of the library, to be begun."""
        settings, vocabulary = self.settings, self.vocabulary
        symbols = min(settings.symbols_per_frame or len(vocabulary), len(vocabulary))
        ctc = self._library.CriterionType.CTC
        # Without a boundary, silence is what the blank says; it has no score of its own.
        silence = vocabulary.blank if vocabulary.boundary_id is None else vocabulary.boundary_id
        if self.is_pronounced:
            silence = len(vocabulary) - 1  # blanks say it already, and every hypothesis once
        widths = (settings.beam_size, symbols, settings.beam_threshold, self._scale)
        if self._trie is None:
            options = self._library.LexiconFreeDecoderOptions(*widths, 0.0, self._sums, ctc)
            return self._library.LexiconFreeDecoder(
                options, self._lm, silence, vocabulary.blank, []
            )
        options = self._library.LexiconDecoderOptions(
            *widths, settings.word_score, _NEVER, 0.0, self._sums, ctc
        )
        return self._library.LexiconDecoder(
            options, self._trie, self._lm, silence, vocabulary.blank, -1, [], False
        )

    def rescorer(self) -> Rescorer | None:
        """What weighs the words of one stream again; None where nothing does."""
        return None if self._scores is None else Rescorer(self._scores, _HISTORIES)

    def allowed(self, log_probs: np.ndarray, before: int = 0, number: int = 0) -> np.ndarray:
        """Frames (T, V) as they are searched, float32 in a row: symbols outside the lexicon are
        impossible; with pronunciations there is a column for what ends a word, and for what never
        is said.

        Args:
            log_probs: what the model said.
            before: the likeliest symbol of the frame before.
            number: of the first frame.
        """
        log_probs = np.ascontiguousarray(log_probs, np.float32)
        if self.is_pronounced:
            rows = np.arange(len(log_probs))
            heard = log_probs.argmax(axis=1)
            previous = np.concatenate([[before], heard[:-1]])[: len(heard)]
            lasting = log_probs[rows, previous] - ONE_BREATH
            end = np.maximum(log_probs[:, self.vocabulary.blank], lasting)
            # The earliest of several alike: which of them is found would be left to chance.
            end = end - _TILT * ((number + rows) % _TILTED)
            never = np.full_like(end, IMPOSSIBLE)
            return np.column_stack([log_probs, end, never]).astype(np.float32)
        if self._allowed is None:
            return log_probs
        return np.where(self._allowed, log_probs, np.float32(IMPOSSIBLE))

    def _spelled(self, word: str) -> str | None:
        """The word in the case of the vocabulary; None when it cannot be written with it."""
        for variant in (word, word.upper(), word.lower()):
            try:
                if self.vocabulary.encode(variant):
                    return variant
            except ConfigError:
                continue
        return None

    def _spelled_hotword(self, hotword: str) -> str:
        spelled = self._spelled(" ".join(hotword.split()))
        if spelled is None:
            raise ConfigError(
                f"the hotword {hotword!r} cannot be written with the model's symbols "
                f"{list(self.vocabulary.symbols)}; spell it as it is spoken, in these"
            )
        return spelled

    def _lm_words(self) -> dict[str, str]:
        """The words of the language model by how they are written here."""
        assert self.settings.lm is not None
        words = words_of(self.settings.lm)
        spelled: dict[str, str] = {}
        for word in words:
            text = self._spelled(word)
            if text is not None:
                spelled.setdefault(text, word)
        if len(spelled) < len(words) / 2 and self.vocabulary.word_boundary is not None:
            raise ConfigError(
                f"only {len(spelled)} of the {len(words)} words of {self.settings.lm} can be "
                "written with the model's symbols; build it from text in the model's alphabet"
            )
        return spelled

    def _inner(self, words: Sequence[str], lm_words: dict[str, str]) -> Any:
        """The language model that scores words by their place, and its scale."""
        if self.settings.lm is None:
            return self._library.ZeroLM()
        self._scale = self.settings.lm_weight * LN_10
        return load_kenlm(self.settings.lm, [lm_words.get(word, word) for word in words])

    def _boosted(
        self,
        inner: Any,
        labels: dict[str, int],
        symbols_in: Callable[[str], int] | None = None,
    ) -> Any:
        """Scores with the hotwords' boosts; ``symbols_in`` counts a hotword's symbols, by default
        those that it is written with.
        """
        if not self.hotwords:
            return inner
        from rdsdk.decoding.hotwords import BoostedWords

        symbols_in = symbols_in or (lambda word: len(self.vocabulary.encode(word)))
        boost = self.settings.hotword_boost
        boosts = {labels[word]: boost * symbols_in(word) for word in self.hotwords}
        parts = {labels[word]: [labels[part] for part in word.split()] for word in self.hotwords}
        boosted = BoostedWords(inner, self._scale, boosts, parts)
        self._scale = 1.0
        return boosted

    def _lexicon(self) -> Any:
        lm_words = {} if self.settings.lm is None else self._lm_words()
        words = self.vocabulary.lexicon or tuple(lm_words)
        known = dict.fromkeys((*words, *self.hotwords))
        # The parts of a hotword of several words have scores, but need not be words by themselves.
        parts = [part for hotword in self.hotwords for part in hotword.split()]
        labels = {word: label for label, word in enumerate(dict.fromkeys((*known, *parts)))}
        lm = self._boosted(self._inner(list(labels), lm_words), labels)
        trie = self._library.Trie(len(self.vocabulary), self.vocabulary.boundary_id)
        start = lm.start(False)
        boundary = [self.vocabulary.boundary_id]
        for word in known:
            label = labels[word]
            _, score = lm.score(start, label)
            trie.insert(self.vocabulary.encode(word) + boundary, label, score)
        trie.smear(self._library.SmearingMode.MAX)
        self._trie = trie
        return lm

    def _pronounced(self, lexicon: str | Path) -> Any:
        if self.vocabulary.word_boundary is not None:
            raise ConfigError(
                "the model writes characters and not phones, so it needs no pronunciations; leave "
                "the lexicon out"
            )
        ways = in_symbols(read_dictionary(lexicon), self.vocabulary)
        lm = self.settings.lm
        end = len(self.vocabulary)
        self.vocabulary = Vocabulary(
            (*self.vocabulary.symbols, END_OF_WORD, NEVER), self.vocabulary.blank, END_OF_WORD
        )
        # Words are given as the language model writes them, or in capitals.
        written = {word.upper(): word for word in (ways if lm is None else words_of(lm))}
        known = [word for upper, word in written.items() if upper in ways]
        if not known:
            raise ConfigError(f"{lexicon} pronounces none of the words of {lm}")
        self.hotwords = tuple(
            " ".join(written.get(part.upper(), part) for part in hotword.split())
            for hotword in self.hotwords
        )
        parts = [part for hotword in self.hotwords for part in hotword.split()]
        said = tuple(dict.fromkeys((*known, *self.hotwords)))
        labels = {word: label for label, word in enumerate(dict.fromkeys((*said, *parts)))}
        self._spoken = [tuple(word.split()) for word in labels]
        entries = [
            (labels[word], spoken) for word in said for spoken in phrase(word.split(), ways, end)
        ]

        def symbols_in(hotword: str) -> int:
            return sum(min(map(len, ways[part.upper()])) for part in hotword.split())

        scores = self._boosted(self._inner(list(labels), {}), labels, symbols_in)
        start = scores.start(False)
        first = {label: scores.score(start, label)[1] for label, _ in entries}
        self._trie = self._library.Trie(len(self.vocabulary), len(self.vocabulary) - 1)
        here = Counter[tuple[int, ...]]()
        # Without a language model nothing tells homophones apart: the first is taken.
        most = 1 if lm is None else _HOMOPHONES
        for label, spoken in sorted(entries, key=lambda entry: -first[entry[0]]):
            here[spoken] += 1
            if here[spoken] <= most:
                self._trie.insert(list(spoken), label, first[label])
        self._trie.smear(self._library.SmearingMode.MAX)
        return scores

    def _weighed_again(self) -> WordScores | None:
        if self.settings.rnnlm is None:
            return None
        return WordScores(
            load_rnnlm(self.settings.rnnlm),
            self._lm,
            self._spoken,
            self.settings,
            scale=self._scale,
            boosted=self.hotwords,
        )

    def _characters(self) -> Any:
        if not self.hotwords:
            return self._library.ZeroLM()
        from rdsdk.decoding.hotwords import BoostedSpellings

        boundary = self.vocabulary.boundary_id
        assert boundary is not None
        self._sums = False
        spellings = [self.vocabulary.encode(hotword) for hotword in self.hotwords]
        return BoostedSpellings(spellings, self.settings.hotword_boost, boundary)

    def _whole_words(self) -> Any:
        lexicon = self.vocabulary.lexicon
        if lexicon is not None:
            self._allowed = np.array([symbol in lexicon for symbol in self.vocabulary.symbols])
            self._allowed[self.vocabulary.blank] = True
        lm_words = {} if self.settings.lm is None else self._lm_words()
        known = [symbol for symbol in self.vocabulary.symbols if symbol in lm_words]
        if self.settings.lm is not None and not known:
            raise ConfigError(
                f"{self.settings.lm} knows none of the model's words: "
                f"{list(self.vocabulary.symbols)}; if they are phones, give their pronunciations "
                "too, as a lexicon"
            )
        several = [hotword for hotword in self.hotwords if len(hotword.split()) > 1]
        if several:
            raise ConfigError(
                f"the hotword {several[0]!r} is more than one word, but each symbol of this model "
                "is a word; give them one by one"
            )
        labels = {symbol: label for label, symbol in enumerate(self.vocabulary.symbols)}
        return self._boosted(self._inner(self.vocabulary.symbols, lm_words), labels)


def shared_search(
    vocabulary: Vocabulary, settings: BeamSettings, hotwords: Sequence[str] = ()
) -> BeamSearch:
    """A ``BeamSearch`` that is kept for the next stream with the same words and settings.

    Raises:
        ConfigError, ModelError: as ``BeamSearch``.
    """
    files = [
        Path(path) for path in (settings.lm, settings.lexicon, settings.rnnlm) if path is not None
    ]
    changed = tuple(path.stat().st_mtime_ns for path in files if path.is_file())
    return _shared(vocabulary, settings, tuple(hotwords), changed)


@lru_cache(maxsize=4)
def _shared(
    vocabulary: Vocabulary,
    settings: BeamSettings,
    hotwords: tuple[str, ...],
    changed: tuple[int, ...],
) -> BeamSearch:
    return BeamSearch(vocabulary, settings, hotwords)
