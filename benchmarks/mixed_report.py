"""The tables of the mixed-traffic benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.mixed_load import Reply, Tally, tally

NANO = 10**9
HEADS = (
    "scenario",
    "kept here",
    "wrong of kept (95 % bound)",
    "differs from the frontier",
    "wrong of all",
    "refused",
    "degraded",
    "frontier's bill",
    "of all-frontier",
    "ledger = bill",
    "p50 / p99 ms",
    "kept: p50 / p99 ms",
)


@dataclass(frozen=True)
class Result:
    """One scenario's answers, and in nano-units what the ledger and the frontier's bill say.

    `at_once_nano` is what the ledger said when the last answer came, `guessed` how many calls
    are booked by a guess when it was read.
    """

    name: str
    replies: tuple[Reply, ...]
    ledger_nano: int
    at_once_nano: int
    guessed: int
    bill_nano: int
    calls: int

    @property
    def tally(self) -> Tally:
        """The figures."""
        return tally(self.replies)

    def as_json(self) -> dict[str, object]:
        """The figures, without the single answers."""
        found = self.tally
        return {
            "name": self.name,
            **{name: getattr(found, name) for name in found.__slots__},
            "ledger_nano": self.ledger_nano,
            "at_once_nano": self.at_once_nano,
            "guessed": self.guessed,
            "bill_nano": self.bill_nano,
            "calls": self.calls,
        }


def disagreement(here: Result, frontier: Result) -> tuple[int, int]:
    """(differing, compared): kept answers against the frontier's answers to the same texts."""
    said = {one.example.text: one.label for one in frontier.replies if one.tier == "frontier"}
    pairs = [
        (one.label, said[one.example.text])
        for one in here.replies
        if one.tier in ("local", "cache") and not one.degraded and one.example.text in said
    ]
    return sum(ours != theirs for ours, theirs in pairs), len(pairs)


def markdown(
    head: str, results: Sequence[Result], machine: Mapping[str, object], baseline: str
) -> str:
    """One row a scenario, the reasons below. `baseline` is the scenario all costs are held to."""
    full = next((one for one in results if one.name == baseline), None)
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}. {head}.",
        "",
        f"| {' | '.join(HEADS)} |",
        "|---|" + "---:|" * (len(HEADS) - 1),
    ]
    lines += [_row(one, full) for one in results]
    lines += ["", "Ledger over bill when the last answer came, before late bills:", ""]
    lines += [f"- {one.name}: {(one.at_once_nano - one.bill_nano) / NANO:+.9f}" for one in results]
    lines += ["", "Why each request was answered where it was:", ""]
    for one in results:
        reasons = ", ".join(f"{name or 'refused'} {n}" for name, n in one.tally.reasons.items())
        lines.append(f"- {one.name}: {reasons}")
    return "\n".join([*lines, ""])


def _row(result: Result, full: Result | None) -> str:
    found = result.tally
    answered = max(1, found.requests - found.refused)
    differs = "-"
    if full is not None and full is not result:
        count, compared = disagreement(result, full)
        differs = f"{count / compared:.1%} of {compared}" if compared else "-"
    share = f"{result.bill_nano / full.bill_nano:.1%}" if full and full.bill_nano else "-"
    kept = "-"
    if found.kept:
        kept = f"{found.kept_wrong / found.kept:.2%} ({found.kept_error_bound:.2%})"
    return (
        f"| {result.name} | {found.kept / found.requests:.1%} | {kept} "
        f"| {differs} | {found.wrong / answered:.1%} | {found.refused} | {found.degraded} "
        f"| {result.bill_nano / NANO:.6f} | {share} "
        f"| {'yes' if result.ledger_nano == result.bill_nano else _gap(result)} "
        f"| {found.p50_s * 1000:.1f} / {found.p99_s * 1000:.1f} "
        f"| {found.local_p50_s * 1000:.1f} / {found.local_p99_s * 1000:.1f} |"
    )


def _gap(result: Result) -> str:
    off = (result.ledger_nano - result.bill_nano) / NANO
    return f"off by {off:+.9f}, {result.guessed} guessed"
