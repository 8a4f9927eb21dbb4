"""Which phone follows which two in a corpus with alignments."""

from __future__ import annotations

from collections.abc import Sequence

from rdsdk.data.alignment import said_symbols
from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import DataError
from rdsdk.training.sequence_loss import PhoneTrigram


def corpus_trigram(manifests: Sequence[str], vocabulary: Vocabulary) -> PhoneTrigram:
    """Which symbol follows which two in what is learnt from, silences counted as blanks.

    Raises:
        DataError: none of it has an alignment, or a manifest cannot be used.
    """
    said = [
        symbols
        for cut in read_cuts(list(manifests))
        if (symbols := said_symbols(cut, vocabulary)) is not None
    ]
    if not said:
        raise DataError(
            "losses over frames and sequences need alignments, and none is in "
            f"{', '.join(manifests)}; make such a corpus (rdsdk prepare phones)"
        )
    return PhoneTrigram.of(said, len(vocabulary))
