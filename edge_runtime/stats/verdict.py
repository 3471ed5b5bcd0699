"""The three answers of a sequential comparison."""

from __future__ import annotations

import enum


class Verdict(enum.StrEnum):
    """`INSUFFICIENT` means hold: it is neither good news nor bad."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    INSUFFICIENT = "insufficient"
