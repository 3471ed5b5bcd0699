"""One box in one rollout: what reports, silence and retries make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_runtime.agent.protocol import BoxState, FailureCode, FailureKind
from fleet.rollout.evidence import Sort
from fleet.rollout.pairs import not_compared, spoiled, windows_of
from fleet.rollout.plan import Times
from fleet.rollout.progress import (
    BoxProgress,
    PairState,
    Report,
    Status,
    fell_silent,
    offered,
    reopened,
    reported,
    watched,
)
from fleet.rollout.states import Aim

NEW_BOX = BoxProgress("t~b", "x86", wave=0, place=0, size_bytes=10, partner="t~p")
ASKED = offered(NEW_BOX, Aim.NEW, 3, 100.0)


def said(
    state: BoxState, kind: FailureKind | None = None, code: FailureCode | None = None
) -> Report:
    return Report(3, state, kind, code)


def after(box: BoxProgress, *reports: Report) -> tuple[BoxProgress, list[str]]:
    found: list[str] = []
    for at, report in enumerate(reports):
        box, rows = reported(box, report, 200.0 + at)
        found += [str(row.data.get("event", row.sort.value)) for row in rows]
    return box, found


@pytest.mark.parametrize(
    ("report", "status", "rows"),
    [
        (said(BoxState.ACCEPTED), Status.OFFERED, []),
        (said(BoxState.DEFERRED), Status.OFFERED, []),
        (said(BoxState.FETCHING), Status.WORKING, ["exposed"]),
        (said(BoxState.CONFIRMED), Status.CONFIRMED, ["exposed"]),
        (said(BoxState.SUPERSEDED), Status.SUPERSEDED, []),
        (said(BoxState.REVERTING), Status.WORKING, ["exposed", "reverted"]),
        (
            said(BoxState.REVERTED, FailureKind.REVERTED, FailureCode.CRASHES),
            Status.REVERTED,
            ["exposed", "crashed", "reverted"],
        ),
        (
            said(BoxState.FAILED, FailureKind.NO_CHANGE, FailureCode.REFUSED),
            Status.FAILED,
            ["exposed", "refused", "failed"],
        ),
        (
            said(BoxState.FAILED, FailureKind.STUCK, FailureCode.DISK),
            Status.STUCK,
            ["exposed", "stuck", "failed"],
        ),
        (
            said(BoxState.FAILED, FailureKind.REVERTED, FailureCode.ERRORS),
            Status.REVERTED,
            ["exposed", "reverted", "failed"],
        ),
        (
            said(BoxState.FAILED, FailureKind.NO_CHANGE, FailureCode.DEADLINE),
            Status.FAILED,
            [],
        ),
    ],
)
def test_what_a_report_makes_of_a_box(report: Report, status: Status, rows: list[str]) -> None:
    box, found = after(ASKED, report)
    assert box.status is status
    assert found == rows


def test_a_box_is_exposed_once_and_its_times_are_the_first() -> None:
    box, found = after(
        ASKED, said(BoxState.FETCHING), said(BoxState.PROBATION), said(BoxState.PROBATION),
        said(BoxState.CONFIRMED),
    )  # fmt: skip
    assert found == ["exposed"]
    assert (box.exposed_at_s, box.serving_at_s, box.confirmed_at_s) == (200.0, 201.0, 203.0)


def test_an_older_generation_says_nothing_and_a_newer_one_that_it_is_taken() -> None:
    assert reported(ASKED, Report(2, BoxState.FAILED), 1.0) == (ASKED, ())
    assert reported(NEW_BOX, Report(2, BoxState.CONFIRMED), 1.0) == (NEW_BOX, ())
    taken, rows = reported(ASKED, Report(4, BoxState.FETCHING), 1.0)
    assert (taken.status, taken.pair, rows) == (Status.SUPERSEDED, PairState.DONE, ())


def test_the_way_back_ends_when_the_old_one_serves() -> None:
    working, _ = after(ASKED, said(BoxState.FETCHING))
    back = offered(working, Aim.OLD, 5, 300.0)
    assert back.status is Status.RETURNING
    still, rows = reported(back, Report(5, BoxState.FETCHING), 301.0)
    assert (still.status, rows) == (Status.RETURNING, ())
    there, rows = reported(back, Report(5, BoxState.CONFIRMED), 302.0)
    assert (there.status, rows) == (Status.RETURNED, ())


def test_silence_counts_from_the_beginning_to_the_end_of_the_bake_time() -> None:
    assert not watched(ASKED, 50, 150)
    working, _ = after(ASKED, said(BoxState.FETCHING))
    assert watched(working, 50, 1e9)
    confirmed, _ = after(working, said(BoxState.CONFIRMED))
    assert watched(confirmed, 50, 250)
    assert not watched(confirmed, 50, 251)
    silent, rows = fell_silent(working, 3000.0, 9999.0)
    assert silent.status is Status.UNREACHABLE
    assert rows[0].data == {"event": "unreachable", "detail": "silent for 3000 s"}
    assert not watched(silent, 50, 1e9)
    assert fell_silent(silent, 3000.0, 9999.0)[1] == ()


def test_a_box_that_speaks_again_goes_on_but_the_fact_stays() -> None:
    working, _ = after(ASKED, said(BoxState.FETCHING))
    silent, _ = fell_silent(working, 3000.0, 9999.0)
    back, rows = after(silent, said(BoxState.CONFIRMED))
    assert (back.status, rows) == (Status.CONFIRMED, [])
    assert back.events == ("unreachable",)


def test_retry_is_for_those_that_never_changed() -> None:
    failed, _ = after(ASKED, said(BoxState.FAILED, FailureKind.NO_CHANGE, FailureCode.NO_SPACE))
    reverted, _ = after(ASKED, said(BoxState.REVERTED))
    served, _ = after(ASKED, said(BoxState.PROBATION))
    assert reopened(failed).status is Status.WAITING
    assert reopened(reverted) is not failed
    assert reopened(reverted).status is Status.REVERTED
    assert reopened(fell_silent(served, 1.0, 1.0)[0]).status is Status.UNREACHABLE
    again = offered(replace(reopened(failed), pair=PairState.DONE), Aim.NEW, 9, 500.0)
    assert (again.status, again.pair, again.seen) == (Status.OFFERED, PairState.DONE, None)


def test_rows_say_which_hardware_and_which_reason() -> None:
    _, rows = reported(ASKED, said(BoxState.FAILED, FailureKind.STUCK, FailureCode.DISK), 7.0)
    assert [row.sort for row in rows] == [Sort.EXPOSED, Sort.EVENT, Sort.EVENT]
    assert rows[0].data == {"stratum": "x86"}
    assert rows[1].data == {"event": "stuck", "detail": "disk"}


def test_windows_lie_before_the_offer_and_after_it_serves() -> None:
    times = Times(before_hours=2, after_hours=1, bake_hours=1, telemetry_grace_min=5)
    assert windows_of(times, ASKED) is None
    served, _ = after(ASKED, said(BoxState.PROBATION))
    windows = windows_of(times, served)
    assert windows is not None
    assert (windows.before.start_s, windows.before.end_s) == (100 - 7200, 100)
    assert (windows.after.start_s, windows.after.end_s) == (200, 3800)
    assert windows.due_s == 3800 + 300


def test_pairs_are_spoiled_by_facts_and_never_by_figures() -> None:
    served, _ = after(ASKED, said(BoxState.PROBATION))
    windows = windows_of(Times(), served)
    assert windows is not None
    partner = replace(NEW_BOX, box="t~p", partner=None)
    assert spoiled(served, partner, windows) is None
    reverted, _ = after(served, said(BoxState.REVERTED))
    assert spoiled(reverted, partner, windows) == "the box is reverted"
    early = offered(partner, Aim.NEW, 1, windows.after.end_s - 1)
    assert spoiled(served, early, windows) == "its partner was changed as well"
    late = offered(partner, Aim.NEW, 1, windows.after.end_s)
    assert spoiled(served, late, windows) is None
    taken = replace(partner, status=Status.SUPERSEDED)
    assert spoiled(served, taken, windows) == "its partner belongs to another rollout"
    row = not_compared(served, "its partner was changed as well", 9.0)
    assert row.sort is Sort.UNPAIRED
    assert row.data == {"partner": "t~p", "reason": "its partner was changed as well"}
