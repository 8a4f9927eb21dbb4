"""Word n-gram language models: KenLM's binary or an ARPA file, and the words that are in it.

One file is everything: KenLM keeps its vocabulary at the end of a binary, so the lexicon of a beam
search comes from the language model itself. ``rdsdk.data.ngram`` builds such a file from text.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from rdsdk.errors import ModelError

LN_10 = math.log(10)  # KenLM speaks of decimal logarithms
_FLASHLIGHT = "flashlight.lib.text"
SPECIAL = ("<unk>", "<s>", "</s>", "<UNK>")

# The head of a binary, lm/binary_format.{hh,cc} of KenLM: a magic text and numbers of known value
# (88 bytes); then order (1 byte), at 100 whether the vocabulary is kept, at 108 the count of words.
_MAGIC = b"mmap lm http://kheafield.com/code format version"
_HAS_VOCABULARY = 100
_WORD_COUNT = 108
_FIRST_WORD = b"<unk>\0"


def words_of(path: str | Path) -> tuple[str, ...]:
    """The words of a language model, without <unk>, <s> and </s>.

    Raises:
        ModelError: no such file, neither a KenLM binary nor ARPA, damaged, or a binary that was
            built without its vocabulary.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no language model at {path}")
    with path.open("rb") as file:
        head = file.read(len(_MAGIC))
    words = _binary_words(path) if head == _MAGIC else _arpa_words(path)
    return tuple(word for word in words if word not in SPECIAL)


def load_kenlm(path: str | Path, words: Sequence[str]) -> Any:
    """The language model; it scores a word by its place in ``words``, in decimal logarithms.

    Raises:
        ConfigError: neither flashlight-text nor KenLM's module is installed.
        ModelError: KenLM does not take the file.
    """
    try:
        if not has_flashlight():
            from rdsdk.decoding.ngram_scores import KenLM

            return KenLM(str(path), words)
        dictionary = import_module(f"{_FLASHLIGHT}.dictionary").Dictionary()
        for word in words:
            dictionary.add_entry(word)
        return import_module(f"{_FLASHLIGHT}.decoder.kenlm").KenLM(str(path), dictionary)
    except (RuntimeError, OSError) as error:
        raise ModelError(f"KenLM does not take {path}: {error}") from None


@cache
def has_flashlight() -> bool:
    """Whether flashlight-text is installed; it has wheels for Python 3.11 and 3.12."""
    try:
        import_module(f"{_FLASHLIGHT}.decoder")
    except ImportError:
        return False
    return True


def search_library() -> Any:
    """``flashlight.lib.text.decoder``, or what stands in for it where it is not installed."""
    return import_module(
        f"{_FLASHLIGHT}.decoder" if has_flashlight() else "rdsdk.decoding.trie_search"
    )


def _binary_words(path: Path) -> list[str]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if len(data) < _WORD_COUNT + 8:
            raise ModelError(f"{path} is cut off: {len(data)} bytes are no language model")
        if not data[_HAS_VOCABULARY]:
            raise ModelError(
                f"{path} was built without its vocabulary; build it again with build_binary "
                "without -i, or give the ARPA file"
            )
        (count,) = struct.unpack_from("<Q", data, _WORD_COUNT)
        at = data.rfind(_FIRST_WORD)
        words = data[at:].split(b"\0")[:-1] if at >= 0 else []
    if len(words) != count:
        raise ModelError(
            f"{path} is damaged: it counts {count} words, but {len(words)} are at its end"
        )
    return [word.decode("utf-8", "replace") for word in words]


def _arpa_words(path: Path) -> list[str]:
    words, inside = [], False
    with path.open(encoding="utf-8", errors="replace") as file:
        if not any(line.strip() == "\\data\\" for line, _ in zip(file, range(100), strict=False)):
            raise ModelError(
                f"{path} is neither a KenLM binary nor an ARPA file (no \\data\\ near its "
                "beginning; compressed ARPA is not read)"
            )
        for line in file:
            text = line.strip()
            if text.startswith("\\"):
                if inside:
                    break
                inside = text == "\\1-grams:"
            elif inside and text:
                fields = text.split()
                if len(fields) < 2:
                    raise ModelError(f"{path} is damaged: {text!r} among its 1-grams has no word")
                words.append(fields[1])
    if not words:
        raise ModelError(f"{path} is damaged: an ARPA file without 1-grams")
    return words
