"""The check of arguments that the recurrences of this package share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from core.errors import UsageError


def check_tensors(
    operator: str,
    given: Mapping[str, Tensor],
    expected: Mapping[str, tuple[Tensor | None, Sequence[int]]],
) -> None:
    """Raise UsageError unless shapes, types and devices fit together.

    ``given``: the arguments that the shapes of the others follow from; ``expected``: those others,
    None where left out, and the shapes they must have.  Sizes may be symbolic.
    """
    for name, (tensor, shape) in expected.items():
        if tensor is not None and (
            tensor.ndim != len(shape) or any(a != b for a, b in zip(tensor.shape, shape))
        ):
            # Written only here: a symbolic size cannot be written while it is being traced.
            context = ", ".join(f"{key} is {numbers(t.shape)}" for key, t in given.items())
            raise UsageError(
                f"{operator}: {name} must have the shape {numbers(shape)}, got "
                f"{numbers(tensor.shape)} ({context})"
            )
    others = {name: t for name, (t, _) in expected.items() if t is not None}
    first, leader = next(iter(given.items()))
    for name, tensor in {**given, **others}.items():
        if not tensor.is_floating_point():
            raise UsageError(f"{operator}: {name} must be of real numbers, got {tensor.dtype}")
        if tensor.device != leader.device:
            raise UsageError(
                f"{operator}: {name} is on {tensor.device} and {first} on {leader.device}; move "
                "one of them"
            )


def numbers(sizes: Sequence[int]) -> str:
    """A shape as Python writes it: (2, 3) or (2,)."""
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"
