"""A simulated box without a broker: it goes through what a real one would, whatever befalls it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.agent.protocol import (
    Ack,
    BoxState,
    Cancel,
    Channel,
    DeferReason,
    Do,
    FailureCode,
    Have,
    ItemKind,
    Link,
    ProbationRules,
    Want,
    WantItem,
    decode_batch,
    mark_key,
)
from edge_runtime.bundle.envelope import trust
from fleet.simulator.box import In, Out, SimBox
from fleet.simulator.faults import EVERYTHING, NO_FAULTS, Fault, FaultRates
from fleet.simulator.world import BoxSpec, Flaws, World, make_spec, simulated_bundle

NOW_S = 1_800_000_000.0
KEY = Ed25519PrivateKey.generate()
KEYS = trust([KEY.public_key()])
OLD = simulated_bundle("assistant", 1)
NEW = simulated_bundle("assistant", 2)
HOUR_S = 3600.0


class Bench:
    """One box and its control host, which commits everything at once."""

    def __init__(
        self, rates: FaultRates = NO_FAULTS, flaws: Flaws | None = None, seed: int = 1,
        spec: BoxSpec | None = None,
    ) -> None:  # fmt: skip
        new = NEW if flaws is None else simulated_bundle("assistant", 2, flaws)
        self.spec = spec or replace(make_spec("acme", 1), serves=OLD.digest)
        self.now_s = NOW_S
        self.box = SimBox(
            self.spec, World.of(OLD, new), rates, KEYS, seed=seed, now_s=NOW_S
        )  # fmt: skip
        self.haves: list[Have] = []
        self.links: list[Link] = []
        self.rows: dict[tuple[str, int], int] = {}
        self.marks: dict[str, int] = {}
        self.connected = False
        self.acks = True
        self.wakes = 0

    def send(self, channel: Channel, payload: bytes) -> None:
        self.got(self.box.heard(channel, payload, self.now_s))

    def want(self, generation: int = 1, digest: str = NEW.digest, **changes: object) -> None:
        values: dict[str, object] = {
            "kind": ItemKind.BUNDLE, "name": "assistant", "generation": generation,
            "rollout": "r-1", "digest": digest, "release": 2, "release_floor": 1,
            "bytes_full": 50_000_000, "probation": ProbationRules(length_s=600),
        }  # fmt: skip
        item = WantItem(**{**values, **changes})
        want = Want(
            principal=self.spec.principal, generation=generation, issued_s=int(self.now_s),
            items=(item,),
        )  # fmt: skip
        self.retained = want.sealed([KEY])
        if self.connected:
            self.send(Channel.WANT, self.retained)

    retained: bytes | None = None

    def got(self, messages: list[Out]) -> None:
        for message in messages:
            if message.channel is Channel.HAVE:
                self.haves.append(Have.from_bytes(message.payload))
            elif message.channel is Channel.LINK:
                self.links.append(Link.from_bytes(message.payload))
            else:
                self._batch(message)

    def _batch(self, message: Out) -> None:
        header, rows = decode_batch(message.payload)
        for row in rows:
            key = (header.boot, row.seq)
            self.rows[key] = self.rows.get(key, 0) + 1
        name = mark_key(header.boot, header.stream)
        if rows[0].seq <= self.marks.get(name, 0) + 1:
            self.marks[name] = max(self.marks.get(name, 0), rows[-1].seq)
        if self.acks:
            marks = {name: self.marks[name]} if name in self.marks else {}
            ack = Ack(now_s=int(self.now_s), marks=marks)
            self.send(Channel.ACK, ack.to_bytes())

    def step(self, upto_s: float = float("inf")) -> None:
        """To the next thing that happens, and the connection kept as the shell would."""
        if self.connected and not (self.box.up and self.box.wants_link):
            self.box.disconnected()
            self.connected = False
        if not self.connected and self.box.wants_link:
            self.box.dial()
            self.connected = True
            self.got(self.box.connected(self.now_s))
            if self.retained is not None:
                self.send(Channel.WANT, self.retained)
        self.now_s = max(self.now_s + 0.01, min(upto_s, self.box.next_s))
        self.wakes += 1
        self.got(self.box.wake(self.now_s))

    def until(self, done: Callable[[], bool], limit_s: float = 6 * HOUR_S) -> None:
        end_s = self.now_s + limit_s
        while not done():
            self.step()
            assert self.now_s < end_s, self.box.stored.items
            assert self.wakes < 100_000

    def pass_time(self, length_s: float) -> None:
        end_s = self.now_s + length_s
        while self.now_s < end_s:
            self.step(end_s)

    def state(self) -> BoxState:
        return self.box.stored.items["bundle/assistant"].state

    def until_state(self, *states: BoxState, limit_s: float = 6 * HOUR_S) -> None:
        self.until(lambda: bool(self.box.stored.items) and self.state() in states, limit_s)

    @property
    def serves(self) -> str | None:
        return self.box.stored.pointers["bundle/assistant"].active

    def told(self) -> list[BoxState]:
        """The states that were reported of the bundle, without repetitions."""
        found: list[BoxState] = []
        for have in self.haves:
            for item in have.items:
                if not found or found[-1] is not item.state:
                    found.append(item.state)
        return found


def test_a_box_goes_from_a_want_to_confirmed_and_says_so() -> None:
    bench = Bench()
    bench.want()
    bench.until_state(BoxState.CONFIRMED)
    bench.pass_time(60)
    assert bench.serves == NEW.digest
    told = bench.told()
    assert told[-2:] == [BoxState.PROBATION, BoxState.CONFIRMED]
    assert BoxState.FETCHING in told
    last = bench.haves[-1]
    assert (last.generation, last.items[0].previous, last.items[0].version) == (
        1, OLD.digest, "2.0.0",
    )  # fmt: skip
    assert [have.seq for have in bench.haves] == list(range(1, len(bench.haves) + 1))


def test_an_old_generation_is_only_reported_again() -> None:
    bench = Bench()
    bench.want(2)
    bench.until_state(BoxState.CONFIRMED)
    bench.pass_time(60)
    before = len(bench.haves)
    bench.want(1, OLD.digest, release=1)
    bench.pass_time(60)
    assert (bench.serves, bench.box.stored.generation) == (NEW.digest, 2)
    assert [have.reason for have in bench.haves[before:]] == ["asked"]


@pytest.mark.parametrize(
    ("flaws", "code", "state"),
    [
        (Flaws(refused_on=frozenset({"Intel Core i5-1245UE"})), FailureCode.REFUSED, "failed"),
        (Flaws(golden_share=1.0), FailureCode.GOLDEN, "reverted"),
        (Flaws(crash_share=1.0), FailureCode.CRASHES, "reverted"),
        (Flaws(error_share=0.3), FailureCode.ERRORS, "reverted"),
        (Flaws(escalation_shift=0.5), FailureCode.ESCALATION, "reverted"),
    ],
)
def test_a_bad_bundle_is_given_up_for_its_own_reason(
    flaws: Flaws, code: FailureCode, state: str
) -> None:
    bench = Bench(flaws=flaws)
    bench.want()
    bench.until_state(BoxState.REVERTED, BoxState.FAILED)
    bench.pass_time(60)
    assert (bench.state(), bench.serves) == (state, OLD.digest)
    reported = bench.haves[-1].items[0]
    assert reported.failure is not None
    assert (reported.failure.code, reported.state) == (code, state)


def test_a_bundle_that_crashes_on_other_hardware_is_good_here() -> None:
    bench = Bench(flaws=Flaws(crashes_on=frozenset({"Intel N100"})))
    bench.want()
    bench.until_state(BoxState.CONFIRMED)
    assert bench.box.stored.crashes == 0


def test_a_little_worse_everywhere_is_no_reason_for_the_box_itself() -> None:
    bench = Bench(flaws=Flaws(escalation_shift=0.02, error_share=0.01))
    bench.want()
    bench.until_state(BoxState.CONFIRMED)


def test_what_no_metadata_names_is_not_installed() -> None:
    bench = Bench()
    bench.want(digest="0" * 64)
    bench.until_state(BoxState.FAILED)
    failure = bench.box.stored.items["bundle/assistant"].failure
    assert failure is not None
    assert failure.code is FailureCode.UNTRUSTED


def test_a_want_that_nobody_it_knows_has_signed_is_refused() -> None:
    bench = Bench()
    bench.step()
    foreign = Want(principal=bench.spec.principal, generation=9, issued_s=1)
    bench.send(Channel.WANT, foreign.sealed([Ed25519PrivateKey.generate()]))
    other = Want(principal="acme~other", generation=9, issued_s=1)
    bench.send(Channel.WANT, other.sealed([KEY]))
    bench.send(Channel.HAVE, b"{}")
    assert (bench.box.refused, bench.box.stored.generation) == (3, 0)


@pytest.mark.parametrize("after_s", [0.2, 2, 10, 20, 27, 30, 33, 36, 40, 45, 60, 200, 700])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_power_cut_at_any_moment_leaves_one_bundle_and_the_install_goes_on(
    after_s: float, seed: int
) -> None:
    bench = Bench(FaultRates(power_cuts_per_day=1e-6), seed=seed)
    bench.want()
    bench.pass_time(after_s)
    boot = bench.box.boot
    bench.box._suffer(Fault.POWER_CUT)
    assert bench.box.wake(bench.now_s) == []
    assert (bench.box.wants_link, bench.box.up) == (False, False)
    assert bench.serves in (OLD.digest, NEW.digest)
    bench.until(lambda: bench.box.powered)
    bench.until_state(BoxState.CONFIRMED)
    bench.pass_time(60)
    assert (bench.serves, bench.haves[-1].items[0].state) == (NEW.digest, BoxState.CONFIRMED)
    assert bench.box.boot != boot
    assert bench.haves[-1].crashes == 1


def test_a_download_goes_on_from_whole_blocks_after_a_power_cut() -> None:
    bench = Bench()
    bench.want()
    bench.until_state(BoxState.FETCHING)
    bench.now_s += 15
    bench.box.wake(bench.now_s)
    bench.box._suffer(Fault.POWER_CUT)
    kept = bench.box.stored.blocks[NEW.digest]
    assert 0 < kept < 50_000_000
    assert kept % (2 << 20) == 0
    bench.until(lambda: bench.box.powered)
    bench.pass_time(5)
    assert bench.box.reports()[0].bytes_done >= kept


def test_a_full_disk_waits_and_goes_on_when_there_is_room() -> None:
    bench = Bench(FaultRates(full_disks_per_day=1e-6, full_disk_s=900))
    bench.want()
    bench.until_state(BoxState.FETCHING)
    bench.box._suffer(Fault.FULL_DISK)
    bench.until_state(BoxState.DEFERRED)
    deferral = bench.box.stored.items["bundle/assistant"].deferral
    assert deferral is not None
    assert deferral.reason is DeferReason.DISK
    bench.until_state(BoxState.CONFIRMED)


def test_corrupt_blocks_are_fetched_again_and_a_slow_link_takes_longer() -> None:
    seconds = {}
    for name, rates in (
        ("good", NO_FAULTS),
        ("slow", FaultRates(slow_share=1.0, slow_factor=20)),
        ("corrupt", FaultRates(corrupt_share=0.7)),
    ):
        bench = Bench(rates, seed=3)
        bench.want()
        bench.until_state(BoxState.CONFIRMED)
        seconds[name] = bench.now_s - NOW_S
    assert seconds["slow"] > seconds["good"] + 300
    assert seconds["corrupt"] > seconds["good"]


def test_a_clock_that_jumps_moves_neither_deadline_nor_probation() -> None:
    bench = Bench(FaultRates(clock_jumps_per_day=200, clock_jump_s=300 * 86_400))
    bench.until(lambda: bool(bench.rows))  # a watermark brought the time
    bench.want(deadline_s=int(bench.now_s + 2 * HOUR_S))
    began_s = bench.now_s
    bench.until_state(BoxState.CONFIRMED)
    assert 600 <= bench.now_s - began_s < HOUR_S
    bench.pass_time(60)
    since_ms = (began_s - NOW_S) * 1000
    known = [have for have in bench.haves if have.uptime_ms > since_ms]
    assert len(known) > 3
    assert all(abs(have.clock_s - NOW_S - have.uptime_ms / 1000) <= 2 for have in known)


def test_a_silent_box_is_not_heard_of_any_more_and_works_on() -> None:
    bench = Bench(FaultRates(silent_share=1.0, silent_within_s=100))
    bench.want()
    bench.until_state(BoxState.CONFIRMED)
    assert not bench.connected
    assert bench.haves[-1].clock_s < NOW_S + 150
    assert bench.serves == NEW.digest


def test_rows_are_sent_again_until_their_watermark_comes() -> None:
    bench = Bench()
    bench.acks = False
    bench.pass_time(HOUR_S)
    assert max(bench.rows.values()) > 1
    assert len(bench.box.stored.spool) == len(bench.rows)
    bench.acks = True
    bench.pass_time(HOUR_S)
    assert len(bench.box.stored.spool) <= 1


def test_a_row_ends_where_another_bundle_begins_to_serve() -> None:
    bench = Bench()
    digests: list[str] = []
    take_batch = bench._batch

    def noting(message: Out) -> None:
        _, rows = decode_batch(message.payload)
        digests.extend(row.models["assistant"].bundle_digest for row in rows)
        take_batch(message)

    bench._batch = noting  # type: ignore[method-assign]
    bench.pass_time(900)
    bench.want()
    bench.until_state(BoxState.CONFIRMED)
    bench.pass_time(600)
    at = digests.index(NEW.digest)
    assert set(digests[:at]) == {OLD.digest}
    assert set(digests[at:]) == {NEW.digest}


def test_connection_numbers_rise_and_a_lost_link_is_announced_anew() -> None:
    bench = Bench(FaultRates(link_drops_per_day=200))
    bench.pass_time(4 * HOUR_S)
    numbers = [link.connection for link in bench.links if link.up]
    assert len(numbers) > 10
    assert numbers == sorted(set(numbers))
    assert [have.reason for have in bench.haves].count("connected") > 10


def test_orders_are_obeyed_once_and_a_cancel_stops_a_download() -> None:
    bench = Bench()
    bench.want()
    bench.until_state(BoxState.FETCHING)

    def order(name: str, **more: object) -> bytes:
        return Do(
            principal=bench.spec.principal, id=name, issued_s=int(bench.now_s),
            expires_s=int(bench.now_s) + 60, **more,
        ).sealed([KEY])  # fmt: skip

    cancel = Cancel(kind=ItemKind.BUNDLE, name="assistant", generation=1)
    bench.send(Channel.DO, order("d-1", order="cancel", cancel=cancel))
    assert bench.state() is BoxState.FAILED
    bench.pass_time(30)
    before = len(bench.haves)
    again = order("d-2", order="report")
    bench.send(Channel.DO, again)
    bench.send(Channel.DO, again)
    bench.pass_time(30)
    assert len(bench.haves) == before + 1
    assert bench.serves == OLD.digest


def test_a_message_that_could_not_be_handed_over_is_said_again() -> None:
    bench = Bench()
    bench.pass_time(HOUR_S)
    before = len(bench.haves)
    bench.box.unsent()
    bench.pass_time(60)
    assert len(bench.haves) == before + 1


@pytest.mark.parametrize("seed", range(6))
def test_whatever_befalls_it_a_box_converges_and_loses_no_row(seed: int) -> None:
    bench = Bench(EVERYTHING.model_copy(update={"silent_share": 0.0}), seed=seed)
    bench.want()
    bench.until_state(BoxState.CONFIRMED, BoxState.FAILED, BoxState.REVERTED, limit_s=48 * HOUR_S)
    assert bench.serves == NEW.digest
    bench.want(2, OLD.digest, release=1)
    back = lambda: bench.serves == OLD.digest and bench.state() is BoxState.CONFIRMED  # noqa: E731
    bench.until(back, 48 * HOUR_S)
    bench.pass_time(12 * HOUR_S)
    spool = bench.box.stored.spool
    for boot, made in spool.made.items():
        have = sum(1 for name, _ in bench.rows if name == boot)
        waiting = sum(len(rows) for name, rows in spool._rows.items() if name == boot)
        assert have + waiting >= made
    assert spool.evicted == 0
    assert any(count > 1 for count in bench.rows.values())


def test_two_runs_of_a_box_are_the_same() -> None:
    runs = []
    for _ in range(2):
        bench = Bench(EVERYTHING, seed=9)
        bench.want()
        bench.pass_time(3 * HOUR_S)
        runs.append([(have.seq, have.clock_s, have.items) for have in bench.haves])
    assert runs[0] == runs[1]
    assert len(runs[0]) > 5


def test_what_arrives_between_wakes_is_taken_in_order_of_arrival() -> None:
    bench = Bench(FaultRates(late_share=1.0))
    bench.step()
    bench.want(1)
    bench.want(2, OLD.digest, release=1)
    bench.pass_time(60)
    assert bench.box.stored.generation == 2
    assert In(Channel.WANT, b"") not in bench.box._in.flush()
