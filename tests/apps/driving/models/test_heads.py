from __future__ import annotations

import torch

from apps.driving.models.heads import Measurements, SignalHead, WaypointHead


def test_a_command_that_is_none_is_none_of_the_six() -> None:
    network = Measurements()
    speed, target = torch.zeros(8), torch.zeros(8, 2)
    values = network(speed, target, torch.tensor([-1, 0, 7, 1, 2, 3, 4, 6]))
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    assert len({tuple(v.tolist()) for v in values}) == 6


def test_waypoints_add_up() -> None:
    """With a cell that gives the same step each time they are evenly spaced, tens of metres apart."""
    head = WaypointHead(8, 4)
    for p in head.parameters():
        torch.nn.init.zeros_(p)
    head.delta.bias.data = torch.tensor([0.25, -0.1])
    waypoints = head(torch.zeros(1, 8), torch.zeros(1, 8), torch.zeros(1, 2))
    expected = torch.tensor([[2.5, -1.0], [5.0, -2.0], [7.5, -3.0], [10.0, -4.0]])
    torch.testing.assert_close(waypoints[0], expected)


def test_one_bright_spot_anywhere_changes_the_lights_more_than_its_share_of_the_mean() -> None:
    """A lamp is a position or two in thousands; its evidence must not drown in their mean."""
    torch.manual_seed(0)
    head = SignalHead(4)
    x, points = torch.zeros(1, 4, 40, 240), torch.zeros(1, 3, 40, 240)
    spot = x.clone()
    spot[0, :, 7, 150] = 5.0
    features, dark = head(spot, points)[0], head(x, points)[0]
    alone = head(spot[..., 7:8, 150:151], points[..., 7:8, 150:151])[0]
    assert (features - dark).norm() > 0.2 * (alone - dark).norm()


def test_where_a_lamp_is_matters() -> None:
    torch.manual_seed(0)
    head = SignalHead(4)
    x = torch.rand(1, 4, 10, 10)
    near, far = (torch.full((1, 3, 10, 10), v) for v in (2.0, 25.0))
    assert not torch.allclose(head(x, near)[1], head(x, far)[1])
    unknown = far.clone()
    unknown[0, 0] = torch.nan
    assert head(x, unknown)[1].isfinite().all()
