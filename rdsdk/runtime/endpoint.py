"""When a segment is over: pure rules in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from rdsdk.errors import ConfigError


@dataclass(frozen=True)
class EndpointRules:
    """A segment ends after a silence, or at the next word boundary once it is too long.

    Raises:
        ConfigError: a limit is not positive.
    """

    trailing_silence_seconds: float = 0.8
    max_segment_seconds: float = 20.0

    def __post_init__(self) -> None:
        for name in ("trailing_silence_seconds", "max_segment_seconds"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"{name} is {value}, expected more than 0 seconds")

    def is_over(self, silence_seconds: float, segment_seconds: float, between_words: bool) -> bool:
        """Whether the segment ends here.

        Args:
            silence_seconds: how long no symbol has been heard since its last one.
            segment_seconds: how long since its first symbol.
            between_words: no word is being read. A word that alone takes longer than twice the
                limit is not waited for, so memory stays bounded on sound that is not speech.
        """
        # Times are multiples of a frame in floating point: half a millisecond decides nothing.
        if silence_seconds >= self.trailing_silence_seconds - 5e-4:
            return True
        limit = self.max_segment_seconds * (1 if between_words else 2)
        return segment_seconds >= limit - 5e-4
