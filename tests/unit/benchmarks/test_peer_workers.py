"""The peers' workers without their engines: the lines they speak, and how batches are made."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.peers import worker
from benchmarks.peers.llamacpp_engine import LlamaCppEngine, Piece, Stream, next_batch


class FakeDecoder:
    """Says one more than the last token of a piece; refuses what a real cache would refuse."""

    def __init__(self) -> None:
        self.lengths: dict[int, int] = {}
        self.batches: list[list[Piece]] = []
        self.rests = 0

    def forget(self) -> None:
        self.lengths.clear()

    def rest(self) -> None:
        self.rests += 1

    def decode(self, pieces: Sequence[Piece]) -> list[int]:
        self.batches.append(list(pieces))
        for piece in pieces:
            if piece.position != self.lengths.get(piece.sequence, 0):
                raise RuntimeError(f"a hole in sequence {piece.sequence}")
            self.lengths[piece.sequence] = piece.position + len(piece.tokens)
        return [piece.tokens[-1] + 1 for piece in pieces if piece.ends]


def _engine(decoder: FakeDecoder, room: int = 64) -> LlamaCppEngine:
    return LlamaCppEngine(decoder, sequences=4, room=room, about={"engine": "fake"})


def _tokens(batch: Sequence[Piece]) -> int:
    return sum(len(piece.tokens) for piece in batch)


def test_prompts_go_in_one_batch_and_streams_then_step_together() -> None:
    decoder = FakeDecoder()
    result = _engine(decoder).round([[1, 2, 3], [10, 20]], 3)
    assert decoder.batches == [
        [Piece(0, 0, [1, 2, 3], ends=True), Piece(1, 0, [10, 20], ends=True)],
        [Piece(0, 3, [4], ends=True), Piece(1, 2, [21], ends=True)],
        [Piece(0, 4, [5], ends=True), Piece(1, 3, [22], ends=True)],
    ]
    assert [stream["tokens"] for stream in result["streams"]] == [3, 3]
    for stream in result["streams"]:
        assert 0 < stream["first_s"] < stream["last_s"] <= result["wall_s"]


def test_a_prompt_longer_than_the_batch_is_fed_in_parts_beside_those_that_generate() -> None:
    decoder = FakeDecoder()
    _engine(decoder, room=4).round([[1, 2, 3], [10, 20, 30, 40]], 2)
    assert decoder.batches == [
        [Piece(0, 0, [1, 2, 3], ends=True), Piece(1, 0, [10], ends=False)],
        [Piece(0, 3, [4], ends=True), Piece(1, 1, [20, 30, 40], ends=True)],
        [Piece(1, 4, [41], ends=True)],
    ]
    assert max(map(_tokens, decoder.batches)) == 4


def test_one_new_token_is_a_prefill_alone() -> None:
    decoder = FakeDecoder()
    result = _engine(decoder).round([[1, 2, 3]], 1)
    assert len(decoder.batches) == 1
    assert result["streams"][0]["first_s"] == result["streams"][0]["last_s"]


def test_rounds_share_no_cache() -> None:
    decoder = FakeDecoder()
    engine = _engine(decoder)
    assert engine.round([[1, 2]], 2)["streams"] != []
    engine.round([[7]], 2)
    assert decoder.batches[2] == [Piece(0, 0, [7], ends=True)]
    assert decoder.lengths == {0: 2}
    assert decoder.rests == 2


def test_finished_streams_leave_the_batch() -> None:
    done = Stream(0, [1], fed=3, newest=5, tokens=2)
    going = Stream(1, [1], fed=2, newest=6, tokens=1)
    assert next_batch([done, going], 2, 64) == [Piece(1, 2, [6], ends=True)]
    assert next_batch([done], 2, 64) == []


def test_too_many_streams_are_refused_with_the_setting_to_change() -> None:
    with pytest.raises(ValueError, match="n_seq_max=5"):
        _engine(FakeDecoder()).round([[1]] * 5, 2)


def _exchange(*requests: dict[str, Any]) -> list[dict[str, Any]]:
    answers = io.StringIO()
    lines = [json.dumps(request) for request in requests]
    worker.exchange(_engine(FakeDecoder()), lines, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_worker_announces_itself_answers_each_line_and_leaves_when_told() -> None:
    ready, info, played = _exchange(
        {"op": "info"},
        {"op": "round", "prompts": [[1], [2]], "new_tokens": 2},
        {"op": "quit"},
        {"op": "info"},
    )
    assert (ready, info) == ({"ready": True}, {"engine": "fake"})
    assert [stream["tokens"] for stream in played["streams"]] == [2, 2]


def test_what_fails_is_answered_and_the_next_request_served() -> None:
    _, unknown, empty, refused, info = _exchange(
        {"op": "dance"},
        {},
        {"op": "round", "prompts": [[1]] * 9, "new_tokens": 2},
        {"op": "info"},
    )
    assert "unknown op 'dance'" in unknown["error"]
    assert "KeyError" in empty["error"]
    assert "do not fit" in refused["error"]
    assert info == {"engine": "fake"}


def test_options_of_every_worker() -> None:
    given = ["--model", "m.gguf", "--property", "A=1", "--property", "B=x=y"]
    args = worker.parser("about", model="a file").parse_args(given)
    assert args.model == "m.gguf"
    assert args.threads >= 1
    assert worker.properties(args.property) == {"A": "1", "B": "x=y"}
