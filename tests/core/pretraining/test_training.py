"""Pre-training learns, resumes to the same bits, and hands its encoder on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import core
from core.backbones.pyramid import Pyramid
from core.errors import DataError
from core.pretraining import MaeConfig, PretrainTask, build, load_matching, pretext_config
from core.pretraining.pretext import Pretext
from core.training import Interrupted, TrainConfig, fit, load_weights

SIZE = (16, 16)


def encoder(channels: int = 1) -> Pyramid:
    torch.manual_seed(0)
    return core.create(
        "swin_t", rank=2, in_channels=channels, patch=2, dims=(16, 32), depths=(1, 1),
        heads=(2, 4), window=4,
    )  # fmt: skip


def waves(count: int, seed: int) -> Tensor:
    """Stripes of one width and any phase and direction: a few patches tell the rest."""
    generator = torch.Generator().manual_seed(seed)
    phase, along = torch.rand(2, count, 1, 1, generator=generator)
    grid = torch.arange(16.0)
    where = torch.where(along < 0.5, grid[:, None].expand(SIZE), grid[None].expand(SIZE))
    return torch.sin(2 * torch.pi * (where / 8 + phase))[:, None]


class Waves:
    def batch_at(self, index: int) -> dict[str, Tensor]:
        return {"image": waves(8, index)}


class HeldOut:
    def __iter__(self):
        yield {"image": waves(6, 10**6)}
        yield {"image": waves(2, 10**6 + 1)}


def pretext(task: str = "mae") -> Pretext:
    config = MaeConfig(ratio=0.5) if task == "mae" else pretext_config(task)
    return build(config, encoder(), SIZE)


def settings(steps: int, **given) -> TrainConfig:
    values = {"lr": 3e-3, "ema_decay": 0.9, "schedule": "constant", "threads": 1, "val_every": 4}
    return TrainConfig(max_steps=steps, **(values | given))


def test_it_learns_what_can_be_known(tmp_path: Path) -> None:
    net = pretext()
    before = PretrainTask(HeldOut()).validate(net.eval())
    result = fit(net, PretrainTask(HeldOut()), Waves(), settings(120, val_every=None), tmp_path)
    gain = result.metrics["gain"]
    assert gain is not None
    assert before["gain"] < 0.1
    assert gain > 0.5


def test_validation_weighs_images_and_not_batches(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, image: Tensor, inside: Tensor | None = None) -> dict[str, Tensor]:
            error = torch.tensor(float(len(image)))
            return {"loss": error, "reconstruction": error, "floor": torch.tensor(10.0)}

    found = PretrainTask(HeldOut()).validate(Fixed())
    assert found["reconstruction"] == pytest.approx((6 * 6 + 2 * 2) / 8)
    assert found["gain"] == pytest.approx(0.5)


@pytest.mark.parametrize("task", ["mae", "gmml", "multitask"])
def test_a_run_that_was_cut_off_ends_with_the_same_bits(task, tmp_path: Path) -> None:
    whole = fit(pretext(task), PretrainTask(HeldOut()), Waves(), settings(8), tmp_path / "a")
    fit(pretext(task), PretrainTask(HeldOut()), Waves(), settings(3), tmp_path / "b")
    again = fit(
        pretext(task), PretrainTask(HeldOut()), Waves(), settings(8), tmp_path / "b", resume=True
    )
    one, two = load_weights(whole.last), load_weights(again.last)
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert whole.metrics == again.metrics


def test_a_signal_leaves_a_checkpoint(tmp_path: Path) -> None:
    import os
    import signal

    class Stopping(Waves):
        def batch_at(self, index: int) -> dict[str, Tensor]:
            if index == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch_at(index)

    with pytest.raises(Interrupted, match="--resume"):
        fit(pretext(), PretrainTask(HeldOut()), Stopping(), settings(50), tmp_path)
    state = json.loads((tmp_path / "checkpoints" / "last" / "state.json").read_text())
    assert state["step"] == 3


# ---- handing on ------------------------------------------------------------------------------


class Whole(nn.Module):
    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.encoder = encoder(channels)
        self.decoder = nn.Linear(3, 2)


def tensors(net: Pretext) -> dict[str, Tensor]:
    return {f"encoder.{name}": value + 1 for name, value in net.encoder.state_dict().items()}


def test_what_matches_is_loaded_and_the_rest_stays() -> None:
    network = Whole()
    decoder = network.decoder.weight.clone()
    given = tensors(pretext())
    found = load_matching(network, given, "run")
    count = len(given)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in given.items())
    assert torch.equal(network.decoder.weight, decoder)
    assert found.report()["loaded"] == {"encoder": f"{count} of {count}", "decoder": "0 of 2"}
    assert found.fresh == ("decoder.weight", "decoder.bias")
    assert "decoder 0 of 2" in found.text()


def test_another_stem_is_said_and_left_fresh() -> None:
    network = Whole(channels=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = load_matching(network, tensors(pretext()) | {"extra": torch.zeros(1)}, "run")
    (other,) = found.other_shape
    assert other.endswith("conv.conv.weight") or "down" in other
    assert torch.equal(network.state_dict()[other], before[other])
    assert other in found.text()
    assert found.unused == ("extra",)


def test_weights_of_another_kind_change_nothing() -> None:
    network = Whole()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(DataError, match=r"none of its 1 tensors .* first is other"):
        load_matching(network, {"other": torch.zeros(1)}, "run")
    with pytest.raises(DataError, match="1 have another shape"):
        load_matching(network, {"decoder.bias": torch.zeros(7)}, "run")
    with pytest.raises(DataError, match="none called heads"):
        load_matching(network, {"other": torch.zeros(1)}, "run", part="heads.")
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())
