"""What a digit corpus is made from, read once: tokens, sentences with their words, noises."""

from __future__ import annotations

import json
import lzma
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rdsdk.data.synthetic_voices import Voice, draw_voice, require_programs, speak
from rdsdk.data.word_clips import (
    DIGITS,
    HOMOPHONES,
    Pronounced,
    Words,
    WordSpan,
    cut,
    find_words,
    free_of_digits,
    read_mono,
)
from rdsdk.errors import ConfigError, DataError

FSDD = ("Free Spoken Digit Dataset (Jakobovski et al.)", "CC BY-SA 4.0")
GENERATED = "generated speech, no rights claimed"
ROW_FIELDS = ("id", "audio", "seconds", "text", "speaker", "source", "licence")
# Words that a digit recogniser is apt to take for a digit, and number words that are no digits.
_NEAR_DIGITS = (
    "FIRE FINE FIND LINE NIGHT NICE MINE SIGN SIGHT LIGHT LIFE WIFE HIVE DIVE DRIVE LIVE "
    "ARRIVE HEAVEN SEVENTH SEVERAL EVEN EVER ELEVEN LEAVEN SIXTH SICK FIX MIX SECTS KICKS "
    "THICK TICKS TREE FREE THREW THROUGH THIRD THESE SHE SEE TEA KEY DO YOU WHO NEW SHOE TRUE "
    "BLUE FOURTH FORTH FORCE FAR FORM FORTY FORK DOOR MORE STORE FLOOR EIGHTH AID AGE WAIT "
    "LATE HATE GREAT STATE DAY EIGHTEEN WHEN WANT WONT WENT ONCE RUN SUN DONE GONE BEGUN HERO "
    "ZEAL SERIOUS NARROW ARROW PIERROT TEN TWELVE THIRTEEN FOURTEEN FIFTEEN SIXTEEN SEVENTEEN "
    "NINETEEN TWENTY THIRTY FIFTY SIXTY SEVENTY EIGHTY NINETY HUNDRED THOUSAND NINTH FIFTH "
    "FIRST SECOND"
)
NEAR_DIGITS = tuple(_NEAR_DIGITS.split())


@dataclass(frozen=True)
class Token:
    """One thing said by one voice; ``text`` is upper case, ``kind`` where it came from: "human"
    (recorded alone), "cut" (out of a sentence) or "synthetic"."""

    text: str
    waveform: np.ndarray
    speaker: str
    kind: str
    source: str
    licence: str


@dataclass
class Bank:
    """Everything clips are composed from. Rows keep their absolute audio path."""

    digits: list[Token] = field(default_factory=list)
    spoken_strings: list[Token] = field(default_factory=list)
    other_words: list[Token] = field(default_factory=list)
    other_phrases: list[Token] = field(default_factory=list)
    sentences: list[dict[str, Any]] = field(default_factory=list)
    words: dict[str, Words] = field(default_factory=dict)
    noises: list[tuple[str, np.ndarray]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    def index(self) -> None:
        """Build the look-ups that composing needs; call once, when all is in."""
        self.by_digit: dict[tuple[str, str], list[Token]] = defaultdict(list)
        self.by_speaker: dict[str, dict[str, list[Token]]] = {}
        self.kind_of_speaker: dict[str, str] = {}
        for token in self.digits:
            self.by_digit[token.kind, token.text].append(token)
            said = self.by_speaker.setdefault(token.speaker, {})
            said.setdefault(token.text, []).append(token)
            self.kind_of_speaker[token.speaker] = token.kind
        # A string needs a voice of which there is more than one digit.
        self.string_speakers: dict[str, list[str]] = defaultdict(list)
        for name, said in self.by_speaker.items():
            if len(said) > 1:
                self.string_speakers[self.kind_of_speaker[name]].append(name)
        self.row_of = {str(row["id"]): row for row in self.sentences}
        self.aligned = sorted(self.words)
        self.spans_of_word: dict[str, list[WordSpan]] = defaultdict(list)
        for words in self.words.values():
            for span in words.spans:
                if 0.16 <= span.seconds <= 1.1 and span.score > -4 and may_stand_alone([span.word]):
                    self.spans_of_word[span.word].append(span)
        self.near_words = sorted(set(NEAR_DIGITS) & set(self.spans_of_word))
        self.all_words = sorted(self.spans_of_word)
        self.with_digits = [r for r in self.sentences if not free_of_digits(r["text"].split())]


def may_stand_alone(words: Sequence[str]) -> bool:
    """True when these words, heard alone, are surely no digit."""
    return free_of_digits(words) and not (len(words) <= 2 and HOMOPHONES & set(words))


def read_rows(manifest: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL manifest, each audio path made absolute.

    Raises:
        DataError: the manifest is missing, is not JSON lines, or a row lacks a field.
    """
    if not manifest.is_file():
        raise DataError(f"no manifest at {manifest}; expected a JSONL file, one utterance a line")
    rows = []
    # Not splitlines(), which ends a line at characters that JSON has inside of text.
    for number, line in enumerate(manifest.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{manifest} line {number} is not JSON: {error}") from error
        missing = [name for name in ROW_FIELDS if not isinstance(row, dict) or name not in row]
        if missing:
            raise DataError(
                f"{manifest} line {number} lacks {missing}; a row has {list(ROW_FIELDS)}"
            )
        rows.append({**row, "audio": str(manifest.parent / row["audio"])})
    return rows


def refuse_repeated_ids(rows: Iterable[Mapping[str, Any]]) -> None:
    """Each row has an id of its own.

    Raises:
        DataError: one occurs again.
    """
    seen: set[str] = set()
    for row in rows:
        if (name := str(row["id"])) in seen:
            raise DataError(f"the id {name!r} occurs more than once; ids are unique")
        seen.add(name)


def digit_recordings(folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """Speaker -> (digit word, file), from ``SPEAKER/DIGIT_SPEAKER_INDEX.wav``.

    Raises:
        DataError: the folder is missing or holds no such files.
    """
    found: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for path in sorted(folder.glob("*/*.wav")):
        match = re.fullmatch(r"(\d)_(.+)_(\d+)", path.stem)
        if match and match[2] == path.parent.name:
            found[match[2]].append((DIGITS[int(match[1])], path))
    if not found:
        raise DataError(
            f"no spoken digits in {folder}; expected files SPEAKER/DIGIT_SPEAKER_INDEX.wav, as the "
            "Free Spoken Digit Dataset names them"
        )
    return dict(found)


def human_digits(folder: Path, without: str) -> list[Token]:
    """Every recorded digit of every speaker but ``without``.

    Raises:
        ConfigError: that speaker is not in the folder, or there is nobody else.
    """
    recordings = digit_recordings(folder)
    if without not in recordings or len(recordings) < 2:
        raise ConfigError(
            f"the development speaker {without!r} must be one of at least two in {folder}, which "
            f"holds {sorted(recordings)}; name one with --dev-speaker"
        )
    return [
        Token(word, read_mono(path), f"fsdd-{speaker}", "human", *FSDD)
        for speaker, files in recordings.items()
        if speaker != without
        for word, path in files
    ]


def read_noises(folder: Path, test_fold: str) -> tuple[list[tuple[str, np.ndarray]], int]:
    """The readable noises outside the test fold (the first character of the name), and how many
    could not be read.

    Raises:
        DataError: not one could be read.
    """
    noises, broken = [], 0
    for path in sorted(p for end in ("ogg", "wav", "flac") for p in folder.glob(f"**/*.{end}")):
        if path.name.startswith(test_fold):
            continue
        try:
            waveform = read_mono(path)
        except DataError:
            broken += 1
            continue
        if np.abs(waveform).max(initial=0.0) > 1e-4:
            noises.append((path.stem, waveform))
    if not noises:
        raise DataError(f"no readable noise (.ogg, .wav, .flac) outside fold {test_fold}: {folder}")
    return noises, broken


def align(
    rows: Sequence[dict[str, Any]],
    cache: Path,
    workers: int,
    tick: Callable[[int, int], None],
    more: Pronounced | None = None,
) -> dict[str, Words]:
    """The words of the rows that align, by utterance id; kept in ``cache`` and taken from there for
    rows already in it with the same text. ``tick(done, total)`` reports progress; ``more`` are the
    phones of words that the aligner does not know, and rows with them are tried again."""
    known: dict[str, Words | None] = {}
    texts = {str(row["id"]): row["text"] for row in rows}
    if cache.is_file():
        for line in cache.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            name = entry["utterance"]
            if entry.get("text", texts.get(name)) != texts.get(name):
                continue  # corrected since then
            spans = tuple(WordSpan(name, *values) for values in entry["spans"])
            known[name] = Words(name, spans, tuple(entry["trusted"])) if spans else None
    new = {word.upper() for word in more or {}}
    todo = [
        row
        for row in rows
        if str(row["id"]) not in known
        or (known[str(row["id"])] is None and new & set(str(row["text"]).upper().split()))
    ]
    with cache.open("a", encoding="utf-8") as out:
        found_all = find_words(todo, Path(), workers, more)
        for done, (row, found) in enumerate(zip(todo, found_all, strict=True), 1):
            known[str(row["id"])] = found
            spans = () if found is None else found.spans
            entry = {
                "utterance": str(row["id"]),
                "text": row["text"],
                "spans": [[s.word, s.start, s.end, round(s.score, 3)] for s in spans],
                "trusted": [] if found is None else list(found.trusted),
            }
            out.write(json.dumps(entry) + "\n")
            tick(done, len(todo))
    names = {str(row["id"]) for row in rows}
    return {name: words for name, words in known.items() if name in names and words is not None}


def cut_digits(bank: Bank) -> tuple[list[Token], int]:
    """The trusted digit words of the bank's sentences, and how many were not trusted."""
    tokens, doubtful = [], 0
    for name, words in bank.words.items():
        doubtful += sum(s.word in DIGITS for s in words.spans) - len(words.trusted)
        if not words.trusted:
            continue
        row = bank.row_of[name]
        waveform = read_mono(Path(row["audio"]))
        # Where speakers have no names, one utterance is all that is surely one voice.
        unnamed = str(row["speaker"]).endswith("unknown")
        speaker = f"{row['speaker']}-{name}" if unnamed else str(row["speaker"])
        for number in words.trusted:
            span = words.spans[number]
            tokens.append(
                Token(span.word, cut(waveform, span), speaker, "cut", row["source"], row["licence"])
            )
    return tokens, doubtful


def synthesise(
    bank: Bank, voices: int, lines: Sequence[str], rng: np.random.Generator, workers: int
) -> Iterable[None]:
    """Put the digits, digit strings and other words and phrases of ``voices`` synthetic voices
    into the bank; yields once a voice. ``lines`` are prompts for phrases.

    Raises:
        ConfigError: a synthesiser is not installed.
        DataError: a synthesiser failed.
    """
    if voices == 0:
        return
    require_programs()
    jobs: list[tuple[list[Token], Voice, list[str]]] = []
    for _ in range(voices):
        voice = draw_voice(rng)
        jobs.append((bank.digits, voice, list(DIGITS)))
        strings = [[str(w) for w in rng.choice(DIGITS, rng.integers(2, 11))] for _ in range(3)]
        pause = ", " if rng.random() < 0.3 else " "
        jobs.append((bank.spoken_strings, voice, [pause.join(s) for s in strings]))
        words = [str(rng.choice(NEAR_DIGITS)) for _ in range(5)] + [
            w for w in (_piece(lines, 1, rng) for _ in range(5)) if w
        ]
        jobs.append((bank.other_words, voice, words))
        phrases = [_piece(lines, int(rng.integers(2, 11)), rng) for _ in range(3)]
        jobs.append((bank.other_phrases, voice, [p for p in phrases if p]))

    def run(job: tuple[list[Token], Voice, list[str]]) -> list[Token]:
        _, voice, texts = job
        whose = (voice.speaker, "synthetic", voice.program, GENERATED)
        return [Token(text.replace(",", ""), speak(voice, text), *whose) for text in texts]

    with ThreadPoolExecutor(workers) as pool:
        for number, (job, tokens) in enumerate(zip(jobs, pool.map(run, jobs), strict=True)):
            job[0].extend(tokens)
            if number % 4 == 3:
                yield


def _piece(lines: Sequence[str], count: int, rng: np.random.Generator) -> str:
    """``count`` words in a row from a random line, "" when they might be taken for a digit."""
    words = lines[int(rng.integers(len(lines)))].split() if lines else []
    first = int(rng.integers(max(1, len(words) - count + 1)))
    piece = words[first : first + count]
    return " ".join(piece) if may_stand_alone(piece) else ""


def read_lines(path: Path | None, most: int = 20_000) -> list[str]:
    """The first ``most`` lines of a text file, plain or .xz.

    Raises:
        DataError: the file is missing.
    """
    if path is None:
        return []
    if not path.is_file():
        raise DataError(f"no text at {path}; expected one sentence a line, plain or .xz")
    with lzma.open(path, "rt") if path.suffix == ".xz" else path.open(encoding="utf-8") as lines:
        return [line.strip() for _, line in zip(range(most), lines, strict=False)]
