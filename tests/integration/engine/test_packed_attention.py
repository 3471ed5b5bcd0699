"""The native attention operator: right, the same bits in any company, refused when misused."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.engine import native
from tests.support.attention import Floats, Shape, Slots, model, reference, rope_tables

onnxruntime_errors = (
    ort.capi.onnxruntime_pybind11_state.InvalidArgument,
    ort.capi.onnxruntime_pybind11_state.Fail,
)
CAPACITY = 160
GQA = Shape(group=7, kv_heads=2, dim=64)
SHAPES = st.builds(
    Shape,
    group=st.sampled_from([1, 3, 4, 7, 16]),
    kv_heads=st.integers(1, 3),
    dim=st.sampled_from([10, 32, 48, 64, 128]),
    window=st.sampled_from([0, 0, 1, 5, 70]),
)


@pytest.fixture(scope="module")
def library() -> Path:
    verdict = native.examine(native.LIBRARY)
    if verdict.path is None:
        pytest.skip(f"NATIVE OPERATORS NOT TESTED: {verdict.reason}")
    return verdict.path


def rows(seed: int, count: int, shape: Shape) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, shape.row)).astype(np.float32)


def feed(slots: Slots, sequences: Sequence[Floats], steps: Sequence[Sequence[int]]) -> list[Floats]:
    """Run the sequences in these chunks (0: idle); what each attended in all."""
    found: list[list[Floats]] = [[] for _ in sequences]
    for lengths in steps:
        parts = [
            sequence[start : start + length]
            for sequence, start, length in zip(sequences, slots.cached, lengths, strict=True)
        ]
        for kept, part in zip(found, slots.step(parts), strict=True):
            kept.append(part)
    return [np.concatenate(parts) for parts in found]


def whole(library: Path, shape: Shape, sequence: Floats) -> Floats:
    """The sequence alone, in one chunk."""
    return feed(Slots(library, shape, 1, CAPACITY), [sequence], [[len(sequence)]])[0]


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.data())
def test_ragged_batches_equal_numpy_and_each_sequence_alone(
    library: Path, shape: Shape, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 4))
    lengths = st.lists(st.sampled_from([0, 1, 1, 2, 17, 40]), min_size=count, max_size=count)
    steps = data.draw(st.lists(lengths, min_size=1, max_size=3))
    threads, in_place = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    totals = [sum(parts) for parts in zip(*steps, strict=True)]
    sequences = [rows(index, total, shape) for index, total in enumerate(totals)]
    slots = Slots(library, shape, count, CAPACITY, threads=threads, in_place=in_place)
    nothing = np.zeros((shape.kv_heads, 0, shape.dim), np.float32)
    for got, sequence in zip(feed(slots, sequences, steps), sequences, strict=True):
        np.testing.assert_allclose(got, reference(shape, sequence, nothing, nothing), atol=1e-5)
        np.testing.assert_array_equal(got, whole(library, shape, sequence))


@pytest.mark.parametrize("shape", [GQA, Shape(1, 2, 128), Shape(4, 1, 32, window=20)])
def test_token_by_token_gives_the_bits_of_one_chunk(library: Path, shape: Shape) -> None:
    sequence = rows(3, 150, shape)
    single = feed(Slots(library, shape, 1, CAPACITY), [sequence], [[1]] * 150)[0]
    np.testing.assert_array_equal(single, whole(library, shape, sequence))


@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_a_row_that_is_no_number_reaches_only_who_attends_it(library: Path, place: str) -> None:
    shape = Shape(group=3, kv_heads=2, dim=32)
    clean, bad = rows(4, 90, shape), rows(4, 90, shape)
    column = {"q": 0, "k": shape.heads * 32, "v": (shape.heads + 2) * 32}[place]
    bad[70, column : column + 32] = np.nan
    (got, beside), want = (
        feed(Slots(library, shape, 2, CAPACITY), [bad, clean], [[90, 90]]),
        whole(library, shape, clean),
    )
    np.testing.assert_array_equal(beside, want)
    np.testing.assert_array_equal(got[:70], want[:70])
    assert np.isnan(got[70]).any()
    assert np.isnan(got[71:]).any() == (place != "q")


def test_what_is_cached_is_copied_when_present_lies_elsewhere(library: Path) -> None:
    sequence = rows(5, 30, GQA)
    kept = Slots(library, GQA, 1, CAPACITY)
    moved = Slots(library, GQA, 1, CAPACITY, in_place=False)
    for slots in (kept, moved):
        feed(slots, [sequence], [[20], [10]])
    for name, buffer in kept.kv.items():
        np.testing.assert_array_equal(moved.kv[name], buffer)


def run(library: Path, shape: Shape = GQA, *, joined: bool = True, **changes: Any) -> Any:
    """One step of two slots, two new tokens behind three, with some inputs changed."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    session = ort.InferenceSession(
        model(shape, joined=joined), options, providers=["CPUExecutionProvider"]
    )
    cos, sin = rope_tables(shape.dim)
    past = np.ones((2, shape.kv_heads, 8, shape.dim), np.float32)
    inputs = {
        "q": rows(6, 4, shape),
        "past_key": past,
        "past_value": past,
        "counts": np.array([2, 2], np.int32),
        "last": np.array([4, 4], np.int32),
        "cos": cos,
        "sin": sin,
    }
    return session.run(None, {**inputs, **changes})


def test_joined_rows_and_rows_apart_are_the_same(library: Path) -> None:
    q, k, v = np.split(rows(6, 4, GQA), [14 * 64, 16 * 64], axis=1)
    apart = run(library, joined=False, q=q, k=k, v=v)
    for got, want in zip(apart, run(library), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"last": np.array([4, 8], np.int32)}, "do not fit the slots"),
        ({"last": np.array([4, 2**31 - 1], np.int32)}, "do not fit the slots"),
        ({"last": np.array([4, 0], np.int32)}, "seqlens_k must be cached and new"),
        ({"last": np.array([4, -9], np.int32)}, "seqlens_k must be cached and new"),
        ({"counts": np.array([2, 1], np.int32)}, "must add up to the packed rows"),
        ({"counts": np.array([5, -1], np.int32)}, "must not be negative"),
        ({"counts": np.array([4], np.int32)}, "one for each slot"),
        ({"q": np.zeros((4, 5), np.float32)}, "as wide as the heads"),
        ({"cos": np.zeros((3, 32), np.float32)}, "cos and sin must be"),
        ({name: np.zeros((4, 32), np.float32) for name in ("cos", "sin")}, "beyond the rope"),
        ({"past_value": np.ones((2, 2, 9, 64), np.float32)}, "past keys and values must be"),
        (
            {n: np.ones((2, 3, 8, 64), np.float32) for n in ("past_key", "past_value")},
            "another number of heads",
        ),
    ],
)
def test_steps_that_do_not_fit_are_refused(
    library: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(onnxruntime_errors, match=said):
        run(library, **changes)


def test_an_idle_step_writes_nothing(library: Path) -> None:
    out, key, value = run(
        library,
        q=np.zeros((0, GQA.row), np.float32),
        counts=np.zeros(2, np.int32),
        last=np.array([-7, 10**6], np.int32),
    )
    assert out.shape == (0, 14 * 64)
    assert (key == 1).all()
    assert (value == 1).all()


@pytest.mark.parametrize("name", ["avx512vnni", "avxvnni", "avx2"])
def test_every_instruction_set_gives_the_same_bits(library: Path, name: str) -> None:
    """The plain C entry runs a set by name; the operator takes the best."""
    shape = Shape(group=4, kv_heads=2, dim=80, window=100)
    sequence = rows(7, 130, shape)
    entry = ctypes.CDLL(str(library)).edge_attention_once
    entry.argtypes = [ctypes.c_char_p, *[ctypes.c_size_t] * 6, *[ctypes.c_void_p] * 6]
    cos, sin = rope_tables(shape.dim)
    kv = np.full((2, shape.kv_heads, CAPACITY, shape.dim), np.nan, np.float32)
    out = np.empty((130, shape.heads * shape.dim), np.float32)
    sizes = (len(sequence), shape.heads, shape.kv_heads, shape.dim, shape.window, CAPACITY)
    arrays = (sequence, kv[0], kv[1], cos, sin, out)
    code = entry(name.encode(), *sizes, *(array.ctypes.data for array in arrays))
    if code == 1:
        pytest.skip(f"{name} does not run on this processor")
    assert code == 0
    np.testing.assert_array_equal(out, whole(library, shape, sequence))
