"""What a student does, and what it is."""

from __future__ import annotations

import enum


class Task(enum.StrEnum):
    """What is asked: one label of a text, or its intent and slots."""

    CLASSIFY = "classify"
    EXTRACT = "extract"


class StudentKind(enum.StrEnum):
    """A fine-tuned encoder with a head, or a small decoder trained from nothing."""

    CLASSIFIER = "classifier"
    ASSISTANT = "assistant"
