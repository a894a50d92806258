from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from core.errors import UsageError
from core.mixers import build_mixer, mixer_config
from core.mixers.base import BlockContext


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    config = mixer_config("temporal_conv", **options)
    return build_mixer(config, BlockContext(dim=6, rank=1)).double()


@pytest.mark.parametrize("size", [1, 4, 31])
@torch.no_grad()
def test_equals_the_conformer_module_padded_at_the_start(size: int) -> None:
    mixer = make(size=size)
    x = torch.randn(2, 12, 6, dtype=torch.float64)
    u, g = mixer.enter(x).chunk(2, -1)
    u = (u * g.sigmoid()).transpose(1, 2)
    y = F.conv1d(F.pad(u, (size - 1, 0)), mixer.conv[0].conv.weight, groups=6).transpose(1, 2)
    y = y - y.mean(-1, keepdim=True)
    y = y / (y.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(mixer(x), mixer.leave(y * y.sigmoid()))


@torch.no_grad()
def test_reach_is_its_size() -> None:
    mixer, x = make(size=4), torch.randn(1, 12, 6, dtype=torch.float64)
    other = x.clone()
    other[:, 5] += 1
    reached = (mixer(x) != mixer(other)).any(-1)[0].nonzero().flatten().tolist()
    assert reached == [5, 6, 7, 8]


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        make(size=0)
