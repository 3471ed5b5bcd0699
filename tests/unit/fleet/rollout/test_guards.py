"""Guards over rows of evidence: what counts, what does not, and what they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edge_runtime.stats.verdict import Verdict
from fleet.rollout.evidence import Evidence, Pair, Sort
from fleet.rollout.guards import Finding, findings, judge, pair_values
from fleet.rollout.plan import Guards, QualityGuard

PLAIN = Guards()


def exposed(box: str, stratum: str = "x86") -> Evidence:
    return Evidence(Sort.EXPOSED, box, 0, 0.0, {"stratum": stratum})


def event(box: str, name: str) -> Evidence:
    return Evidence(Sort.EVENT, box, 0, 0.0, {"event": name})


def numbered(rows: list[Evidence]) -> list[Evidence]:
    return [
        Evidence(row.sort, row.box, row.wave, row.at_s, row.data, seq)
        for seq, row in enumerate(rows, 1)
    ]


def only(guards: Guards, rows: list[Evidence], strata: tuple[str, ...] = ("x86",)) -> Finding:
    (finding,) = findings(guards, strata, numbered(rows))
    return finding


def test_no_box_is_no_pass() -> None:
    assert only(PLAIN, []).verdict is Verdict.INSUFFICIENT


def test_a_healthy_wave_passes_and_says_what_would_have_halted() -> None:
    finding = only(PLAIN, [exposed(f"b{n}") for n in range(20)])
    assert finding.verdict is Verdict.PASS
    assert finding.reason == "0 of 20 boxes; 3 would halt"


def test_boxes_that_are_harmed_halt_and_are_named() -> None:
    rows = [exposed(f"b{n}") for n in range(20)]
    rows += [event(f"b{n}", "reverted") for n in range(4)]
    finding = only(PLAIN, rows)
    assert finding.verdict is Verdict.FAIL
    assert finding.numbers["boxes"] == ["b0", "b1", "b2", "b3"]
    assert (finding.numbers["alarm_exposed"], finding.numbers["alarm_row"]) == (20, 23)
    assert finding.numbers["evidence"] >= 20
    assert "3 of 20 boxes" in finding.reason


def test_a_box_counts_once_whatever_befalls_it() -> None:
    rows = [exposed(f"b{n}") for n in range(20)] + [exposed("b1")]
    rows += [event("b0", name) for name in ("crashed", "reverted", "stuck", "unreachable")] * 3
    finding = only(PLAIN, rows)
    assert (finding.numbers["exposed"], finding.numbers["harmed"]) == (20, 1)
    assert finding.verdict is Verdict.PASS


def test_only_the_events_of_the_expression_count() -> None:
    guards = Guards.model_validate({"safety": {"hard": {"event": "crashed && !reverted"}}})
    rows = [exposed(f"b{n}") for n in range(8)]
    for n in range(4):
        rows += [event(f"b{n}", "reverted"), event(f"b{n}", "crashed"), event(f"b{n}", "failed")]
    rows += [event("b5", "crashed")]
    assert only(guards, rows).numbers["boxes"] == ["b5"]


def test_rare_hardware_halts_by_itself() -> None:
    strata = ("arm", *(f"x{n}" for n in range(5)))
    rows = [exposed(f"b{n}", f"x{n % 5}") for n in range(295)]
    rows += [exposed(f"a{n}", "arm") for n in range(5)]
    rows += [event(f"a{n}", "refused") for n in range(5)]
    finding = only(PLAIN, rows, strata)
    assert finding.verdict is Verdict.FAIL
    assert finding.numbers["by_stratum"] == {"arm": [5, 5]}
    assert only(PLAIN, rows, ()).verdict is Verdict.PASS


def window(escalations: float = 50, requests: float = 500, **more: float) -> dict[str, float]:
    return {"requests": requests, "escalations": escalations, **more}


def quality(**more: Any) -> Guards:
    return Guards.model_validate({"quality": {"escalation_rate": more}})


def spec(**more: Any) -> QualityGuard:
    return quality(**more).quality["escalation_rate"]


def pair(after: float, *, control_after: float = 50, requests: float = 500) -> Pair:
    return Pair("p", window(50), window(after, requests), window(50), window(control_after))


def test_less_escalation_is_more() -> None:
    values = pair_values(spec(), pair(100))
    assert values == ((-0.1, -0.2), (-0.1, -0.1))


def test_ratios_are_compared_by_their_logarithm() -> None:
    guard = Guards.model_validate({"quality": {"p95_s": {}}}).quality["p95_s"]
    slow = Pair("p", window(p95_s=0.2), window(p95_s=0.4), window(p95_s=1.0), window(p95_s=1.0))
    values = pair_values(guard, slow)
    assert values is not None
    assert values[0][1] - values[0][0] == pytest.approx(-math.log(2))
    assert values[1] == (0.0, 0.0)


@pytest.mark.parametrize(
    "broken",
    [
        pair(5, requests=99),
        Pair("p", window(), {}, window(), window()),
        Pair("p", window(), {"escalations": 3.0}, window(), window()),
        Pair("p", window(), window(float("nan")), window(), window()),
    ],
)
def test_a_window_with_too_little_makes_no_pair(broken: Pair) -> None:
    assert pair_values(spec(), broken) is None


def test_unusable_pairs_are_counted_and_hold() -> None:
    rows = [Evidence(Sort.PAIR, "b", 0, 0.0, pair(50, requests=10).data())]
    rows += [Evidence(Sort.UNPAIRED, "c", 0, 0.0, {"partner": "d", "reason": "changed too"})]
    found = findings(quality(), ("x86",), numbered([exposed("b"), *rows]))
    assert [one.verdict for one in found] == [Verdict.PASS, Verdict.INSUFFICIENT]
    assert found[1].reason == "no usable pair of boxes yet (2 not usable)"
    held = judge(quality(), found, wave=0)
    assert held.verdict is Verdict.INSUFFICIENT
    assert "guard escalation_rate: no usable pair" in held.reason


def paired(shift: float, count: int, guards: Guards, drift: float = 0.03) -> Finding:
    generator = np.random.default_rng(11)
    rows = [exposed("b")]
    for n in range(count):
        rates = generator.beta(5.5, 49.5, 2)
        counts = [
            float(generator.binomial(2000, min(1.0, rate + more)))
            for rate, more in (
                (rates[0], 0.0), (rates[0], drift + shift), (rates[1], 0.0), (rates[1], drift)
            )
        ]  # fmt: skip
        windows = [window(count, 2000) for count in counts]
        rows.append(Evidence(Sort.PAIR, f"b{n}", 0, 0.0, Pair(f"p{n}", *windows).data()))
    return findings(guards, ("x86",), numbered(rows))[1]


def test_a_shift_of_all_boxes_is_not_the_changes_fault() -> None:
    assert paired(0.0, 100, quality()).verdict is Verdict.PASS


def test_two_points_more_escalation_are_found() -> None:
    finding = paired(0.02, 100, quality())
    assert finding.verdict is Verdict.FAIL
    assert finding.numbers["effect"] == pytest.approx(-0.02, abs=0.005)
    assert "worse than the tolerance" in finding.reason


def test_few_pairs_are_not_enough_to_tell() -> None:
    assert paired(0.02, 8, quality()).verdict is Verdict.INSUFFICIENT
    assert paired(0.0, 8, quality()).verdict is Verdict.INSUFFICIENT


def test_a_quality_guard_may_be_asked_from_a_later_wave_on() -> None:
    guards = quality(from_wave=2)
    found = findings(guards, ("x86",), numbered([exposed("b")]))
    assert judge(guards, found, wave=0).verdict is Verdict.PASS
    assert judge(guards, found, wave=1, records=(3,)).verdict is Verdict.INSUFFICIENT


def test_one_failure_outranks_everything() -> None:
    rows = [exposed(f"b{n}") for n in range(9)] + [event(f"b{n}", "stuck") for n in range(4)]
    found = findings(quality(), ("x86",), numbered(rows))
    assert judge(quality(), found, 0, (7, 8)).verdict is Verdict.FAIL
    assert judge(quality(), found, 0, (7, 8)).records == (7, 8)
    assert judge(quality(), found, 0).reason.startswith("guard broken: ")


def test_feeding_the_same_rows_again_is_the_same_finding() -> None:
    rows = numbered([exposed(f"b{n}") for n in range(9)] + [event("b1", "crashed")])
    assert findings(quality(), ("x86",), rows) == findings(quality(), ("x86",), rows)
