"""The last epochs: a constant rate, a plain average of the weights, a second opinion on labels."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from export_tools.train.loop import Average, lr_factor
from export_tools.train.opinion import cross_fitted
from export_tools.train.recipe import LoopConfig

pytestmark = pytest.mark.torch

LOOP = LoopConfig(
    epochs=12,
    batch_tokens=64,
    lr=1.0,
    warmup_epochs=1,
    decay_fraction=0.5,
    final_lr_ratio=0.0,
    polish_epochs=2,
    polish_lr_ratio=0.3,
)


def test_the_rate_falls_before_the_polish_and_then_stays() -> None:
    assert [lr_factor(at, LOOP) for at in (0.5, 1, 5, 7.5)] == [0.5, 1, 1, 0.5]
    assert lr_factor(9.999, LOOP) < 0.01
    assert [lr_factor(at, LOOP) for at in (10, 11.9)] == [0.3, 0.3]


def test_after_starting_over_all_steps_count_alike() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = Average(model, steps=4)
    seen = []
    for step in range(9):
        if step == 3:
            average.start_over()
        with torch.no_grad():
            model.weight.fill_(float(step**2))
        average.update(model)
        seen.append(average.values["weight"].item())
    assert seen[-1] == pytest.approx(sum(step**2 for step in range(3, 9)) / 6)


def test_a_second_opinion_is_not_moved_by_the_label_it_judges() -> None:
    rng = random.Random(1)
    names = ("alma", "bo", "cleo", "dag", "eve", "finn", "gro", "hal")
    texts, labels = [], []
    for number in range(200):
        label = number % 2
        verb = rng.choice(("play", "hear") if label else ("book", "reserve"))
        texts.append(f"{verb} {rng.choice(names)} {rng.choice(names)} {number}x")
        labels.append(label)
    wrong = 17
    labels[wrong] = 1 - labels[wrong]
    found = cross_fitted(texts, labels, 2, folds=5, seed=3)
    assert torch.allclose(found.sum(1), torch.ones(200))
    own = found[torch.arange(200), torch.tensor(labels)]
    assert own[wrong] == own.min()
    assert own[wrong] < 0.5 < own.median()
