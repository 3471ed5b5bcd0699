"""Reading telemetry back: of a box over a stretch of time, of boxes and the fleet by the hour."""

from __future__ import annotations

import zstandard
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, select

from edge_runtime.agent.protocol import TelemetryRow
from fleet.db.tables_telemetry import box_hours, fleet_hours, telemetry_rows
from fleet.ingest.figures import all_figures
from fleet.ingest.rows import HOUR_S
from fleet.ingest.sums import Sums, add_part, parse_key, sums_of_row

MAX_ROW_BYTES = 1 << 20


class Hour(BaseModel):
    """One hour of one artefact (`model_digest` empty: of the box or fleet itself)."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    hour_s: int
    model_digest: str
    rows: int
    figures: dict[str, float]


class Point(BaseModel):
    """One counter of one hour, by one of its labels."""

    model_config = ConfigDict(frozen=True)

    hour_s: int
    label: str
    value: float


def window_sums(connection: Connection, principal: str, start_s: float, end_s: float) -> Sums:
    """Everything a box said of the time from `start_s` to `end_s`.

    Made of the single rows that ended in it. Where those are aged out, of the hours that lie
    wholly inside: less exact, never more than there was.
    """
    table = telemetry_rows.c
    query = select(table.row, table.at_s).where(
        table.principal == principal, table.at_s > start_s, table.at_s <= end_s
    )
    total = Sums()
    for data, at_s in connection.execute(query):
        row = TelemetryRow.model_validate_json(
            zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_ROW_BYTES)
        )
        for digest, sums in sums_of_row(row, at_s).items():
            add_part(total, digest, sums)
    if total.rows:
        return total
    hours = box_hours.c
    whole = select(hours.model_digest, hours.sums).where(
        hours.principal == principal,
        hours.hour_s >= start_s,
        hours.hour_s + HOUR_S <= end_s,
    )
    for digest, document in connection.execute(whole):
        add_part(total, digest, Sums.of_document(document))
    return total


def box_by_hour(
    connection: Connection, principal: str, *, since_s: float, digest: str | None = None
) -> list[Hour]:
    """Hours of a box, the newest first."""
    table = box_hours.c
    query = select(table.hour_s, table.model_digest, table.sums).where(
        table.principal == principal, table.hour_s >= since_s
    )
    if digest is not None:
        query = query.where(table.model_digest == digest)
    rows = connection.execute(query.order_by(table.hour_s.desc(), table.model_digest))
    return [_hour(hour_s, one, Sums.of_document(document)) for hour_s, one, document in rows]


def fleet_by_hour(
    connection: Connection, *, since_s: float, digest: str | None = None
) -> list[Hour]:
    """Hours of the whole fleet, the newest first. Shards are added up."""
    merged = _fleet(connection, since_s, digest)
    order = sorted(merged, key=lambda key: (-key[0], key[1]))
    return [_hour(hour_s, one, merged[hour_s, one]) for hour_s, one in order]


def fleet_sums(connection: Connection, *, since_s: float) -> Sums:
    """Everything since then, of all artefacts, as one."""
    total = Sums()
    for (_, digest), sums in _fleet(connection, since_s, None).items():
        add_part(total, digest, sums)
    return total


def counter_by_label(
    connection: Connection, metric: str, label: str, *, since_s: float
) -> list[Point]:
    """A counter of the whole fleet by the hour and by one label; `label` may be `model_digest`."""
    points: dict[tuple[int, str], float] = {}
    for (hour_s, digest), sums in _fleet(connection, since_s, None).items():
        for key, value in sums.counts.items():
            name, labels = parse_key(key)
            if name == metric:
                group = digest if label == "model_digest" else labels.get(label, "")
                points[hour_s, group] = points.get((hour_s, group), 0.0) + value
    return [
        Point(hour_s=hour_s, label=group, value=points[hour_s, group])
        for hour_s, group in sorted(points, key=lambda key: (-key[0], key[1]))
    ]


def _fleet(
    connection: Connection, since_s: float, digest: str | None
) -> dict[tuple[int, str], Sums]:
    table = fleet_hours.c
    query = select(table.hour_s, table.model_digest, table.sums).where(table.hour_s >= since_s)
    if digest is not None:
        query = query.where(table.model_digest == digest)
    merged: dict[tuple[int, str], Sums] = {}
    for hour_s, one, document in connection.execute(query):
        merged.setdefault((hour_s, one), Sums()).merge(Sums.of_document(document))
    return merged


def _hour(hour_s: int, digest: str, sums: Sums) -> Hour:
    return Hour(hour_s=hour_s, model_digest=digest, rows=sums.rows, figures=dict(all_figures(sums)))
