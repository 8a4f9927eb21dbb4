"""Teachers from transformers checkpoints: HuBERT, WavLM and wav2vec 2.0, Base and Large."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdsdk.errors import CheckpointError
from rdsdk.training.teacher_maps import attention_map, gated_bias
from rdsdk.training.teachers import Precision, Teacher, check_geometry
from rdsdk.training.transformers_import import import_transformers, quietly

MODEL_TYPES = ("hubert", "wavlm", "wav2vec2")

NORMALIZE_EPSILON = 1e-7
"""What transformers' Wav2Vec2FeatureExtractor adds to the variance."""

_MASK_EMBEDDING = "masked_spec_embed"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class TransformersTeacher(Teacher):
    """A HubertModel, WavLMModel or Wav2Vec2Model, which is frozen where it is.

    Args:
        model: the model, without task heads.
        name: for people and for provenance.
        normalize, mask_padding: see ``load_teacher``; None decides by the extractor's norm.
        trained_mask: whether the mask embedding is trained; one that the checkpoint lacked is
            random, and not used.
        precision, one_batch: see ``Teacher``.

    Raises:
        CheckpointError: another architecture, or an extractor of another hop.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        *,
        normalize: bool | None = None,
        mask_padding: bool | None = None,
        trained_mask: bool = True,
        precision: Precision = "auto",
        one_batch: bool | None = None,
    ) -> None:
        config = model.config
        check_model_type(config.model_type, name)
        check_geometry(config.conv_kernel, config.conv_stride, name)
        large = config.feat_extract_norm == "layer"
        embedding = getattr(model, _MASK_EMBEDDING, None) if trained_mask else None
        super().__init__(
            name,
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            mask_embedding=None if embedding is None else embedding.detach(),
            normalize_epsilon=NORMALIZE_EPSILON if _or(normalize, large) else None,
            mask_padding=_or(mask_padding, large),
            precision=precision,
            one_batch=one_batch,
        )
        self.model = model
        self._freeze()
        if config.model_type == "wavlm":
            # About transformers' own call, on every padded batch.
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")

    def _extract(self, waveforms: Tensor) -> Tensor:
        return self.model.feature_extractor(waveforms).transpose(1, 2)

    def _encode(
        self, features: Tensor, frame_counts: Tensor | None, frame_mask: Tensor | None
    ) -> list[Tensor]:
        hidden: list[Tensor] = []

        def keep(layer: Any, arguments: Any, output: Any) -> None:
            hidden.append(output if isinstance(output, Tensor) else output[0])

        with _hooked([layer.register_forward_hook(keep) for layer in self.model.encoder.layers]):
            self._run(features, frame_counts, frame_mask)
        return hidden

    def _first_layer(self) -> Any:
        return self.model.encoder.layers[0]

    def _maps(self, features: Tensor, frame_counts: Tensor | None) -> list[Tensor]:
        maps: list[Tensor] = []

        def keep(attention: Any, arguments: Any, named: Any, output: Any) -> None:
            x_btd = arguments[0] if arguments else named["hidden_states"]
            bias = None
            if hasattr(attention, "gru_rel_pos_linear"):
                # Of the first layer, which hands it on, before the gate: (B H, T, T).
                ungated = output[2].unflatten(0, (-1, self.heads))
                bias = gated_bias(x_btd, attention, ungated)
            queries, keys = attention.q_proj(x_btd), attention.k_proj(x_btd)
            maps.append(attention_map(queries, keys, self.heads, frame_counts, bias))

        attentions = [layer.attention for layer in self.model.encoder.layers]
        with _hooked([a.register_forward_hook(keep, with_kwargs=True) for a in attentions]):
            self._run(features, frame_counts, None)
        return maps

    def _run(
        self, features: Tensor, frame_counts: Tensor | None, frame_mask: Tensor | None
    ) -> None:
        projected = self.model.feature_projection(features)
        # wav2vec 2.0 and WavLM also return the normalised features, HuBERT does not.
        projected = projected if isinstance(projected, Tensor) else projected[0]
        # A copy: the encoder writes zeros over the padding.
        x_btd = self._masked(projected, frame_mask)
        valid = None
        if frame_counts is not None:
            valid = torch.arange(x_btd.shape[1], device=x_btd.device) < frame_counts[:, None]
        self.model.encoder(x_btd, attention_mask=valid)


def load_transformers(
    source: str,
    *,
    precision: Precision = "auto",
    one_batch: bool | None = None,
    mask_padding: bool | None = None,
    normalize: bool | None = None,
) -> TransformersTeacher:
    """A local folder or a hub name -> a teacher; see ``load_teacher``.

    A checkpoint with a task head (CTC, pre-training) gives its encoder; the head is left behind.

    Raises:
        CheckpointError: the folder is not such a checkpoint, the name is unknown or cannot be
            reached, the architecture is another, or weights are missing.
        ConfigError: transformers does not load.
    """
    _check_source(source)
    transformers = import_transformers()
    with quietly(transformers, downloads=not Path(source).is_dir()):
        config = _read(
            lambda: transformers.AutoConfig.from_pretrained(source), source, "configuration"
        )
        check_model_type(config.model_type, source)
        model, info = _read(
            lambda: transformers.AutoModel.from_pretrained(
                source, config=config, output_loading_info=True
            ),
            source,
            "weights",
        )
        preprocessor = _preprocessor(transformers, source)
    missing = {str(key) for key in info["missing_keys"]}
    random_mask = any(key.endswith(_MASK_EMBEDDING) for key in missing)
    missing = {key for key in missing if not key.endswith(_MASK_EMBEDDING)}
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} weights of a {config.model_type} encoder, among them "
            f"{sorted(missing)[:3]}; a teacher needs all of them"
        )
    if preprocessor is not None:
        normalize = _or(normalize, preprocessor.do_normalize)
        mask_padding = _or(mask_padding, preprocessor.return_attention_mask)
    return TransformersTeacher(
        model.float(),
        Path(source).name if Path(source).is_dir() else source,
        normalize=normalize,
        mask_padding=mask_padding,
        trained_mask=not random_mask,
        precision=precision,
        one_batch=one_batch,
    )


def check_model_type(model_type: str, source: str) -> None:
    """Refuse an architecture that is no teacher.

    Raises:
        CheckpointError: names what is accepted.
    """
    if model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{source} is a {model_type!r} model; a teacher is one of {', '.join(MODEL_TYPES)}"
        )


def _check_source(source: str) -> None:
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"{source} is no teacher: it has neither config.json (transformers) nor model.json "
                "(rdsdk); give the folder that save_pretrained wrote"
            )
    elif path.exists() or not _HUB_NAME.fullmatch(source):
        raise CheckpointError(
            f"there is no teacher at {source}; give a checkpoint's folder, a hub name such as "
            "facebook/hubert-base-ls960, or torchaudio:HUBERT_BASE"
        )


def _read(load: Callable[[], Any], source: str, what: str) -> Any:
    try:
        return load()
    # transformers and the hub's client raise whatever a damaged file or a lost network leads to.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        advice = (
            "copy or save it again"
            if Path(source).is_dir()
            else "there is no such folder here, so it was taken for a hub name: check the spelling "
            "and the network, or download it elsewhere and give its folder"
        )
        raise CheckpointError(
            f"the {what} of the teacher {source} cannot be read: {reason}; {advice}"
        ) from error


def _preprocessor(transformers: Any, source: str) -> Any:
    """The checkpoint's waveform preprocessor, None if it has none."""
    try:
        return transformers.Wav2Vec2FeatureExtractor.from_pretrained(source)
    except (OSError, ValueError):
        if (Path(source) / "preprocessor_config.json").is_file():
            raise CheckpointError(
                f"{source}/preprocessor_config.json cannot be read; mend it, or remove it and say "
                "normalize and mask_padding yourself"
            ) from None
        return None


def _or(chosen: bool | None, otherwise: bool) -> bool:
    return otherwise if chosen is None else chosen


@contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
