"""NormLin against its definition, and what it owes as every other mixer does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.errors import UsageError
from core.mixers import build_mixer, mixer_config
from core.mixers.base import BlockContext
from core.mixers.normlin import NormLin

DIM = 6
GRIDS = [(1,), (7,), (2, 3), (2, 3, 2)]


def make(size: tuple[int, ...], dropout: float = 0.0) -> NormLin:
    torch.manual_seed(0)
    positions = int(torch.tensor(size).prod())
    config = mixer_config("normlin", positions=positions, dropout=dropout)
    mixer = build_mixer(config, BlockContext(dim=DIM, rank=len(size)))
    assert isinstance(mixer, NormLin)
    return mixer


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", GRIDS)
def test_definition_at_every_rank(size: tuple[int, ...]) -> None:
    mixer = make(size).double()
    x = noise(2, *size, DIM).double()
    w = (1 + mixer.weight.exp()).log()
    tokens = x.reshape(2, -1, DIM)
    mixed = torch.einsum("ij,bjc->bic", w / w.sum(1, keepdim=True), mixer.v(tokens))
    torch.testing.assert_close(mixer(x), mixer.proj(mixed).reshape(x.shape))


def test_rows_are_positive_and_sum_to_one() -> None:
    mixer = make((50,))
    with torch.no_grad():
        mixer.weight.mul_(8)  # entries far below zero, where softplus is tiny
        A = mixer.matrix()
    assert (A > 0).all()
    torch.testing.assert_close(A.sum(1), torch.ones(50))


def test_starts_as_the_identity_plus_noise() -> None:
    weight = make((400,)).weight.detach()
    assert abs(weight.diagonal().mean() - 1) < 0.2
    off = weight - torch.eye(400)
    assert abs(off.mean()) < 0.02
    assert abs(off.std() - 1) < 0.02


def test_dropout_drops_entries_of_the_matrix_for_the_whole_batch() -> None:
    mixer = make((40,), dropout=0.5).train()
    nn.init.eye_(mixer.v.weight)
    nn.init.eye_(mixer.proj.weight)
    nn.init.zeros_(mixer.v.bias)
    nn.init.zeros_(mixer.proj.bias)
    x = torch.eye(40)[:, :DIM].expand(2, 40, DIM)  # y is the first columns of the matrix
    y = mixer(x)
    assert torch.equal(y[0], y[1])
    A = mixer.matrix()[:, :DIM]
    kept = y[0] != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(y[0][kept], 2 * A[kept])
    assert not torch.equal(mixer(x), y)
    mixer.eval()
    torch.testing.assert_close(mixer(x)[0], A)


@pytest.mark.parametrize("size", GRIDS)
def test_gradients_precisions_and_independence(size: tuple[int, ...]) -> None:
    mixer = make(size)
    x = noise(2, *size, DIM).requires_grad_()
    y = mixer(x)
    (y * noise(*y.shape)).sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).any(-1).all()
    for key, p in mixer.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        if size != (1,) or key != "weight":  # the matrix of one position is 1 whatever its weight
            assert p.grad.abs().max() > 1e-4, f"{key} is dead"
    with torch.no_grad():
        torch.testing.assert_close(mixer(x[1:]), y[1:])
        with torch.autocast("cpu", torch.bfloat16):
            assert (mixer(x).float() - y).abs().max() < 0.05 * y.abs().max()
        wide = mixer.double()(x.double())
        assert wide.dtype == torch.float64
        torch.testing.assert_close(wide.float(), y.detach())
        half = mixer.bfloat16()(x.bfloat16())
        assert half.dtype == torch.bfloat16
        assert (half.float() - y).abs().max() < 0.1 * y.abs().max()


def test_mistakes_are_explained() -> None:
    context = BlockContext(dim=DIM, rank=1)
    with pytest.raises(UsageError, match="needs positions"):
        mixer_config("normlin")
    with pytest.raises(UsageError, match="positions 0: must be 1 or more"):
        build_mixer(mixer_config("normlin", positions=0), context)
    with pytest.raises(UsageError, match="build the mixer with positions=8"):
        make((7,))(torch.zeros(1, 8, DIM))
    with pytest.raises(UsageError, match="flatten too early"):
        make((7,))(torch.zeros(7, DIM))
