"""Published checkpoints as transformers saves them, for our 2-D pyramids and sequence trunks.

``load_pretrained(core.create("swin_t", policy="swin"), "model.safetensors")`` fills a backbone from
a state dict or a safetensors file of a Swin, ConvNeXt, PVTv2, PoolFormer or CvT model, with or
without its classifier; the checkpoint's own keys say which family it is of.  Both spellings of
Swin are read: ``attention.self.query`` as published up to release 4, ``attention.q_proj`` since 5.
Mamba's language models fill a trunk but for its stem: see ``transformers_sequence.py``.

A pyramid ends before the norm that a classifier puts on its last map, so that norm is ignored, like
the classifier.  Only PVTv2's stages end with norms of their own, which are part of the pyramid.

Layouts that differ: transformers keeps queries, keys and values apart where our window and reduced
attentions have them in one matrix, in that order; PoolFormer's feed-forwards are 1 x 1 convolutions
there.  Nothing else is permuted: patch merging concatenates neighbours in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.backbones.pyramid import Pyramid
from core.backbones.sequence import SequenceTrunk
from core.errors import DataError
from core.weights.folder import load_state, read_tensors
from core.weights.transformers_sequence import map_mamba

Tensors = Mapping[str, Tensor]


def load_pretrained(pyramid: Pyramid, checkpoint: Path | str | Mapping[str, Any]) -> None:
    """Copy the backbone of ``checkpoint`` into ``pyramid``; a sequence trunk's stem stays as it is.

    Raises DataError when it is no safetensors file, of no known family, or of other sizes than the
    pyramid's; nothing is changed then.
    """
    if isinstance(checkpoint, Mapping):
        tensors, source = checkpoint, "state dict"
    else:
        tensors, source = read_tensors(Path(checkpoint)), str(checkpoint)
    mapped = map_state(tensors, source)
    if isinstance(pyramid, SequenceTrunk):  # a language model has a table of tokens instead
        stem = {k: v for k, v in pyramid.state_dict().items() if k.startswith("stages.0.down.")}
        mapped = {**stem, **mapped}
    load_state(pyramid, mapped, source)


def map_state(tensors: Tensors, source: str = "state dict") -> dict[str, Tensor]:
    """Names and layouts of a transformers backbone as a pyramid's.  Raises DataError if unknown."""
    family, plain = _family(tensors)
    if family is None:
        raise DataError(
            f"{source}: no Swin, ConvNeXt, PVTv2, PoolFormer, CvT, Mamba or Mamba-2 weights as "
            "transformers names them; convert the checkpoint, or use the loader of the project it "
            "comes from"
        )
    return FAMILIES[family](plain)


def map_swin(tensors: Tensors) -> dict[str, Tensor]:
    """Swin: ``embeddings`` and ``encoder.layers.I`` with its ``blocks.J`` and ``downsample``."""
    out: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    names = {
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.o_proj": "mixer.proj",
        "attention.output.dense": "mixer.proj",
        "mlp.fc1": "ffn.fc1",
        "mlp.fc2": "ffn.fc2",
        "intermediate.dense": "ffn.fc1",
        "output.dense": "ffn.fc2",
    }
    for key, value in tensors.items():
        name, _, end = key.rpartition(".")
        if key.endswith("relative_position_index"):  # a constant, saved by older releases
            continue
        if m := re.fullmatch(r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.(.+)", name):
            block, part = f"stages.{m[1]}.blocks.{m[2]}", m[3]
            if q := re.fullmatch(r"attention\.(?:self\.)?(query|key|value|[qkv]_proj)", part):
                parts.setdefault(f"{block}.mixer.qkv.{end}", {})[q[1][0]] = value
            elif end == "relative_position_bias_table":
                out[f"{block}.mixer.bias_table"] = value
            else:
                out[f"{block}.{names.get(part, part)}.{end}"] = value
        elif m := re.fullmatch(r"encoder\.layers\.(\d+)\.downsample\.(norm|reduction)", name):
            kind = "norm" if m[2] == "norm" else "proj"
            out[f"stages.{int(m[1]) + 1}.down.{kind}.{end}"] = value
        elif name == "embeddings.patch_embeddings.projection":
            out[f"stages.0.down.conv.conv.{end}"] = value
        elif name == "embeddings.norm":
            out[f"stages.0.down.norm_after.{end}"] = value
        else:
            out[key] = value  # nothing of ours: named in the error
    return {**out, **_joined(parts, "qkv")}


def map_convnext(tensors: Tensors) -> dict[str, Tensor]:
    """ConvNeXt: ``embeddings`` and ``encoder.stages.I`` with ``downsampling_layer``, ``layers``."""
    names = {
        "dwconv": "mixer.conv.conv",
        "layernorm": "norm",
        "pwconv1": "ffn.fc1",
        "pwconv2": "ffn.fc2",
    }
    out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name, _, end = key.rpartition(".")
        if m := re.fullmatch(r"encoder\.stages\.(\d+)\.layers\.(\d+)(?:\.(.+))?", name):
            block = f"stages.{m[1]}.blocks.{m[2]}"
            if end == "layer_scale_parameter":
                out[f"{block}.scale"] = value
            else:
                out[f"{block}.{names.get(m[3], m[3])}.{end}"] = value
        elif m := re.fullmatch(r"encoder\.stages\.(\d+)\.downsampling_layer\.([01])", name):
            kind = "norm_before" if m[2] == "0" else "conv.conv"
            out[f"stages.{m[1]}.down.{kind}.{end}"] = value
        elif name == "embeddings.patch_embeddings":
            out[f"stages.0.down.conv.conv.{end}"] = value
        elif name == "embeddings.layernorm":
            out[f"stages.0.down.norm_after.{end}"] = value
        else:
            out[key] = value
    return out


def map_pvtv2(tensors: Tensors) -> dict[str, Tensor]:
    """PVTv2: ``encoder.layers.I`` with ``patch_embedding``, ``blocks`` and a ``layer_norm``."""
    names = {
        "layer_norm_1": "norm1",
        "layer_norm_2": "norm2",
        "attention.query": "mixer.q",
        "attention.spatial_reduction": "mixer.reduce.conv",
        "attention.layer_norm": "mixer.norm",
        "attention.proj": "mixer.proj",
        "mlp.dense1": "ffn.fc1",
        "mlp.dense2": "ffn.fc2",
        "mlp.dwconv.dwconv": "ffn.depthwise.conv",
    }
    out: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, end = key.rpartition(".")
        m = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
        if m is None:
            out[key] = value
        elif b := re.fullmatch(r"blocks\.(\d+)\.(.+)", m[2]):
            block = f"stages.{m[1]}.blocks.{b[1]}"
            if b[2] in ("attention.key", "attention.value"):
                parts.setdefault(f"{block}.mixer.kv.{end}", {})[b[2][10]] = value
            else:
                out[f"{block}.{names.get(b[2], b[2])}.{end}"] = value
        else:
            part = {
                "patch_embedding.proj": "down.conv.conv",
                "patch_embedding.layer_norm": "down.norm_after",
                "layer_norm": "norm",
            }.get(m[2], m[2])
            out[f"stages.{m[1]}.{part}.{end}"] = value
    return {**out, **_joined(parts, "kv")}


def map_poolformer(tensors: Tensors) -> dict[str, Tensor]:
    """PoolFormer: ``encoder.patch_embeddings.I`` and ``encoder.block.I.J``."""
    names = {
        "before_norm": "norm1",
        "after_norm": "norm2",
        "output.conv1": "ffn.fc1",
        "output.conv2": "ffn.fc2",
    }
    out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name, _, end = key.rpartition(".")
        if m := re.fullmatch(r"encoder\.patch_embeddings\.(\d+)\.projection", name):
            out[f"stages.{m[1]}.down.conv.conv.{end}"] = value
        elif m := re.fullmatch(r"encoder\.block\.(\d+)\.(\d+)(?:\.(.+))?", name):
            block = f"stages.{m[1]}.blocks.{m[2]}"
            if s := re.fullmatch(r"layer_scale_([12])", end):
                out[f"{block}.scale{s[1]}"] = value
            else:
                if value.ndim == 4:  # a 1 x 1 convolution
                    value = value.flatten(1)
                out[f"{block}.{names.get(m[3], m[3])}.{end}"] = value
        else:
            out[key] = value
    return out


def map_cvt(tensors: Tensors) -> dict[str, Tensor]:
    """CvT: ``encoder.stages.I`` with ``embedding``, ``layers.J`` and, in the last, ``cls_token``."""
    names = {
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "mixer.proj",
        "intermediate.dense": "ffn.fc1",
        "output.dense": "ffn.fc2",
    }
    down = {"projection": "conv.conv", "normalization": "norm_after"}
    out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name, _, end = key.rpartition(".")
        m = re.fullmatch(r"encoder\.stages\.(\d+)(?:\.(.+))?", name)
        if m is None:
            out[key] = value
        elif end == "cls_token":
            out[f"stages.{m[1]}.extra"] = value
        elif d := re.fullmatch(r"embedding\.convolution_embeddings\.(\w+)", m[2]):
            out[f"stages.{m[1]}.down.{down.get(d[1], d[1])}.{end}"] = value
        elif b := re.fullmatch(r"layers\.(\d+)\.(.+)", m[2]):
            block = f"stages.{m[1]}.blocks.{b[1]}"
            part = names.get(b[2], b[2])
            if p := re.fullmatch(r"attention\.attention\.projection_([qkv])\w+", part):
                part = f"mixer.{p[1]}"
            elif p := re.fullmatch(
                r"attention\.attention\.convolution_projection_([qkv])\w+"
                r"\.convolution_projection\.(\w+)",
                part,
            ):
                part = f"mixer.conv_{p[1]}." + (
                    "conv.conv" if p[2] == "convolution" else "norm.norm"
                )
            out[f"{block}.{part}.{end}"] = value
        else:
            out[key] = value
    return out


FAMILIES: dict[str, Callable[[Tensors], dict[str, Tensor]]] = {
    "swin": map_swin,
    "convnext": map_convnext,
    "pvt_v2": map_pvtv2,
    "poolformer": map_poolformer,
    "cvt": map_cvt,
    "mamba": map_mamba,
}
"""By the prefix that transformers gives a family's weights inside a classifier."""

# One key that every checkpoint of a family has, and no other family.
_SIGNS = {
    "swin": r"encoder\.layers\.0\.blocks\.0\.layernorm_before\.weight",
    "convnext": r"encoder\.stages\.0\.layers\.0\.dwconv\.weight",
    "pvt_v2": r"encoder\.layers\.0\.patch_embedding\.proj\.weight",
    "poolformer": r"encoder\.patch_embeddings\.0\.projection\.weight",
    "cvt": r"encoder\.stages\.0\.embedding\.convolution_embeddings\.projection\.weight",
    "mamba": r"layers\.0\.mixer\.(in_proj|up_proj|q_proj)\.weight",
}
# Language models have one prefix for all families.
_LANGUAGE = ("backbone.", "model.")

# Classifiers, decoders of masked-image pre-training, and the norms before them.
_NOT_OURS = (
    "classifier.",
    "decoder.",
    "embeddings.mask_token",
    "hidden_states_norms.",
    "layernorm.",
    "norm.",
    "pooler.",
)


def _family(tensors: Tensors) -> tuple[str | None, dict[str, Tensor]]:
    """The family of a checkpoint and its backbone's weights without their prefix."""
    for family, sign in _SIGNS.items():
        for prefix in ("", f"{family}.", *_LANGUAGE):
            if any(re.fullmatch(re.escape(prefix) + sign, key) for key in tensors):
                plain = {
                    key.removeprefix(prefix): value
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
                return family, {k: v for k, v in plain.items() if not k.startswith(_NOT_OURS)}
    return None, {}


def _joined(parts: Mapping[str, Mapping[str, Tensor]], order: str) -> dict[str, Tensor]:
    """Separate projections as one; an incomplete set is left out, and so reported as missing."""
    return {
        key: torch.cat([group[letter] for letter in order])
        for key, group in parts.items()
        if set(group) == set(order)
    }
