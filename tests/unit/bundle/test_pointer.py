"""How a pointer moves, and which pointer files are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle.pointer import MAX_POINTER_BYTES, Pointer

A, B, C = "a" * 64, "b" * 64, "c" * 64


def test_moving_keeps_the_one_before() -> None:
    pointer = Pointer(name="m", bundle_digest=A).moved_to(B).moved_to(C)
    assert (pointer.bundle_digest, pointer.previous, pointer.sequence) == (C, B, 3)


def test_a_revert_can_be_reverted() -> None:
    pointer = Pointer(name="m", bundle_digest=A).moved_to(B)
    back = pointer.reverted()
    assert back is not None
    assert (back.bundle_digest, back.previous, back.sequence) == (A, B, 3)
    again = back.reverted()
    assert again is not None
    assert (again.bundle_digest, again.previous, again.sequence) == (B, A, 4)


def test_falling_back_forgets_the_bad_one() -> None:
    pointer = Pointer(name="m", bundle_digest=A).moved_to(B).fallen_back()
    assert pointer is not None
    assert (pointer.bundle_digest, pointer.previous, pointer.sequence) == (A, None, 3)
    assert pointer.reverted() is None
    assert pointer.fallen_back() is None


@given(st.sampled_from([None, A, B]), st.integers(1, 2**40))
def test_bytes_round_trip(previous: str | None, sequence: int) -> None:
    pointer = Pointer(name="m", bundle_digest=C, previous=previous, sequence=sequence)
    assert Pointer.from_bytes(pointer.to_bytes()) == pointer


GOOD = Pointer(name="m", bundle_digest=A).to_bytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GOOD[:-1], "truncated"),
        (GOOD + b" " * MAX_POINTER_BYTES, "larger than"),
        (b"[]", "another schema"),
        (GOOD.replace(b"active/1", b"active/2"), "another schema"),
        (GOOD.replace(A.encode(), b"../x"), "bundle_digest"),
        (GOOD.replace(b'"sequence":1', b'"sequence":"1"'), "sequence"),
        (GOOD.replace(b'"sequence":1', b'"sequence":1,"z":1'), "z: Extra"),
    ],
)
def test_bad_pointer_files_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Pointer.from_bytes(data)
