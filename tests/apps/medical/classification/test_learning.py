"""Batches that depend on their number alone, and transforms that keep what they should."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from apps.medical.classification.data import open_labelled
from apps.medical.classification.inputs import PreparedInputs, fit_bags, fit_images
from apps.medical.classification.learning import ClassAugmentation, ClassBatches, augmented


def batches(root: Path, *, balanced: bool = True, keep: int | None = None, **options):
    data = open_labelled(root)
    cases = [c for c in data.cases if c.label == 0][:keep] + [c for c in data.cases if c.label]
    fit = fit_bags(cases) if data.kind == "bags" else fit_images(cases, 2, 3, (10, 12))
    settings = ClassAugmentation(**options)
    return ClassBatches(PreparedInputs(cases, fit), cases, 4, 7, settings, balanced=balanced)


@pytest.mark.parametrize("balanced", [True, False])
def test_a_batch_is_a_function_of_its_number(pictures: Path, balanced: bool) -> None:
    a, b = (batches(pictures, balanced=balanced) for _ in range(2))
    a.batch_at(0)
    one, two = a.batch_at(5), b.batch_at(5)
    assert torch.equal(one["input"], two["input"])
    assert torch.equal(one["label"], two["label"])
    assert one["input"].shape == (4, 3, 10, 12)
    assert not torch.equal(one["input"], a.batch_at(6)["input"])


def test_balanced_batches_draw_classes_alike(pictures: Path) -> None:
    for balanced, most in ((True, 0.6), (False, 0.95)):
        made = batches(pictures, balanced=balanced, keep=2)
        drawn = Counter(made._case(n).label for n in range(280))
        share = drawn[1] / 280
        assert share < most
        assert share == pytest.approx(0.5 if balanced else 12 / 14, abs=0.08)


def test_every_case_comes_once_a_round(pictures: Path) -> None:
    made = batches(pictures, balanced=False)
    assert len({made._case(n).id for n in range(24)}) == 24


@pytest.mark.parametrize("shape", [(3, 12, 9), (1, 8, 7, 6)])
def test_nothing_random_leaves_the_image_as_it_is(shape: tuple[int, ...]) -> None:
    image = torch.randn(shape)
    still = ClassAugmentation(flip=0, rotation=0, scale=0, intensity=0)
    assert torch.equal(augmented(image, still, torch.Generator()), image)
    mirrored = augmented(
        image, ClassAugmentation(flip=1, rotation=0, scale=0, intensity=0), torch.Generator()
    )
    torch.testing.assert_close(mirrored, image.flip(tuple(range(1, image.ndim))))
    turned = augmented(image, ClassAugmentation(), torch.Generator().manual_seed(0))
    assert turned.shape == image.shape
    assert torch.isfinite(turned).all()


def test_a_quarter_turn_is_one() -> None:
    """The affine map turns about the middle: by 90 degrees it permutes the pixels of a square."""
    image = torch.randn(1, 9, 9)

    settings = ClassAugmentation(flip=0, rotation=90, scale=0, intensity=0)
    generator = torch.Generator()
    seed = next(s for s in range(10_000) if _draws(generator.manual_seed(s))[3] > 0.9995)
    turned = augmented(image, settings, generator.manual_seed(seed))
    options = [torch.rot90(image, k, (1, 2)) for k in (1, 3)]
    assert min(float((turned - o).abs().mean()) for o in options) < 0.02


def _draws(generator: torch.Generator) -> list[float]:
    """Two mirrors, a scale, an angle: the order in which ``augmented`` asks."""
    return [float(torch.rand((), generator=generator)) for _ in range(4)]


def test_bags_come_one_by_one_and_are_thinned_in_order(bags: Path) -> None:
    whole, thinned = batches(bags), batches(bags, instances=10)
    for index in range(4):
        a, b = (made.batch_at(index) for made in (whole, thinned))
        assert torch.equal(a["label"], b["label"])
        assert a["input"].shape[0] == 1
        assert b["input"].shape == (1, 10, 8)
        rows = a["input"][0].tolist()
        places = [rows.index(row) for row in b["input"][0].tolist()]
        assert places == sorted(places)
