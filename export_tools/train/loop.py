"""One training loop for every recipe: epochs, schedule, averaging, resuming, keeping the best.

Rules
- A run is decided by its recipe and data alone: randomness is reseeded from (seed, epoch), so a run
  resumed after any finished epoch walks the same way as one that was never stopped.
- Only the dev split chooses. The loop never sees held-out rows. Where there is a polish, only its
  epochs compete.
- `out` always holds the best checkpoint so far; the state for resuming lies beside it and is
  removed by nobody, so that a finished run can be prolonged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from export_tools.train.recipe import LoopConfig, RecipeError

STATE_FILE = "train_state.pt"


@dataclass(frozen=True, slots=True)
class Tick:
    """Told to the progress callback after every step."""

    epoch: int
    epochs: int
    done: float
    """Share of the whole run that is done, 0 to 1."""
    loss: float
    lr: float
    metrics: dict[str, float] = field(default_factory=dict)
    """Filled on the last tick of an epoch that was evaluated."""


Progress = Callable[[Tick], None]


class Task(Protocol):
    """What the loop needs to know about the thing being trained."""

    model: nn.Module

    def parameter_groups(self, config: LoopConfig) -> list[dict[str, Any]]:
        """AdamW groups; each may carry its own `lr` (the peak) and `weight_decay`."""
        ...

    def batches(self, epoch: int) -> Sequence[Any]:
        """Batches of one epoch, already shuffled by a generator seeded from the epoch."""
        ...

    def loss(self, batch: Any) -> Tensor:
        """Mean loss of one batch."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on the dev split; must hold `score`, the one that chooses (higher is better)."""
        ...

    def save(self, out: Path) -> None:
        """Write the checkpoint of the model as it is now."""
        ...


@dataclass
class TrainResult:
    """What a run reached: figures of the kept checkpoint and the mean loss of every epoch."""

    metrics: dict[str, float]
    epoch_losses: list[float]
    best_epoch: int


def lr_factor(position: float, config: LoopConfig) -> float:
    """Share of the peak rate after `position` epochs: warm-up, plateau, linear fall, polish."""
    if position < config.warmup_epochs:
        return max(position / config.warmup_epochs, 1e-3)
    if position >= config.main_epochs:
        return config.polish_lr_ratio
    left = (config.main_epochs - position) / (config.main_epochs * config.decay_fraction)
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * min(1.0, max(0.0, left))


class Average:
    """Average of the weights over steps.

    Exponential, biased to recent ones while it is young; after `start_over` plain.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.steps = steps
        self.seen = 0
        self.plain = False
        self.values = {name: p.detach().clone() for name, p in model.named_parameters()}

    def start_over(self) -> None:
        """Forget what was seen; from here on all steps count alike."""
        self.seen, self.plain = 0, True

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Fold the current weights in; cost: one pass over the parameters."""
        self.seen += 1
        if self.plain:
            keep = 1 - 1 / self.seen
        else:
            keep = min(1 - 1 / self.steps, self.seen / (self.seen + 10)) if self.steps else 0.0
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.values[name].lerp_(parameter.detach(), 1 - keep)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let the model carry the averaged weights inside the block."""
        kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        _copy_into(model, self.values)
        try:
            yield
        finally:
            _copy_into(model, kept)


@torch.no_grad()
def _copy_into(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])


class Loop:
    """Runs a task for its recipe; see the module's rules."""

    def __init__(
        self, task: Task, config: LoopConfig, digest: str, out: Path, progress: Progress | None
    ) -> None:
        self.task = task
        self.config = config
        self.digest = digest
        self.out = out
        self.progress = progress
        self.device = next(task.model.parameters()).device
        self.optimizer = torch.optim.AdamW(
            task.parameter_groups(config), lr=config.lr, betas=(0.9, config.beta2), fused=True
        )
        for group in self.optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        self.average = Average(task.model, config.ema_steps)
        self.next_epoch = 0
        self.result = TrainResult({"score": float("-inf")}, [], -1)

    def run(self) -> TrainResult:
        """Train to the recipe's last epoch, going on from a saved state if `out` holds one."""
        torch.set_num_threads(self.config.threads)
        self.out.mkdir(parents=True, exist_ok=True)
        self._resume()
        for epoch in range(self.next_epoch, self.config.epochs):
            if epoch == self.config.main_epochs:
                self._begin_polish()
            tick = self._epoch(epoch)
            last = epoch + 1 == self.config.epochs
            if last or (epoch + 1) % self.config.eval_every == 0:
                self._keep_if_best(epoch, tick)
            self.next_epoch = epoch + 1
            self._save_state()
        return self.result

    def _begin_polish(self) -> None:
        """Average anew, and let only averages of the polish compete.

        The best of many noisy epochs looks better on a small dev split than it is.
        """
        self.average.start_over()
        self.result.metrics = {"score": float("-inf")}

    def _epoch(self, epoch: int) -> Tick:
        torch.manual_seed(self.config.seed * 100_003 + epoch)
        self.task.model.train()
        batches = self.task.batches(epoch)
        total = torch.zeros((), device=self.device)
        tick = Tick(epoch, self.config.epochs, 0.0, 0.0, 0.0)
        for step, batch in enumerate(batches):
            factor = lr_factor(epoch + step / len(batches), self.config)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            loss = self._step(batch)
            total += loss
            done = (epoch + (step + 1) / len(batches)) / self.config.epochs
            tick = Tick(epoch, self.config.epochs, done, float(loss), self.config.lr * factor)
            if self.progress:
                self.progress(tick)
        self.result.epoch_losses.append(float(total) / max(1, len(batches)))
        return tick

    def _step(self, batch: Any) -> Tensor:
        dtype = torch.bfloat16
        on = self.config.precision == "bf16"
        with torch.autocast(self.device.type, dtype=dtype, enabled=on):
            loss = self.task.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.task.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.average.update(self.task.model)
        return loss.detach()

    def _keep_if_best(self, epoch: int, tick: Tick) -> None:
        self.task.model.eval()
        with self.average.applied(self.task.model), torch.inference_mode():
            metrics = self.task.evaluate()
            # Later wins a tie: it has seen more data at a lower rate.
            if metrics["score"] >= self.result.metrics["score"]:
                self.result.metrics = metrics
                self.result.best_epoch = epoch
                self.task.save(self.out)
        if self.progress:
            self.progress(
                Tick(epoch, tick.epochs, tick.done, self.result.epoch_losses[-1], tick.lr, metrics)
            )

    def _save_state(self) -> None:
        state = {
            "digest": self.digest,
            "next_epoch": self.next_epoch,
            "model": self.task.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "average_seen": self.average.seen,
            "average_plain": self.average.plain,
            "result": [self.result.metrics, self.result.epoch_losses, self.result.best_epoch],
        }
        temporary = self.out / (STATE_FILE + ".new")
        torch.save(state, temporary)
        temporary.replace(self.out / STATE_FILE)

    def _resume(self) -> None:
        path = self.out / STATE_FILE
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["digest"] != self.digest:
            raise RecipeError(
                f"{path} belongs to other settings or data; choose another --out or remove the file"
            )
        self.task.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.values = state["average"]
        self.average.seen = state["average_seen"]
        self.average.plain = state.get("average_plain", False)
        self.next_epoch = state["next_epoch"]
        self.result = TrainResult(*state["result"])
