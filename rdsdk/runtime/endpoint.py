"""When a segment is over: pure rules in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from rdsdk.errors import ConfigError

# Times are multiples of a frame in floating point: half a millisecond decides nothing.
_TOLERANCE_SECONDS = 5e-4


@dataclass(frozen=True)
class EndpointRules:
    """A segment ends after a silence, or at the next word boundary once it is too long.

    Args:
        trailing_silence_seconds: how long after its last word.
        max_segment_seconds: how long a segment may get.
        no_speech_seconds: so long without a word, since the beginning or the end of the last final
            segment, gives a final segment without words that covers it; then counting starts
            again. It tells a voice command or a push to talk that nothing was said. None: never.

    Raises:
        ConfigError: a limit is not positive.
    """

    trailing_silence_seconds: float = 0.8
    max_segment_seconds: float = 20.0
    no_speech_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("trailing_silence_seconds", "max_segment_seconds", "no_speech_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}, expected more than 0 seconds")

    def is_over(self, silence_seconds: float, segment_seconds: float, between_words: bool) -> bool:
        """Whether the segment ends here.

        Args:
            silence_seconds: how long no symbol has been heard since its last one.
            segment_seconds: how long since its first symbol.
            between_words: no word is being read. A word that alone takes longer than twice the
                limit is not waited for, so memory stays bounded on sound that is not speech.
        """
        if silence_seconds >= self.trailing_silence_seconds - _TOLERANCE_SECONDS:
            return True
        limit = self.max_segment_seconds * (1 if between_words else 2)
        return segment_seconds >= limit - _TOLERANCE_SECONDS

    def is_unspoken(self, wordless_seconds: float) -> bool:
        """Whether so long without any word is to be told."""
        limit = self.no_speech_seconds
        return limit is not None and wordless_seconds >= limit - _TOLERANCE_SECONDS
