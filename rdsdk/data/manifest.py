"""Corpora in, lhotse cuts out: JSONL manifests, LibriSpeech folders, cuts manifests and Shar.

What a source is, its content decides: a folder by what lies in it, a file by its first row.
No recording is decoded here, so ten thousand rows are read in well under a second.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from rdsdk.data.alignment import SYMBOLS, aligned_items, alignment_problem, on_own_clock
from rdsdk.errors import ConfigError, DataError

Source = str | Path

SAMPLE_RATE = 16_000
REQUIRED_KEYS = ("id", "audio", "seconds")
_GZIP_MAGIC = b"\x1f\x8b"


def read_cuts(source: Source | Sequence[Source], weights: Sequence[float] | None = None) -> CutSet:
    """Read one corpus or several into one CutSet, each utterance a cut.

    A source is one of
      * a JSONL manifest, a row a clip: ``id``, ``audio`` (path, relative to the manifest's folder),
        ``seconds``, and if known ``text`` ("" is a recording without words, an absent text an
        unlabelled one), ``speaker``, ``source``, ``licence``, ``sample_rate`` (16 000 if absent),
        ``alignment`` (symbols of the text with their times: [[symbol, start, end], ...] in
        seconds);
      * a LibriSpeech folder, at any level above its ``*.trans.txt`` files;
      * a lhotse cuts manifest (JSONL, gzipped or not);
      * a lhotse Shar folder. It stays lazy, as it may be larger than a disk.

    ``weights`` says how many times an epoch sees each source: 2 is twice, 0.5 every second
    utterance. A lazy source takes whole numbers only.

    Raises:
        DataError: a file is missing or unreadable, a row is bad (with its line), recordings are
            missing (the first and the count), ids repeat, or nothing usable is left.
        ConfigError: the weights do not fit the sources.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    if not sources:
        raise DataError("no data source was given; name at least one manifest or corpus folder")
    factors = [1.0] * len(sources) if weights is None else [float(weight) for weight in weights]
    if len(factors) != len(sources):
        raise ConfigError(f"{len(sources)} sources but {len(factors)} weights; give one for each")
    bad = [factor for factor in factors if not (math.isfinite(factor) and factor > 0)]
    if bad:
        raise ConfigError(f"source weights must be positive numbers, got {bad}; leave a source out")

    parts = [
        _weighted(_read_one(Path(item)), factor, item)
        for item, factor in zip(sources, factors, strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    if any(part.is_lazy for part in parts):
        return CutSet.mux(*parts, weights=factors)
    merged = [cut for part in parts for cut in part]
    _refuse_repeated_ids(merged, ", ".join(str(item) for item in sources))
    return CutSet.from_cuts(merged)


def transcript(cut: Cut) -> str | None:
    """The text of an utterance; "" if it holds no words, None if nobody wrote it down."""
    texts = [part.text for part in cut.supervisions if part.text is not None]
    return " ".join(texts) if texts else None


def _read_one(path: Path) -> CutSet:
    if path.is_dir():
        if any(path.glob("cuts.*.jsonl*")):
            return _read_shar(path)
        if next(path.rglob("*.trans.txt"), None) is not None:
            return _checked(_librispeech_cuts(path), path)
        raise DataError(
            f"{path} is a folder without cuts.*.jsonl.gz (Shar) and without *.trans.txt "
            "(LibriSpeech); give a corpus folder or a manifest file"
        )
    if not path.is_file():
        raise DataError(f"there is no data source at {path}; give a manifest or a corpus folder")
    rows = _json_rows(path)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} holds no rows; a manifest has one JSON object a line")
    if "audio" in first[1] or not {"type", "recording"} & first[1].keys():
        return _checked(_manifest_cuts(path), path)
    return _checked(_lhotse_cuts(path), path)


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line number (from 1) and the object of each line that is not blank."""
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"got {type(row).__name__}")
                yield number, row
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, (EOFError, OSError)):
            raise DataError(f"{path} cannot be read to its end: {error}") from error
        raise DataError(
            f"{path} line {number} is not a JSON object ({error}); a manifest has one a line"
        ) from error


def _manifest_cuts(path: Path) -> Iterator[Cut]:
    for number, row in _json_rows(path):
        absent = [key for key in REQUIRED_KEYS if key not in row]
        if absent:
            raise DataError(
                f"{path} line {number} lacks {absent}; a row needs {list(REQUIRED_KEYS)} and, "
                "if it is transcribed, text"
            )
        rate = row.get("sample_rate", SAMPLE_RATE)
        problem = _row_problem(row, rate)
        if problem:
            raise DataError(f"{path} line {number} (id {row['id']!r}): {problem}")
        custom: dict[str, Any] = {key: row[key] for key in ("source", "licence") if key in row}
        yield _cut(
            row["id"],
            path.parent / row["audio"],
            round(row["seconds"] * rate),
            rate,
            row.get("text"),
            None if row.get("speaker") is None else str(row["speaker"]),
            custom,
            row.get("alignment"),
        )


def _row_problem(row: Mapping[str, Any], rate: object) -> str | None:
    seconds, text = row["seconds"], row.get("text")
    if not (isinstance(row["id"], str) and row["id"]):
        return "id must be text"
    if not (isinstance(row["audio"], str) and row["audio"]):
        return f"audio must be a path, got {row['audio']!r}"
    if not isinstance(rate, int) or isinstance(rate, bool) or rate <= 0:
        return f"sample_rate must be a positive integer, got {rate!r}"
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or seconds * rate < 1:
        return f"seconds must be a positive number, got {seconds!r}"
    if not (text is None or isinstance(text, str)):
        return f"text must be text, or absent if unlabelled, got {text!r}"
    if not isinstance(row.get("speaker"), (str, int, type(None))):
        return f"speaker must be a name or a number, got {row['speaker']!r}"
    return alignment_problem(row.get("alignment"))


def _cut(
    name: str,
    audio: Path,
    samples: int,
    rate: int,
    text: str | None,
    speaker: str | None,
    custom: dict[str, Any] | None,
    alignment: list[tuple[str, float, float]] | None = None,
) -> MonoCut:
    seconds = samples / rate
    recording = Recording(name, [AudioSource("file", [0], str(audio))], rate, samples, seconds)
    spoken = SupervisionSegment(
        id=name, recording_id=name, start=0.0, duration=seconds, text=text, speaker=speaker
    )
    if alignment is not None:
        spoken.alignment = {SYMBOLS: aligned_items(alignment)}
    return MonoCut(
        id=name,
        start=0.0,
        duration=seconds,
        channel=0,
        supervisions=[spoken],
        recording=recording,
        custom=custom or None,
    )


def _librispeech_cuts(folder: Path) -> Iterator[Cut]:
    missing: list[Path] = []
    for transcripts in sorted(folder.rglob("*.trans.txt")):
        for line in transcripts.read_text("utf-8").splitlines():
            if not line.strip():
                continue
            name, _, text = line.strip().partition(" ")
            audio = transcripts.parent / f"{name}.flac"
            if not audio.is_file():
                missing.append(audio)
                continue
            try:
                header = soundfile.info(audio)
            except soundfile.SoundFileError as error:
                raise DataError(f"{audio} is not a recording soundfile reads: {error}") from error
            speaker = name.split("-")[0]
            yield _cut(name, audio, header.frames, header.samplerate, text.strip(), speaker, None)
    if missing:
        raise DataError(
            f"{len(missing)} recordings named by the transcripts of {folder} are missing, the "
            f"first is {missing[0]}; a recording lies beside its transcript"
        )


def _lhotse_cuts(path: Path) -> Iterator[Cut]:
    for number, row in _json_rows(path):
        try:
            cut = deserialize_item(row)
        except Exception as error:  # lhotse raises whatever a wrong field leads to
            raise DataError(f"{path} line {number} is not a lhotse cut: {error!r}") from error
        if not isinstance(cut, Cut):
            raise DataError(
                f"{path} line {number} holds a {type(cut).__name__}; this is not a cuts manifest "
                "(combine recordings and supervisions with `lhotse cut simple`)"
            )
        yield on_own_clock(cut)


def _read_shar(folder: Path) -> CutSet:
    if not any(folder.glob("recording.*")):
        raise DataError(
            f"{folder} has cuts.*.jsonl.gz but no recording.*.tar; export Shar with recordings"
        )
    cuts = CutSet.from_shar(in_dir=folder)
    try:
        first = next(iter(cuts), None)
    except Exception as error:  # a damaged shard shows up as any of several errors
        raise DataError(f"{folder} is not a readable Shar folder: {error!r}") from error
    if first is None:
        raise DataError(f"{folder} holds no utterances")
    return cuts


def _checked(cuts: Iterator[Cut], source: Path) -> CutSet:
    kept = list(cuts)
    if not kept:
        raise DataError(f"{source} holds no utterances")
    _refuse_repeated_ids(kept, str(source))
    missing = [file for cut in kept for file in _files(cut) if not Path(file).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(kept)} recordings named by {source} are missing, the first is "
            f"{missing[0]}; move them there, or mend the paths (our rows: relative to the manifest)"
        )
    return CutSet.from_cuts(kept)


def _files(cut: Cut) -> list[str]:
    tracks = [track.cut for track in cut.tracks] if hasattr(cut, "tracks") else [cut]
    recordings = [track.recording for track in tracks if getattr(track, "recording", None)]
    return [
        part.source for recording in recordings for part in recording.sources if part.type == "file"
    ]


def _refuse_repeated_ids(cuts: Sequence[Cut], source: str) -> None:
    seen: set[str] = set()
    for cut in cuts:
        if cut.id in seen:
            raise DataError(f"the id {cut.id!r} occurs more than once in {source}; ids are unique")
        seen.add(cut.id)


def _weighted(cuts: CutSet, factor: float, source: Source) -> CutSet:
    if factor == 1:
        return cuts
    whole, part = divmod(factor, 1.0)
    if cuts.is_lazy:
        if part:
            raise ConfigError(
                f"{source} is read lazily and can only be repeated a whole number of times, "
                f"got weight {factor}"
            )
        return cuts.repeat(times=int(whole))
    listed = list(cuts)
    weighted = [
        cut if turn == 0 else cut.with_id(f"{cut.id}_repeat{turn}")
        for turn in range(int(whole))
        for cut in listed
    ]
    # Evenly spaced, so that every speaker of a sorted corpus keeps a share.
    picked = round(part * len(listed))
    for step in range(picked):
        cut = listed[step * len(listed) // picked]
        weighted.append(cut if whole == 0 else cut.with_id(f"{cut.id}_repeat{int(whole)}"))
    if not weighted:
        raise DataError(f"weight {factor} leaves none of the {len(listed)} utterances of {source}")
    return CutSet.from_cuts(weighted)
