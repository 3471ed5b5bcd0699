"""Hold the ledger against a frontier's statement, call by call. Pure.

Rules
- A call is found by any id its line has. A line that fits no call, or a call named twice, is told
  and changes nothing.
- Only guesses are settled. A call whose bill was seen stays as it is; where the statement says
  something else, that is told.
- A call that a dead process left behind has money held and no row; the statement gives it one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from edge_runtime.ledger.budget import BOX_SCOPE, Reservation
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.rows import Attempt, Correction, Status, Tier
from edge_runtime.ledger.statement import StatementLine

LEFT_BEHIND = "process-ended"
"""Reason of a row that a statement gave to a call nobody lived to settle."""


@dataclass(frozen=True, slots=True)
class Call:
    """A frontier's call as the ledger has it; `lost` where only its reservation is left."""

    call_id: str
    remote_id: str
    model: str
    nano: int
    open: bool
    lost: Reservation | None = None


@dataclass(slots=True)
class Match:
    """What a statement says of the ledger. Money is in nano-units."""

    settle: list[tuple[Call, StatementLine]] = field(default_factory=list)
    agreed: int = 0
    differing: list[tuple[Call, int]] = field(default_factory=list)
    unpriced: list[Call] = field(default_factory=list)
    unknown: list[StatementLine] = field(default_factory=list)
    twice: list[Call] = field(default_factory=list)
    missing: list[Call] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Everything the statement names is in the ledger, at the same money."""
        return not (self.differing or self.unpriced or self.unknown or self.twice)


def match(
    calls: Iterable[Call],
    lines: Sequence[StatementLine],
    price_of: Callable[[str], FrontierPrice | None],
) -> Match:
    """See the module. `missing` are open calls that the statement does not name."""
    found = Match()
    by_id: dict[str, Call] = {}
    every = list(calls)
    for call in every:
        by_id |= {one: call for one in (call.remote_id, call.call_id) if one}
    seen: set[str] = set()
    for line in lines:
        named = next((by_id[one] for one in line.ids if one in by_id), None)
        if named is None:
            found.unknown.append(line)
        elif named.call_id in seen:
            found.twice.append(named)
        else:
            seen.add(named.call_id)
            _judge(found, named, line, price_of(named.model))
    repeated = {one.call_id for one in found.twice}
    found.settle = [pair for pair in found.settle if pair[0].call_id not in repeated]
    found.missing = [one for one in every if one.open and one.call_id not in seen]
    return found


def _judge(found: Match, call: Call, line: StatementLine, price: FrontierPrice | None) -> None:
    nano = line.cost_nano(price)
    if nano is None:
        found.unpriced.append(call)
    elif call.open:
        found.settle.append((call, line))
    elif nano == call.nano:
        found.agreed += 1
    else:
        found.differing.append((call, nano))


def row_of(call: Call, model: str, correction: Correction) -> Attempt:
    """The row of a call that a dead process left behind, as far as anybody knows it."""
    assert call.lost is not None, "the call has a row"
    named = dict(one.partition(":")[::2] for one in call.lost.scopes if one != BOX_SCOPE)
    bare = Attempt(
        at_us=call.lost.at_us,
        request_id="",
        task_id="",
        tier=Tier.FRONTIER,
        model=model,
        tenant=named.get("tenant", "default"),
        endpoint=named.get("endpoint", ""),
        status=Status.ERROR,
        reason=LEFT_BEHIND,
        call_id=call.call_id,
    )
    return correction.of(bare)
