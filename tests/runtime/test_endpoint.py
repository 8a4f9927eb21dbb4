import pytest

from rdsdk.errors import ConfigError
from rdsdk.runtime.endpoint import EndpointRules

RULES = EndpointRules(trailing_silence_seconds=0.8, max_segment_seconds=20.0)


@pytest.mark.parametrize(
    ("silence", "length", "between", "over"),
    [
        (0.0, 1.0, True, False),
        (0.78, 5.0, True, False),
        (0.8, 5.0, True, True),
        (0.8, 5.0, False, True),
        (40 * 0.02, 5.0, True, True),
        (0.1, 19.98, True, False),
        (0.1, 20.0, True, True),
        (0.1, 20.0, False, False),
        (0.1, 39.9, False, False),
        (0.1, 40.0, False, True),
    ],
)
def test_silence_or_length_end_a_segment(silence, length, between, over):
    assert RULES.is_over(silence, length, between) is over


@pytest.mark.parametrize("value", [0, -1, float("nan")])
@pytest.mark.parametrize(
    "name", ["trailing_silence_seconds", "max_segment_seconds", "no_speech_seconds"]
)
def test_a_limit_that_is_not_positive_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        EndpointRules(**{name: value})


@pytest.mark.parametrize(
    ("limit", "wordless", "told"),
    [(None, 1e9, False), (3.0, 2.98, False), (3.0, 150 * 0.02, True), (3.0, 3.1, True)],
)
def test_a_time_without_words_is_told_only_where_it_was_asked_for(limit, wordless, told):
    assert EndpointRules(no_speech_seconds=limit).is_unspoken(wordless) is told
