"""A simulated box: what it is told and what befalls it in, messages out. Pure.

Rules
- Time is a number of simulated UTC seconds that the caller brings; it never runs backwards. The
  box's own clock may be wrong: it believes what `agent.clock` lets it believe.
- A power cut takes everything but `install.Stored`; the next boot has another id, and the agent's
  `resume` finds out what happened.
- Calls give the messages to send, in order. While there is no connection they give none.

Example::

    box = SimBox(spec, world, NO_FAULTS, keys, seed=7, now_s=now_s)
    box.dial(), then for what follows: box.connected(now_s)
    box.heard(Channel.WANT, envelope, now_s)
    box.wake(now_s)                         # at box.next_s at the latest
"""

from __future__ import annotations

import random
from typing import Final, Literal, NamedTuple

from edge_runtime.agent.clock import Clock
from edge_runtime.agent.decide import Policy
from edge_runtime.agent.protocol import (
    Ack,
    Channel,
    Do,
    Have,
    ItemKind,
    ItemReport,
    Link,
    Want,
)
from edge_runtime.bundle.envelope import TrustedKeys
from edge_runtime.errors import BundleError
from fleet.simulator.faults import Fault, FaultRates, Schedule
from fleet.simulator.install import Installer, Moment, Pointer, Stored
from fleet.simulator.spool import STREAM, Spool
from fleet.simulator.traffic import make_row
from fleet.simulator.wire import Wire
from fleet.simulator.world import BoxSpec, World

LATE_S: Final = 5.0
SETTLE_S: Final = 0.5
RESEND_AFTER: Final = 2.0
"""Telemetry intervals without a watermark after which everything is sent again."""
UNSYNCED_S: Final = 10.0
"""A row younger than this is not on the disk yet when the power goes."""
FULL_DISK_BYTES: Final = 1024

Why = Literal["connected", "changed", "daily", "asked"]


class Out(NamedTuple):
    """A message of the box; `stream` for telemetry."""

    channel: Channel
    payload: bytes
    stream: str | None = None


class In(NamedTuple):
    """A message for the box."""

    channel: Channel
    payload: bytes


class SimBox:
    """See the module. `keys` are those whose wants it believes."""

    def __init__(
        self,
        spec: BoxSpec,
        world: World,
        rates: FaultRates,
        keys: TrustedKeys,
        *,
        seed: int,
        now_s: float,
        policy: Policy | None = None,
    ) -> None:
        self.spec, self.world, self._rates, self.keys = spec, world, rates, keys
        self._policy = policy or Policy(checkpoint_s=300.0)
        self._rng = random.Random(f"{seed}/{spec.principal}")
        self._schedule = Schedule(rates, random.Random(f"faults/{seed}/{spec.principal}"), now_s)
        self._out: Wire[Out] = Wire(self._rng, rates.duplicate_share, rates.late_share)
        self._in: Wire[In] = Wire(self._rng, rates.duplicate_share, rates.late_share)
        self.stored = Stored(Spool(spec.spool_rows))
        if spec.serves is not None:
            key = f"{ItemKind.BUNDLE}/{spec.model}"
            self.stored.pointers[key] = Pointer(spec.serves)
        self.refused = 0
        self.up = False
        self._boots = 0
        self._clock_error_s = 0.0
        self._full_until_s = 0.0
        self._power_back_s: float | None = None
        self._now_s = now_s
        self._sent_s: float | None = None
        self._told: tuple[ItemReport, ...] | None = None
        self._crash_s: float | None = None
        self._boot(now_s, clean=True)

    # What the shell asks. It drops a connection when `up` is False, or when none is wanted.

    @property
    def wants_link(self) -> bool:
        """Whether a connection should be kept or made now."""
        return self._power_back_s is None and not self._schedule.is_silent(self._now_s)

    @property
    def powered(self) -> bool:
        """Whether it runs at all."""
        return self._power_back_s is None

    @property
    def boot(self) -> str:
        """The id of the present run of its daemon."""
        return self._boot_id

    @property
    def next_s(self) -> float:
        """When to call `wake`, at the latest."""
        if self._power_back_s is not None:
            return self._power_back_s
        due = [self._agent_s, self._row_s]
        if self._crash_s is not None:
            due.append(self._crash_s)
        silent_s = self._schedule.silent_from_s
        due += [at_s for at_s in (self._schedule.next_s, silent_s) if at_s is not None]
        if silent_s is not None and self._now_s >= silent_s:
            due.remove(silent_s)
        if self.up:
            due.append(self._report_s)
            if self._out.waiting or self._in.waiting:
                due.append(self._now_s + LATE_S)
        return min(due)

    def reports(self) -> tuple[ItemReport, ...]:
        """Where it is with everything, as it would be reported now."""
        return self._agent.reports(self._moment())

    # What happens.

    def dial(self) -> bytes:
        """A connection is tried: its number is stored, and the Will to leave is given."""
        self.stored.connection += 1
        return self._announcement(up=False)

    def connected(self, now_s: float) -> list[Out]:
        """The connection is up, and the box subscribed."""
        self._now_s = now_s
        self.up = True
        self.stored.spool.unsent()
        self._sent_s = None
        spread_s = self.spec.report_spread_s * self._rng.random()
        self._ask("connected", max(SETTLE_S, spread_s))
        return [Out(Channel.LINK, self._announcement(up=True))]

    def disconnected(self) -> None:
        """The connection is lost; so is what was under way."""
        self.up = False
        self._out.cut()
        self._in.cut()

    def unsent(self) -> None:
        """A message could not be handed over: what it said is said again."""
        self._told = None
        self._ask("changed", LATE_S)
        self.stored.spool.unsent()

    def heard(self, channel: Channel, payload: bytes, now_s: float) -> list[Out]:
        """A message came in."""
        self._now_s = now_s
        for message in self._in.passed([In(channel, payload)]):
            self._take(message)
        return self._advance()

    def wake(self, now_s: float) -> list[Out]:
        """Time has passed."""
        self._now_s = now_s
        if self._power_back_s is not None:
            if now_s < self._power_back_s:
                return []
            self._power_back_s = None
            self._boot(now_s, clean=False)
        for fault in self._schedule.take(now_s):
            self._suffer(fault)
            if not self.powered:
                return []
        if self._crash_s is not None and now_s >= self._crash_s:
            self._crash()
        if self._schedule.is_silent(now_s):
            self.disconnected()
        for message in self._in.flush():
            self._take(message)
        return (self._out.flush() if self.up else []) + self._advance()

    # Inside.

    def _boot(self, now_s: float, *, clean: bool) -> None:
        self._boots += 1
        self._boot_id = f"b{self._boots}-{self._rng.getrandbits(48):012x}"
        self._started_s = now_s
        self._seq = 0
        self._row_seq = 0
        self._row_from_s = now_s
        self._row_s = now_s + self.spec.telemetry_s * self._rng.random()
        self._sent_s = self._told = None
        self._why: Why = "changed"
        self._report_s = now_s + self.spec.report_every_s
        self._clock = Clock(
            lambda: self._now_s - self._started_s, lambda: self._now_s + self._clock_error_s
        )
        self._clock.signed(self.stored.issued_s)
        self._agent = Installer(
            self.spec,
            self.world,
            self.stored,
            self._policy,
            self._rng,
            link_bytes_s=self.spec.link_bytes_s / self._schedule.slow,
            corrupt_share=self._rates.corrupt_share,
        )
        self._agent.boot(self._moment(), clean=clean)
        self._agent_s = now_s
        self._serves = self._agent.serving()
        self._crash_s = self._crash_due()

    def _moment(self) -> Moment:
        full = self._now_s < self._full_until_s
        return Moment(
            boot=self._boot_id,
            uptime_s=self._now_s - self._started_s,
            now_s=self._clock.now_s(),
            disk_free_bytes=FULL_DISK_BYTES if full else self.spec.disk_free_bytes,
        )

    def _suffer(self, fault: Fault) -> None:
        match fault:
            case Fault.POWER_CUT:
                self._power_back_s = self._now_s + self._rates.outage_s * self._rng.uniform(0.5, 2)
                self._down()
            case Fault.CLOCK_JUMP:
                self._clock_error_s = self._rates.clock_jump_s * self._rng.uniform(-1, 1)
            case Fault.LINK_DROP:
                self.disconnected()
            case Fault.FULL_DISK:
                self._full_until_s = self._now_s + self._rates.full_disk_s
                self._agent_s = self._now_s

    def _down(self) -> None:
        """The power goes."""
        uptime_s = self._now_s - self._started_s
        self._agent.power_lost(uptime_s)
        if self._now_s - self._row_from_s < UNSYNCED_S:
            self.stored.spool.forget_after(self._boot_id, self._row_seq - 1)
        self.disconnected()

    def _crash(self) -> None:
        """The daemon ends unasked, and its service manager starts it again at once."""
        self._agent.power_lost(self._now_s - self._started_s)
        self.disconnected()
        self._boot(self._now_s, clean=False)

    def _crash_due(self) -> float | None:
        spec = self.spec
        if not self.world.crashes(self._serves, spec.principal, spec.hardware.cpu_model):
            return None
        after_s = self.world.flaws(self._serves).crash_after_s
        return self._now_s + after_s * self._rng.uniform(0.5, 1.5)

    def _take(self, message: In) -> None:
        try:
            match message.channel:
                case Channel.WANT:
                    self._wanted(message.payload)
                case Channel.DO:
                    self._ordered(message.payload)
                case Channel.ACK:
                    ack = Ack.from_bytes(message.payload)
                    self._clock.told(ack.now_s)
                    self.stored.spool.acknowledge(ack)
                    self._sent_s = None
                case _:
                    raise BundleError(str(message.channel), "is not for a box to read")
        except BundleError:
            self.refused += 1
        self._agent_s = self._now_s

    def _wanted(self, payload: bytes) -> None:
        want = Want.opened(payload, self.keys)
        if want.principal != self.spec.principal:
            raise BundleError("want", f"is for {want.principal}")
        if self._agent.want(want):
            self._clock.signed(want.issued_s)
        else:
            self._ask("asked")

    def _ordered(self, payload: bytes) -> None:
        order = Do.opened(payload, self.keys)
        if order.principal != self.spec.principal:
            raise BundleError("do", f"is for {order.principal}")
        now_s = self._clock.now_s()
        if order.id in self.stored.orders or (now_s is not None and now_s >= order.expires_s):
            return
        self.stored.orders.append(order.id)
        if order.cancel is not None:
            self._agent.cancel(order.cancel)
        elif order.order == "report":
            self._ask("asked")

    def _advance(self) -> list[Out]:
        if self._power_back_s is not None:
            return []
        moment = self._moment()
        if self._now_s >= self._agent_s:
            self._agent_s = self._now_s + self._agent.advance(moment)
        if self._agent.serving() != self._serves:
            self._swapped()
        messages: list[Out] = []
        if self._now_s >= self._row_s:
            self._row_s = self._now_s + self.spec.telemetry_s
            self._cut_row()
            messages += self._telemetry()
        self._look(moment)
        if self.up and self._now_s >= self._report_s:
            messages.append(self._report(moment))
        return self._out.passed(messages) if self.up else []

    def _swapped(self) -> None:
        """Within a row, a model's name means one digest."""
        self._cut_row()
        self._serves = self._agent.serving()
        self._crash_s = self._crash_due()

    def _cut_row(self) -> None:
        bundle = self.world.bundles.get(self._serves or "")
        self._row_seq += 1
        row = make_row(
            self.spec,
            bundle,
            self.world.flaws(self._serves),
            self._rng,
            seq=self._row_seq,
            uptime_s=self._now_s - self._started_s,
            length_s=self._now_s - self._row_from_s,
            clock_s=self._clock.stamp_s(),
        )
        self._row_from_s = self._now_s
        self.stored.spool.add(self._boot_id, row)

    def _telemetry(self) -> list[Out]:
        if not self.up:
            return []
        patience_s = RESEND_AFTER * self.spec.telemetry_s
        if self._sent_s is not None and self._now_s - self._sent_s >= patience_s:
            self.stored.spool.unsent()
            self._sent_s = None
        batches = self.stored.spool.batches(self._clock.stamp_s())
        if batches and self._sent_s is None:
            self._sent_s = self._now_s
        return [Out(Channel.TELEMETRY, batch, STREAM) for batch in batches]

    def _look(self, moment: Moment) -> None:
        if self._told is not None and self._told != _without_progress(self._agent.reports(moment)):
            self._ask("changed")

    def _ask(self, why: Why, wait_s: float = SETTLE_S) -> None:
        if self._report_s > self._now_s + wait_s:
            self._why = why
            self._report_s = self._now_s + wait_s

    def _report(self, moment: Moment) -> Out:
        items = self._agent.reports(moment)
        self._seq += 1
        stored = self.stored
        document = Have(
            principal=self.spec.principal,
            boot=self._boot_id,
            seq=self._seq,
            uptime_ms=int(moment.uptime_s * 1000),
            clock_s=self._clock.stamp_s(),
            connection=stored.connection,
            generation=stored.generation,
            reason=self._why,
            items=items,
            hardware=self.spec.hardware,
            versions=self.spec.versions,
            labels=dict(self.spec.labels),
            disk_free_bytes=moment.disk_free_bytes,
            crashes=stored.crashes,
            spool=stored.spool.state(),
        )
        self._told, self._why = _without_progress(items), "daily"
        self._report_s = self._now_s + self.spec.report_every_s
        return Out(Channel.HAVE, document.to_bytes())

    def _announcement(self, *, up: bool) -> bytes:
        return Link(up=up, connection=self.stored.connection, boot=self._boot_id).to_bytes()


def _without_progress(items: tuple[ItemReport, ...]) -> tuple[ItemReport, ...]:
    """A download's bytes are told along with a change; they are none themselves."""
    return tuple(item.model_copy(update={"bytes_done": 0, "bytes_total": 0}) for item in items)
