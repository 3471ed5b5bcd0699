"""`edge-runtime replay`: what a while would have cost and erred, decided otherwise.

Exit status: 0 done, 1 refused (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edge_runtime.cli_options import ConfigFile
from edge_runtime.errors import UsageError
from edge_runtime.ledger.database import explained, open_reader
from edge_runtime.ledger.ledger import now_us
from edge_runtime.ledger.money import format_money
from edge_runtime.ledger.options import (
    Against,
    AsJson,
    LedgerFile,
    OverrideFile,
    PriceFile,
    Since,
    ledger_path,
    parse_since,
    price_list,
    reference,
    refusals,
)
from edge_runtime.ledger.prices import FrontierPrice, Prices
from edge_runtime.ledger.replay import End, Scenario, Scored, Sums, as_it_was
from edge_runtime.ledger.replay import replay as replay_one
from edge_runtime.ledger.replay_error import (
    Chosen,
    ErrorEstimate,
    Known,
    choose,
    estimate,
    strata,
)
from edge_runtime.ledger.replay_queries import (
    Survey,
    While,
    idle_nano,
    known,
    requests,
    summed_up,
)
from edge_runtime.ledger.rows import PPM


@dataclass(frozen=True, slots=True)
class Side:
    """One column of the report. `error` None: not known."""

    sums: Sums
    error: ErrorEstimate | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The report."""

    was: Side
    would: Side
    scored: Scored | None
    model: str
    threshold_ppm: int | None
    chosen: Chosen | None
    alpha: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked on the command line."""

    threshold: float | None
    alpha: float | None
    delta: float
    cache: bool
    model: str | None
    task: str | None


def replay(
    *,
    config: ConfigFile = None,
    ledger: LedgerFile = None,
    prices: PriceFile = None,
    override: OverrideFile = None,
    against: Against = None,
    since: Since = "7d",
    until: Annotated[str, typer.Option(help="Where the while ends, as --since.")] = "0h",
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Keep from this score on.")
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Keep what can be shown to err at most so often."),
    ] = None,
    delta: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Chance that --alpha is missed.")
    ] = 0.1,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="As if nothing was cached.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Model (name@version) whose threshold it is.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task whose threshold it is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a while would have cost and erred at another alpha, threshold or price."""
    with refusals():
        asked = Question(threshold, alpha, delta, not no_cache, model, task)
        _check(asked)
        listed = price_list(prices, override, config)
        now = now_us()
        span = While(parse_since(since, now), parse_since(until, now))
        if span.until_us <= span.since_us:
            raise UsageError(f"--until {until} is not after --since {since}")
        with open_reader(ledger_path(ledger, config)) as reader, explained("ledger"):
            answer = _answer(reader, span, asked, listed, reference(listed, against))
    if as_json:
        typer.echo(json.dumps(_json(answer, listed), indent=2))
        return
    console = Console()
    console.print(_table(answer, "units" if listed is None else listed.currency))
    for note in answer.notes:
        console.print(f"- {note}", markup=False)


def _check(asked: Question) -> None:
    if asked.threshold is not None and asked.alpha is not None:
        raise UsageError("give --threshold or --alpha, not both")
    if asked.alpha is not None and not (0 < asked.alpha < 1 and 0 < asked.delta < 1):
        raise UsageError("--alpha and --delta lie between 0 and 1")


def _answer(
    reader: sqlite3.Connection,
    span: While,
    asked: Question,
    listed: Prices | None,
    price: FrontierPrice | None,
) -> Answer:
    price_of = None if listed is None else listed.of
    survey = Survey()
    was = Sums()
    for seen in requests(reader, span, None):
        survey.add(seen)
        was.add(as_it_was(seen))
    scored, facts = _scored(reader, span, asked, survey)
    scenario, chosen = _scenario(asked, scored, facts)
    would = Sums()
    for seen in requests(reader, span, price_of):
        try:
            would.add(replay_one(seen, scenario, price=price))
        except LookupError as error:
            raise UsageError(
                "more would go to a frontier; name it by --prices and --against"
            ) from error
    idle = idle_nano(reader, span)
    was.cost_nano += idle
    would.cost_nano += idle
    return Answer(
        Side(was, _error(facts, None)),
        Side(would, None if scenario.never else _error(facts, scenario.threshold_ppm)),
        scored,
        "" if scored is None else survey.models.get(scored, ""),
        scenario.threshold_ppm,
        chosen,
        asked.alpha,
        tuple(_notes(asked, scenario, facts, would, summed_up(reader, span))),
    )


def _scored(
    reader: sqlite3.Connection, span: While, asked: Question, survey: Survey
) -> tuple[Scored | None, Known | None]:
    """The one model and task the question is about; None where nothing was scored."""
    fits = [
        one
        for one in survey.scored()
        if asked.model in (None, survey.models.get(one)) and asked.task in (None, one.task)
    ]
    changes = asked.threshold is not None or asked.alpha is not None
    if len(fits) == 1:
        return fits[0], known(reader, span, fits[0], survey)
    if not changes:
        return None, None
    if not fits:
        raise UsageError("no request of this while has a score; nothing can be decided again")
    names = "; ".join(
        f"--model {survey.models.get(one, '')} --task {one.task} ({one.model_digest[:12]})"
        for one in fits
    )
    raise UsageError(f"scores of several models or tasks do not compare; choose one: {names}")


def _scenario(
    asked: Question, scored: Scored | None, facts: Known | None
) -> tuple[Scenario, Chosen | None]:
    if asked.alpha is not None and facts is not None:
        chosen = choose(facts, asked.alpha, asked.delta)
        if chosen is None:
            return Scenario(scored, never=True, cache=asked.cache), None
        return Scenario(scored, chosen.threshold_ppm, cache=asked.cache), chosen
    threshold = None if asked.threshold is None else int(asked.threshold * PPM)
    return Scenario(scored, threshold, cache=asked.cache), None


def _error(facts: Known | None, threshold_ppm: int | None) -> ErrorEstimate | None:
    return None if facts is None else estimate(strata(facts, threshold_ppm))


def _notes(
    asked: Question, scenario: Scenario, facts: Known | None, would: Sums, without_details: int
) -> Iterable[str]:
    if scenario.never:
        yield (
            f"no threshold can be shown to err at most {asked.alpha:.1%} from what was compared "
            "in this while: everything would escalate"
        )
    if facts is None:
        yield "the error is about one model and task: choose them by --model and --task"
    elif not len(facts.audited):
        yield "the error of kept answers is not known: none was audited in this while"
    else:
        yield "the error is disagreement with the frontier, among answers kept by their score"
    if facts is not None and len(facts.shares_ppm) > 1:
        yield "the audit share changed in this while: the error leans to where it was higher"
    if would.estimated:
        yield f"{would.estimated:,} answers were never billed: their cost is an estimate"
    if without_details:
        yield f"{without_details:,} older requests are only kept as sums and left out"


def _table(answer: Answer, currency: str) -> Table:
    table = Table("what", "as it was", "replayed")
    was, would = answer.was, answer.would
    if answer.scored is not None:
        name = " ".join(part for part in (answer.model, answer.scored.task) if part)
        table.add_row("model and task", name or answer.scored.model_digest[:12], "")
    if answer.threshold_ppm is not None:
        table.add_row("keep from score", "", f"{answer.threshold_ppm / PPM:.4f}")
    if answer.chosen is not None:
        table.add_row("error at most", "", f"{answer.chosen.bound:.2%}")
    for label, end in (
        ("from the cache", End.CACHE),
        ("answered here", End.HERE),
        ("from a frontier", End.FRONTIER),
        ("not answered", End.NONE),
    ):
        table.add_row(label, f"{was.sums.ends[end]:,}", f"{would.sums.ends[end]:,}")
    table.add_row("kept on the box", _share(was.sums.kept_share), _share(would.sums.kept_share))
    table.add_row(
        "cost",
        format_money(was.sums.cost_nano, currency),
        format_money(would.sums.cost_nano, currency),
    )
    table.add_row("wrong among kept", _error_text(was.error), _error_text(would.error))
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _error_text(error: ErrorEstimate | None) -> str:
    if error is None:
        return "not known"
    return (
        f"{error.error:.2%} ({error.confidence:.0%} interval {error.low:.2%} to "
        f"{error.high:.2%}, {error.compared:,} compared)"
    )


def _json(answer: Answer, prices: Prices | None) -> dict[str, Any]:
    return {
        "currency": None if prices is None else prices.currency,
        "prices": None if prices is None else prices.version,
        "model": answer.model,
        "model_digest": None if answer.scored is None else answer.scored.model_digest,
        "task": None if answer.scored is None else answer.scored.task,
        "alpha": answer.alpha,
        "threshold": None if answer.threshold_ppm is None else answer.threshold_ppm / PPM,
        "bound": None if answer.chosen is None else answer.chosen.bound,
        "was": _side_json(answer.was),
        "would": _side_json(answer.would),
        "notes": list(answer.notes),
    }


def _side_json(side: Side) -> dict[str, Any]:
    error = side.error
    return {
        "requests": side.sums.requests,
        **{f"from_{end}": side.sums.ends[end] for end in End},
        "kept_share": side.sums.kept_share,
        "cost_nano": side.sums.cost_nano,
        "estimated": side.sums.estimated,
        "error": None
        if error is None
        else {
            "error": error.error,
            "low": error.low,
            "high": error.high,
            "confidence": error.confidence,
            "compared": error.compared,
            "wrong": error.wrong,
        },
    }
