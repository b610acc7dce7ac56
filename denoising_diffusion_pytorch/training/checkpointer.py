"""The checkpoints of a run: resuming, writing, pruning. The format is checkpoint.py's."""

import logging
import math
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..checkpoint import Checkpoint, checkpoint_to_continue, read_meta, save_checkpoint, steps_of, write_meta
from ..config import differences
from ..config.schema import Config
from ..errors import CheckpointError
from ..weights import load_strictly
from .ema import EMAModel
from .objectives import Optimization

log = logging.getLogger("radiodiff")


class Checkpointer:
    """Reads and writes everything that a run needs to continue as if it had not stopped; the main process writes."""

    def __init__(
        self, config: Config, stage: str, accelerator: Accelerator, ema: EMAModel, optimizations: list[Optimization]
    ):
        self.config, self.stage, self.accelerator = config, stage, accelerator
        self.model, self.ema, self.optimizations = ema.model, ema, optimizations
        self.extra: dict[str, nn.Module] = {o.name: o.objective for o in optimizations[1:]}
        self.folder = Path(config.trainer.results_folder)
        self.last: Path | None = None  # folder of the newest checkpoint that this run read or wrote
        self.unscored = False  # whether the run continues from a checkpoint without validation metrics

    def resume(self) -> int:
        """Load the checkpoint that the run continues from, if any (`checkpoint_to_continue`); returns the steps taken."""
        found = checkpoint_to_continue(self.config, self.stage)
        states = gather_object([(found.step, not found.meta["metrics"]) if found else (0, False)])
        steps, self.unscored = {step for step, _ in states}, states[0][1]  # others may read an old meta.json
        if len(steps) > 1:
            message = f"processes find checkpoints of steps {min(steps)} and {max(steps)} here"
            raise CheckpointError(f"{self.folder}: {message}; trainer.results_folder must be one folder that all see")
        if found is not None:
            self._restore(found)
        self.accelerator.wait_for_everyone()  # no process may still be reading when the main process moves checkpoints
        if found is None:
            return 0
        if self.accelerator.is_main_process:
            self._set_newer_aside(found.step)
            changes = differences(found.config, self.config)
            before, now = found.meta["processes"], self.accelerator.num_processes
            if before != now:
                changes.append(f"processes: {before} -> {now}, and with them the samples per step")
            for line in changes:
                log.warning("changed since the checkpoint: %s", line)
            print(f"resumed from {found.path}")
        self.last = found.path
        return found.step

    def _set_newer_aside(self, step: int) -> None:
        """Move checkpoints after `step` out of the way of a run that continues from there; nothing is deleted."""
        newer = [path for number, path in steps_of(self.folder).items() if number > step]
        if newer:
            aside = Path(tempfile.mkdtemp(prefix=time.strftime("superseded_%Y%m%d_%H%M%S_"), dir=newer[0].parent))
            for path in newer:
                path.rename(aside / path.name)
            lasting = "as long as trainer.resume_milestone is set, every start goes back to that step"
            log.warning("continuing from step %d: newer checkpoints are in %s now; %s", step, aside, lasting)

    def _restore(self, found: Checkpoint) -> None:
        state = found.training_state()
        load_strictly(self.model, found.weights("model"), found.path)
        try:
            self.ema.load_state_dict(found.weights("ema"))
            for optimization in self.optimizations:
                load_optimizer(optimization.optimizer, state["optimizers"][optimization.name])
            for name, objective in self.extra.items():
                objective.load_state_dict(state["extra"][name])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, RuntimeError) as error:
            changes = "; ".join(differences(found.config, self.config)) or "the code"
            remedy = "for a new run from its weights, set trainer.init_from and another trainer.results_folder"
            message = f"{found.path}: other weights were trained; changed since: {changes}"
            raise CheckpointError(f"{message}; {remedy}") from error
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def save(self, step: int) -> None:
        """Write a checkpoint of `step` on the main process; every process waits for it."""
        if self.accelerator.is_main_process:
            self.write(step)
        self.accelerator.wait_for_everyone()

    def write(self, step: int) -> None:
        """The main process's part of `save`: write, then delete the checkpoints that need not be kept."""
        scaler = self.accelerator.scaler
        self.last = save_checkpoint(
            self.folder,
            step=step,
            stage=self.stage,
            config=self.config,
            model=self.model.state_dict(),
            ema=self.ema.state_dict(),
            training={
                "optimizers": {o.name: o.optimizer.state_dict() for o in self.optimizations},
                "extra": {name: objective.state_dict() for name, objective in self.extra.items()},
                "scaler": scaler.state_dict() if scaler is not None else {},
            },
            processes=self.accelerator.num_processes,
        )
        settings, steps, scores = self.config.trainer, steps_of(self.folder), self._scores()
        best = sorted(scores, key=lambda step: scores[step])[:1]
        keep = {*list(steps)[-settings.keep_last :], *best, settings.resume_milestone}
        for number in steps.keys() - keep:
            if not settings.keep_every or number % settings.keep_every:
                shutil.rmtree(steps[number], ignore_errors=True)  # tried again at the next save

    def _scores(self) -> dict[int, float]:
        """The validation NMSE of the checkpoints that have one, by step."""
        scores: dict[int, float] = {}
        for step, path in steps_of(self.folder).items():
            with suppress(CheckpointError):  # a damaged one cannot be the best
                scores[step] = read_meta(path)["metrics"].get("nmse")
        return {step: score for step, score in scores.items() if score is not None}

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """Store validation metrics with the checkpoint of `step`, which is written now if it is a new best; main process only."""
        if self.last is None or self.last.name != f"ckpt_{step}":
            if not metrics["nmse"] < min(self._scores().values(), default=math.inf):  # not >=: it may be NaN
                return
            self.write(step)
        metrics = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        write_meta(self.last, read_meta(self.last) | {"metrics": metrics})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimizer's moments; its options stay those of this run."""
    options = {key: optimizer.param_groups[0][key] for key in ("betas", "eps", "weight_decay")}
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group.update(options)
    for parameter, moments in optimizer.state.items():  # fused AdamW needs them in the parameter's layout
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
