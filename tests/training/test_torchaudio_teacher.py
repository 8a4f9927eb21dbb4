"""Against torchaudio's own ``extract_features``, with the same weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_teachers import SHARPER, batch, every_other_span
from torch import Tensor

from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.training.teachers import load_teacher
from rdsdk.training.torchaudio_import import import_torchaudio
from rdsdk.training.torchaudio_teacher import TorchaudioTeacher

CONVS = [(12, 10, 5)] + [(12, 3, 2)] * 4 + [(12, 2, 2)] * 2
SHAPE: dict[str, Any] = {
    "extractor_conv_layer_config": CONVS,
    "encoder_embed_dim": 32,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 3,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 40,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_drop": 0.0,
    "aux_num_out": None,
}
SHORT_FRAMES = (9_000 - 80) // 320


def sharp(model: Any) -> Any:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".q_proj.weight" in name or ".k_proj.weight" in name:
                parameter.mul_(SHARPER)
            elif "in_proj_weight" in name:
                parameter[:64].mul_(4.0)
            elif "gru_rel_pos" in name or "rel_attn_embed" in name:
                parameter.add_(torch.randn_like(parameter))
    return model.eval()


def tiny(family: str, large: bool) -> Any:
    torch.manual_seed(4)
    models = import_torchaudio().models
    settings = SHAPE | {
        "extractor_mode": "layer_norm" if large else "group_norm",
        "extractor_conv_bias": large,
        "encoder_layer_norm_first": large,
    }
    if family == "wavlm":
        return sharp(
            models.wavlm_model(**settings, encoder_num_buckets=32, encoder_max_distance=80)
        )
    return sharp(models.wav2vec2_model(**settings))


def real(hidden: list[Tensor]) -> Tensor:
    stacked = torch.stack(hidden)
    return torch.cat([stacked[:, 0], stacked[:, 1, :SHORT_FRAMES]], dim=1)


@pytest.mark.parametrize("large", [False, True])
@torch.no_grad()
def test_hubert_and_wav2vec2_equal_extract_features(large: bool) -> None:
    model = tiny("wav2vec2", large)
    waveforms, counts = batch()
    teacher = TorchaudioTeacher(model, "torchaudio")
    assert (teacher.layers, teacher.width, teacher.heads) == (3, 32, 4)
    ours = teacher(waveforms, counts).unmasked
    theirs, lengths = model.extract_features(waveforms, counts)
    assert lengths.tolist() == [49, SHORT_FRAMES]
    torch.testing.assert_close(real(ours), real(theirs), atol=2e-5, rtol=0)
    entered: list[Tensor] = []
    hook = model.encoder.transformer.layers[0].register_forward_pre_hook(
        lambda layer, arguments: entered.append(arguments[0])
    )
    model.extract_features(waveforms, counts)
    hook.remove()
    first, *after = teacher.hidden_states(waveforms, counts)
    torch.testing.assert_close(real([first]), real(entered), atol=2e-5, rtol=0)
    assert torch.equal(torch.stack(after), torch.stack(ours))
    # Negative control: without lengths, padding is heard.
    heard, _ = model.extract_features(waveforms)
    assert (real(heard) - real(ours)).abs().max() > 1e-2
    unhidden = TorchaudioTeacher(model, "torchaudio", mask_padding=False)
    torch.testing.assert_close(unhidden(waveforms, counts).unmasked, heard, atol=2e-5, rtol=0)


@pytest.mark.parametrize("large", [False, True])
@torch.no_grad()
def test_wavlm_equals_extract_features_and_hides_padding(large: bool) -> None:
    model = tiny("wavlm", large)
    waveforms, counts = batch((16_000, 16_000))
    teacher = TorchaudioTeacher(model, "torchaudio")
    theirs, _ = model.extract_features(waveforms)
    ours = teacher(waveforms, counts).unmasked
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    if not large:
        return  # a group norm hears padding whatever is hidden later
    # torchaudio takes no lengths for WavLM: a padded row is compared with the same row alone.
    waveforms, counts = batch()
    padded = teacher(waveforms, counts).unmasked
    alone, _ = model.extract_features(waveforms[1:, :9_000])
    heard, _ = model.extract_features(waveforms)
    for layer in range(3):
        short = padded[layer][1:, :SHORT_FRAMES]
        torch.testing.assert_close(short, alone[layer], atol=2e-5, rtol=0)
        assert (heard[layer][1:, :SHORT_FRAMES] - alone[layer]).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
@pytest.mark.parametrize("large", [False, True])
@torch.no_grad()
def test_maps_carry_the_values_to_the_layers_output(family: str, large: bool) -> None:
    model = tiny(family, large)
    waveforms, counts = batch((16_000, 16_000))
    layers = model.encoder.transformer.layers
    seen: list[tuple[Tensor, Tensor]] = []
    for layer in layers:
        layer.attention.register_forward_hook(
            lambda module, arguments, output: seen.append((arguments[0], output[0]))
        )
    maps = TorchaudioTeacher(model, "torchaudio").attention_maps(waveforms, counts)

    def mixed(attention: Any, map_bhtt: Tensor, entered: Tensor) -> Tensor:
        if family == "wavlm":
            inner = attention.attention
            weight, bias = inner.in_proj_weight[64:], inner.in_proj_bias[64:]
            values, output = torch.nn.functional.linear(entered, weight, bias), inner.out_proj
        else:
            values, output = attention.v_proj(entered), attention.out_proj
        values = values.unflatten(-1, (4, 8)).transpose(1, 2)
        return output((map_bhtt @ values).transpose(1, 2).flatten(2))

    for layer, map_bhtt, (entered, left) in zip(layers, maps, seen, strict=True):
        got = mixed(layer.attention, map_bhtt, entered)
        torch.testing.assert_close(got, left, atol=2e-5, rtol=0)
        other = mixed(layer.attention, map_bhtt.roll(1, dims=1), entered)
        assert (other - left).abs().max() > 10 * (got - left).abs().max() + 1e-4


@torch.no_grad()
def test_a_pre_training_model_has_a_mask_embedding_and_a_bundle_has_none() -> None:
    torch.manual_seed(4)
    models = import_torchaudio().models
    settings = SHAPE | {
        "extractor_mode": "group_norm",
        "extractor_conv_bias": False,
        "encoder_layer_norm_first": False,
    }
    del settings["aux_num_out"]
    whole = models.hubert_pretrain_model(
        **settings,
        mask_prob=0.8,
        mask_selection="static",
        mask_other=0.0,
        mask_length=10,
        no_mask_overlap=False,
        mask_min_space=1,
        mask_channel_prob=0.0,
        mask_channel_selection="static",
        mask_channel_other=0.0,
        mask_channel_length=10,
        no_mask_channel_overlap=False,
        mask_channel_min_space=1,
        skip_masked=False,
        skip_nomask=False,
        num_classes=10,
        final_dim=16,
        feature_grad_mult=None,
    )
    waveforms, counts = batch()
    mask = every_other_span(counts)
    teacher = TorchaudioTeacher(sharp(whole), "torchaudio")
    output = teacher(waveforms, counts, mask)
    assert output.masked is not None
    # By hand: the embedding after the projection, then the transformer as usual.
    inner = whole.wav2vec2
    features, lengths = inner.feature_extractor(waveforms, counts)
    projected, hidden = inner.encoder._preprocess(features, lengths)
    projected[mask & (torch.arange(49) < lengths[:, None])] = whole.mask_generator.mask_embedding
    expected = inner.encoder.transformer.get_intermediate_outputs(projected, hidden)
    torch.testing.assert_close(real(output.masked), real(expected), atol=2e-5, rtol=0)
    assert (real(output.masked) - real(output.unmasked)).abs().max() > 1e-2
    bundle = TorchaudioTeacher(inner, "torchaudio:HUBERT_BASE")
    assert not bundle.can_mask
    with pytest.raises(ConfigError, match="HUBERT_BASE came without a mask embedding"):
        bundle(waveforms, counts, mask)


def test_bundles_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines = import_torchaudio().pipelines
    with pytest.raises(ConfigError, match=r"no bundle 'HUBERT'; known: .*HUBERT_BASE"):
        load_teacher("torchaudio:HUBERT")

    def offline(*arguments: object, **named: object) -> None:
        raise OSError("no network")

    bundle = type(pipelines.HUBERT_BASE)
    monkeypatch.setattr(bundle, "_get_state_dict", offline)
    with pytest.raises(CheckpointError, match="no network; check the network"):
        load_teacher("torchaudio:HUBERT_BASE")
    # Everything but the download: random weights in the bundle's own shape.
    monkeypatch.setattr(
        bundle,
        "_get_state_dict",
        lambda self, options: (
            import_torchaudio().models.wav2vec2_model(**self._params).state_dict()
        ),
    )
    teacher = load_teacher("torchaudio:HUBERT_BASE")
    assert (teacher.name, teacher.layers, teacher.width) == ("torchaudio:HUBERT_BASE", 12, 768)
    assert teacher.normalize_epsilon is None


@torch.no_grad()
def test_a_bundle_that_normalises_does_so_for_each_recording() -> None:
    model = tiny("wav2vec2", True)
    utils = sys.modules["torchaudio.pipelines._wav2vec2.utils"]
    wrapped = utils._extend_model(model, normalize_waveform=True)
    waveforms, counts = batch((16_000,))
    waveforms *= 0.03  # as quiet as the epsilon
    entered: list[Tensor] = []
    model.feature_extractor.register_forward_pre_hook(lambda m, given: entered.append(given[0]))
    wrapped.extract_features(waveforms, counts)
    TorchaudioTeacher(model, "large", normalize=True)(waveforms, counts)
    TorchaudioTeacher(model, "large")(waveforms, counts)
    theirs, ours, plain = entered
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (plain - theirs).abs().max() > 0.1


def run_with(folder: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(folder)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_torchaudio_whose_extension_fails_is_mended_and_only_then(tmp_path: Path) -> None:
    package = tmp_path / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text("from . import _extension\nfrom . import models\n")
    (package / "models.py").write_text("from torchaudio._extension import fail_if_no_align\n")
    (package / "_extension.py").write_text("raise OSError('no CUDA')\n")
    code = (
        "from rdsdk.training.torchaudio_import import import_torchaudio\n"
        "audio = import_torchaudio()\n"
        "extension = sys.modules['torchaudio._extension']\n"
        "print(audio.models.fail_if_no_align(3), getattr(extension, '__file__', 'none') == 'none')"
    )
    assert run_with(tmp_path, code) == "3 True"
    (package / "_extension.py").write_text("fail_if_no_align = lambda f: 'own'\n")
    assert run_with(tmp_path, code) == "own False"


def test_a_torchaudio_that_cannot_be_mended_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('beyond help')\n")
    code = (
        "from rdsdk.errors import ConfigError\n"
        "from rdsdk.training.torchaudio_import import import_torchaudio\n"
        "try: import_torchaudio()\n"
        "except ConfigError as error: print(error)"
    )
    assert "torchaudio does not load: beyond help" in run_with(tmp_path, code)
