"""Every name that a request to this box may use. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.router.contract import Policy
from edge_runtime.router.doctor import Facts, holding_of
from edge_runtime.router.settings import EndpointSettings


@dataclass(frozen=True, slots=True)
class Line:
    """One endpoint of the inventory. `price`: input and output, for a million tokens."""

    endpoint: str
    policy: str
    model: str
    reason: str
    frontier: str
    price: str


def inventory(facts: Facts, order: Sequence[str]) -> list[Line]:
    """Every name a request may use: who would answer, why, and at what price.

    `order` names the frontiers in the order of asking where none is set.
    """
    settings = facts.settings
    lines = []
    for name, endpoint in settings.endpoints.items():
        frontiers = endpoint.frontiers or settings.router.frontiers or order
        lines.append(_line(facts, name, endpoint, frontiers))
    for model in sorted(facts.models):
        frontiers = settings.router.frontiers or order
        named = EndpointSettings(models=[model], policy=settings.router.policy)
        lines.append(_line(facts, model, named, frontiers))
    for frontier in settings.frontiers:
        if frontier not in facts.models:
            price = _price(facts, frontier)
            lines.append(Line(frontier, "frontier-only", "", "frontier-only", frontier, price))
    return lines


def _line(facts: Facts, name: str, endpoint: EndpointSettings, frontiers: Sequence[str]) -> Line:
    installed = [one for one in endpoint.models if one in facts.models]
    models = " > ".join(f"{one}@{facts.models[one].manifest.version}" for one in installed)
    first = frontiers[0] if frontiers and endpoint.policy is not Policy.LOCAL_ONLY else ""
    return Line(
        name,
        str(endpoint.policy),
        models,
        _reason(facts, endpoint, installed),
        first,
        _price(facts, first) if first else "",
    )


def _reason(facts: Facts, endpoint: EndpointSettings, installed: Sequence[str]) -> str:
    if not installed:
        return "not installed"
    if endpoint.policy is not Policy.LOCAL_FIRST:
        return str(endpoint.policy)
    for name in installed:
        known = holding_of(facts, name, endpoint).known
        if known is not None:
            one = known.certificate
            return f"confident at {one.threshold:.3g}: {one.coverage:.0%} kept, alpha {one.alpha:g}"
    return "no-certificate"


def _price(facts: Facts, frontier: str) -> str:
    settings = facts.settings.frontiers.get(frontier)
    if settings is None or facts.prices is None:
        return ""
    price = facts.prices.frontier.get(settings.price_key)
    if price is None:
        return "unknown"
    currency = facts.prices.currency
    return f"{price.input_pico / 1e6:g} / {price.output_pico / 1e6:g} {currency}"
