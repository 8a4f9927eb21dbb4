"""Text to a language model, by the real KenLM, and what its binary holds."""

import json
import lzma
import math
import os
from dataclasses import replace

import numpy as np
import pytest

from rdsdk.data.kenlm import find_programs
from rdsdk.data.ngram import build_lm, main
from rdsdk.decoding.language_model import words_of
from rdsdk.errors import ConfigError, DataError, ModelError

WORDS = ["THE", "CAT", "DOG", "SAT", "RAN", "ON", "A", "MAT", "ROAD"]


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Skip where KenLM is not built; fail where the run says that it must be there."""
    try:
        return find_programs()
    except ConfigError as error:
        if os.environ.get("RDSDK_REQUIRE_KENLM"):
            pytest.fail(str(error))
        pytest.skip(f"no KenLM here: {error}")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences of a small grammar: after THE come CAT or DOG, never a verb."""
    rng = np.random.default_rng(0)
    lines = [
        f"{rng.choice(['THE', 'A'])} {rng.choice(['CAT', 'DOG'])} {rng.choice(['SAT', 'RAN'])} "
        f"ON {rng.choice(['THE', 'A'])} {rng.choice(['MAT', 'ROAD'])}"
        for _ in range(3000)
    ]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(lines))
    return path


def test_each_order_prunes_as_many_orders_as_it_has(text, tmp_path, capsys):
    for order in (2, 3):
        assert main([str(text), "-o", str(tmp_path / "lm"), "--order", str(order)]) == 0
        assert len(json.loads(capsys.readouterr().out)["ngrams"]) == order
    assert main([str(text), "-o", str(tmp_path / "no" / "lm")]) == 2
    assert "a folder that exists" in capsys.readouterr().err


def test_a_language_model_knows_its_text(text, tmp_path):
    report = build_lm([text], tmp_path / "lm", order=3, prune=[0])
    assert sorted(words_of(tmp_path / "lm")) == sorted(WORDS)
    assert (report.words, report.held_out_words) == (16_200, 1800)
    assert report.ngrams[0] == len(WORDS) + 3
    # Five choices of two in six words and an end: 2 ** (5 / 7) = 1.64 is the best there can be.
    assert 1.6 < report.perplexity < 1.75
    assert report.unknown_share == 0
    assert report.size_mb == pytest.approx((tmp_path / "lm").stat().st_size / 1e6, abs=1e-3)
    # Negative control: where words follow each other at random, nothing is known.
    rng = np.random.default_rng(1)
    lines = [" ".join(rng.permutation(line.split())) for line in text.read_text().splitlines()]
    (tmp_path / "shuffled").write_text("\n".join(lines))
    assert build_lm([tmp_path / "shuffled"], tmp_path / "lm", order=3, prune=[0]).perplexity > 3


def test_a_binary_scores_what_follows_what(text, tmp_path):
    from rdsdk.decoding.language_model import load_kenlm

    build_lm([text], tmp_path / "lm", order=3, prune=[0], held_out=0)
    lm = load_kenlm(tmp_path / "lm", WORDS)
    state, _ = lm.score(lm.start(False), WORDS.index("THE"))
    cat, sat = (lm.score(state, WORDS.index(word))[1] for word in ("CAT", "SAT"))
    assert 10**cat == pytest.approx(0.5, abs=0.05)
    assert sat < cat - 2


def test_pruning_drops_ngrams_and_costs_perplexity(text, tmp_path):
    whole = build_lm([text], tmp_path / "whole", order=3, prune=[0])
    pruned = build_lm([text], tmp_path / "pruned", order=3, prune=[0, 800, 800])
    assert pruned.ngrams[0] == whole.ngrams[0]
    assert pruned.ngrams[1] < whole.ngrams[1]
    assert pruned.ngrams[2] == 0
    assert pruned.perplexity > whole.perplexity


def test_compressed_texts_are_the_same(text, tmp_path):
    plain = build_lm([text], tmp_path / "plain")
    with lzma.open(tmp_path / "text.xz", "wt") as file:
        file.write(text.read_text())
    packed = build_lm([tmp_path / "text.xz"], tmp_path / "packed")
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "packed").read_bytes()
    same = {"seconds": 0.0, "peak_memory_mb": 0.0}
    assert replace(plain, **same) == replace(packed, **same)


def test_the_command_prints_its_report(text, tmp_path, capsys):
    assert main([str(text), "-o", str(tmp_path / "lm"), "--held-out", "0"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["perplexity"] is None
    assert report["words"] == 18_000
    assert math.isfinite(report["peak_memory_mb"])
    assert main([str(text), "-o", str(tmp_path / "two"), "--max-mb", "0.000001"]) == 2
    assert "prune more" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_what_cannot_be_built_is_refused(text, tmp_path):
    with pytest.raises(ConfigError, match="order is 1"):
        build_lm([text], tmp_path / "lm", order=1)
    with pytest.raises(ConfigError, match="do not fall"):
        build_lm([text], tmp_path / "lm", order=3, prune=[0, 2, 1])
    with pytest.raises(ConfigError, match="held_out is 1"):
        build_lm([text], tmp_path / "lm", held_out=1.0)
    with pytest.raises(ConfigError, match="lmplz is not in"):
        build_lm([text], tmp_path / "lm", kenlm=tmp_path)
    with pytest.raises(DataError, match="cannot be read as text"):
        build_lm([tmp_path / "nothing"], tmp_path / "lm")
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(DataError, match="no words to learn from"):
        build_lm([tmp_path / "empty"], tmp_path / "lm")
    (tmp_path / "broken.gz").write_bytes(b"not compressed")
    with pytest.raises(DataError, match="cannot be read as text"):
        build_lm([tmp_path / "broken.gz"], tmp_path / "lm")
    assert not (tmp_path / "lm").exists()


def test_a_binary_that_was_cut_off_is_refused(text, tmp_path):
    build_lm([text], tmp_path / "lm")
    data = (tmp_path / "lm").read_bytes()
    (tmp_path / "cut").write_bytes(data[:-8])
    with pytest.raises(ModelError, match="is damaged: it counts 12 words"):
        words_of(tmp_path / "cut")
    without = bytearray(data)
    without[100] = 0
    (tmp_path / "without").write_bytes(without)
    with pytest.raises(ModelError, match="built without its vocabulary"):
        words_of(tmp_path / "without")
