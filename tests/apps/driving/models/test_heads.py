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


CLASSES = ("road", "sign", "traffic_light")


def scene(rows: int = 40, columns: int = 240) -> dict[str, torch.Tensor]:
    """A road everywhere, 20 m away, in the dark."""
    semantics = torch.zeros(1, 3, rows, columns)
    semantics[:, 0] = 5.0
    return {
        "x": torch.zeros(1, 4, rows, columns),
        "semantics": semantics,
        "points": torch.full((1, 3, rows, columns), 20.0),
        "picture": torch.full((1, 3, 4 * rows, 4 * columns), -2.0),
    }


def lamp(parts: dict[str, torch.Tensor], colour: tuple[float, float, float]) -> None:
    """One pixel of ``colour`` inside a single position that is a traffic light."""
    parts["semantics"][0, :, 7, 150] = torch.tensor([0.0, 0.0, 5.0])
    parts["picture"][0, :, 30, 602] = torch.tensor(colour)


def test_the_colour_of_one_lamp_among_thousands_of_positions_is_seen() -> None:
    """Untrained, red against green changes the features as if the lamp were all there is to see.

    In the mean of 9600 positions it would be lost by a factor of that many.
    """
    torch.manual_seed(0)
    head = SignalHead(4, CLASSES)

    def features(colour: tuple[float, float, float], *, alone: bool) -> torch.Tensor:
        parts = scene()
        lamp(parts, colour)
        if alone:
            parts["picture"] = parts["picture"][..., 28:32, 600:604]
            for name in ("x", "semantics", "points"):
                parts[name] = parts[name][..., 7:8, 150:151]
        return head(**parts)[0]

    red, green = (2.0, -2.0, -2.0), (-2.0, 2.0, -2.0)
    whole = features(red, alone=False) - features(green, alone=False)
    only = features(red, alone=True) - features(green, alone=True)
    assert whole.norm() > 0.05 * only.norm()


def test_the_looks_begin_at_what_is_looked_for() -> None:
    """A change at the lamp's position moves the logits more than the same one on the road."""
    torch.manual_seed(0)
    head = SignalHead(4, CLASSES)
    parts = scene()
    lamp(parts, (2.0, -2.0, -2.0))
    parts["x"].requires_grad_()
    head(**parts)[1].sum().backward()
    gradient = parts["x"].grad
    assert gradient is not None
    assert gradient[0, :, 7, 150].norm() > 100 * gradient[0, :, 30, 20].norm() > 0


def test_no_gradient_passes_to_the_semantics() -> None:
    head = SignalHead(4, CLASSES)
    parts = scene()
    parts["semantics"].requires_grad_()
    head(**parts)[1].sum().backward()
    assert parts["semantics"].grad is None


def test_where_a_lamp_is_matters() -> None:
    torch.manual_seed(0)
    head = SignalHead(4, CLASSES)
    near, far, unknown = scene(), scene(), scene()
    for parts, distance in ((near, 2.0), (far, 25.0), (unknown, 25.0)):
        lamp(parts, (2.0, -2.0, -2.0))
        parts["points"][:] = distance
    unknown["points"][0, 0] = torch.nan
    assert not torch.allclose(head(**near)[1], head(**far)[1])
    assert head(**unknown)[1].isfinite().all()


def test_any_classes_will_do() -> None:
    head = SignalHead(4, ("ground", "rest", "sky"))
    assert head(**scene())[1].isfinite().all()
