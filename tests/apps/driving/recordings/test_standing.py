"""Which frames of a wait are kept."""

from __future__ import annotations

from apps.driving.recordings.standing import Standing


def keep(speeds: list[bool], begin: int = 3, end: int = 2) -> list[int]:
    standing = Standing(begin, end)
    kept = [k for i, stands in enumerate(speeds) for k in standing.sift(i, stands)]
    return kept + standing.rest()


def test_short_waits_are_kept_whole() -> None:
    assert keep([False, True, True, True, False]) == [0, 1, 2, 3, 4]
    assert keep([False] + [True] * 5 + [False]) == list(range(7))


def test_of_long_waits_the_beginning_and_the_end() -> None:
    assert keep([False] + [True] * 20 + [False, False]) == [0, 1, 2, 3, 19, 20, 21, 22]
    twice = ([True] * 10 + [False]) * 2
    assert keep(twice) == [0, 1, 2, 8, 9, 10, 11, 12, 13, 19, 20, 21]
    assert keep([True] * 10) == [0, 1, 2, 8, 9]  # the route ends before it goes on


def test_what_is_forgotten_does_not_come_back() -> None:
    standing = Standing(1, 5)
    for i in range(4):
        standing.sift(i, True)
    standing.forget()
    assert standing.sift(4, False) == [4]
