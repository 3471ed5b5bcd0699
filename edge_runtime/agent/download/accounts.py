"""Which source to ask, by what each did so far. Pure: the time is handed in.

Rules
- Sources are asked in the order they were listed, nearest first; one that failed rests, twice as
  long after each failure in a row, and then comes after those that did not.
- A source that does not have a blob, or sent wrong bytes of it `max_corrupt` times, is not asked
  for it again in this job. One that sent wrong bytes `max_corrupt_in_all` times, or failed
  `max_failures` times in a row, is not asked for anything.
- When nobody is left the error says what each of them did.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_runtime.errors import BundleError, EdgeError, TransportError


class Fault(enum.StrEnum):
    """What a source did wrong."""

    MISSING = "missing"  # it does not have the blob
    CORRUPT = "corrupt"  # it sent other bytes than those that were signed
    FAILED = "failed"  # it was not reached, broke off, was too slow or answered nonsense


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """When a source is given up, and how long it rests before that."""

    max_failures: int = 5
    max_corrupt: int = 2
    max_corrupt_in_all: int = 8
    first_rest_s: float = 1.0
    longest_rest_s: float = 60.0


@dataclass
class Account:
    """What one source did in this job."""

    name: str
    blocks: int = 0
    bytes: int = 0
    failures_in_row: int = 0
    counts: dict[Fault, int] = field(default_factory=lambda: dict.fromkeys(Fault, 0))
    missing: set[str] = field(default_factory=set)
    corrupt: dict[str, int] = field(default_factory=dict)
    rests_until_s: float = 0.0
    last: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the source with this number."""

    index: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Everybody rests; ask again then."""

    until_s: float


class Accounts:
    """The accounts of all sources of a job."""

    def __init__(self, names: Sequence[str], limits: AccountLimits) -> None:
        self.all = tuple(Account(name) for name in names)
        self._limits = limits

    def choose(self, blob: str, now_s: float) -> Ask | Wait | EdgeError:
        """Whom to ask for a block of a blob; an error when nobody is left."""
        able = [
            (index, account)
            for index, account in enumerate(self.all)
            if not self._given_up(account, blob)
        ]
        awake = [
            (account.failures_in_row, index)
            for index, account in able
            if account.rests_until_s <= now_s
        ]
        if awake:
            return Ask(min(awake)[1])
        if able:
            return Wait(min(account.rests_until_s for _, account in able))
        return self._nobody(blob)

    def note_block(self, index: int, size: int) -> None:
        """A source sent a block that is right."""
        account = self.all[index]
        account.blocks += 1
        account.bytes += size
        account.failures_in_row = 0

    def note_fault(self, index: int, blob: str, fault: Fault, reason: str, now_s: float) -> None:
        """A source did something wrong."""
        account = self.all[index]
        account.counts[fault] += 1
        account.last = reason
        if fault is Fault.MISSING:
            account.missing.add(blob)
            return
        if fault is Fault.CORRUPT:
            account.corrupt[blob] = account.corrupt.get(blob, 0) + 1
        account.failures_in_row += 1
        rest_s = self._limits.first_rest_s * 2.0 ** (account.failures_in_row - 1)
        account.rests_until_s = now_s + min(rest_s, self._limits.longest_rest_s)

    def _given_up(self, account: Account, blob: str) -> bool:
        return (
            blob in account.missing
            or account.corrupt.get(blob, 0) >= self._limits.max_corrupt
            or account.counts[Fault.CORRUPT] >= self._limits.max_corrupt_in_all
            or account.failures_in_row >= self._limits.max_failures
        )

    def _nobody(self, blob: str) -> EdgeError:
        if not self.all:
            return TransportError("no source was named: the want must list one")
        story = "; ".join(f"{account.name}: {account.last or 'given up'}" for account in self.all)
        if all(account.corrupt.get(blob) for account in self.all):
            return BundleError(f"blob {blob[:12]}", f"every source sent other bytes: {story}")
        return TransportError(f"no source gave blob {blob[:12]}: {story}; try again later")
