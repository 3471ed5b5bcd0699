"""Who keeps the books of a local try that belongs to a case. See `generation.Ending`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.ledger.rows import Status
from edge_runtime.router.case import Case
from edge_runtime.router.decide import Keep
from edge_runtime.server.events import Figures

Remember = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], None]


@dataclass(slots=True)
class Seeking:
    """A try whose answer is judged before anybody gets it."""

    case: Case
    rung: int

    def done(self, figures: Figures, now_s: float) -> None:
        """Nothing yet: the judge books it."""

    def broke(self, figures: Figures, now_s: float, status: Status) -> None:
        """See `Ending`."""
        info = self.case.info(self.rung)
        self.case.told.bill.local(info, figures.work(now_s), rung=self.rung, status=status)

    def answered(self, body: Mapping[str, Any], pieces: Sequence[Mapping[str, Any]]) -> None:
        """Nothing yet: nobody was answered."""


@dataclass(slots=True)
class Live:
    """A try whose answer goes out as it comes."""

    case: Case
    step: Keep
    remember: Remember

    def done(self, figures: Figures, now_s: float) -> None:
        """See `Ending`."""
        rung = self.step.rung
        self.case.told.bill.local(self.case.info(rung), figures.work(now_s), rung=rung)
        self.case.kept(self.step)

    def broke(self, figures: Figures, now_s: float, status: Status) -> None:
        """See `Ending`."""
        rung = self.step.rung
        info = self.case.info(rung)
        self.case.told.bill.local(info, figures.work(now_s), rung=rung, status=status)

    def answered(self, body: Mapping[str, Any], pieces: Sequence[Mapping[str, Any]]) -> None:
        """See `Ending`."""
        self.remember(body, pieces)


@dataclass(slots=True)
class Given:
    """An answer that was judged, booked and is now given."""

    case: Case
    step: Keep
    remember: Remember

    def done(self, figures: Figures, now_s: float) -> None:
        """See `Ending`."""
        self.case.kept(self.step)

    def broke(self, figures: Figures, now_s: float, status: Status) -> None:
        """The row is there; whoever runs the case closes it."""

    def answered(self, body: Mapping[str, Any], pieces: Sequence[Mapping[str, Any]]) -> None:
        """See `Ending`."""
        self.remember(body, pieces)


@dataclass(slots=True)
class Beside:
    """A try for nobody: whoever made it books it."""

    def done(self, figures: Figures, now_s: float) -> None:
        """Nothing."""

    def broke(self, figures: Figures, now_s: float, status: Status) -> None:
        """Nothing."""

    def answered(self, body: Mapping[str, Any], pieces: Sequence[Mapping[str, Any]]) -> None:
        """Nothing."""
