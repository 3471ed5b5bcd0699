"""The registry on both databases: boxes, what they report, groups, tokens, audit, generations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection

from edge_runtime.agent.protocol import BoxState, Failure, FailureCode, FailureKind, Health, Link
from edge_runtime.errors import UsageError
from fleet.db.database import Database, open_database
from fleet.expr import ExpressionError
from fleet.registry import audit, boxes, groups, reports, tokens, wants
from fleet.registry.selection import compile_target, select_boxes
from fleet.registry.summary import summarise
from fleet.registry.tokens import MAY, Permission, Role
from tests.support.fleet import LIMITS, NOW_S, have, item


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()


def some_boxes(connection: Connection) -> None:
    for number, site in enumerate(("berlin", "berlin", "oslo"), start=1):
        principal = f"acme~box-{number}"
        boxes.add(connection, principal, {"site": site}, now_s=NOW_S)
        reports.apply_have(connection, principal, have(principal, metered=number == 2), now_s=NOW_S)
    boxes.add(connection, "other~box-1", {}, now_s=NOW_S)


def selected(connection: Connection, text: str, **options: object) -> list[str]:
    target = compile_target(text)
    found = select_boxes(connection, target, now_s=NOW_S, limits=LIMITS, **options)  # type: ignore[arg-type]
    return [box.principal for box, _ in found]


@pytest.mark.parametrize(
    ("text", "principals"),
    [
        ("true", ["acme~box-1", "acme~box-2", "acme~box-3", "other~box-1"]),
        ('labels.site == "berlin" && !metered', ["acme~box-1"]),
        ("'oslo-boxes' in groups", ["acme~box-3"]),
        ("memory_bytes > 4000000000 && 'avx2' in cpu_features && cores >= 4",
         ["acme~box-1", "acme~box-2", "acme~box-3"]),
        ("tenant == 'other'", ["other~box-1"]),
        ("health != 'online'", ["other~box-1"]),
        ("'assistant' in versions && versions.assistant == '1.0.0' && box == 'box-2'",
         ["acme~box-2"]),
        ("states['bundle/assistant'] == 'confirmed' && labels.site == 'oslo'", ["acme~box-3"]),
        ("labels.site == \"x' OR '1'='1\"", []),
    ],
)  # fmt: skip
def test_an_expression_selects_boxes(database: Database, text: str, principals: list[str]) -> None:
    def work(connection: Connection) -> list[str]:
        some_boxes(connection)
        groups.put(connection, "oslo-boxes", "labels.site == 'oslo'", "", now_s=NOW_S)
        return selected(connection, text)

    assert database.write_now(work) == principals


def test_a_label_is_data_whatever_it_holds(database: Database) -> None:
    hostile = "'; DROP TABLE boxes; --"

    def work(connection: Connection) -> list[str]:
        some_boxes(connection)
        boxes.set_labels(connection, "acme~box-3", {"site": hostile})
        return selected(connection, f'labels.site == "{hostile}"')

    assert database.write_now(work) == ["acme~box-3"]
    assert database.read_now(boxes.count) == 4


def test_a_page_goes_on_behind_the_last_box(database: Database) -> None:
    database.write_now(some_boxes)
    rest = database.read_now(lambda connection: selected(connection, "true", after="acme~box-2"))
    assert rest == ["acme~box-3", "other~box-1"]


def test_a_box_shows_what_it_reported(database: Database) -> None:
    failed = item(
        BoxState.FAILED,
        failure=Failure(kind=FailureKind.STUCK, code=FailureCode.DISK),
        generation=3,
    )

    def work(connection: Connection) -> boxes.BoxPage:
        boxes.add(connection, "acme~box-1", {"site": "oslo"}, now_s=NOW_S)
        report = have(items=(failed,), labels={"site": "mine", "line": "2"}, clock_s=int(NOW_S) - 7)
        assert reports.apply_have(connection, "acme~box-1", report, now_s=NOW_S)
        return boxes.get(connection, "acme~box-1", now_s=NOW_S + 1, limits=LIMITS)

    box = database.write_now(work)
    assert box.labels == {"site": "oslo", "line": "2"}
    assert box.clock_offset_s == 7
    assert box.health is Health.ONLINE
    assert (box.items[0].state, box.items[0].failure_kind) == ("failed", "stuck")
    assert box.reported is not None
    assert box.reported.items == (failed,)


def test_the_time_of_a_state_is_when_it_began(database: Database) -> None:
    def work(connection: Connection) -> list[float]:
        boxes.add(connection, "acme~box-1", {}, now_s=NOW_S)
        times = []
        for seq, state in enumerate((BoxState.FETCHING, BoxState.FETCHING, BoxState.STAGED), 1):
            report = have(seq=seq, items=(item(state),))
            reports.apply_have(connection, "acme~box-1", report, now_s=NOW_S + seq)
            box = boxes.get(connection, "acme~box-1", now_s=NOW_S, limits=LIMITS)
            times.append(box.items[0].since_s - NOW_S)
        return times

    assert database.write_now(work) == [1, 1, 3]


def test_an_old_report_changes_nothing_but_contact(database: Database) -> None:
    def work(connection: Connection) -> tuple[list[bool], boxes.BoxPage]:
        boxes.add(connection, "acme~box-1", {}, now_s=NOW_S)
        applied = [
            reports.apply_have(connection, "acme~box-1", report, now_s=NOW_S + number)
            for number, report in enumerate(
                (
                    have(seq=5, generation=5),
                    have(seq=4, generation=4),
                    have(seq=5, generation=9),
                    have(boot="boot-b", seq=1, connection=2, generation=6),
                    have(boot="boot-0", seq=99, connection=1, generation=1),
                )
            )
        ]
        return applied, boxes.get(connection, "acme~box-1", now_s=NOW_S, limits=LIMITS)

    applied, box = database.write_now(work)
    assert applied == [True, False, False, True, False]
    assert box.seen_generation == 6
    assert box.last_contact_s == NOW_S + 4


def test_a_late_will_does_not_take_a_new_connection_down(database: Database) -> None:
    def work(connection: Connection) -> list[Health]:
        boxes.add(connection, "acme~box-1", {}, now_s=NOW_S)
        seen = []
        for link in (
            Link(up=True, connection=1, boot="a"),
            Link(up=True, connection=2, boot="a"),
            Link(up=False, connection=1, boot="a"),
            Link(up=False, connection=2, boot="a"),
        ):
            reports.apply_link(connection, "acme~box-1", link, now_s=NOW_S)
            page = boxes.get(connection, "acme~box-1", now_s=NOW_S, limits=LIMITS)
            seen.append(page.health)
        return seen

    online, silent = Health.ONLINE, Health.SILENT
    assert database.write_now(work) == [online, online, online, silent]


@pytest.mark.parametrize(
    ("after_s", "health"),
    [(900, Health.ONLINE), (901, Health.SILENT), (86_401, Health.UNREACHABLE)],
)
def test_silence_is_noticed_without_any_message(
    database: Database, after_s: float, health: Health
) -> None:
    def work(connection: Connection) -> boxes.BoxPage:
        boxes.add(connection, "acme~box-1", {}, now_s=NOW_S)
        reports.apply_have(connection, "acme~box-1", have(), now_s=NOW_S)
        return boxes.get(connection, "acme~box-1", now_s=NOW_S + after_s, limits=LIMITS)

    box = database.write_now(work)
    counted = database.read_now(
        lambda connection: summarise(connection, now_s=NOW_S + after_s, limits=LIMITS)
    )
    assert box.health is health
    assert counted.health[health] == 1


def test_a_revoked_box_is_not_listened_to(database: Database) -> None:
    def work(connection: Connection) -> object:
        boxes.add(connection, "acme~box-1", {}, now_s=NOW_S)
        boxes.set_status(connection, "acme~box-1", "revoked")
        assert not reports.apply_have(connection, "acme~box-1", have(), now_s=NOW_S)
        return reports.listened_to(connection, "acme~box-1"), selected(connection, "true")

    assert database.write_now(work) == (None, [])


def test_groups_are_checked_when_they_are_filed(database: Database) -> None:
    def put(text: str) -> None:
        database.write_now(lambda connection: groups.put(connection, "g", text, "", now_s=NOW_S))

    for text in ("labls.site == 'x'", "'other' in groups", "cores"):
        with pytest.raises(ExpressionError):
            put(text)
    put("cores > 2")
    put("cores > 3")  # a second time changes it
    assert database.read_now(groups.listed)[0].expression == "cores > 3"
    database.write_now(lambda connection: groups.remove(connection, "g"))
    with pytest.raises(UsageError, match="no group"):
        database.write_now(lambda connection: groups.remove(connection, "g"))


def test_a_token_holds_until_it_expires_or_is_revoked(database: Database) -> None:
    def work(connection: Connection) -> list[bool]:
        token, secret = tokens.create(connection, "ci", Role.VIEWER, now_s=NOW_S, lives_s=60.0)
        other, other_secret = tokens.create(
            connection, "ops", Role.OPERATOR, now_s=NOW_S, lives_s=None
        )
        tokens.revoke(connection, other.id, now_s=NOW_S)
        return [
            tokens.find(connection, secret, now_s=NOW_S + 59) == token,
            tokens.find(connection, secret, now_s=NOW_S + 60) is None,
            tokens.find(connection, other_secret, now_s=NOW_S) is None,
            tokens.find(connection, secret + "x", now_s=NOW_S) is None,
            tokens.find(connection, "", now_s=NOW_S) is None,
        ]

    assert database.write_now(work) == [True] * 5
    with pytest.raises(UsageError, match="already"):
        database.write_now(
            lambda connection: tokens.create(
                connection, "ci", Role.ADMIN, now_s=NOW_S, lives_s=None
            )
        )


def test_only_admins_manage_tokens() -> None:
    assert {role for role in Role if Permission.ADMIN in MAY[role]} == {Role.ADMIN}
    assert {role for role in Role if Permission.PUBLISH in MAY[role]} == {
        Role.PUBLISHER,
        Role.ADMIN,
    }
    assert all(Permission.READ in MAY[role] for role in Role)


def test_the_audit_log_reads_backwards(database: Database) -> None:
    actor = audit.Actor("ops", "operator", "r-1")

    def work(connection: Connection) -> tuple[list[str], list[str]]:
        for number in range(3):
            audit.note(connection, actor, f"act.{number}", f"box/{number % 2}", now_s=NOW_S)
        newest = audit.entries(connection, limit=2)
        rest = audit.entries(connection, before=newest[-1].id)
        of_one = audit.entries(connection, thing="box/0")
        return [entry.action for entry in newest + rest], [entry.action for entry in of_one]

    assert database.write_now(work) == (["act.2", "act.1", "act.0"], ["act.2", "act.0"])


def test_generations_rise_and_are_stored_with_their_documents(database: Database) -> None:
    def work(connection: Connection) -> list[object]:
        boxes.add(connection, "acme~box-1", {}, now_s=NOW_S)
        made = [
            wants.next_want(
                connection,
                "acme~box-1",
                lambda generation: b"want %d" % generation,
                rollout="r",
                now_s=NOW_S,
            )
            for _ in range(2)
        ]
        unseen = list(wants.unseen_wants(connection))
        reports.apply_have(connection, "acme~box-1", have(generation=2), now_s=NOW_S)
        return [made, unseen, list(wants.unseen_wants(connection)),
                wants.newest_want(connection, "acme~box-1")]  # fmt: skip

    made, unseen, after, newest = database.write_now(work)
    assert made == [(1, b"want 1"), (2, b"want 2")]
    assert unseen == [("acme~box-1", b"want 2")]
    assert after == []
    assert newest == b"want 2"


def test_a_box_ahead_of_a_restored_database_still_listens(database: Database) -> None:
    def work(connection: Connection) -> int:
        boxes.add(connection, "acme~box-1", {}, now_s=NOW_S)
        reports.apply_have(connection, "acme~box-1", have(generation=41), now_s=NOW_S)
        return wants.next_want(
            connection, "acme~box-1", lambda _: b"want", rollout=None, now_s=NOW_S
        )[0]

    assert database.write_now(work) == 42


def test_nothing_is_wanted_of_a_revoked_box(database: Database) -> None:
    def work(connection: Connection) -> None:
        boxes.add(connection, "acme~box-1", {}, now_s=NOW_S)
        boxes.set_status(connection, "acme~box-1", "revoked")
        wants.next_want(connection, "acme~box-1", lambda _: b"", rollout=None, now_s=NOW_S)

    with pytest.raises(UsageError, match="no box"):
        database.write_now(work)
