"""Do guards halt bad rollouts and leave good ones alone? Simulated, beside fixed thresholds.

    python -m benchmarks.fleet_guards --markdown tables.md --plot fleet_guards.png \
        --json figures.json

Pure: no broker, no clock; the guards are those of `fleet.rollout`. All rules see the same runs.

- safety, one box after another: 100 boxes, each harmed with the stated probability.
- safety, by hardware: 1,000 boxes of ten kinds; on one kind every box is harmed, elsewhere 1 %.
- quality: 1,000 boxes in waves of 20, 98, 490 and 980; the change shifts the escalation rate of
  every box that gets it. Beside it, all boxes drift together by up to two points, either way.

Needs numpy; the plot needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe_machine
from edge_runtime.stats.clopper_pearson import lower_bound
from edge_runtime.stats.difference import DifferenceInDifferences
from edge_runtime.stats.exposure import ExposureProcess, harmed_until_alarm
from edge_runtime.stats.verdict import Verdict
from fleet.rollout.waves import HOLD_BACK, Candidate, Member, enlist, wave_ends

LIMIT, LEVEL, TOLERANCE = 0.02, 0.05, 0.01
BOXES, FLEET, KINDS = 100, 1000, 10
RATES = (0.01, 0.02, 0.05, 0.10, 0.20)
SHARES = (0.01, 0.10, 0.50, 1.0)
SHIFTS = (0.0, 0.02, 0.04)
REQUESTS = (500, 2000)
DRIFT = 0.02
BASE_A, BASE_B = 5.5, 49.5  # Beta: mean 10 %, standard deviation 4 points
SEED = 20221

Harmed = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SafetyOutcome:
    """A rule at one harm rate: share of runs it halted, and boxes exposed by then (mean)."""

    rule: str
    rate: float
    runs: int
    halted: float
    boxes: float


@dataclass(frozen=True)
class QualityOutcome:
    """A rule at one shift: how runs ended, and boxes exposed when it halted (mean)."""

    rule: str
    shift: float
    requests: int
    runs: int
    halted: float
    held: float
    passed: float
    boxes: float


def first(hits: Harmed) -> int | None:
    """How many boxes were exposed at the first hit; None without one."""
    found = np.flatnonzero(hits)
    return int(found[0]) + 1 if len(found) else None


def evidence_rule(level: float) -> Callable[[Harmed], int | None]:
    """The safety guard on one stratum, from its own table of how many harmed boxes alarm."""
    table = [harmed_until_alarm(n, LIMIT, level) for n in range(1, FLEET + 1)]
    needed = np.array([math.inf if count is None else count for count in table])

    def halts(harmed: Harmed) -> int | None:
        return first(np.cumsum(harmed) >= needed[: len(harmed)])

    return halts


def fixed_rule(harmed: Harmed) -> int | None:
    """Halt when more than 5 % failed after at least 10, as deployment services do."""
    exposed = np.arange(1, len(harmed) + 1)
    return first((np.cumsum(harmed) > 0.05 * exposed) & (exposed >= 10))


def safety(runs: int) -> list[SafetyOutcome]:
    """Boxes one after another."""
    rules = {
        "guard, level 5 %": evidence_rule(0.05),
        "guard, level 1 %": evidence_rule(0.01),
        "over 5 % after 10": fixed_rule,
    }
    outcomes = []
    for rate in RATES:
        draws = np.random.default_rng([SEED, int(rate * 1000)]).random((runs, BOXES)) < rate
        for name, rule in rules.items():
            outcomes.append(_safety_outcome(name, rate, [rule(draw) for draw in draws]))
    return outcomes


def _safety_outcome(name: str, rate: float, ends: Sequence[int | None]) -> SafetyOutcome:
    halted = [end for end in ends if end is not None]
    mean = float(np.mean(halted)) if halted else math.nan
    return SafetyOutcome(name, rate, len(ends), len(halted) / len(ends), mean)


def by_hardware(runs: int) -> list[SafetyOutcome]:
    """One kind of hardware always harmed (its share is the rate), in the order of real waves."""
    outcomes = []
    for share in (0.0, 0.02, 0.05, 0.10):
        ends: dict[str, list[int | None]] = {
            "guard, with hardware": [],
            "guard, whole only": [],
            "over 5 % after 10": [],
        }
        for run in range(runs):
            generator = np.random.default_rng([SEED, int(share * 1000), run])
            members = _members(run, share)
            bad = np.array([member.stratum == "bad" for member in members])
            harmed = bad | (generator.random(len(members)) < 0.01)
            strata = sorted({member.stratum for member in members})
            for name, kinds in (("guard, with hardware", strata), ("guard, whole only", [])):
                ends[name].append(_process(members, harmed, kinds))
            ends["over 5 % after 10"].append(fixed_rule(harmed))
        outcomes += [_safety_outcome(name, share, found) for name, found in ends.items()]
    return outcomes


def _process(members: Sequence[Member], harmed: Harmed, strata: Sequence[str]) -> int | None:
    process = ExposureProcess(LIMIT, LEVEL, strata)
    for exposed, (member, bad) in enumerate(zip(members, harmed, strict=True), 1):
        process.expose(member.stratum)
        if bad and process.harm(member.stratum):
            return exposed
    return None


def _members(run: int, bad_share: float = 0.0) -> list[Member]:
    bad = round(FLEET * bad_share)
    candidates = [
        Candidate(f"t~b{n}", "bad" if n < bad else f"kind-{n % (KINDS - 1)}") for n in range(FLEET)
    ]
    members = enlist(candidates, f"run-{run}", SHARES, least_boxes=20, hold_back=0.02)
    return [member for member in members if member.wave != HOLD_BACK]


def quality(runs: int) -> list[QualityOutcome]:
    """A shift of the escalation rate, seen by pairs; waves end when their pairs are all in."""
    ends = wave_ends(FLEET, SHARES, least_boxes=20, hold_back=0.02)
    members = enlist(
        [Candidate(f"t~b{n}", "x") for n in range(FLEET)], "quality", SHARES,
        least_boxes=20, hold_back=0.02,
    )  # fmt: skip
    place = {member.box: member.place for member in members}
    pairs = [
        [(one.place, place[one.partner]) for one in members if one.wave == wave and one.partner]
        for wave in range(len(ends))
    ]
    outcomes = []
    for requests in REQUESTS:
        for shift in SHIFTS:
            found: dict[str, list[tuple[str, int]]] = {"guard": [], "mean rise over 1 point": []}
            for run in range(runs):
                generator = np.random.default_rng([SEED, requests, int(shift * 1000), run])
                drift = generator.uniform(-DRIFT, DRIFT)
                base = generator.beta(BASE_A, BASE_B, FLEET)
                before = _rates(generator, base, requests)
                control = _rates(generator, base + drift, requests)
                changed = _rates(generator, base + drift + shift, requests)
                found["guard"].append(_guarded(pairs, ends, before, control, changed))
                found["mean rise over 1 point"].append(_threshold(ends, before, changed))
            for name, results in found.items():
                outcomes.append(_quality_outcome(name, shift, requests, results))
    return outcomes


def _rates(
    generator: np.random.Generator, rates: npt.NDArray[np.float64], requests: int
) -> npt.NDArray[np.float64]:
    return generator.binomial(requests, np.clip(rates, 0.0, 1.0)) / requests


def _guarded(
    pairs: Sequence[Sequence[tuple[int, int]]],
    ends: Sequence[int],
    before: npt.NDArray[np.float64],
    control: npt.NDArray[np.float64],
    changed: npt.NDArray[np.float64],
) -> tuple[str, int]:
    """Waves one after another; a gate that is not sure in wave 1 is not asked yet."""
    test = DifferenceInDifferences(TOLERANCE, fail_level=LEVEL, pass_level=LEVEL)
    for wave, mine in enumerate(pairs):
        for one, other in mine:
            test.observe(
                changed=(-before[one], -changed[one]), control=(-before[other], -control[other])
            )
        if test.verdict is Verdict.FAIL:
            return "halted", ends[wave]
        if wave and test.verdict is Verdict.INSUFFICIENT:
            return "held", ends[wave]
    return "passed", ends[-1]


def _threshold(
    ends: Sequence[int], before: npt.NDArray[np.float64], changed: npt.NDArray[np.float64]
) -> tuple[str, int]:
    """Halt when changed boxes escalate more than a point more than they did before."""
    for end in ends:
        if float(np.mean(changed[:end] - before[:end])) > TOLERANCE:
            return "halted", end
    return "passed", ends[-1]


def _quality_outcome(
    name: str, shift: float, requests: int, results: Sequence[tuple[str, int]]
) -> QualityOutcome:
    def share(word: str) -> float:
        return sum(end == word for end, _ in results) / len(results)

    boxes = [count for end, count in results if end == "halted"]
    mean = float(np.mean(boxes)) if boxes else math.nan
    return QualityOutcome(
        name, shift, requests, len(results), share("halted"), share("held"), share("passed"), mean
    )


def safety_table(outcomes: Sequence[SafetyOutcome], head: str) -> str:
    """One row a rate, the rules beside each other."""
    rules = list(dict.fromkeys(item.rule for item in outcomes))
    lines = [
        f"| {head} | " + " | ".join(f"{rule}: halted, at box" for rule in rules) + " |",
        "|---|" + "---:|" * len(rules),
    ]
    for rate in dict.fromkeys(item.rate for item in outcomes):
        cells = [
            f"{item.halted:.1%}" + (f", {item.boxes:.0f}" if item.halted else "")
            for item in outcomes
            if item.rate == rate
        ]
        lines.append(f"| {rate:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def quality_table(outcomes: Sequence[QualityOutcome]) -> str:
    """One row a shift and rule."""
    lines = [
        "| requests a window | shift, points | rule | halted | held | passed | boxes at the halt |",
        "|---:|---:|---|---:|---:|---:|---:|",
    ]
    for item in outcomes:
        boxes = f"{item.boxes:.0f}" if item.halted else ""
        lines.append(
            f"| {item.requests} | {100 * item.shift:+.0f} | {item.rule} | {item.halted:.1%} | "
            f"{item.held:.1%} | {item.passed:.1%} | {boxes} |"
        )
    return "\n".join(lines) + "\n"


def draw_plot(safe: Sequence[SafetyOutcome], good: Sequence[QualityOutcome], path: Path) -> None:
    """Share of halted runs: by harm rate, and by shift."""
    import matplotlib as mpl  # noqa: PLC0415 - the figures need no plot

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.6), sharey=True)
    colours = ("#1b6ca8", "#7fb0d3", "#c8553d")
    rules = dict.fromkeys(item.rule for item in safe)
    for shift, (rule, colour) in enumerate(zip(rules, colours, strict=True)):
        heights = [100 * item.halted for item in safe if item.rule == rule]
        left.bar(np.arange(len(heights)) + 0.27 * (shift - 1), heights, 0.26, label=rule,
                 color=colour)  # fmt: skip
    left.set_xticks(range(len(RATES)), [f"{rate:.0%}" for rate in RATES])
    left.set_xlabel("boxes the change harms (limit 2 %); 100 boxes")
    left.set_ylabel("rollouts halted, %")
    last = [item for item in good if item.requests == REQUESTS[-1]]
    for shift, (rule, colour) in enumerate(
        zip(dict.fromkeys(item.rule for item in last), (colours[0], colours[2]), strict=True)
    ):
        heights = [100 * item.halted for item in last if item.rule == rule]
        right.bar(np.arange(len(heights)) + 0.4 * shift - 0.2, heights, 0.38, label=rule,
                  color=colour)  # fmt: skip
    right.set_xticks(range(len(SHIFTS)), [f"{100 * shift:+.0f}" for shift in SHIFTS])
    right.set_xlabel("shift of the escalation rate, points (tolerance 1); 1,000 boxes")
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def broken_promises(
    safe: Sequence[SafetyOutcome], good: Sequence[QualityOutcome]
) -> list[SafetyOutcome | QualityOutcome]:
    """Guards whose false halts contradict their level (99 % bound)."""
    bad: list[SafetyOutcome | QualityOutcome] = []
    for item in safe:
        if item.rule.startswith("guard") and item.rate <= LIMIT:
            level = 0.01 if "1 %" in item.rule else LEVEL
            if lower_bound(round(item.halted * item.runs), item.runs, 0.01) > level:
                bad.append(item)
    for each in good:
        count = round(each.halted * each.runs)
        if each.rule == "guard" and not each.shift and lower_bound(count, each.runs, 0.01) > LEVEL:
            bad.append(each)
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000, help="of each safety rate")
    parser.add_argument("--quality-runs", type=int, default=300, help="of each shift")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    safe, hardware = safety(arguments.runs), by_hardware(max(1, arguments.runs // 10))
    good = quality(arguments.quality_runs)
    tables = "\n".join(
        (
            safety_table(safe, "harmed"),
            safety_table(hardware, "boxes of the bad kind"),
            quality_table(good),
        )
    )
    print(tables)
    if arguments.markdown:
        arguments.markdown.write_text(tables, encoding="utf-8")
    if arguments.json:
        rows = [asdict(item) for item in (*safe, *hardware, *good)]
        figures = {"machine": describe_machine(), "outcomes": rows}
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if arguments.plot:
        draw_plot(safe, good, arguments.plot)
    broken = broken_promises(safe, good)
    if broken:
        raise SystemExit(f"the promise was broken: {broken}")


if __name__ == "__main__":
    main()
