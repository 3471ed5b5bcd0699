"""The real decoder: a slot's answer depends on its own tokens, whatever shares its steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle.manifest import DecoderGraph
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.core import FloatArray, StepPlan, StepRow
from edge_runtime.engine.decoder import DecoderSession
from edge_runtime.errors import BundleError
from tests.support.served import build_decoder

MAX_LEN = 96
MAX_CHUNK = 32
RNG = np.random.default_rng(5)
SEQUENCES = [tuple(int(t) for t in RNG.integers(0, 317, size)) for size in (40, 7, 61, 23)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_decoder(tmp_path_factory.mktemp("decoder"))


def open_session(bundle: Path, slots: int = 4) -> DecoderSession:
    variant = load_manifest(bundle).variants[0]
    assert isinstance(variant.contract, DecoderGraph)
    return DecoderSession(
        bundle / variant.graph,
        variant.contract,
        slots=slots,
        max_len=MAX_LEN,
        max_chunk=MAX_CHUNK,
        threads=1,
    )


@pytest.fixture(scope="module")
def expected(bundle: Path) -> list[FloatArray]:
    """Logits after each sequence, alone, in the fewest chunks."""
    session = open_session(bundle, slots=1)
    return [feed(session, 0, tokens, MAX_CHUNK) for tokens in SEQUENCES]


def feed(
    session: DecoderSession, slot: int, tokens: Sequence[int], chunk: int, start: int = 0
) -> FloatArray:
    """Run the tokens of one slot from `start` on; the logits after the last."""
    while True:
        part = tuple(tokens[start : start + chunk])
        last = start + len(part) == len(tokens)
        logits = session.step(StepPlan((StepRow(slot, part, start, last),)))
        assert logits.shape == (int(last), session.vocab_size)
        start += len(part)
        if last:
            return logits[0].copy()


def close(found: FloatArray, wanted: FloatArray) -> None:
    assert found == pytest.approx(wanted, abs=1e-4)
    assert int(found.argmax()) == int(wanted.argmax())


@pytest.mark.parametrize("chunk", [2, 7, 31])
def test_a_prompt_may_be_divided(bundle: Path, expected: list[FloatArray], chunk: int) -> None:
    session = open_session(bundle, slots=2)
    for tokens, wanted in zip(SEQUENCES, expected, strict=True):
        close(feed(session, 1, tokens, chunk), wanted)  # over the last one's stale tokens


def test_chunks_decode_rows_and_idle_slots_in_one_step(
    bundle: Path, expected: list[FloatArray]
) -> None:
    """Each slot moves at its own pace; slot 1 rests with its tokens in place meanwhile."""
    session = open_session(bundle)
    done = [0] * 4
    pace = [[13, 5, 30, 1], [13, 0, 30, 22], [13, 0, 0, 0], [1, 2, 1, 0]]
    found: dict[int, FloatArray] = {}
    for counts in pace:
        rows = []
        for slot in (2, 0, 3, 1):  # the plan's order is not the slots'
            count = min(counts[slot], len(SEQUENCES[slot]) - done[slot])
            if count:
                tokens = SEQUENCES[slot][done[slot] : done[slot] + count]
                ends = done[slot] + count == len(SEQUENCES[slot])
                rows.append(StepRow(slot, tokens, done[slot], ends))
                done[slot] += count
        logits = session.step(StepPlan(tuple(rows)))
        wanting = [row.slot for row in rows if row.wants_logits]
        assert len(logits) == len(wanting)
        found.update({slot: row.copy() for slot, row in zip(wanting, logits, strict=True)})
    assert done == [len(tokens) for tokens in SEQUENCES]
    for slot, wanted in enumerate(expected):
        close(found[slot], wanted)


def test_a_copied_prefix_is_as_good_as_a_computed_one(
    bundle: Path, expected: list[FloatArray]
) -> None:
    session = open_session(bundle)
    feed(session, 3, SEQUENCES[2], MAX_CHUNK)
    feed(session, 0, SEQUENCES[0], MAX_CHUNK)
    session.copy_prefix(3, 0, 50)
    close(feed(session, 0, SEQUENCES[2], MAX_CHUNK, start=50), expected[2])


def test_the_last_place_of_a_slot_can_be_used(bundle: Path) -> None:
    session = open_session(bundle, slots=2)
    tokens = (SEQUENCES[2] + SEQUENCES[0])[:MAX_LEN]
    assert np.isfinite(feed(session, 0, tokens, MAX_CHUNK)).all()
    assert np.isfinite(feed(session, 0, tokens, 1, start=MAX_LEN - 1)).all()


@pytest.mark.parametrize(("cached", "count"), [(MAX_LEN - 1, 2), (0, MAX_CHUNK + 1)])
def test_a_row_that_does_not_fit_is_refused(bundle: Path, cached: int, count: int) -> None:
    session = open_session(bundle, slots=1)
    with pytest.raises(ValueError, match="do not fit"):
        session.step(StepPlan((StepRow(0, (1,) * count, cached, True),)))


def test_a_graph_that_breaks_its_contract_is_refused(bundle: Path) -> None:
    variant = load_manifest(bundle).variants[0]
    assert isinstance(variant.contract, DecoderGraph)
    wrong = replace_layers(variant.contract, 3)
    with pytest.raises(BundleError, match="inputs are not those of decoder-packed/1"):
        DecoderSession(bundle / variant.graph, wrong, slots=1, max_len=16, max_chunk=16, threads=1)


def replace_layers(contract: DecoderGraph, layers: int) -> DecoderGraph:
    return contract.model_copy(update={"layers": layers})
