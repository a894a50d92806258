"""What is made of the features: lights and signs, waypoints, pedals and wheel, speed.

LeTFuser (Agand et al., arXiv 2310.13135, section 3; code: pagand/e2etransfuser, branch cvpr-w): a
network on the measurements, a fused vector hx, a bias from the traffic lights, waypoints by a GRU
that is told the target point at every step (after TransFuser, Prakash et al., CVPR 2021), and
controls by a network of hx that a second GRU corrects along the waypoints.

Deviates from the authors' code: lights and signs are looked for at every position of the decoder's
finest map and not in the mean of the coarsest, where a lamp of four pixels is one part in thirty
thousand, and positions know where they are in the world, from depth; the bias is made from what was
found there; stop signs are learned (there a constant 0); the measurements say whether the speed is
known; lengths and speeds enter in tens of metres; controls leave through tanh and sigmoid (there
through a ReLU); four waypoints instead of three; ``AttentionFusion`` keeps where things are
(``MeanFusion`` is the paper's); speed is guessed from the mean of the coarsest map (there from CvT's
class token, which other mixers lack).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.driving.models.base import Inputs, Outputs
from apps.driving.models.config import ModelConfig
from core.mixers.base import attend, join_heads, split_heads

COMMANDS = 6
MEASURED = 96
LOOKED_FOR = ("traffic_light", "traffic_light", "sign", "line")
_METRES = 10.0  # lengths and speeds enter and leave the networks in tens of metres


class Measurements(nn.Module):
    """Speed, target point and command -> (B, 96)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2 + 2 + COMMANDS, 112), nn.ReLU(), nn.Linear(112, MEASURED), nn.ReLU()
        )

    def forward(self, speed: Tensor, target: Tensor, command: Tensor) -> Tensor:
        known = torch.isfinite(speed)
        speed = torch.where(known, speed, 0.0) / _METRES
        # A command outside 1 to 6 (void) is none of them.
        kinds = torch.arange(1, COMMANDS + 1, device=command.device)
        command = (command[:, None] == kinds).to(speed.dtype)
        values = [speed[:, None], known[:, None].to(speed.dtype), target / _METRES, command]
        return self.net(torch.cat(values, -1))


class MeanFusion(nn.Module):
    """Means of both maps, each batch-normalised, through two linear layers: (B, dim).

    The paper's, which joins maps of one grid, convolves them 1-wide and then takes the mean; those
    two commute, so the grids may differ. It does not look at what was measured.
    """

    def __init__(self, pictures: int, other: int, dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (pictures, other))
        self.join = nn.Linear(pictures + other, pictures)
        self.out = nn.Linear(pictures, dim)

    def forward(self, pictures: Tensor, other: Tensor, measured: Tensor) -> Tensor:
        means = [norm(x).mean((2, 3)) for norm, x in zip(self.norms, (pictures, other))]
        return self.out(self.join(torch.cat(means, -1)))


class AttentionFusion(nn.Module):
    """Learned queries, changed by what was measured, look at every position of both maps: (B, dim).

    Beside them the other map (the bird's eye) enters position by position, in 8 channels: what a
    query averages over says less exactly where a lane is.
    """

    queries, heads, width, spread = 8, 4, 128, 8

    def __init__(
        self,
        pictures: int,
        other: int,
        dim: int,
        grids: tuple[tuple[int, int], tuple[int, int]],
    ) -> None:
        super().__init__()
        D = self.width
        self.tokens = nn.ModuleList(nn.Linear(c, D) for c in (pictures, other))
        self.places = nn.ParameterList(
            nn.Parameter(0.02 * torch.randn(1, rows * columns, D)) for rows, columns in grids
        )
        self.asked = nn.Parameter(0.2 * torch.randn(1, self.queries, D))
        self.told = nn.Linear(MEASURED, D)
        self.norm_q, self.norm_kv, self.norm = (nn.LayerNorm(D) for _ in range(3))
        # A bias of the keys would add the same to all of a query's scores.
        self.q, self.v, self.proj = (nn.Linear(D, D) for _ in range(3))
        self.k = nn.Linear(D, D, bias=False)
        self.near = nn.Conv2d(other, self.spread, 1)
        self.out = nn.Sequential(
            nn.Linear(self.queries * D + self.spread * grids[1][0] * grids[1][1], dim),
            nn.ReLU(),
            nn.Linear(dim, dim),
        )

    def forward(self, pictures: Tensor, other: Tensor, measured: Tensor) -> Tensor:
        tokens = torch.cat(
            [
                linear(x.flatten(2).transpose(1, 2)) + place
                for linear, place, x in zip(self.tokens, self.places, (pictures, other))
            ],
            1,
        )  # (B, L, D)
        asked = self.asked + self.told(measured)[:, None]
        tokens, query = self.norm_kv(tokens), self.norm_q(asked)
        q, k, v = (
            split_heads(linear(x), self.heads)
            for linear, x in ((self.q, query), (self.k, tokens), (self.v, tokens))
        )
        answers = self.norm(asked + self.proj(join_heads(attend(q, k, v))))
        return self.out(torch.cat((answers.flatten(1), F.relu(self.near(other)).flatten(1)), -1))


class SignalHead(nn.Module):
    """Lights and stop signs -> features (B, 64) and logits (B, 2): a red or yellow light, a stop sign.

    Takes the decoder's map (B, C, h, w), its semantics, logits (B, K, h, w), the points of its
    positions (B, 3, h, w) and the panorama (B, 3, s h, s w), of which each position gets the
    brightest of each colour in its square: a lamp in its dark housing.

    Each position gives evidence of 32 numbers. They are summed with four learned weightings of the
    positions, which begin as the likelihood of a class each (``LOOKED_FOR``) and so find lamps as soon
    as the decoder does: from uniform weights nothing was learned of lights in 200 steps. The largest
    value of each number is added. No gradient passes to the semantics from here.
    """

    evidence, dim = 32, 64

    def __init__(self, channels: int, classes: Sequence[str]) -> None:
        super().__init__()
        E, K, looks = self.evidence, len(classes), len(LOOKED_FOR)
        self.weigh = nn.Sequential(
            nn.Conv2d(channels + K + 4 + 3, E, 1), nn.ReLU(), nn.Conv2d(E, E, 1), nn.ReLU()
        )
        self.look = nn.Conv2d(E + K, looks, 1, bias=False)
        with torch.no_grad():
            self.look.weight[:, E:] = 0.0
            for i, name in enumerate(LOOKED_FOR):
                if name in classes:
                    self.look.weight[i, E + classes.index(name)] = 1.0
        self.features = nn.Sequential(nn.Linear(E * (looks + 1), self.dim), nn.ReLU())
        self.logits = nn.Linear(self.dim, 2)

    def forward(
        self, x: Tensor, semantics: Tensor, points: Tensor, picture: Tensor
    ) -> tuple[Tensor, Tensor]:
        known = torch.isfinite(points).all(1, keepdim=True)
        size = points.new_tensor((30.0, 15.0, 5.0)).view(3, 1, 1)
        where = torch.where(known, points / size, 0.0).clamp(-2.0, 2.0)
        stride = picture.shape[-1] // x.shape[-1]
        colours = F.max_pool2d(picture, stride)
        likely = semantics.detach().log_softmax(1)
        parts = (x, likely.exp(), where, known, colours)
        seen = self.weigh(torch.cat([part.to(x.dtype) for part in parts], 1))
        weights = self.look(torch.cat((seen, likely.to(x.dtype)), 1))
        weights = weights.flatten(2).softmax(-1)  # (B, looks, h w)
        looked = weights.to(seen.dtype) @ seen.flatten(2).transpose(1, 2)  # (B, looks, E)
        features = self.features(torch.cat((looked.flatten(1), seen.amax((2, 3))), -1))
        return features, self.logits(features)


def _on_grid(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, K, H, W) averaged onto a grid that is coarser by a whole number, or the same."""
    factor = logits.shape[-1] // size[-1]
    return logits if factor == 1 else F.avg_pool2d(logits, factor)


class WaypointHead(nn.Module):
    """T waypoints (B, T, 2) in metres from hx and the lights' bias, (B, H) each."""

    def __init__(self, hidden: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.cell = nn.GRUCell(4, hidden)
        self.delta = nn.Linear(2 * hidden, 2)

    def forward(self, hx: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        at, waypoints = torch.zeros_like(target), []
        for _ in range(self.steps):
            hx = self.cell(torch.cat((at, target / _METRES), -1), hx)
            at = at + self.delta(torch.cat((hx, bias), -1))
            waypoints.append(at)
        return _METRES * torch.stack(waypoints, 1)


class ControlHead(nn.Module):
    """Steer, throttle and brake (B, 3) from hx, the lights' bias and the waypoints."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        self.cell = nn.GRUCell(2 + 3, hidden)
        self.delta = nn.Linear(2 * hidden, 3)

    def forward(self, hx: Tensor, bias: Tensor, waypoints: Tensor) -> Tensor:
        raw = self.first(torch.cat((hx, bias), -1))
        for waypoint in waypoints.unbind(1):
            hx = self.cell(torch.cat((waypoint / _METRES, _bounded(raw)), -1), hx)
            raw = raw + self.delta(torch.cat((hx, bias), -1))
        return _bounded(raw)


def _bounded(raw: Tensor) -> Tensor:
    """Steer in [-1, 1], throttle and brake in [0, 1]."""
    return torch.cat((raw[:, :1].tanh(), raw[:, 1:].sigmoid()), -1)


class Heads(nn.Module):
    """All of them. ``grids`` are (rows, columns) of the coarsest picture map and of the other map."""

    def __init__(
        self,
        config: ModelConfig,
        pictures: int,
        fine: int,
        other: int,
        grids: tuple[tuple[int, int], tuple[int, int]],
    ) -> None:
        super().__init__()
        H, fused = config.hidden, config.hidden - MEASURED
        self.measurements = Measurements()
        self.fusion: nn.Module = (
            MeanFusion(pictures, other, fused)
            if config.fusion == "mean"
            else AttentionFusion(pictures, other, fused, grids)
        )
        self.signals = SignalHead(fine, config.classes)
        self.bias = nn.Linear(SignalHead.dim, H)
        self.waypoints = WaypointHead(H, config.steps)
        self.control = ControlHead(H)
        self.speed = nn.Sequential(nn.Linear(pictures, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(
        self,
        inputs: Inputs,
        *,
        semantics: Tensor,
        birdseye: Tensor,
        pictures: Tensor,
        fine: Tensor,
        other: Tensor,
        points: Tensor,
        picture: Tensor,
    ) -> Outputs:
        """``pictures`` the coarsest map, ``fine`` the decoder's finest with its ``points``.

        ``picture`` is the normalised panorama.

        ``other`` is what the pictures are fused with. ``semantics`` and ``birdseye`` pass through.
        """
        target = inputs.target.to(points.dtype)
        measured = self.measurements(inputs.speed.to(points.dtype), target, inputs.command)
        features, signals = self.signals(fine, _on_grid(semantics, fine.shape[2:]), points, picture)
        bias = self.bias(features).sigmoid()
        hx = torch.cat((self.fusion(pictures, other, measured), measured), -1)
        waypoints = self.waypoints(hx, bias, target)
        return Outputs(
            semantics=semantics.float(),
            birdseye=birdseye,
            waypoints=waypoints.float(),
            control=self.control(hx, bias, waypoints).float(),
            red_light=signals[:, 0].float(),
            stop_sign=signals[:, 1].float(),
            speed=_METRES * self.speed(pictures.mean((2, 3)))[:, 0].float(),
        )
