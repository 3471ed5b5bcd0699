"""What `fleet_rollout` measured, as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Table = Sequence[Sequence[object]]


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report."""
    options, machine = report["options"], report["machine"]
    about = (
        f"{options['daemons']} daemons, {options['boxes']} simulated boxes, {report['broker']}; "
        f"{options['rate']:g} requests a second to each daemon, {options['loop']} utterances over "
        f"and over; the clock of plan and simulated boxes {options['factor']:g} times as fast. "
        f"{machine['cpu']}, {machine['cores']} cores, {str(machine['date'])[:10]}. "
        f"{report['took_s']:.0f} s in all, {report['prepared_s']:.0f} s of it for making the "
        "releases."
    )
    parts = [
        about,
        _releases(report),
        *(_act(act) for act in report["acts"]),
    ]
    return "\n\n".join(parts) + "\n"


def _releases(report: Mapping[str, Any]) -> str:
    rows = [
        (
            one["version"], f"`{one['model_digest'][:12]}`",
            *(_percent(one.get(name)) for name in ("exact", "escalates")),
            "-" if "n" not in one else f"{one['k']} wrong of {one['n']} kept",
        )
        for one in report["releases"]
    ]  # fmt: skip
    head = ("release", "model digest", "whole answers right", "escalates", "certificate")
    return f"Noise of the last: {report['noise']:.3g} INT8 steps.\n\n{table(head, rows)}"


def _act(act: Mapping[str, Any]) -> str:
    ended = (
        f"{act['phase']} after {act['took_s']:.0f} s; all boxes settled "
        f"{act['converged_s']:.1f} s later."
    )
    lines = [
        f"### {act['title'].capitalize()}",
        ended,
        table(("s", "phase", "wave", "why"), act["history"]),
        table(
            ("daemon", "requests", "failed", "answered by", "mean", "slowest"),
            [
                (
                    who, one["requests"], one["failed"],
                    ", ".join(f"{name} {count}" for name, count in one["answered_by"].items()),
                    f"{one['mean_s'] * 1000:.0f} ms", f"{one['slowest_s'] * 1000:.0f} ms",
                )
                for who, one in act["traffic"].items()
            ],
        ),
    ]  # fmt: skip
    told = act["told"]
    if "boxes begun" in told:
        lines.append(f"Boxes that began with it: {told['boxes begun']} of {told['of']}.")
    for pair in told.get("pairs of real daemons", ()):
        moved = ", ".join(
            f"{name.replace('_', ' ')} {pair[name][0]} of {pair[name][1]}"
            for name in ("before", "after", "partner_before", "partner_after")
        )
        lines.append(f"{pair['box']} beside {pair['partner']}, escalated: {moved}.")
    checks = [f"- {'holds' if held else 'DOES NOT HOLD'}: {name}"
              for name, held in act["checks"].items()]  # fmt: skip
    lines.append("\n".join(checks))
    return "\n\n".join(lines)


def table(head: Sequence[str], rows: Table) -> str:
    """A Markdown table; bars in cells are escaped."""
    cells = [tuple(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    lines = [tuple(head), ("---",) * len(head), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
