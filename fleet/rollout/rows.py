"""Nouns of a rollout as rows of its tables, and back. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping

from edge_runtime.agent.protocol import BoxState, FailureCode, FailureKind
from edge_runtime.stats.verdict import Verdict
from fleet.rollout.evidence import Evidence, Sort
from fleet.rollout.inventory import Artefact, Needs
from fleet.rollout.plan import RolloutPlan
from fleet.rollout.progress import Base, BoxProgress, PairState, Report, Status
from fleet.rollout.signals import Event
from fleet.rollout.states import Aim, Phase, RolloutState, Transition
from fleet.rollout.store import Rollout
from fleet.rollout.verdicts import Record

Row = RowMapping


def rollout_row(rollout: Rollout) -> dict[str, Any]:
    """A new rollout."""
    return {
        "id": rollout.id,
        "kind": rollout.plan.change.kind.value,
        "name": rollout.plan.change.name,
        **state_row(rollout.state),
        "plan": rollout.plan.model_dump(mode="json"),
        "artefact": asdict(rollout.artefact),
        "filed_by": rollout.filed_by,
        "filed_at_s": rollout.filed_at_s,
        "strata": list(rollout.strata),
        "waves": rollout.waves,
        "rested_version": -1,
    }


def state_row(state: RolloutState) -> dict[str, Any]:
    """The columns that a decision changes."""
    return {"phase": state.phase.value, "version": state.version, "state": asdict(state)}


def rollout_of(row: Row) -> Rollout:
    """A stored rollout."""
    state = dict(row["state"])
    paused = state.pop("paused_from")
    artefact = dict(row["artefact"])
    needs = tuple(
        Needs(**{**one, "cpu_features": tuple(one["cpu_features"])})
        for one in artefact.pop("variants")
    )
    return Rollout(
        id=row["id"],
        plan=RolloutPlan.model_validate(row["plan"]),
        artefact=Artefact(**artefact, variants=needs),
        state=RolloutState(
            **{**state, "phase": Phase(state["phase"])},
            paused_from=None if paused is None else Phase(paused),
        ),
        filed_by=row["filed_by"],
        filed_at_s=row["filed_at_s"],
        strata=tuple(row["strata"]),
        waves=row["waves"],
    )


def transition_row(rollout: str, entry: Transition) -> dict[str, Any]:
    """One line of history."""
    return {
        "rollout": rollout,
        "before": entry.before.value,
        "after": entry.after.value,
        "wave": entry.wave,
        "at_s": entry.at_s,
        "actor": entry.actor[:64],
        "reason": entry.reason,
        "gate": None if entry.gate is None else entry.gate.value,
        "records": list(entry.records),
    }


def transition_of(row: Row) -> Transition:
    """A stored line."""
    return Transition(
        before=Phase(row["before"]),
        after=Phase(row["after"]),
        wave=row["wave"],
        at_s=row["at_s"],
        actor=row["actor"],
        reason=row["reason"],
        gate=None if row["gate"] is None else Verdict(row["gate"]),
        records=tuple(row["records"]),
    )


def box_row(box: BoxProgress) -> dict[str, Any]:
    """All columns of a box but those of its key and of publishing."""
    seen = box.seen
    return {
        "stratum": box.stratum,
        "wave": box.wave,
        "place": box.place,
        "size_bytes": box.size_bytes,
        "partner": box.partner,
        "base": None if box.base is None else asdict(box.base),
        "base_generation": box.base_generation,
        "status": box.status.value,
        "aim": box.aim.value,
        "generation": box.generation,
        "offered_at_s": box.offered_at_s,
        "exposed_at_s": box.exposed_at_s,
        "serving_at_s": box.serving_at_s,
        "confirmed_at_s": box.confirmed_at_s,
        "events": list(box.events),
        "unreachable": Event.UNREACHABLE in box.events,
        "pair": box.pair.value,
        "seen_generation": 0 if seen is None else seen.generation,
        "seen_state": "" if seen is None else seen.state.value,
        "seen_failure": failure_text(
            None if seen is None else seen.failure_kind, None if seen is None else seen.failure_code
        ),
    }


def box_of(row: Row) -> BoxProgress:
    """A stored box."""
    kind, _, code = row["seen_failure"].partition("/")
    seen = None
    if row["seen_state"]:
        seen = report_of(row["seen_generation"], row["seen_state"], kind or None, code or None)
    return BoxProgress(
        box=row["principal"],
        stratum=row["stratum"],
        wave=row["wave"],
        place=row["place"],
        size_bytes=row["size_bytes"],
        partner=row["partner"],
        base=None if row["base"] is None else Base(**row["base"]),
        base_generation=row["base_generation"],
        status=Status(row["status"]),
        aim=Aim(row["aim"]),
        generation=row["generation"],
        offered_at_s=row["offered_at_s"],
        exposed_at_s=row["exposed_at_s"],
        serving_at_s=row["serving_at_s"],
        confirmed_at_s=row["confirmed_at_s"],
        events=tuple(row["events"]),
        pair=PairState(row["pair"]),
        seen=seen,
    )


def failure_text(kind: str | None, code: str | None) -> str:
    """A failure in one column; '' for none."""
    return f"{kind or ''}/{code or ''}" if kind or code else ""


def report_of(generation: int, state: str, kind: str | None, code: str | None) -> Report:
    """A report out of its columns."""
    return Report(
        generation,
        BoxState(state),
        None if kind is None else FailureKind(kind),
        None if code is None else FailureCode(code),
    )


def evidence_row(rollout: str, row: Evidence, seq: int) -> dict[str, Any]:
    """A row of evidence with its number."""
    return {
        "rollout": rollout,
        "seq": seq,
        "sort": row.sort.value,
        "box": row.box,
        "wave": row.wave,
        "at_s": row.at_s,
        "data": dict(row.data),
    }


def evidence_of(row: Row) -> Evidence:
    """A stored row of evidence."""
    return Evidence(
        Sort(row["sort"]), row["box"], row["wave"], row["at_s"], row["data"], row["seq"]
    )


def record_row(rollout: str, record: Record) -> dict[str, Any]:
    """A verdict without its number."""
    values = asdict(record)
    values.pop("id")
    return values | {"rollout": rollout, "verdict": record.verdict.value}


def record_of_row(row: Row) -> Record:
    """A stored verdict."""
    values = {name: row[name] for name in Record.__dataclass_fields__}
    return Record(**values | {"verdict": Verdict(row["verdict"])})
