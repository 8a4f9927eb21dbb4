"""Teachers from torchaudio: its bundles of HuBERT, WavLM and wav2vec 2.0, or a model of one's own.

Shapes as in ``rdsdk.training.teachers``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.training.teacher_maps import attention_map, gated_bias
from rdsdk.training.teachers import Precision, Teacher, check_geometry
from rdsdk.training.torchaudio_import import import_torchaudio

NORMALIZE_EPSILON = 1e-5
"""What torchaudio's bundles add to the variance (they use ``layer_norm``)."""


class TorchaudioTeacher(Teacher):
    """A torchaudio ``Wav2Vec2Model`` (all three families), frozen where it is.

    Its own ``extract_features`` refuses lengths for WavLM (torchaudio 2.11); this takes them.

    Args:
        model: the model, or a ``HuBERTPretrainModel``, which has a mask embedding too.
        name: for people and for provenance.
        normalize: zero mean and unit variance for each recording, over its real samples.
        mask_padding, precision, one_batch: see ``Teacher``.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        *,
        normalize: bool = False,
        mask_padding: bool = True,
        precision: Precision = "auto",
        one_batch: bool | None = None,
    ) -> None:
        generator = getattr(model, "mask_generator", None)
        model = getattr(model, "wav2vec2", model)
        convs = model.feature_extractor.conv_layers
        check_geometry([c.kernel_size for c in convs], [c.stride for c in convs], name)
        layers = model.encoder.transformer.layers
        super().__init__(
            name,
            len(layers),
            layers[0].attention.embed_dim,
            layers[0].attention.num_heads,
            mask_embedding=None if generator is None else generator.mask_embedding.detach(),
            normalize_epsilon=NORMALIZE_EPSILON if normalize else None,
            mask_padding=mask_padding,
            precision=precision,
            one_batch=one_batch,
        )
        self.model = model
        self._freeze()

    def _extract(self, waveforms: Tensor) -> Tensor:
        features, _ = self.model.feature_extractor(waveforms, None)
        return features

    def _encode(
        self, features: Tensor, frame_counts: Tensor | None, frame_mask: Tensor | None
    ) -> list[Tensor]:
        return self._run(features, frame_counts, frame_mask, None)

    def _first_layer(self) -> Any:
        return self.model.encoder.transformer.layers[0]

    def _maps(self, features: Tensor, frame_counts: Tensor | None) -> list[Tensor]:
        maps: list[Tensor] = []
        self._run(features, frame_counts, None, maps)
        return maps

    def _run(
        self,
        features: Tensor,
        frame_counts: Tensor | None,
        frame_mask: Tensor | None,
        maps: list[Tensor] | None,
    ) -> list[Tensor]:
        """The hidden state after each layer; the maps too, into ``maps``, if that is a list."""
        encoder = self.model.encoder
        x_btd = self._masked(encoder.feature_projection(features), frame_mask)
        padding = additive = None
        if frame_counts is not None:
            frames = x_btd.shape[1]
            padding = torch.arange(frames, device=x_btd.device) >= frame_counts[:, None]
            x_btd = x_btd.masked_fill(padding[..., None], 0.0)
            additive = -10000.0 * padding[:, None, None].to(x_btd.dtype)
            additive = additive.expand(-1, 1, frames, -1)
        x_btd = encoder.transformer._preprocess(x_btd)
        hidden: list[Tensor] = []
        position_bias = None
        for layer in encoder.transformer.layers:
            before = x_btd
            if hasattr(layer.attention, "gru_rel_pos_linear"):
                x_btd, position_bias = layer(
                    x_btd, None, position_bias=position_bias, key_padding_mask=padding
                )
            else:
                x_btd, _ = layer(x_btd, additive)
            if maps is not None:
                entered = layer.layer_norm(before) if layer.layer_norm_first else before
                maps.append(self._map(layer.attention, entered, frame_counts, position_bias))
            hidden.append(x_btd)
        return hidden

    def _map(
        self,
        attention: Any,
        x_btd: Tensor,
        frame_counts: Tensor | None,
        position_bias: Tensor | None,
    ) -> Tensor:
        if position_bias is None:
            queries, keys = attention.q_proj(x_btd), attention.k_proj(x_btd)
            return attention_map(queries, keys, self.heads, frame_counts)
        inner = attention.attention
        projected = torch.nn.functional.linear(x_btd, inner.in_proj_weight, inner.in_proj_bias)
        queries, keys, _ = projected.chunk(3, -1)
        bias = gated_bias(x_btd, attention, position_bias)
        return attention_map(queries, keys, self.heads, frame_counts, bias)


def load_bundle(
    name: str,
    *,
    precision: Precision = "auto",
    one_batch: bool | None = None,
    mask_padding: bool | None = None,
    normalize: bool | None = None,
) -> TorchaudioTeacher:
    """A bundle of ``torchaudio.pipelines``, by name -> a teacher; weights are downloaded once.

    Raises:
        ConfigError: torchaudio is missing, or has no such bundle.
        CheckpointError: the weights cannot be had or do not fit.
    """
    pipelines = import_torchaudio().pipelines
    known = sorted(
        key
        for key in dir(pipelines)
        if isinstance(getattr(pipelines, key), pipelines.Wav2Vec2Bundle) and key != "MMS_FA"
    )
    if name not in known:
        raise ConfigError(f"torchaudio has no bundle {name!r}; known: {', '.join(known)}")
    bundle = getattr(pipelines, name)
    try:
        model = bundle.get_model()
    except (OSError, RuntimeError) as error:  # the network's errors are OSErrors
        raise CheckpointError(
            f"the weights of the torchaudio bundle {name} cannot be loaded: {error}; check the "
            "network, or give a transformers checkpoint's folder"
        ) from error
    # Bundles of Large models wrap the model to normalise, over the whole padded batch.
    wrapped = hasattr(model, "normalize_waveform")
    return TorchaudioTeacher(
        model.model if wrapped else model,
        f"torchaudio:{name}",
        normalize=(wrapped and model.normalize_waveform) if normalize is None else normalize,
        mask_padding=mask_padding is not False,
        precision=precision,
        one_batch=one_batch,
    )
