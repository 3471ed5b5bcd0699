"""The commands `edge-fleet rollout` and `edge-fleet rollouts`.

They work on the control host's database; what they order is carried out by `edge-fleet serve`.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from edge_runtime.errors import EdgeError

if TYPE_CHECKING:
    from fleet.rollout.planner import Forecast
    from fleet.rollout.service import RolloutPage, RolloutService
    from fleet.rollout.verdicts import Explanation, Turn

T = TypeVar("T")
GIB = 1 << 30

rollouts_app = typer.Typer(help="Look at rollouts and steer them.", no_args_is_help=True)

PlanPath = Annotated[Path, typer.Argument(help="The plan, a TOML file.")]
Config = Annotated[Path | None, typer.Option("--config", help="Settings of the control host.")]
RolloutId = Annotated[str, typer.Argument(help="The rollout's id.")]
Why = Annotated[str, typer.Option("--reason", help="Stands in the history.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(rollout)
    app.add_typer(rollouts_app, name="rollouts")


def rollout(
    plan: PlanPath,
    *,
    only_plan: Annotated[
        bool, typer.Option("--plan", help="Only say what it would come to; store nothing.")
    ] = False,
    config: Config = None,
) -> None:
    """File a rollout plan, or say with --plan what it would cost and what its guards can see."""
    text = _read(plan)
    if only_plan:
        _show_forecast(_with_service(config, lambda service: service.forecast(text)))
        return
    page = _with_service(config, lambda service: service.file(text, _actor()))
    typer.echo(f"{page.id} is {page.phase}")


@rollouts_app.command("list")
def list_rollouts(config: Config = None) -> None:
    """All rollouts, newest first."""
    table = Table("id", "name", "what", "phase", "wave", "filed by", box=None)
    for one in _with_service(config, lambda service: service.summaries()):
        wave = f"{one.wave} of {one.waves}" if one.waves else ""
        table.add_row(one.id, one.name, f"{one.kind} {one.item}", one.phase, wave, one.filed_by)
    Console().print(table)


@rollouts_app.command()
def show(rollout_id: RolloutId, config: Config = None) -> None:
    """One rollout: its waves, its history, what its guards say."""
    _show_page(_with_service(config, lambda service: service.page(rollout_id)))


@rollouts_app.command()
def approve(rollout_id: RolloutId, reason: Why = "", config: Config = None) -> None:
    """Let a draft begin."""
    _order(rollout_id, "approve", reason, config)


@rollouts_app.command()
def pause(rollout_id: RolloutId, reason: Why = "", config: Config = None) -> None:
    """Offer it to no further box. Guards go on watching."""
    _order(rollout_id, "pause", reason, config)


@rollouts_app.command()
def resume(rollout_id: RolloutId, reason: Why = "", config: Config = None) -> None:
    """Go on after a pause, or past a gate that holds for want of evidence."""
    _order(rollout_id, "resume", reason, config)


@rollouts_app.command()
def halt(rollout_id: RolloutId, reason: Why = "", config: Config = None) -> None:
    """Stop for good; boxes that confirmed it keep it."""
    _order(rollout_id, "halt", reason, config)


@rollouts_app.command()
def rollback(rollout_id: RolloutId, reason: Why = "", config: Config = None) -> None:
    """Give every box back what it had before, by new generations."""
    _order(rollout_id, "rollback", reason, config)


@rollouts_app.command()
def retry(rollout_id: RolloutId, reason: Why = "", config: Config = None) -> None:
    """Ask boxes again that gave up before anything changed on them."""
    _order(rollout_id, "retry", reason, config)


@rollouts_app.command()
def cancel(rollout_id: RolloutId, reason: Why = "", config: Config = None) -> None:
    """End it; boxes under way go back, those that confirmed it keep it."""
    _order(rollout_id, "cancel", reason, config)


@rollouts_app.command()
def explain(
    rollout_id: RolloutId,
    verdict: Annotated[int | None, typer.Option(help="Number of a verdict.")] = None,
    config: Config = None,
) -> None:
    """Why the guards say what they say, checked against the stored evidence."""
    for one in _with_service(config, lambda service: service.explain(rollout_id, verdict)):
        _show_explanation(one)


@rollouts_app.command()
def replay(
    rollout_id: RolloutId,
    plan: Annotated[Path, typer.Option("--rule", help="A plan whose guards are tried.")],
    config: Config = None,
) -> None:
    """What the guards of another plan would have said of this rollout; changes nothing."""
    text = _read(plan)
    _show_turns(_with_service(config, lambda service: service.replay(rollout_id, text)))


def _order(rollout_id: str, name: str, reason: str, config: Path | None) -> None:
    from fleet.rollout.states import Action

    def work(service: RolloutService) -> Awaitable[RolloutPage]:
        return service.order(rollout_id, Action(name), _actor(), reason)

    page = _with_service(config, work)
    typer.echo(f"{page.id} is {page.phase}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        typer.echo(f"error: {path}: cannot be read: {error}", err=True)
        raise typer.Exit(1) from error


def _actor() -> str:
    return f"{getpass.getuser()} (command line)"[:64]


def _with_service(config: Path | None, work: Callable[[RolloutService], Awaitable[T]]) -> T:
    try:
        return asyncio.run(_run(config, work))
    except EdgeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


async def _run(config: Path | None, work: Callable[[RolloutService], Awaitable[T]]) -> T:
    from fleet.db.database import Database
    from fleet.publish.repository import Repository
    from fleet.registry.facts import BOX_NAMES, Limits
    from fleet.rollout.catalogue import RepositoryCatalogue
    from fleet.rollout.engine import RolloutEngine
    from fleet.rollout.service import RolloutService
    from fleet.rollout.sql import Signing, SqlStore
    from fleet.settings import load_settings

    settings = load_settings(config, os.environ)
    limits = Limits(settings.boxes.silent_after_s, settings.boxes.unreachable_after_s)
    catalogue = RepositoryCatalogue(Repository(settings.publish.repository))
    async with Database.opened(settings.database.url) as database:
        # Nothing is signed or published here: the engine of `serve` does both.
        store = SqlStore(database, Signing((), ()), catalogue, limits)
        engine = RolloutEngine(store, None, time.time)
        return await work(RolloutService(store, catalogue, engine, time.time, BOX_NAMES))


def _show_forecast(seen: Forecast) -> None:
    console = Console()
    console.print(
        f"{seen.boxes} boxes in {len(seen.waves)} waves, {seen.held_back} held back; "
        f"{seen.bytes / GIB:.2f} GiB, {seen.full_downloads} full downloads; at least "
        f"{seen.hours:.1f} hours"
    )
    console.print(f"metered: {seen.metered}; not connected now: {seen.offline}")
    table = Table("wave", "boxes", "GiB", "hours", "metered", "pairs", box=None)
    for wave in seen.waves:
        table.add_row(
            str(wave.wave + 1), str(wave.boxes), f"{wave.bytes / GIB:.2f}", f"{wave.hours:.1f}",
            str(wave.metered), str(wave.pairs),
        )  # fmt: skip
    console.print(table)
    for reason, (count, names) in seen.left_out.items():
        console.print(f"left out: {count} ({reason}): {', '.join(names)}", markup=False)
    for sight in seen.safety:
        halts = "cannot halt" if sight.needed is None else f"halts on {sight.needed} harmed boxes"
        share = "" if sight.smallest_share is None else f" ({sight.smallest_share:.1%})"
        console.print(
            f"wave {sight.wave + 1}: {sight.guard} {halts} of {sight.exposed}{share}", markup=False
        )
    for quality in seen.quality:
        drop = "nothing" if quality.drop is None else f"a worsening of {quality.drop:.3f}"
        source = "measured" if quality.measured else "assumed"
        console.print(
            f"wave {quality.wave + 1}: {quality.guard} shows {drop} on {quality.pairs} pairs "
            f"(spread {quality.spread:.3f}, {source})",
            markup=False,
        )
    for warning in seen.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def _show_page(page: RolloutPage) -> None:
    console = Console()
    console.print(f"{page.id} {page.name}: {page.phase}, {page.kind} {page.item}", markup=False)
    table = Table("wave", "waiting", "open", "confirmed", "lost", "superseded", box=None)
    for wave in page.waves_by_status:
        name = str(wave.wave) if wave.wave else "held back"
        table.add_row(
            name, str(wave.waiting), str(wave.open), str(wave.confirmed), str(wave.lost),
            str(wave.superseded),
        )  # fmt: skip
    console.print(table)
    for entry in page.history:
        gate = f" [gate: {entry.gate}]" if entry.gate is not None else ""
        console.print(
            f"{_time(entry.at_s)} {entry.before} -> {entry.after}, wave {entry.wave}, by "
            f"{entry.actor}{gate}: {entry.reason}",
            markup=False,
        )
    for verdict in page.verdicts:
        console.print(
            f"guard {verdict.guard}: {verdict.verdict}, {verdict.reason} (verdict {verdict.id})",
            markup=False,
        )


def _show_explanation(one: Explanation) -> None:
    console, record = Console(), one.record
    console.print(
        f"verdict {record.id}: guard {record.guard}, wave {record.wave + 1}, "
        f"{_time(record.at_s)}: {record.verdict}",
        markup=False,
    )
    console.print(f"  {record.reason}", markup=False)
    console.print(f"  rule: {dict(record.rule)}", markup=False)
    again = "reached again from" if one.reached_again else "NOT reached again from"
    console.print(f"  {again} {record.upto} rows of evidence, sha256 {record.rows_sha256[:16]}")
    for row in one.rows:
        console.print(
            f"  {_time(row.at_s)} {row.box}: {row.data['event']} {row.data.get('detail', '')}",
            markup=False,
        )


def _show_turns(turns: tuple[Turn, ...]) -> None:
    if not turns:
        typer.echo("no guard would have said anything")
    for turn in turns:
        typer.echo(
            f"{_time(turn.at_s)} after {turn.exposed} boxes: guard {turn.guard}: {turn.verdict}, "
            f"{turn.reason}"
        )


def _time(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at_s))
