"""Language models of state spaces, as transformers saves them, for our sequence trunks.

Mamba (MambaModel), Mamba-2 (Mamba2Model) and hybrids of Mamba-2, attention and feed-forward layers
(NemotronHModel).  The table of tokens and the head that predicts them are left out: a trunk has a
linear stem instead, which keeps the weights it has, and ``encode`` takes embedded tokens.

Deviates from NemotronHModel, which clamps Mamba-2's steps to ``time_step_min`` (1e-3) and above.

Layouts that differ: what our scans have for each of several directions is here for one; queries,
keys and values are apart here, and in one matrix in our attention.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

LAYER = re.compile(r"layers\.(\d+)\.(norm|mixer)\.(.+)")

# Parameters of a direction of the scan.
_DIRECTIONAL = {
    "A_log": "A_log",
    "D": "D",
    "dt_bias": "dt_bias",
    "dt_proj.bias": "dt_bias",
    "dt_proj.weight": "dt_weight",
    "x_proj.weight": "x_proj",
}
_MODULES = {
    "conv1d": "mixer.conv.0.conv",
    "down_proj": "ffn.fc2",
    "o_proj": "mixer.proj",
    "up_proj": "ffn.fc1",
}


def map_mamba(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mamba, Mamba-2 and hybrids: ``layers.I`` with ``norm`` and ``mixer``, and ``norm_f``."""
    feeding = {m[1] for key in tensors if (m := re.match(r"layers\.(\d+)\.mixer\.up_proj\.", key))}
    out: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key in ("embeddings.weight", "embedding.weight"):
            continue
        m = LAYER.fullmatch(key)
        if m is None:
            out["stages.0.norm.weight" if key == "norm_f.weight" else key] = value
            continue
        block = f"stages.0.blocks.{m[1]}"
        if m[2] == "norm":
            out[f"{block}.{'norm2' if m[1] in feeding else 'norm1'}.{m[3]}"] = value
        elif q := re.fullmatch(r"([qkv])_proj\.(\w+)", m[3]):
            parts.setdefault(f"{block}.mixer.qkv.{q[2]}", {})[q[1]] = value
        elif m[3] in _DIRECTIONAL:
            out[f"{block}.mixer.{_DIRECTIONAL[m[3]]}"] = value.unsqueeze(0)
        else:
            name, _, end = m[3].rpartition(".")
            out[f"{block}.{_MODULES.get(name, f'mixer.{name}')}.{end}"] = value
    for key, group in parts.items():
        if len(group) == 3:  # an incomplete set is left out, and so reported as missing
            out[key] = torch.cat([group[letter] for letter in "qkv"])
    return out
