"""What several checkpoints say of a recording together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rdsdk.data.batch import Batch
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, ModelError
from rdsdk.evaluation.cli import main
from rdsdk.evaluation.hearing import heard_log_probs, load_hearing, load_hearing_together
from rdsdk.models import checkpoint, tdnn
from rdsdk.models.config import Context, preset
from rdsdk.models.student import Student
from rdsdk.models.tdnn import Tdnn, TdnnConfig
from rdsdk.training.imitation import Imitation, teacher_log_probs

SPEECH = Path(__file__).parents[1] / "assets" / "speech" / "manifest.jsonl"
VOCABULARY = Vocabulary.characters()
SAMPLES = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)


def of_student(folder: Path, seed: int, vocabulary: Vocabulary | None = VOCABULARY) -> Path:
    """A streaming student, which is surer than new ones are."""
    torch.manual_seed(seed)
    config = preset("tiny").streaming(Context(chunk_frames=4, left_frames=8))
    student = Student(config, symbols=None if vocabulary is None else len(vocabulary)).eval()
    if vocabulary is not None:
        with torch.no_grad():
            student.ctc_head.linear.weight *= 20
    return checkpoint.save(folder, checkpoint.Checkpoint(student, vocabulary))


def of_tdnn(folder: Path) -> Path:
    torch.manual_seed(7)
    config = TdnnConfig(width=16, bottleneck=8, fast_layers=1, reaches=(1, 2), heads=2)
    said = tdnn.TdnnCheckpoint(Tdnn(config, len(VOCABULARY)).eval(), VOCABULARY, {})
    return tdnn.save(folder, said)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    of_student(tmp_path / "one", 1)
    of_student(tmp_path / "two", 2)
    of_tdnn(tmp_path / "three")
    return [tmp_path / name for name in ("one", "two", "three")]


def test_together_they_say_what_their_pupil_is_taught(folders: list[Path]) -> None:
    hear, vocabulary = load_hearing_together(folders)
    assert vocabulary == VOCABULARY
    heard = hear(SAMPLES)
    teachers = Imitation(tuple(map(str, folders))).load(VOCABULARY)
    batch = Batch(
        ids=("noise",),
        waveforms=torch.from_numpy(SAMPLES)[None],
        sample_counts=torch.tensor([len(SAMPLES)]),
        tokens=torch.zeros(1, 0, dtype=torch.long),
        token_counts=torch.tensor([0]),
        texts=("",),
    )
    taught = teacher_log_probs(teachers, batch, whole=True)
    torch.testing.assert_close(heard, taught[0], atol=1e-4, rtol=0)
    # By hand, the geometric mean of what they say.
    each = [load_hearing(folder, chunk_frames=0)[0](SAMPLES) for folder in folders]
    product = (each[0] + each[1] + each[2]).double().exp() ** (1 / 3)
    by_hand = (product / product.sum(dim=-1, keepdim=True)).log()
    torch.testing.assert_close(heard.double(), by_hand, atol=1e-4, rtol=0)
    # None of them says so alone, nor do they if one hears in its own context.
    for alone in each:
        assert (alone - heard).abs().max() > 0.1
    streamed = teacher_log_probs(teachers, batch, whole=False)
    assert (streamed[0] - heard).abs().max() > 0.01


def test_one_with_itself_says_what_it_says_alone(folders: list[Path]) -> None:
    hear, _ = load_hearing_together([folders[0], folders[0]])
    student = checkpoint.load(folders[0]).student
    alone = heard_log_probs(student, SAMPLES, whole=True)
    torch.testing.assert_close(hear(SAMPLES), alone, atol=1e-5, rtol=0)


def test_a_recording_shorter_than_a_frame_is_heard(folders: list[Path]) -> None:
    hear, _ = load_hearing_together(folders)
    assert hear(SAMPLES[:100]).shape == (1, len(VOCABULARY))


def test_the_command_counts_what_they_get_wrong(
    folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, three = map(str, folders)
    assert main([one, str(SPEECH), "--together", two, "--together", three, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["model"], value["together"]) == (one, [two, three])
    assert value["results"][0]["clips"] > 1
    assert main([one, str(SPEECH), "--together", two]) == 0
    assert f"{folders[0].name} + " in "".join(capsys.readouterr().out.split("\n"))


def test_what_cannot_be_heard_together_is_refused(
    folders: list[Path], streaming_pte: Path, tmp_path: Path
) -> None:
    one, two = map(str, folders[:2])
    other = str(of_student(tmp_path / "other", 3, Vocabulary.words(["A", "B"])))
    with pytest.raises(ConfigError, match="must write the same symbols"):
        main([one, str(SPEECH), "--together", other])
    mute = of_student(tmp_path / "mute", 4, None)
    with pytest.raises(ModelError, match="holds no CTC head"):
        main([one, str(SPEECH), "--together", str(mute)])
    for pair in ((one, str(streaming_pte)), (str(streaming_pte), one), ("pocketsphinx", one)):
        with pytest.raises(ConfigError, match="is no checkpoint folder"):
            main([pair[0], str(SPEECH), "--together", pair[1]])
    with pytest.raises(ConfigError, match="hear each recording as a whole"):
        main([one, str(SPEECH), "--together", two, "--chunk-frames", "8"])
