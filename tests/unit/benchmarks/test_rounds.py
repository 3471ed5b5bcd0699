from __future__ import annotations

import pytest

from benchmarks.machine import CpuReading
from benchmarks.rounds import (
    Load,
    Round,
    Stream,
    markdown,
    order_of,
    random_prompts,
    summarise,
)

MACHINE = {"cpu": "a cpu", "cores": 2, "cpu_flags": ["avx2"], "memory_gib": 4, "date": "today"}


def a_round(contestant: str, wall_s: float, concurrency: int = 2, new_tokens: int = 5) -> Round:
    stream = Stream(first_s=wall_s / 2, last_s=wall_s, tokens=new_tokens)
    return Round(contestant, concurrency, 32, new_tokens, wall_s, (stream,) * concurrency)


def test_throughput_counts_every_stream_over_the_whole_round() -> None:
    entry = a_round("ours", wall_s=2.0)
    assert entry.throughput == pytest.approx(2 * 5 / 2.0)


def test_the_decode_rate_leaves_the_first_token_and_its_wait_out() -> None:
    entry = a_round("ours", wall_s=2.0)
    assert entry.decode_rate == pytest.approx(2 * (5 - 1) / 1.0)


def test_a_prefill_round_counts_prompt_tokens_and_has_no_decode_rate() -> None:
    entry = a_round("ours", wall_s=0.5, concurrency=1, new_tokens=1)
    assert entry.throughput == pytest.approx(32 / 0.5)
    assert entry.decode_rate is None


def test_an_answer_of_another_length_is_no_round() -> None:
    streams = (Stream(0.1, 0.2, 5), Stream(0.1, 0.2, 3))
    with pytest.raises(ValueError, match="ignore_eos"):
        Round("peer", 2, 32, 5, 0.2, streams)


def test_prompts_are_the_same_for_a_seed_and_differ_between_rounds() -> None:
    load = Load(concurrency=3, prompt_tokens=16, new_tokens=4)
    first = random_prompts(load, 1000, (0, 1))
    assert first == random_prompts(load, 1000, (0, 1))
    assert first != random_prompts(load, 1000, (1, 1))
    assert {len(prompt) for prompt in first} == {16}
    assert all(0 < token < 1000 for prompt in first for token in prompt)


def test_everyone_goes_first_in_turn() -> None:
    names = ["a", "b", "c"]
    assert [order_of(names, index)[0] for index in range(4)] == ["a", "b", "c", "a"]
    assert sorted(order_of(names, 1)) == names


def test_ratios_are_paired_within_a_round() -> None:
    load = Load(2, 32, 5)
    # the machine slows down fourfold after the first round: each pair still says 2
    rounds = [a_round("ours", 1.0), a_round("peer", 2.0), a_round("peer", 8.0)]
    rounds += [a_round("ours", 4.0)]
    (summary,) = summarise([load], rounds)
    assert summary.ratio("ours", "peer") == pytest.approx(2.0)
    assert summary.spread("ours") == (pytest.approx(2.5), pytest.approx(10.0))


def test_the_table_names_machine_contestants_and_ratio() -> None:
    loads = [Load(2, 32, 5)]
    rounds = [a_round("ours", 1.0), a_round("peer", 2.0)]
    table = markdown(summarise(loads, rounds), ["ours", "peer"], MACHINE, {"load": "short"})
    assert "a cpu, 2 cores (avx2), 4 GiB; today" in table
    assert "ratio to peer" in table
    assert "| decode x2 | 10.0 (10.0-10.0) | 5.0 (5.0-5.0) | 2.00 | 0% |" in table
    assert "- load: short" in table


def test_foreign_share_is_what_neither_the_group_nor_idleness_had() -> None:
    before = CpuReading(at_s=0.0, busy_s=10.0, group_s=5.0, stolen_s=0.0)
    after = CpuReading(at_s=10.0, busy_s=28.0, group_s=19.0, stolen_s=1.0)
    # 19 s of 20 were used or stolen, 14 of them by the group
    assert before.foreign_share(after, cores=2) == pytest.approx(5 / 20)
