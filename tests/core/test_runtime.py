from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from core import runtime


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    runtime.probe_matmul.cache_clear()
    yield
    runtime.probe_matmul.cache_clear()
    torch.set_float32_matmul_precision(before)


def probe_with(monkeypatch: pytest.MonkeyPatch, seconds: float, dtype: torch.dtype) -> None:
    """Let the fast path take ``seconds`` (the slow one takes 1) and compute in ``dtype``."""

    def timed(x: Any, weight: Any) -> tuple[float, torch.Tensor]:
        if torch.get_float32_matmul_precision() == "highest":
            return 1.0, x @ weight.T
        return seconds, (x.to(dtype) @ weight.to(dtype).T).float()

    monkeypatch.setattr(runtime, "_timed", timed)


@pytest.mark.parametrize(
    ("seconds", "dtype", "taken"),
    [
        (0.5, torch.float32, True),
        (0.99, torch.float32, False),  # not worth it
        (0.1, torch.bfloat16, False),  # fast because it is wrong, as on a CPU with AMX
    ],
)
def test_only_what_is_exact_and_faster_is_taken(
    monkeypatch: pytest.MonkeyPatch, seconds: float, dtype: torch.dtype, taken: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    probe_with(monkeypatch, seconds, dtype)
    assert runtime.fast_matmul() is taken
    assert torch.get_float32_matmul_precision() == ("medium" if taken else "highest")


def test_probe_changes_no_setting() -> None:
    torch.set_float32_matmul_precision("high")
    exact, faster = runtime.probe_matmul()
    assert torch.get_float32_matmul_precision() == "high"
    assert (type(exact), type(faster)) == (bool, bool)


def test_cuda_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.fast_matmul() is False
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"_is_avx512_bf16_supported"}, torch.bfloat16),
        ({"_is_amx_tile_supported"}, torch.bfloat16),
        (set(), None),
    ],
)
def test_bfloat16_only_with_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, features: set[str], expected: torch.dtype | None
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        assert hasattr(torch.cpu, name)
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in features)
    assert runtime.autocast_dtype("cpu") is expected
    assert runtime.autocast_dtype(torch.device("meta")) is None


def test_bfloat16_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert runtime.autocast_dtype("cuda") is torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert runtime.autocast_dtype("cuda") is None
