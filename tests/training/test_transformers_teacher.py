"""Against transformers' own hidden states and attentions, with the same weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_teachers import FAMILIES, batch, every_other_span, tiny
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, HubertForCTC, HubertModel, Wav2Vec2FeatureExtractor

from rdsdk.errors import CheckpointError, ConfigError, DataError
from rdsdk.training.teachers import load_teacher
from rdsdk.training.transformers_teacher import TransformersTeacher

TOLERANCE = 2e-5
ALL = [(family, large) for family in FAMILIES for large in (False, True)]
every_model = pytest.mark.parametrize(("family", "large"), ALL)
SHORT_FRAMES = (9_000 - 80) // 320


def real(hidden: Sequence[Tensor]) -> Tensor:
    """Real frames of both rows of ``batch``, all layers: (L, frames, D)."""
    stacked = torch.stack(list(hidden))
    return torch.cat([stacked[:, 0], stacked[:, 1, :SHORT_FRAMES]], dim=1)


def shown(model: Any, hidden: Sequence[Tensor]) -> list[Tensor]:
    """Our hidden states as transformers gives them: the last one after a pre-norm encoder's final
    norm, which transformers 5 leaves out of ``hidden_states`` and 4 puts in."""
    large = model.config.do_stable_layer_norm
    return [*hidden[:-1], model.encoder.layer_norm(hidden[-1]) if large else hidden[-1]]


def theirs_of(output: Any) -> list[Tensor]:
    return [*output.hidden_states[1:-1], output.last_hidden_state]


def attention_mask(waveforms: Tensor, counts: Tensor) -> Tensor:
    return (torch.arange(waveforms.shape[1]) < counts[:, None]).long()


def differs(ours: Tensor, theirs: Tensor) -> bool:
    return (ours - theirs).abs().max().item() > 1e-2


@every_model
@torch.no_grad()
def test_hidden_states_of_a_padded_batch_equal_transformers(family: str, large: bool) -> None:
    model = tiny(family, large)
    waveforms, counts = batch()
    teacher = TransformersTeacher(model, family, normalize=False, mask_padding=True)
    mask = attention_mask(waveforms, counts)
    theirs = model(waveforms, attention_mask=mask, output_hidden_states=True)
    output = teacher(waveforms, counts)
    assert output.masked is None
    assert len(output.unmasked) == teacher.layers == 3
    assert output.unmasked[0].shape == (2, 49, teacher.width)
    ours = real(shown(model, output.unmasked))
    torch.testing.assert_close(ours, real(theirs_of(theirs)), atol=TOLERANCE, rtol=0)
    # What is returned is before that norm, on any version.
    assert differs(real(output.unmasked)[-1], real([theirs.last_hidden_state])[0]) == large
    # And what enters the first layer, for a mixture of all.
    entered, *after = teacher.hidden_states(waveforms, counts)
    torch.testing.assert_close(
        real([entered]), real(theirs.hidden_states[:1]), atol=TOLERANCE, rtol=0
    )
    assert torch.equal(torch.stack(after), torch.stack(output.unmasked))
    assert differs(entered, after[0])
    # Negative control: padding that is attended to shows.
    heard = model(waveforms, output_hidden_states=True)
    assert differs(real(theirs_of(heard)), ours)


@every_model
@pytest.mark.parametrize("one_batch", [True, False])
@torch.no_grad()
def test_the_masked_pass_equals_transformers(family: str, large: bool, one_batch: bool) -> None:
    model = tiny(family, large)
    waveforms, counts = batch()
    teacher = TransformersTeacher(
        model, family, normalize=False, mask_padding=True, one_batch=one_batch
    )
    frame_mask = every_other_span(counts)
    given = {"attention_mask": attention_mask(waveforms, counts), "output_hidden_states": True}
    theirs = theirs_of(model(waveforms, mask_time_indices=frame_mask, **given))
    unmasked = theirs_of(model(waveforms, **given))
    output = teacher(waveforms, counts, frame_mask)
    assert output.masked is not None
    masked = real(shown(model, output.masked))
    torch.testing.assert_close(masked, real(theirs), atol=TOLERANCE, rtol=0)
    plain = real(shown(model, output.unmasked))
    torch.testing.assert_close(plain, real(unmasked), atol=TOLERANCE, rtol=0)
    # Negative controls: no mask, and another one.
    assert differs(masked, real(unmasked))
    other = theirs_of(model(waveforms, mask_time_indices=~frame_mask, **given))
    assert differs(masked, real(other))


@torch.no_grad()
def test_the_mask_is_applied_where_spec_augment_is_turned_off() -> None:
    # transformers then ignores the mask that it is given.
    model = tiny("hubert", False)
    waveforms, counts = batch()
    masked = TransformersTeacher(model, "a")(waveforms, counts, every_other_span(counts)).masked
    model.config.apply_spec_augment = False
    again = TransformersTeacher(model, "a")(waveforms, counts, every_other_span(counts)).masked
    torch.testing.assert_close(masked, again)


@every_model
@torch.no_grad()
def test_attention_maps_equal_transformers(family: str, large: bool) -> None:
    model = tiny(family, large)
    waveforms, counts = batch()
    teacher = TransformersTeacher(model, family, normalize=False, mask_padding=True)
    maps = teacher.attention_maps(waveforms, counts)
    if hasattr(model, "set_attn_implementation"):  # older ones fall back by themselves
        model.set_attn_implementation("eager")
    given = {"attention_mask": attention_mask(waveforms, counts), "output_attentions": True}
    theirs = model(waveforms, **given).attentions
    assert len(maps) == len(theirs) == 3
    for ours, expected in zip(maps, theirs, strict=True):
        assert ours.shape == (2, teacher.heads, 49, 49)
        torch.testing.assert_close(ours.sum(-1), torch.ones(2, teacher.heads, 49))
        # transformers gives WavLM's mean over the heads, for every head.
        mean = ours.mean(dim=1, keepdim=True).expand_as(ours)
        comparable = mean if family == "wavlm" else ours
        torch.testing.assert_close(comparable[0], expected[0], atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(
            comparable[1, :, :SHORT_FRAMES], expected[1, :, :SHORT_FRAMES], atol=TOLERANCE, rtol=0
        )
        assert ours[1, :, :SHORT_FRAMES, SHORT_FRAMES:].abs().max() == 0
    # Negative controls: layers and heads have maps of their own, far from flat.
    assert differs(maps[0], maps[1])
    assert differs(maps[0][:, 0], maps[0][:, 1])


@torch.no_grad()
def test_each_head_of_a_wavlm_map_carries_its_values_to_the_layers_output() -> None:
    # transformers shows only the mean over heads, so each head is checked by what it is for.
    model = tiny("wavlm", False)
    waveforms, counts = batch((16_000, 16_000))
    teacher = TransformersTeacher(model, "wavlm", normalize=False)
    seen: list[tuple[Tensor, Tensor]] = []
    for layer in model.encoder.layers:
        layer.attention.register_forward_hook(
            lambda module, arguments, output: seen.append((arguments[0], output[0]))
        )
    maps = teacher.attention_maps(waveforms, counts)

    def mixed(layer: Any, map_bhtt: Tensor, entered: Tensor) -> Tensor:
        values = layer.attention.v_proj(entered).unflatten(-1, (4, 8)).transpose(1, 2)
        return layer.attention.out_proj((map_bhtt @ values).transpose(1, 2).flatten(2))

    for layer, map_bhtt, (entered, left) in zip(model.encoder.layers, maps, seen, strict=True):
        torch.testing.assert_close(mixed(layer, map_bhtt, entered), left, atol=TOLERANCE, rtol=0)
        assert differs(mixed(layer, map_bhtt.roll(1, dims=1), entered), left)


@pytest.mark.parametrize("family", list(FAMILIES))
@torch.no_grad()
def test_full_size_base_models_equal_transformers(family: str) -> None:
    torch.manual_seed(0)
    model_class, config_class = FAMILIES[family]
    model = model_class(config_class()).eval()
    waveforms, counts = batch((8_000, 6_000))
    teacher = TransformersTeacher(model, family, normalize=False)
    assert (teacher.layers, teacher.width, teacher.heads) == (12, 768, 12)
    frame_mask = every_other_span(counts)
    output = teacher(waveforms, counts, frame_mask)
    # As documented for group-norm models: zeros for padding, no attention mask.
    theirs = model(waveforms, output_hidden_states=True).hidden_states[1:]
    masked = model(waveforms, mask_time_indices=frame_mask, output_hidden_states=True)
    assert output.masked is not None
    for ours, expected in (
        (output.unmasked, theirs),
        (output.masked, masked.hidden_states[1:]),
    ):
        torch.testing.assert_close(torch.stack(ours), torch.stack(expected), atol=TOLERANCE, rtol=0)
    assert differs(torch.stack(output.masked), torch.stack(theirs))


def saved(folder: Path, model: Any, **preprocessor: Any) -> Path:
    model.save_pretrained(folder)
    if preprocessor:
        Wav2Vec2FeatureExtractor(**preprocessor).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("do_normalize", [False, True])
@torch.no_grad()
def test_a_folder_is_run_as_its_preprocessor_says(
    tmp_path: Path, large: bool, do_normalize: bool
) -> None:
    model = tiny("wav2vec2", large)
    settings = {"do_normalize": do_normalize, "return_attention_mask": large}
    teacher = load_teacher(saved(tmp_path / "teacher", model, **settings))
    assert teacher.name == "teacher"
    waveforms, counts = batch()
    # One recording at a time: of a batch without an attention mask, transformers' extractor
    # normalises the padding along with the speech.
    extract = Wav2Vec2FeatureExtractor(**settings)
    rows = [
        extract(row[:count].numpy(), sampling_rate=16_000, return_tensors="pt").input_values[0]
        for row, count in zip(waveforms, counts.tolist(), strict=True)
    ]
    inputs = {"input_values": pad_sequence(rows, batch_first=True)}
    if large:
        inputs["attention_mask"] = attention_mask(waveforms, counts)
    theirs = theirs_of(model(**inputs, output_hidden_states=True))
    ours = shown(model, teacher(waveforms, counts).unmasked)
    torch.testing.assert_close(real(ours), real(theirs), atol=TOLERANCE, rtol=0)
    raw = theirs_of(
        model(waveforms, attention_mask=inputs.get("attention_mask"), output_hidden_states=True)
    )
    # A group norm without bias before it takes the scale out by itself, but for its epsilon.
    if large:
        assert differs(real(ours), real(raw)) == do_normalize


@pytest.mark.parametrize("large", [False, True])
def test_without_a_preprocessor_the_extractors_norm_decides(tmp_path: Path, large: bool) -> None:
    folder = saved(tmp_path / "plain", tiny("hubert", large))
    teacher = load_teacher(folder)
    assert (teacher.normalize_epsilon is not None) == teacher.mask_padding == large
    chosen = load_teacher(str(folder), normalize=not large, mask_padding=not large)
    assert (chosen.normalize_epsilon is not None) == chosen.mask_padding == (not large)


@torch.no_grad()
def test_a_checkpoint_with_a_head_gives_its_encoder(tmp_path: Path) -> None:
    base = tiny("hubert", False)
    whole = HubertForCTC(base.config)
    whole.hubert.load_state_dict(base.state_dict())
    waveforms, counts = batch()
    ours = load_teacher(saved(tmp_path / "ctc", whole))(waveforms, counts).unmasked
    torch.testing.assert_close(ours, TransformersTeacher(base, "base")(waveforms, counts).unmasked)


@torch.no_grad()
def test_normalisation_takes_the_real_samples_of_each_recording_only() -> None:
    teacher = TransformersTeacher(tiny("hubert", True), "large")
    waveforms, counts = batch()
    normalized = teacher._normalized(waveforms, counts)
    extract = Wav2Vec2FeatureExtractor(do_normalize=True)
    for row, count in enumerate(counts.tolist()):
        expected = extract(waveforms[row, :count].numpy(), sampling_rate=16_000).input_values[0]
        np.testing.assert_allclose(normalized[row, :count], expected, atol=1e-5)
        assert not normalized[row, count:].any()


def test_it_is_frozen_and_no_gradient_reaches_it() -> None:
    teacher = TransformersTeacher(tiny("hubert", False, attention_dropout=0.5), "hubert")
    waveforms, counts = batch()
    waveforms.requires_grad_()
    around = torch.nn.ModuleDict({"teacher": teacher, "student": torch.nn.Linear(32, 32)})
    around.train()
    assert not any(module.training for module in teacher.modules())
    assert around["student"].training
    output = teacher(waveforms, counts, every_other_span(counts))
    assert not any(h.requires_grad for h in (*output.unmasked, *(output.masked or ())))
    # Its outputs can be targets of a loss that is differentiated.
    (around["student"](output.unmasked[0].detach()) - output.unmasked[1]).square().sum().backward()
    assert waveforms.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    trained = [p for p in around.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in around["student"].parameters()}


def test_the_convolutions_run_once_for_both_passes() -> None:
    model = tiny("wavlm", False)
    calls = []
    model.feature_extractor.register_forward_hook(lambda *a: calls.append(1))
    waveforms, counts = batch()
    for one_batch in (True, False):
        calls.clear()
        teacher = TransformersTeacher(model, "wavlm", one_batch=one_batch)
        teacher(waveforms, counts, every_other_span(counts))
        assert len(calls) == 1


def test_bfloat16_is_near_float32_and_not_it() -> None:
    model = tiny("hubert", True)
    waveforms, counts = batch()
    exact = torch.stack(TransformersTeacher(model, "a")(waveforms, counts).unmasked)
    half = TransformersTeacher(model, "a", precision="bfloat16")(waveforms, counts).unmasked
    error = (real(half).float() - real(exact)).norm() / real(exact).norm()
    assert 1e-4 < error < 0.1


def test_a_row_without_a_frame_spoils_no_other_and_gives_no_nan() -> None:
    waveforms, counts = batch((16_000, 200))
    for family in FAMILIES:
        model = tiny(family, True)
        teacher = TransformersTeacher(model, family)
        hidden = teacher(waveforms, counts).unmasked
        assert all(h.isfinite().all() for h in hidden)
        alone = teacher(waveforms[:1], counts[:1]).unmasked
        torch.testing.assert_close([h[:1] for h in hidden], alone, atol=TOLERANCE, rtol=0)


def test_inputs_of_a_wrong_shape_are_refused() -> None:
    teacher = TransformersTeacher(tiny("hubert", False), "hubert")
    waveforms, counts = batch()
    with pytest.raises(ConfigError, match=r"waveforms \(B, S\)"):
        teacher(waveforms[0], counts)
    with pytest.raises(ConfigError, match=r"bool \(2, 49\)"):
        teacher(waveforms, counts, torch.zeros(2, 50, dtype=torch.bool))
    with pytest.raises(DataError, match="shorter than one frame"):
        teacher(waveforms[:, :399], counts)
    with pytest.raises(ConfigError, match="precision"):
        TransformersTeacher(tiny("hubert", False), "hubert", precision="half")  # type: ignore[arg-type]


def test_another_frame_rate_is_refused() -> None:
    model = tiny("hubert", False, conv_stride=[5, 2, 2, 2, 2, 2, 1])
    with pytest.raises(CheckpointError, match="every 160"):
        TransformersTeacher(model, "fast")


def test_a_teacher_without_a_mask_embedding_says_so(tmp_path: Path) -> None:
    folder = saved(tmp_path / "never-masked", tiny("wavlm", False, mask_time_prob=0.0))
    teacher = load_teacher(folder)
    waveforms, counts = batch()
    assert not teacher.can_mask
    assert len(teacher(waveforms, counts).unmasked) == 3
    with pytest.raises(ConfigError, match="without a mask embedding"):
        teacher(waveforms, counts, every_other_span(counts))


def test_a_random_mask_embedding_is_not_taken_for_a_trained_one(tmp_path: Path) -> None:
    model = tiny("hubert", False)
    del model.masked_spec_embed
    assert not load_teacher(saved(tmp_path / "a", model)).can_mask
    assert load_teacher(saved(tmp_path / "b", tiny("hubert", False))).can_mask


def test_missing_weights_are_refused_by_name(tmp_path: Path) -> None:
    model = tiny("hubert", False)
    del model.encoder.layers[1].final_layer_norm
    with pytest.raises(CheckpointError, match=r"encoder\.layers\.1\.final_layer_norm"):
        load_teacher(saved(tmp_path / "a", model))


def test_a_wrong_source_is_one_helpful_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"neither config\.json"):
        load_teacher(tmp_path)
    with pytest.raises(CheckpointError, match="no teacher at"):
        load_teacher(tmp_path / "absent" / "folder")
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'bert' model; a teacher is one of hubert, wavlm"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "never-heard"}))
    with pytest.raises(CheckpointError, match="never-heard"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="configuration of the teacher"):
        load_teacher(tmp_path)
    saved(tmp_path, HubertModel(tiny("hubert", False).config))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"weights of the teacher .* cannot be read"):
        load_teacher(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="taken for a hub name: check the spelling"):
        load_teacher("nobody/no-such-model")
