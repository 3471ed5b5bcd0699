"""Does a certificate keep its promise? Simulated on real scores, beside the usual way.

    python -m benchmarks.certificates --clinc BUNDLE --minilm BUNDLE --data DIR \
        --markdown table.md --plot certificates.png --json figures.json

Each resample draws a calibration set from a population whose risk is known exactly, lets a rule
choose a threshold, and looks whether the error among what is kept exceeds alpha. Two rules:

- Learn-Then-Test, as `edge-export certify` does it: at most delta of all resamples may break alpha.
- naive: the loosest threshold whose observed error is at most alpha, as one does by eye.

Needs numpy and the bundles; the plot needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.certificate_populations import Population, banking77, clinc150
from benchmarks.machine import describe_machine
from edge_runtime.stats.clopper_pearson import lower_bound
from edge_runtime.stats.learn_then_test import learn_then_test

ALPHAS = (0.05, 0.02, 0.01)
SIZES = (300, 1000, 3000)
DELTA = 0.10
RESAMPLES = 300
SEED = 20110

Rule = Callable[[npt.NDArray[np.float64], npt.NDArray[np.bool_], float], float | None]


@dataclass(frozen=True)
class Outcome:
    """One rule at one alpha and calibration size, over all resamples.

    `coverage` is the mean true share kept, 0 where nothing was certified; `broken` the share of
    resamples whose true error among the kept exceeds alpha; `worst` the largest such error.
    """

    population: str
    rule: str
    alpha: float
    calibration_size: int
    resamples: int
    coverage: float
    best_coverage: float
    broken: float
    worst: float


def learn_then_test_rule(
    scores: npt.NDArray[np.float64], errors: npt.NDArray[np.bool_], alpha: float
) -> float | None:
    """The certified threshold at confidence 1 - DELTA."""
    certified = learn_then_test(scores, errors, alpha=alpha, delta=DELTA).certified
    return None if certified is None else certified.threshold


def naive_rule(
    scores: npt.NDArray[np.float64], errors: npt.NDArray[np.bool_], alpha: float
) -> float | None:
    """The loosest threshold whose observed error is at most alpha. Here to fail, nowhere else."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    error = np.cumsum(errors[order]) / np.arange(1, len(order) + 1)
    ends = np.append(ordered[1:] < ordered[:-1], True)  # equal scores are kept together
    fine = np.flatnonzero(ends & (error <= alpha))
    return float(ordered[fine[-1]]) if len(fine) else None


RULES: dict[str, Rule] = {"Learn-Then-Test": learn_then_test_rule, "naive": naive_rule}


def simulate(
    population: Population,
    *,
    alphas: Sequence[float] = ALPHAS,
    sizes: Sequence[int] = SIZES,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[Outcome]:
    """All rules on the same draws, so that they differ by nothing but the rule."""
    outcomes = []
    for size in sizes:
        generator = np.random.default_rng([seed, size])
        draws = [
            generator.choice(len(population.scores), size, p=population.weights)
            for _ in range(resamples)
        ]
        for alpha in alphas:
            for name, rule in RULES.items():
                chosen = [rule(population.scores[d], population.errors[d], alpha) for d in draws]
                outcomes.append(_outcome(population, name, alpha, size, chosen))
    return outcomes


def _outcome(
    population: Population, rule: str, alpha: float, size: int, chosen: Sequence[float | None]
) -> Outcome:
    found = [(0.0, 0.0) if at is None else population.at(at) for at in chosen]
    return Outcome(
        population=population.name,
        rule=rule,
        alpha=alpha,
        calibration_size=size,
        resamples=len(chosen),
        coverage=float(np.mean([coverage for coverage, _ in found])),
        best_coverage=population.best_coverage(alpha),
        broken=float(np.mean([error > alpha for _, error in found])),
        worst=max(error for _, error in found),
    )


def kept_promise(outcome: Outcome) -> bool:
    """Whether the broken share agrees with "at most DELTA": its lower 99 % bound is not above."""
    broken = round(outcome.broken * outcome.resamples)
    return lower_bound(broken, outcome.resamples, 0.01) <= DELTA


def markdown(outcomes: Iterable[Outcome]) -> str:
    """One row for an alpha and size of a population, the rules beside each other."""
    rows: dict[tuple[str, float, int], dict[str, Outcome]] = {}
    for item in outcomes:
        rows.setdefault((item.population, item.alpha, item.calibration_size), {})[item.rule] = item
    lines = [
        (
            "| data | alpha | calibrated on | kept, best possible | kept, certified | "
            "broke alpha, certified | kept, naive | broke alpha, naive | "
            "worst error, certified / naive |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (name, alpha, size), both in sorted(rows.items(), key=lambda row: (row[0][0], -row[0][1])):
        good, bad = both["Learn-Then-Test"], both["naive"]
        lines.append(
            f"| {name} | {alpha:.0%} | {size} | {good.best_coverage:.1%} | {good.coverage:.1%} | "
            f"**{good.broken:.1%}** | {bad.coverage:.1%} | **{bad.broken:.1%}** | "
            f"{good.worst:.1%} / {bad.worst:.1%} |"
        )
    return "\n".join(lines) + "\n"


def draw_plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Share of broken promises of both rules, one panel a population."""
    import matplotlib as mpl  # noqa: PLC0415 - the figures need no plot

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    names = sorted({item.population for item in outcomes})
    figure, panels = plt.subplots(1, len(names), figsize=(5.2 * len(names), 3.6), sharey=True)
    for panel, name in zip(np.atleast_1d(panels), names, strict=True):
        mine = [item for item in outcomes if item.population == name]
        groups = sorted(
            {(item.alpha, item.calibration_size) for item in mine}, key=lambda at: (-at[0], at[1])
        )
        for shift, (rule, colour) in enumerate(
            (("Learn-Then-Test", "#1b6ca8"), ("naive", "#c8553d"))
        ):
            heights = [
                100 * item.broken
                for group in groups
                for item in mine
                if item.rule == rule and (item.alpha, item.calibration_size) == group
            ]
            places = np.arange(len(groups)) + 0.4 * shift - 0.2
            panel.bar(places, heights, 0.38, label=rule, color=colour)
        panel.axhline(
            100 * DELTA, color="black", linewidth=1, linestyle="--", label="promised at most"
        )
        panel.set_xticks(
            range(len(groups)), [f"{alpha:.0%}\n{size}" for alpha, size in groups], fontsize=8
        )
        panel.set_xlabel("alpha, calibration inputs")
        panel.set_title(name, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(panels)[0].set_ylabel("resamples that broke alpha, %")
    handles, labels = np.atleast_1d(panels)[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=9, ncols=3, loc="upper center")
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clinc", type=Path, help="bundle of intent-clinc150")
    parser.add_argument("--minilm", type=Path, help="bundle of minilm-l6")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path("build/bench/certificates"))
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    populations = []
    if arguments.clinc:
        populations.append(clinc150(arguments.clinc, arguments.data, arguments.cache))
    if arguments.minilm:
        populations.append(banking77(arguments.minilm, arguments.data, arguments.cache))
    outcomes = []
    for population in populations:
        print(population.describe(), flush=True)
        outcomes += simulate(population, resamples=arguments.resamples)
    table = markdown(outcomes)
    print(table)
    if arguments.markdown:
        arguments.markdown.write_text(table, encoding="utf-8")
    if arguments.json:
        figures = {"machine": describe_machine(), "outcomes": [asdict(item) for item in outcomes]}
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if arguments.plot:
        draw_plot(outcomes, arguments.plot)
    broken = [o for o in outcomes if o.rule == "Learn-Then-Test" and not kept_promise(o)]
    if broken:
        raise SystemExit(f"the promise was broken: {broken}")


if __name__ == "__main__":
    main()
