"""MONAI's SwinUNETR checkpoints.

``load_swin_unetr(module, checkpoint)`` fills a network made of a pyramid (``module.encoder``), a
``ResidualDecoder`` (``module.decoder``) and ``module.heads``, built with MONAI's depths, feature
size, ``policy="monai"`` and ``outputs="start"``.  It takes what is published: a plain state dict,
one inside ``state_dict`` or ``model``, keys that begin with ``module.`` (data-parallel training),
``swin_vit`` for ``swinViT`` and ``mlp.linear1`` for ``mlp.fc1`` (older releases), and the
self-supervised encoders, which have no decoder: a whole dict of encoder keys with or without a
prefix ``swinViT.`` or ``encoder.``.

Order of the 2^R neighbours that a patch merging concatenates, and the module's ``merge_order``:
``"first"`` (the default of our networks): the weights of the 1.6 release are permuted into it.
``"monai"``: releases before that concatenated two of the eight neighbours twice and left two out
in 3-D, and weights published until then were trained so; a module with this order repeats it.

MONAI's instance norms have no gain and bias; where the module's have them, they become 1 and 0.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.backbones.pyramid import Pyramid
from core.decoders import InstanceNorm
from core.errors import DataError

Merging = Literal["merging", "mergingv2"]

_WRAPPERS = ("state_dict", "model", "network_weights", "model_state_dict")
_PREFIXES = ("module.", "model.", "network.", "backbone.")
_OLD = (
    ("swin_vit.", "swinViT."),
    (".mlp.linear1.", ".mlp.fc1."),
    (".mlp.linear2.", ".mlp.fc2."),
)
_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.qkv": "mixer.qkv",
    "attn.proj": "mixer.proj",
    "mlp.fc1": "ffn.fc1",
    "mlp.fc2": "ffn.fc2",
}
_CONV = {
    "conv1.conv": "conv1",
    "conv2.conv": "conv2",
    "conv3.conv": "shortcut.0",
    "norm1": "norm1",
    "norm2": "norm2",
    "norm3": "shortcut.1",
}
_CONVS = "|".join(map(re.escape, _CONV))
# MONAI's names of the blocks that the levels pass, finest first; encoder10 is the coarsest's.
_SKIPS = {f"encoder{i + 1}": f"ups.{i}.skip" for i in range(4)} | {"encoder10": "bottom"}
_STEM = "swinViT.patch_embed.proj.weight"
_PRETRAINING = ("rotation_head", "contrastive_head", "conv.", "mask_token", "norm.")


def load_swin_unetr(
    module: nn.Module, checkpoint: Path | str | Mapping[str, Any], *, merging: Merging = "merging"
) -> None:
    """Copy a checkpoint's weights into ``module``; an encoder-only one leaves the rest as it is.

    ``merging`` is the ``downsample`` the checkpoint was trained with.  Raises DataError when the
    file cannot be read without unpickling objects, or does not fit.
    """
    source = str(checkpoint) if isinstance(checkpoint, Path | str) else "checkpoint"
    state = read_checkpoint(checkpoint) if isinstance(checkpoint, Path | str) else checkpoint
    encoder = module.encoder
    if not isinstance(encoder, Pyramid):
        raise DataError(f"{source}: the network to fill is no Swin UNETR; build 'swin_unetr'.")
    order = getattr(encoder.config.stages[-1].down, "order", "first")
    mapped = map_swin_unetr(state, merging=merging, order=order, source=source)
    wanted = module.state_dict()
    unexpected = sorted(k for k in mapped if k not in wanted)
    shapes = [
        f"{k} is {tuple(v.shape)}, the network's {tuple(wanted[k].shape)}"
        for k, v in mapped.items()
        if k in wanted and v.shape != wanted[k].shape
    ]
    encoder_only = not any(k.startswith("decoder.") for k in mapped)
    gains = {
        f"{name}.{end}": 1.0 if end == "weight" else 0.0
        for name, part in module.named_modules()
        if isinstance(part, InstanceNorm) and part.weight is not None
        for end in ("weight", "bias")
    }
    due = [k for k in wanted if k not in mapped and (k.startswith("encoder.") or not encoder_only)]
    missing = [k for k in due if k not in gains]
    if unexpected or shapes or missing:
        problem = (
            shapes[0]
            if shapes
            else f"it has {unexpected[0]}, which the network lacks"
            if unexpected
            else f"it lacks {missing[0]}"
        )
        raise DataError(
            f"{source}: weights of another architecture: {problem}; match feature_size, depths, "
            "heads, convolutions, in_channels and out_channels."
        )
    with torch.no_grad():
        for key in due:
            wanted[key].fill_(gains[key])
        for key, value in mapped.items():
            wanted[key].copy_(value)


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """The tensors of a .safetensors file, or of a torch file read with ``weights_only=True``."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a MONAI SwinUNETR checkpoint.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader has its own exceptions for a file it cannot read
        raise DataError(
            f"{path}: cannot be read as plain tensors ({type(error).__name__}); re-save its "
            "state_dict with safetensors."
        ) from error


def map_swin_unetr(
    state: Mapping[str, Any],
    *,
    merging: Merging = "merging",
    order: str = "first",
    source: str = "checkpoint",
) -> dict[str, Tensor]:
    """MONAI's names and layouts as those of our Swin UNETR.  Raises DataError for anything else."""
    tensors = _plain(state, source)
    if _STEM not in tensors:
        raise DataError(f"{source}: lacks {_STEM!r}; want a whole SwinUNETR or its whole encoder.")
    rank = tensors[_STEM].ndim - 2
    out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = _rename(key)
        if name is None:
            raise DataError(f"{source}: unknown weight {key!r} for a SwinUNETR.")
        if ".down.norm." in name or ".down.proj." in name:
            value = _reorder(value, rank, merging, order)
        if name.endswith("shortcut.0.weight") or name == "heads.0.weight":
            value = value.flatten(1)  # a 1-wide convolution is a matrix here
        out[name] = value
    return out


def _reorder(value: Tensor, rank: int, merging: Merging, order: str) -> Tensor:
    """Weights over concatenated neighbours (..., 2^R * C) from MONAI's order to the module's."""
    if order == "monai" and rank == 3:
        return value
    last = [*itertools.product(range(2), repeat=rank)]
    first = [offset[::-1] for offset in last]
    theirs = first if rank == 2 else last
    if rank == 3 and merging == "merging":
        theirs = [*(sorted(first, key=sum))]
    ours = first if order == "first" else last
    blocks = value.unflatten(-1, (2**rank, value.shape[-1] // 2**rank))
    return blocks[..., [theirs.index(offset) for offset in ours], :].flatten(-2)


def _plain(state: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The state dict inside its wrappings, under today's key names."""
    for wrapper in _WRAPPERS:
        if wrapper in state and isinstance(state[wrapper], Mapping):
            state = state[wrapper]
            break
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise DataError(f"{source}: {key!r} is no tensor; want a SwinUNETR state dict.")
        for prefix in _PREFIXES:
            key = key.removeprefix(prefix)
        for old, new in _OLD:
            key = key.replace(old, new)
        tensors[key] = value
    if not any(k.startswith("swinViT.") for k in tensors):  # an encoder on its own
        tensors = {
            f"swinViT.{k.removeprefix('encoder.')}": v
            for k, v in tensors.items()
            if not k.removeprefix("encoder.").startswith(_PRETRAINING)
        }
        # Disentangled pre-training nests layers as `layers1.0.0`; MONAI's own filter drops one.
        tensors = {re.sub(r"(layers\d)\.0\.0\.", r"\1.0.", k): v for k, v in tensors.items()}
    return {k: v for k, v in tensors.items() if not _ignored(k)}


def _ignored(key: str) -> bool:
    """Buffers, and heads of the self-supervised training that some encoders are published with."""
    return key.endswith("relative_position_index") or key.startswith(_PRETRAINING)


def _rename(key: str) -> str | None:
    """Our name of MONAI's ``key``; None when it is none of SwinUNETR's."""
    if m := re.fullmatch(r"swinViT\.patch_embed\.(proj|norm)\.(weight|bias)", key):
        kind = "conv.conv" if m[1] == "proj" else "norm_after"
        return f"encoder.stages.0.down.{kind}.{m[2]}"
    if m := re.fullmatch(r"swinViT\.layers(\d)\.0\.blocks\.(\d+)\.(.+)", key):
        part, _, end = m[3].rpartition(".")
        if m[3] == "attn.relative_position_bias_table":
            return f"encoder.stages.{int(m[1]) - 1}.blocks.{m[2]}.mixer.bias_table"
        if part in _BLOCK:
            return f"encoder.stages.{int(m[1]) - 1}.blocks.{m[2]}.{_BLOCK[part]}.{end}"
    if m := re.fullmatch(r"swinViT\.layers(\d)\.0\.downsample\.(norm|reduction)\.(\w+)", key):
        kind = "norm" if m[2] == "norm" else "proj"
        return f"encoder.stages.{m[1]}.down.{kind}.{m[3]}"
    if m := re.fullmatch(rf"swinViT\.layers(\d)c\.0\.layer\.({_CONVS})\.(\w+)", key):
        return f"encoder.stages.{int(m[1]) - 1}.lead.{_CONV[m[2]]}.{m[3]}"
    if m := re.fullmatch(rf"(encoder(?:1|2|3|4|10))\.layer\.({_CONVS})\.(\w+)", key):
        return f"decoder.{_SKIPS[m[1]]}.{_CONV[m[2]]}.{m[3]}"
    if m := re.fullmatch(r"decoder([1-5])\.transp_conv\.conv\.(\w+)", key):
        return f"decoder.ups.{int(m[1]) - 1}.up.{m[2]}"
    if m := re.fullmatch(rf"decoder([1-5])\.conv_block\.({_CONVS})\.(\w+)", key):
        return f"decoder.ups.{int(m[1]) - 1}.conv.{_CONV[m[2]]}.{m[3]}"
    if m := re.fullmatch(r"out\.conv\.conv\.(\w+)", key):
        return f"heads.0.{m[1]}"
    return None
