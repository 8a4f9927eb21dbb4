"""Log-mel energies beside the convolutions: what they are, and that a student goes on as before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchaudio
from torch.utils.flop_counter import FlopCounterMode

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import preset
from rdsdk.models.cost import macs, student_shape
from rdsdk.models.energies import Energies, constant_values
from rdsdk.models.growth import doubled, widened, with_energies
from rdsdk.models.student import Student

CONFIG = replace(preset("tiny"), mel_bands=20)


def student(seed: int = 0) -> Student:
    """One whose energies are heard."""
    torch.manual_seed(seed)
    made = Student(CONFIG, symbols=5).eval()
    assert made.energies is not None
    torch.nn.init.normal_(made.energies.join.weight, std=0.3)
    return made


def sound(frames: int, batch: int = 1) -> torch.Tensor:
    torch.manual_seed(3)
    return 0.1 * torch.randn(batch, 320 * frames + 80)


@torch.no_grad()
def test_energies_are_those_of_torchaudio() -> None:
    waveform, bands = sound(12, batch=2), 30
    got = Energies(bands, 8).energies(waveform).unflatten(2, (3, bands))
    for place, (first, size) in enumerate(((0, 400), (0, 240), (160, 240))):
        power = torchaudio.transforms.Spectrogram(512, size, 320, center=False)
        # torchaudio pads a short window on both sides; what it hears is the same stretch.
        rows = waveform.unfold(1, 400, 320)[..., first : first + size]
        padded = torch.nn.functional.pad(rows, ((512 - size) // 2, 512 - size - (512 - size) // 2))
        spectrum = power(padded.flatten(0, 1)).squeeze(2).view(2, 12, -1)
        filters = torchaudio.functional.melscale_fbanks(257, 40.0, 7600.0, bands, 16_000)
        expected = ((spectrum @ filters + 1e-6).log() + 4.0) / 4.0
        torch.testing.assert_close(got[:, :, place], expected, atol=1e-4, rtol=0)
    assert (got[:, :, 1] - got[:, :, 2]).abs().max() > 0.05


@torch.no_grad()
def test_silence_is_finite_and_level_shifts_logarithms() -> None:
    energies = Energies(20, 8)
    assert energies.energies(torch.zeros(1, 720)).eq(energies.energies(torch.zeros(1, 720))).all()
    assert energies.energies(torch.zeros(1, 720)).isfinite().all()
    loud, soft = energies.energies(sound(5)), energies.energies(sound(5) / 10)
    torch.testing.assert_close(loud - soft, torch.full_like(loud, 1.1513), atol=2e-2, rtol=0)


@torch.no_grad()
def test_streamed_is_offline() -> None:
    made, waveform = student(), sound(40)
    whole, _ = made(waveform)
    state, said = None, []
    for chunk in range(5):
        block = waveform[:, 320 * 8 * chunk : 320 * 8 * (chunk + 1) + 80]
        output, state = made(block, state)
        said.append(output.log_probs)
    torch.testing.assert_close(torch.cat(said, dim=1), whole.log_probs, atol=5e-5, rtol=0)
    # They are heard, in the frames that they are of.
    deaf = made.copy()
    torch.nn.init.zeros_(deaf.energies.join.weight)
    assert (deaf(waveform)[0].log_probs - whole.log_probs).abs().max() > 1e-2
    assert made.frames(waveform).shape == (1, 40, CONFIG.convs[-1].channels)


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    made, waveform = student(), sound(30)
    alone, _ = made(waveform[:, : 320 * 20 + 80])
    padded = waveform.clone()
    padded[:, 320 * 20 + 80 :] = 0
    both, _ = made(
        torch.cat([padded, waveform]), sample_counts=torch.tensor([320 * 20 + 80, 320 * 30 + 80])
    )
    torch.testing.assert_close(both.log_probs[0, :20], alone.log_probs[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_from_the_extractors_frames_it_says_the_same() -> None:
    made, waveform = student(), sound(16)
    expected, _ = made(waveform)
    said, _ = made.hear(made.extractor(waveform), waveform=waveform)
    torch.testing.assert_close(said.log_probs, expected.log_probs)
    with pytest.raises(AssertionError, match="energies of the waveform"):
        made.hear(made.extractor(waveform))


@torch.no_grad()
def test_given_energies_and_grown_a_student_says_the_same_at_first() -> None:
    torch.manual_seed(1)
    deaf, waveform = Student(preset("tiny"), symbols=5).eval(), sound(16)
    before, _ = deaf(waveform)
    hearing = with_energies(deaf, 20).eval()
    assert hearing.config == CONFIG
    torch.testing.assert_close(hearing(waveform)[0].log_probs, before.log_probs)
    assert with_energies(hearing, 20).config == CONFIG
    with pytest.raises(ConfigError, match="hears 20 bands already"):
        with_energies(hearing, 40)
    made = student()
    expected = made(waveform)[0].log_probs
    for larger in (widened(made, 96), doubled(made)):
        said = larger.eval()(waveform)[0].log_probs
        torch.testing.assert_close(said, expected, atol=1e-4, rtol=0)


def test_what_is_learnt_reaches_the_energies() -> None:
    made = student().train()
    output, _ = made(sound(16))
    output.log_probs[..., 1].sum().backward()
    assert made.energies.widen.weight.grad.abs().max() > 0


def test_energies_are_exact_where_the_rest_is_in_bfloat16() -> None:
    made, waveform = student(), 0.5 * torch.sin(torch.arange(1680) * 0.3)[None]
    with torch.no_grad():
        expected = made.energies(waveform)
        with torch.autocast("cpu", torch.bfloat16):
            got = made.energies(waveform)
        rounded = made.energies.double().energies(waveform.bfloat16().double())
        exact = made.energies.energies(waveform.double())
    # Beside a loud tone, soft bands are lost in bfloat16.
    assert (rounded - exact).abs().max() > 0.2
    torch.testing.assert_close(got.float(), expected, atol=0.05, rtol=0.05)


def test_a_checkpoint_keeps_them_and_no_constants(tmp_path) -> None:
    made = student()
    checkpoint.save(tmp_path, Checkpoint(made, Vocabulary.words(["A", "B", "C", "D"])))
    loaded = checkpoint.load(tmp_path).student
    assert loaded.config.mel_bands == 20
    torch.testing.assert_close(loaded(sound(8))[0].hidden[-1], made(sound(8))[0].hidden[-1])
    assert not [name for name in made.state_dict() if name.endswith(("bank", "long", "short"))]


@pytest.mark.parametrize("bands", [-1, 1.5])
def test_impossible_bands_are_refused(bands: float) -> None:
    with pytest.raises(ConfigError, match="mel_bands"):
        replace(CONFIG, mel_bands=bands)


@torch.no_grad()
def test_their_cost_is_counted() -> None:
    made, samples = student(), 320 * 16 + 80
    with FlopCounterMode(display=False) as counter:
        made.energies(torch.zeros(1, samples))
    without = macs(student_shape(replace(CONFIG, mel_bands=0)), samples).total
    assert macs(student_shape(CONFIG), samples).total - without == counter.get_total_flops() // 2
    assert constant_values(20) == sum(buffer.numel() for buffer in made.energies.buffers())
