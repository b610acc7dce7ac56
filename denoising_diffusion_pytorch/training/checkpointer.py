"""What a run keeps on disk to go on from: resuming, writing, pruning. The format is checkpoint.py's."""

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..config import differences
from ..config.schema import Config
from ..errors import CheckpointError
from ..weights import load_strictly
from .checkpoint import (
    Checkpoint,
    best_score,
    checkpoint_to_continue,
    prune_checkpoints,
    record_metrics,
    save_checkpoint,
    set_aside_newer,
)
from .ema import EMAModel
from .objectives import Optimization

log = logging.getLogger("radiodiff")


class Checkpointer:
    """Reads and writes everything that a run needs to go on as if it had not stopped.

    Args:
        config: resolved; written into every checkpoint.
        stage: `vae`, `ldm` or `baseline`.
        accelerator: its main process writes, its gradient scaler is kept.
        model, ema: the weights and their average.
        optimizations: their optimizers, and the weights outside `model` (the discriminator).

    Attributes:
        last: folder of the newest checkpoint that this run read or wrote.
    """

    def __init__(
        self,
        config: Config,
        stage: str,
        accelerator: Accelerator,
        model: nn.Module,
        ema: EMAModel,
        optimizations: list[Optimization],
    ):
        self.config, self.stage, self.accelerator = config, stage, accelerator
        self.model, self.ema, self.optimizations = model, ema, optimizations
        self.extra: dict[str, nn.Module] = {o.name: o.objective for o in optimizations[1:]}
        self.folder = Path(config.trainer.results_folder)
        self.last: Path | None = None

    def resume(self) -> int:
        """Load the newest good checkpoint, or the chosen milestone, if there is one; returns the steps taken.

        Raises:
            CheckpointError: the folder holds checkpoints that this run must not touch or cannot continue.
        """
        found = checkpoint_to_continue(self.config, self.stage)
        if found is not None:
            for line in differences(found.config, self.config):
                self.accelerator.print(f"changed since the checkpoint: {line}")
            self._restore(found)
        self.accelerator.wait_for_everyone()  # no process may still be reading when the main process moves checkpoints
        if found is None:
            return 0
        aside = set_aside_newer(self.folder, found.step) if self.accelerator.is_main_process else None
        if aside is not None:
            log.warning("newer checkpoints are in %s now (trainer.resume_milestone)", aside)
        self.last = found.path
        self.accelerator.print(f"resumed from {found.path}")
        return found.step

    def _restore(self, found: Checkpoint) -> None:
        state = found.training_state()
        for optimization in self.optimizations:
            saved = state["optimizers"].get(optimization.name)
            if saved is None or len(saved["param_groups"][0]["params"]) != len(optimization.parameters):
                raise CheckpointError(
                    f"{found.path}: its run trained other weights than this configuration does; "
                    "diffusion_config.end_to_end.start_step (null or a number) and first_stage_config.trainable must be those of "
                    "the run, or choose another trainer.results_folder"
                )
        load_strictly(self.model, found.weights("model"), found.path)
        self.ema.load_state_dict(found.weights("ema"))
        for optimization in self.optimizations:
            load_optimizer(optimization.optimizer, state["optimizers"][optimization.name])
        for name, objective in self.extra.items():
            objective.load_state_dict(state["extra"][name])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def save(self, step: int) -> None:
        """Write a checkpoint of `step` on the main process; every process waits for it."""
        if self.accelerator.is_main_process:
            self.write(step)
        self.accelerator.wait_for_everyone()

    def write(self, step: int) -> None:
        """What the main process does in `save`: write, then delete the checkpoints that need not be kept."""
        scaler, settings = self.accelerator.scaler, self.config.trainer
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
        )
        milestone = settings.resume_milestone
        keep = [milestone] if isinstance(milestone, int) else []
        prune_checkpoints(self.folder, settings.keep_last, settings.keep_every, keep)

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """Store validation metrics with the checkpoint of `step`; if there is none, it is written only for a new best. Main
        process only.
        """
        saved = self.last is not None and self.last.name == f"ckpt_{step}"
        if not saved and not metrics["nmse"] < best_score(self.folder):  # so, because it may be NaN
            return
        if not saved:
            self.write(step)
        record_metrics(self.last, metrics)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimizer's moments; its options stay those of this run."""
    options = {key: optimizer.param_groups[0][key] for key in ("betas", "eps", "weight_decay", "fused")}
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group.update(options)
    for parameter, moments in optimizer.state.items():  # fused AdamW needs them in the parameter's layout
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
