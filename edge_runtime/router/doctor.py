"""What is wrong with a box's settings, or missing from them. Pure.

`wrong` keeps something from working as it is set; `missing` lets it work worse than it could;
`note` is worth knowing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from edge_runtime.bundle.certificate import read_time
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.config import Settings
from edge_runtime.core import Kind
from edge_runtime.ledger.money import format_money
from edge_runtime.ledger.prices import Prices
from edge_runtime.router.contract import Policy
from edge_runtime.router.settings import EndpointSettings
from edge_runtime.router.trust import CertificateBook, Holding

EXPIRES_SOON = timedelta(days=14)
OLD_PRICES = timedelta(days=180)


class Level(enum.StrEnum):
    """How bad it is."""

    WRONG = "wrong"
    MISSING = "missing"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing, where it is, and what to do."""

    level: Level
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Installed:
    """An active model as the store has it."""

    manifest: Manifest
    model_digest: str


@dataclass(frozen=True, slots=True)
class Guessed:
    """Calls of frontiers that the ledger books by a guess: how many, and at how much."""

    calls: int
    nano: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a doctor looks at. `faults` were met while the parts were read, by setting;
    `absent_files` are evaluation sets that are not there; `guessed` is None without a ledger.
    """

    settings: Settings
    models: Mapping[str, Installed]
    book: CertificateBook
    prices: Prices | None
    now: datetime
    faults: Mapping[str, str] = field(default_factory=dict)
    guessed: Guessed | None = None
    absent_files: frozenset[str] = frozenset()


def examine(facts: Facts) -> list[Finding]:
    """Everything found, the worst first."""
    found = [
        *(Finding(Level.WRONG, where, what) for where, what in facts.faults.items()),
        *_models(facts),
        *_endpoints(facts),
        *_certificates(facts),
        *_money(facts),
    ]
    order = list(Level)
    return sorted(found, key=lambda one: order.index(one.level))


def _models(facts: Facts) -> Iterator[Finding]:
    for name in facts.settings.models.serve:
        if name not in facts.models:
            yield Finding(
                Level.WRONG, "models.serve", f"{name} is not installed: edge-runtime install BUNDLE"
            )
    if not facts.models:
        yield Finding(Level.WRONG, "store", "no model is active: run edge-runtime install BUNDLE")


def holding_of(facts: Facts, name: str, endpoint: EndpointSettings) -> Holding:
    """The certificate that holds for an installed model under an endpoint's rules now."""
    installed = facts.models[name]
    alpha = facts.settings.router.alpha if endpoint.alpha is None else endpoint.alpha
    task = endpoint.task or name
    return facts.book.holding(installed.model_digest, task, installed.manifest.kind, alpha)


def _endpoints(facts: Facts) -> Iterator[Finding]:
    for name, endpoint in facts.settings.endpoints.items():
        where = f"endpoints.{name}"
        for model in endpoint.models:
            if model not in facts.models:
                yield Finding(Level.WRONG, where, f"{model} is not installed: install its bundle")
        yield from _judged(facts, where, endpoint)
        if endpoint.evaluation_set is None:
            yield Finding(
                Level.MISSING,
                where,
                "has no evaluation_set: nobody can say how good it is; name a file of questions "
                "with right answers",
            )
        elif str(endpoint.evaluation_set) in facts.absent_files:
            yield Finding(Level.WRONG, where, f"{endpoint.evaluation_set} is not there")
    if facts.settings.router.policy is Policy.LOCAL_FIRST:
        by_name = EndpointSettings(models=sorted(facts.models))
        yield from _judged(facts, "router.policy (models by their own names)", by_name, each=True)


def _judged(
    facts: Facts, where: str, endpoint: EndpointSettings, *, each: bool = False
) -> Iterator[Finding]:
    """A local-first endpoint needs a certificate to keep anything, and a way out."""
    if endpoint.policy is not Policy.LOCAL_FIRST:
        return
    installed = [name for name in endpoint.models if name in facts.models]
    judged = [
        name
        for name in installed
        if facts.models[name].manifest.kind in (Kind.GENERATE, Kind.CLASSIFY)
    ]
    held = {name: holding_of(facts, name, endpoint) for name in judged}
    without = {name: one.detail for name, one in held.items() if one.known is None}
    if without and (each or len(without) == len(judged)):
        for name, detail in without.items():
            yield Finding(
                Level.MISSING,
                where,
                f"{name}: {detail}; every question goes to a frontier until edge-export certify "
                "has made one",
            )
    if not facts.settings.frontiers:
        yield Finding(
            Level.WRONG,
            where,
            "is local-first without a frontier: unsure answers are given as degraded; set "
            "[frontiers.NAME], or policy local-only",
        )
        return
    for name in judged:
        manifest = facts.models[name].manifest
        if manifest.kind is Kind.CLASSIFY and manifest.escalation is None:
            yield Finding(
                Level.WRONG, where, f"the bundle of {name} has no escalation section: build it anew"
            )


def _certificates(facts: Facts) -> Iterator[Finding]:
    for problem in facts.book.problems:
        yield Finding(Level.WRONG, "certificates.directory", problem)
    digests = {one.model_digest for one in facts.models.values()}
    for known in facts.book.all():
        certificate = known.certificate
        name = f"certificate {known.digest[:12]} (task {certificate.task})"
        if certificate.model_digest not in digests:
            yield Finding(Level.NOTE, name, "is for a model that is not active here")
            continue
        if known.digest in facts.settings.certificates.revoked:
            yield Finding(Level.NOTE, name, "is revoked")
            continue
        ends = read_time(certificate.expires)
        if ends <= facts.now:
            yield Finding(Level.WRONG, name, f"expired at {certificate.expires}: certify again")
        elif ends - facts.now < EXPIRES_SOON:
            yield Finding(Level.NOTE, name, f"expires at {certificate.expires}: certify again soon")


def _money(facts: Facts) -> Iterator[Finding]:
    settings, prices = facts.settings, facts.prices
    if settings.frontiers:
        budgets = settings.budgets
        if budgets.day is None and budgets.month is None:
            yield Finding(
                Level.MISSING, "budgets", "no limit for the box: set budgets.day or budgets.month"
            )
        if settings.prices.file is None and settings.prices.override is None:
            yield Finding(
                Level.NOTE, "prices", "published prices are used: set prices.override to yours"
            )
    if prices is not None:
        if settings.frontiers and _age(prices.as_of, facts.now) > OLD_PRICES:
            yield Finding(
                Level.MISSING, "prices", f"the list is of {prices.as_of}: bring a new one"
            )
        if prices.local.busy_milliwatts is None and settings.energy.source == "assumption":
            yield Finding(Level.WRONG, "energy.source", "assumption needs energy.busy_watts")
    if facts.guessed is not None and facts.guessed.calls:
        yield Finding(Level.NOTE, "ledger", _guess(facts.guessed, prices))
    if not settings.ledger.enabled:
        yield Finding(Level.NOTE, "ledger", "is off: nobody can say what requests cost")
    allowed = [name for name, one in settings.frontiers.items() if one.training_allowed]
    if settings.capture.enabled and not allowed:
        yield Finding(Level.WRONG, "capture", "no frontier has training_allowed: nothing is kept")


def _guess(guessed: Guessed, prices: Prices | None) -> str:
    money = format_money(guessed.nano, "units" if prices is None else prices.currency)
    return (
        f"{guessed.calls:,} calls are booked by a guess, at {money} in all: settle them by the "
        "frontier's statement with edge-runtime cost reconcile, or set its usage_url"
    )


def _age(day: date, now: datetime) -> timedelta:
    return now.date() - day
