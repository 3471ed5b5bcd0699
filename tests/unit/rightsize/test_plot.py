"""The plot is one well-formed picture with everybody in it."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from export_tools.rightsize.plot import HEIGHT, WIDTH, Point, svg

SVG = "{http://www.w3.org/2000/svg}"
LABELS = {"title": "t", "x_label": "MB", "y_label": "quality"}


def drawn(points: list[Point]) -> ET.Element:
    return ET.fromstring(svg(points, **LABELS))


def test_everybody_is_drawn_inside_the_frame_and_the_chosen_one_is_said() -> None:
    points = [
        Point("a <b> int8", 23.5, 0.955, 0.948, 0.962, chosen=True),
        Point("a fp32", 91, 0.956, 0.949, 0.963),
        Point("tiny", 0.4, 0.2, 0.1, 0.3),
    ]
    root = drawn(points)
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == 3
    for circle in circles:
        assert 0 < float(circle.attrib["cx"]) < WIDTH
        assert 0 < float(circle.attrib["cy"]) < HEIGHT
    texts = [text.text for text in root.findall(f"{SVG}text")]
    assert "2  a <b> int8 (chosen)" in texts
    assert "20 %" in texts
    assert len({circle.attrib["fill"] for circle in circles}) == 2


def test_one_perfect_candidate_alone_can_be_drawn() -> None:
    assert len(drawn([Point("only", 1.0, 1.0, 1.0, 1.0)]).findall(f"{SVG}circle")) == 1


def test_a_size_of_nothing_has_no_place() -> None:
    with pytest.raises(ValueError, match="above 0"):
        svg([Point("a", 0, 1, 1, 1)], **LABELS)
    with pytest.raises(ValueError, match="needs points"):
        svg([], **LABELS)


def test_points_that_would_cover_each_other_are_moved_apart() -> None:
    root = drawn([Point(name, 8.6, 0.9, 0.8, 0.95) for name in "abc"])
    places = [float(circle.attrib["cx"]) for circle in root.findall(f"{SVG}circle")]
    assert all(after - before >= 9 for before, after in pairwise(places))
