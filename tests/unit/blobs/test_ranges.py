"""Range headers: what is served for each."""

from __future__ import annotations

import pytest

from fleet.blobs.ranges import choose_part, matches

ETAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-3", (0, 4, False)),
        ("bytes=4-", (4, 10, False)),
        ("bytes=9-9", (9, 10, False)),
        ("bytes=5-500", (5, 10, False)),
        ("bytes=-3", (7, 10, False)),
        ("bytes=-500", (0, 10, False)),
        (None, (0, 10, True)),
        ("bytes=4-3", (0, 10, True)),
        ("bytes=-", (0, 10, True)),
        ("bytes=0-1,4-5", (0, 10, True)),
        ("items=0-1", (0, 10, True)),
        ("bytes=a-b", (0, 10, True)),
        ("bytes=" + "9" * 40 + "-", (0, 10, True)),
    ],
)
def test_one_range_is_served_and_nonsense_ignored(
    header: str | None, part: tuple[int, int, bool]
) -> None:
    found = choose_part(10, ETAG, header, None)
    assert found is not None
    assert (found.start, found.stop, found.whole) == part


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-12", "bytes=999-", "bytes=-0"])
def test_a_range_past_the_end_cannot_be_satisfied(header: str) -> None:
    assert choose_part(10, ETAG, header, None) is None


@pytest.mark.parametrize(
    ("if_range", "whole"),
    [(ETAG, False), ('"other"', True), ("Sun, 22 Nov 2026 00:00:00 GMT", True)],
)
def test_another_version_is_sent_whole(if_range: str, whole: bool) -> None:
    found = choose_part(10, ETAG, "bytes=4-", if_range)
    assert found is not None
    assert found.whole is whole


@pytest.mark.parametrize(
    ("header", "known"),
    [
        (None, False),
        (ETAG, True),
        ('W/"abc"', True),
        ('"x", "abc"', True),
        ("*", True),
        ("x", False),
    ],
)
def test_what_the_caller_has_is_not_sent_again(header: str | None, known: bool) -> None:
    assert matches(ETAG, header) is known
