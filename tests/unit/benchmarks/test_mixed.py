"""The figures of the mixed-traffic benchmark, from answers that are known."""

from __future__ import annotations

from benchmarks.mixed_load import Reply, tally
from benchmarks.mixed_report import Result, disagreement, markdown
from export_tools.certify.traffic import Example


def reply(text: str, truth: str | None, label: str | None, tier: str, **more: object) -> Reply:
    values = {"status": 200, "reason": "confident", "degraded": False, "seconds": 0.01, **more}
    return Reply(Example(text, truth), label=label, tier=tier, **values)  # type: ignore[arg-type]


HERE = Result(
    "as usual",
    (
        reply("a", "x", "x", "local"),
        reply("b", "x", "y", "local"),
        reply("c", None, "oos", "frontier", reason="low-confidence", seconds=0.3),
        reply("d", "x", "y", "local", degraded=True, reason="degraded"),
        reply("e", "x", None, "", status=503, reason=""),
    ),
    ledger_nano=10,
    at_once_nano=15,
    guessed=0,
    bill_nano=10,
    calls=1,
)
FRONTIER = Result(
    "everything to the frontier",
    tuple(reply(text, "x", "x", "frontier") for text in "abc"),
    ledger_nano=90,
    at_once_nano=90,
    guessed=2,
    bill_nano=100,
    calls=3,
)


def test_only_confident_local_answers_count_as_kept() -> None:
    found = tally(HERE.replies)
    assert (found.requests, found.refused, found.degraded) == (5, 1, 1)
    assert (found.kept, found.kept_wrong, found.wrong) == (2, 1, 2)
    assert found.reasons == {"confident": 2, "low-confidence": 1, "degraded": 1, "": 1}
    assert 0.5 < found.kept_error_bound < 1
    assert found.local_p99_s < found.p99_s


def test_kept_answers_are_held_against_the_frontiers() -> None:
    assert disagreement(HERE, FRONTIER) == (1, 2)


def test_the_table_names_a_ledger_that_does_not_match() -> None:
    machine = {"cpu": "some", "cores": 2, "date": "2026-11-22"}
    table = markdown("5 requests", [HERE, FRONTIER], machine, FRONTIER.name)
    usual, full = [line for line in table.splitlines() if line.startswith(("| as", "| every"))]
    assert "| 40.0% | 50.00%" in usual
    assert "| 50.0% of 2 |" in usual
    assert "| 10.0% | yes |" in usual
    assert "off by -0.000000010, 2 guessed" in full
    assert "- as usual: +0.000000005" in table
    assert "refused 1" in table
