"""What the scheduler promises about time: budgets, ageing, and waits that come true."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.core import GenerateRequest, RequestClass
from edge_runtime.engine.text import Codec
from edge_runtime.errors import CapacityError
from edge_runtime.scheduler.cost import StepCost
from edge_runtime.scheduler.decode import DecodeScheduler
from edge_runtime.scheduler.sequences import BATCH_AGE_S, DecodeLimits, Planned
from tests.support.engine import Bench, ask, greedy, letter_tokenizer, load_codec

ENDLESS = greedy(1_000, ignore_eos=True)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load_codec(letter_tokenizer(), tmp_path_factory.mktemp("codec"))


def scheduler(cost: StepCost | None = None, **changes: float) -> DecodeScheduler:
    limits = {
        "slots": 4,
        "max_len": 4096,
        "max_chunk_tokens": 64,
        "min_chunk_tokens": 4,
        "inter_token_target_ms": 50.0,
        "max_waiting": 100,
        "max_wait_s": 1e6,
        **changes,
    }
    return DecodeScheduler(DecodeLimits(**limits), cost or StepCost())  # type: ignore[arg-type]


def request(name: str, length: int = 3, at_s: float = 0.0, **more: object) -> GenerateRequest:
    """A prompt that shares nothing with another's."""
    prompt = [hash(name) % 997, *range(length - 1)]
    return ask(name, prompt, ENDLESS, arrival_s=at_s, **more)


def run(scheduler: DecodeScheduler) -> Planned:
    planned = scheduler.plan()
    assert planned is not None
    scheduler.commit(planned, [1] * len(planned.sampled))
    scheduler.check_integrity()
    return planned


def prompt_tokens(planned: Planned) -> int:
    rows = zip(planned.plan.rows, planned.sequences, strict=True)
    return sum(row.new_len for row, s in rows if row.cached_len < s.prompt_len)


@given(
    base_ms=st.floats(0.0, 60.0),
    slope_ms=st.floats(0.05, 5.0),
    prompts=st.lists(st.integers(1, 400), min_size=2, max_size=6),
)
@settings(max_examples=50, deadline=None)
def test_chunks_beside_decoding_rows_keep_to_the_target(
    base_ms: float, slope_ms: float, prompts: list[int]
) -> None:
    cost = StepCost()
    for tokens in (1, 32, 8, 64):
        cost.observe(tokens, base_ms + slope_ms * tokens)
    tested = scheduler(cost)
    for index, length in enumerate(prompts):
        tested.submit(request(str(index), length), 0.0)
    for _ in range(sum(prompts)):
        planned = run(tested)
        count = prompt_tokens(planned)
        assert all(row.new_len <= 64 for row in planned.plan.rows)
        if count == 0:
            break
        decoding = len(planned.plan.rows) - sum(
            row.cached_len < s.prompt_len
            for row, s in zip(planned.plan.rows, planned.sequences, strict=True)
        )
        if decoding:
            took_ms = base_ms + slope_ms * planned.plan.token_count
            # One more token than fits may come along rather than be left alone.
            assert count <= 5 or took_ms <= 50.0 + slope_ms + 0.01
    assert all(s.decoding for s in planned.sequences)


def test_every_decoding_sequence_is_in_every_step() -> None:
    tested = scheduler()
    for index in range(3):
        tested.submit(request(str(index)), 0.0)
    run(tested)
    tested.submit(request("long", 500), 0.0)
    for _ in range(5):
        planned = run(tested)
        assert sum(s.decoding and row.new_len == 1 for row, s in _pairs(planned)) == 3
        assert prompt_tokens(planned) > 0


def _pairs(planned: Planned) -> list[tuple[object, object]]:
    return list(zip(planned.plan.rows, planned.sequences, strict=True))  # type: ignore[return-value]


def test_alone_a_prompt_goes_in_whole_chunks() -> None:
    tested = scheduler()
    tested.submit(request("long", 150), 0.0)
    assert [run(tested).plan.token_count for _ in range(3)] == [64, 64, 22]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=5), st.integers(4, 9))
@settings(max_examples=50, deadline=None)
def test_no_prompt_token_is_computed_alone(prompts: list[int], min_chunk: int) -> None:
    """The same prompt gives the same sums however it was divided."""
    slow = StepCost(base_ms=100.0)  # over the target already: only the least chunk is left
    tested = scheduler(slow, max_chunk_tokens=16, min_chunk_tokens=min_chunk)
    sequences = [
        tested.submit(request(str(index), length), 0.0) for index, length in enumerate(prompts)
    ]
    for _ in range(sum(prompts) + 5):
        planned = run(tested)
        for row, sequence in zip(planned.plan.rows, planned.sequences, strict=True):
            if row.cached_len < sequence.prompt_len:
                assert row.new_len > 1 or sequence.prompt_len == 1
    assert sum(s.decoding for s in sequences) >= min(4, len(prompts))


def test_interactive_goes_before_batch() -> None:
    tested = scheduler(slots=1)
    batch = tested.submit(request("batch", request_class=RequestClass.BATCH), 0.0)
    interactive = tested.submit(request("interactive", at_s=1.0), 1.0)
    assert run(tested).sequences == (interactive,)
    tested.finish(interactive)
    assert run(tested).sequences == (batch,)


def test_batch_gains_on_a_flood_of_interactive_requests(codec: Codec) -> None:
    bench = Bench(codec, slots=1, step_cost_ms=lambda tokens: 100.0)
    params = greedy(5, ignore_eos=True)
    started_s = bench.clock()
    bench.worker.submit(
        ask("batch", [1], params, arrival_s=started_s, request_class=RequestClass.BATCH)
    )
    for index in range(1000):
        bench.worker.submit(ask(f"i{index}", [2], params, arrival_s=bench.clock()))
        for _ in range(3):  # each needs five steps: the queue only grows
            bench.turn()
        if bench.of("batch"):
            break
    assert len(bench.of("batch")) > 0
    # Those that arrived within its handicap go before it, and take 5 steps where 3 pass.
    assert bench.clock() - started_s <= BATCH_AGE_S * 5 / 3 + 2.0


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_an_expected_wait_comes_true(
    codec: Codec, slots: int, waiting: int, answer: int, prompt: int
) -> None:
    bench = Bench(codec, slots=slots)
    for tokens in (1, 30, 8):
        bench.worker.scheduler.cost.observe(tokens, bench.step_cost_ms(tokens))
    expected: dict[str, float] = {}
    for index in range(waiting + slots):
        name = str(index)
        params = greedy(answer, ignore_eos=True)
        one = ask(name, [index % 26] * prompt, params, arrival_s=bench.clock())
        expected[name] = _expect(bench, one)
        bench.submit(name, one.prompt, max_tokens=answer, ignore_eos=True)
    bench.drain()
    for name, wait_s in expected.items():
        real_s = bench.of(name)[0].queue_s
        step_s = bench.step_cost_ms(16 + slots) / 1000.0
        assert wait_s >= 0.6 * real_s - step_s
        assert wait_s <= 1.6 * real_s + 2 * step_s


def _expect(bench: Bench, one: GenerateRequest) -> float:
    probe = DecodeScheduler(bench.worker.limits).submit(one, 0.0)
    return bench.worker.scheduler.expected_wait_s(probe)


def test_the_wait_of_open_answers_is_learned(codec: Codec) -> None:
    """Answers that end by themselves after 5 tokens, though 1,000 are allowed."""
    bench = Bench(codec, slots=2, max_len=2000)
    for index in range(200):
        bench.submit(f"past{index}", [index % 26, index // 26], max_tokens=5, ignore_eos=True)
    bench.drain()
    for index in range(20):
        bench.submit(f"now{index}", [index % 26], max_tokens=1000, stop_token_ids=range(32))
    wait_s = _expect(bench, ask("x", [1], ENDLESS, arrival_s=bench.clock()))
    # 20 answers of 5 steps each, by two.
    assert wait_s == pytest.approx(10 * 5 * bench.step_cost_ms(2) / 1000.0, rel=0.5)


def test_batch_ahead_in_the_queue_does_not_count_for_interactive(codec: Codec) -> None:
    bench = Bench(codec, slots=1)
    bench.submit("runs", [1], max_tokens=10, ignore_eos=True)
    bench.turn()
    for index in range(50):
        one = ask(
            f"b{index}",
            [2],
            greedy(10),
            arrival_s=bench.clock(),
            request_class=RequestClass.BATCH,
        )
        bench.worker.submit(one)
    urgent = ask("x", [3], greedy(5), arrival_s=bench.clock())
    patient = ask("y", [3], greedy(5), arrival_s=bench.clock(), request_class=RequestClass.BATCH)
    assert _expect(bench, urgent) < 0.5
    assert _expect(bench, patient) > 4.0


@given(st.integers(1, 3), st.integers(1, 6), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_retry_after_is_when_the_queue_has_room(
    codec: Codec, slots: int, max_waiting: int, answer: int
) -> None:
    bench = Bench(codec, slots=slots, max_waiting=max_waiting)
    for tokens in (1, 30, 8):
        bench.worker.scheduler.cost.observe(tokens, bench.step_cost_ms(tokens))
    for index in range(slots):
        bench.submit(f"r{index}", [index], max_tokens=answer + slots, ignore_eos=True)
        bench.turn()
    for index in range(max_waiting):
        bench.submit(f"w{index}", [index], max_tokens=answer, ignore_eos=True)
    with pytest.raises(CapacityError, match=f"{max_waiting} sequences wait") as refused:
        bench.submit("x", [1])
    assert refused.value.status == 429
    back_s = bench.clock() + refused.value.retry_after_s
    while bench.clock() < back_s and bench.turn():
        pass
    bench.submit("x", [1])
    bench.drain()
    assert len(bench.tokens("x")) > 0


def test_a_wait_past_the_limit_or_the_deadline_is_refused(codec: Codec) -> None:
    bench = Bench(codec, slots=1, max_wait_s=1.0)
    bench.worker.scheduler.cost.observe(1, 11.0)
    bench.submit("runs", [1], max_tokens=40, ignore_eos=True)
    bench.turn()
    late = ask("late", [1], greedy(5), arrival_s=bench.clock(), deadline_s=bench.clock() + 0.1)
    with pytest.raises(CapacityError, match="deadline"):
        bench.worker.submit(late)
    for index in range(2):
        bench.submit(f"w{index}", [2], max_tokens=40, ignore_eos=True)
    with pytest.raises(CapacityError, match="requests may wait 1 s") as refused:
        bench.submit("x", [2])
    assert 1.0 <= refused.value.retry_after_s < 5.0
    bench.drain()


def test_idle_has_no_wait_and_no_plan() -> None:
    tested = scheduler(slots=1)
    probe = scheduler().submit(request("x"), 0.0)
    assert tested.expected_wait_s(probe) == 0.0
    assert tested.plan() is None


def test_commit_wants_a_token_for_each_row() -> None:
    tested = scheduler()
    tested.submit(request("x"), 0.0)
    planned = tested.plan()
    assert planned is not None
    with pytest.raises(ValueError, match="1 rows wanted logits, 2 tokens"):
        tested.commit(planned, [1, 2])
