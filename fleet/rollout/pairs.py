"""When a changed box can be compared with its partner, and over which stretches of time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet.rollout.evidence import Evidence, Pair, Sort
from fleet.rollout.plan import HOUR_S, Times
from fleet.rollout.progress import BoxProgress, Status
from fleet.rollout.signals import Figures

MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Window:
    """From `start_s` to `end_s`, in the control host's time."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Windows:
    """Both boxes are read over the same two stretches; `due_s` is when telemetry is in."""

    before: Window
    after: Window
    due_s: float


def windows_of(times: Times, box: BoxProgress) -> Windows | None:
    """None until the box serves the change."""
    if box.offered_at_s is None or box.serving_at_s is None:
        return None
    end_s = box.serving_at_s + times.after_hours * HOUR_S
    return Windows(
        before=Window(box.offered_at_s - times.before_hours * HOUR_S, box.offered_at_s),
        after=Window(box.serving_at_s, end_s),
        due_s=end_s + times.telemetry_grace_min * MINUTE_S,
    )


def spoiled(box: BoxProgress, partner: BoxProgress, windows: Windows) -> str | None:
    """Why the pair cannot be compared; None when it can. Looks at no figure."""
    if box.status not in (Status.CONFIRMED, Status.WORKING):
        return f"the box is {box.status}"
    if partner.offered_at_s is not None and partner.offered_at_s < windows.after.end_s:
        return "its partner was changed as well"
    if partner.status is Status.SUPERSEDED:
        return "its partner belongs to another rollout"
    return None


def compared(
    box: BoxProgress,
    partner: str,
    figures: tuple[Figures, Figures, Figures, Figures],
    now_s: float,
) -> Evidence:
    """The row of a pair: the box before and after, its partner before and after."""
    return Evidence(Sort.PAIR, box.box, box.wave, now_s, Pair(partner, *figures).data())


def not_compared(box: BoxProgress, reason: str, now_s: float) -> Evidence:
    """The row of a pair that will never be one."""
    data = {"partner": box.partner, "reason": reason}
    return Evidence(Sort.UNPAIRED, box.box, box.wave, now_s, data)
