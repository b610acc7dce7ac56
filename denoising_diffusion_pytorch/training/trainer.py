"""The training loop of all stages: accumulation, clipping, learning rate, EMA, logging, pictures, checkpoints.

A step is an optimizer step. Everything in a step is determined by (seed, step, rank) and the samples' keys, so that an
interrupted run continues as if it had not been interrupted.
"""

import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from data import DataError

from ..config.schema import Config
from ..errors import TrainingError
from ..randomness import seed_global
from .checkpointer import Checkpointer
from .ema import EMAModel
from .objectives import Batch, Optimization
from .run_folder import RunFolder, model_report
from .schedule import learning_rate
from .speed import Meter
from .stopping import StopRequest, Terminal
from .validation import Validation, metrics_of

NO_SCALER = torch.amp.GradScaler(enabled=False)
# parts of a model that are compiled, each as a whole; a baseline is compiled as one
NETWORKS = ("unet", "cond_stage_model", "first_stage_model.encoder", "first_stage_model.decoder", "encoder", "decoder")
MIN_SCALE = 2.0**-24  # of fp16's gradients: after 40 overflows in a row


class Trainer:
    """Train `model` by its objectives until `training_steps`.

    Args:
        config: resolved; `config.trainer` controls the loop, the rest is written into checkpoints.
        model: what is averaged, saved and validated.
        objectives: modules of objectives.py, in the order in which they see a batch.
        batches: function (first micro-batch) -> endless generator of batches on the device, as `to_device` gives them.
        validation: the scenes that are scored and shown, or None.
        measure_scale: sets the latents' scale, at the start and, where the encoder is trained, at every save; or None.
    """

    def __init__(
        self,
        config: Config,
        stage: str,
        model: nn.Module,
        objectives: Sequence[Any],
        batches: Callable[[int], Generator[Batch, None, None]],
        accelerator: Accelerator,
        validation: Validation | None = None,
        measure_scale: Callable[[], None] | None = None,
    ):
        self.config, self.settings, self.stage = config, config.trainer, stage
        self.accelerator, self.make_batches, self.validation = accelerator, batches, validation
        self.measure_scale = measure_scale
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        objectives = [o.to(accelerator.device).to(memory_format=layout).train() for o in objectives]
        self.model = model  # a part of the objectives
        self.ema = EMAModel(model, **dict(self.settings.ema))
        # not the copy that EMA took above: validation runs rarely, and in batches of other sizes
        if self.settings.compile:
            modules = dict(model.named_modules())
            for network in [modules[name] for name in NETWORKS if name in modules] or [model]:
                network.compile()
        self.optimizations = [Optimization(o, accelerator, self.settings) for o in objectives]
        self.checkpointer = Checkpointer(config, stage, accelerator, self.ema, self.optimizations)
        self.stop = StopRequest(accelerator)
        self.results: RunFolder | None = None  # the main process's
        self.step = 0  # steps taken
        samples = self.settings.batch_size * self.settings.gradient_accumulation * accelerator.num_processes
        self.meter = Meter(accelerator, samples)

    def train(self) -> None:
        """Resume or start, train, and leave a checkpoint of the last step.

        Raises:
            CheckpointError: the results folder holds checkpoints that this run must not touch or cannot continue.
            TrainingError: a loss or gradient became non-finite.
        """
        main = self.accelerator.is_main_process
        with self.stop, RunFolder(self.checkpointer.folder) if main else nullcontext() as self.results:
            self.accelerator.wait_for_everyone()
            self.step = self.checkpointer.resume()
            if self.results is not None:
                report = model_report({"model": self.model} | self.checkpointer.extra)
                self.results.begin(self.config, report, self.accelerator, self.step)
            if self.step == 0:
                self._measure_scale()
            if self.checkpointer.unscored and self.validation is not None:  # killed during its validation
                self._validate(self.validation)
            try:
                with closing(self.make_batches(self.step * self.settings.gradient_accumulation)) as batches:
                    self._loop(batches)
            except DataError:
                if main and self.step:  # the step may be half accumulated, but no weight has changed in it
                    self.checkpointer.write(self.step)
                raise
            if self.step:
                self.checkpointer.save(self.step)
            if main:  # once; accelerator.print prints once per machine
                done = f"{self.stage}: finished at step {self.step:,}; the result is {self.checkpointer.last}"
                stopped = f"stopped at step {self.step}; the same command continues from here"
                Terminal(sys.stdout).write(f"{done if self.step >= self.settings.training_steps else stopped}\n")
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def _loop(self, batches: Iterator[Batch]) -> None:
        """Run steps until the last one or a request to stop, and what is due after each step."""
        settings, total, hidden = self.settings, self.settings.training_steps, not self.accelerator.is_main_process
        bar = tqdm(desc=self.stage, total=total, initial=self.step, unit="step", disable=hidden,
                   smoothing=0,  # the mean speed, pauses for saving and validation included
                   file=Terminal(sys.stderr), dynamic_ncols=True)  # fmt: skip
        with bar:
            while self.step < total:
                started = time.monotonic()
                if self.stop.agreed():  # where the processes wait for the slowest one
                    break
                logs = self.train_step(batches)
                self.meter.add(logs, time.monotonic() - started)
                bar.update()
                if self._due(settings.log_interval):
                    bar.set_postfix(loss=f"{self._log()['loss']:.4g}", refresh=False)
                if self._due(settings.save_interval):
                    if self.config.first_stage_config.trainable:
                        self._measure_scale()  # here, not in save(): an interruption must not change what comes after it
                    self.checkpointer.save(self.step)
                if self.validation is not None:
                    self._validate(self.validation)

    def _measure_scale(self) -> None:
        if self.measure_scale is not None:
            self.measure_scale()
            self.ema.copy_buffers()

    def _due(self, interval: int) -> bool:
        """Whether something that happens every `interval` steps, and after the last one, is due now; never for 0."""
        return interval > 0 and (self.step % interval == 0 or self.step == self.settings.training_steps)

    def train_step(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """Accumulate, backward, check, clip, step, EMA; returns detached scalars."""
        scaler, accumulation = self.accelerator.scaler or NO_SCALER, self.settings.gradient_accumulation
        logs: dict[str, Tensor] = {}
        names: list[str] = []
        for micro_batch in range(accumulation):
            started = time.monotonic()
            batch = next(batches)
            self.meter.waited += time.monotonic() - started
            names += batch["names"]
            for name, value in self.backward(batch, micro_batch).items():
                logs[name] = logs.get(name, 0) + value / accumulation
        norms, active = {}, self.active()
        for optimization in active:
            scaler.unscale_(optimization.optimizer)
            gradients = [p.grad for p in optimization.parameters if p.grad is not None]
            norms[f"grad_norm_{optimization.name}"] = nn.utils.get_total_norm(gradients).detach()
        # a gradient scaler expects gradients to overflow now and then; a loss must be finite all the same
        self.require_finite(logs | ({} if scaler.is_enabled() else norms), names)
        settings = self.settings
        curve = (settings.training_steps, settings.lr_scheduler.power, settings.lr_scheduler.warmup_steps)
        rate = learning_rate(self.step, settings.learning_rate, settings.min_learning_rate, *curve)
        for optimization, norm in zip(active, norms.values(), strict=True):
            nn.utils.clip_grads_with_norm_(optimization.parameters, settings.gradient_clip, norm)
            for group in optimization.optimizer.param_groups:
                group["lr"] = rate
            scaler.step(optimization.optimizer)  # skips where a gradient overflowed
            optimization.optimizer.zero_grad(set_to_none=True)
        if scaler.is_enabled():
            logs |= self._update_scaler(scaler)
        self.step += 1
        self.ema.update_after_step(self.step)
        return logs | norms

    def backward(self, batch: Batch, micro_batch: int) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch; the same ones for the same step, micro-batch and weights. Returns detached scalars."""
        seed_global(self.settings.seed, self.step, micro_batch, self.accelerator.process_index)  # for dropout
        active = self.active()
        logs: dict[str, Tensor] = {}
        carry: dict[str, Tensor] = {}
        with self.accelerator.accumulate(*[o.prepared for o in active]):
            for optimization in active:
                loss, terms, carry = optimization.prepared(batch, self.step, carry)
                self.accelerator.backward(loss)  # divided by gradient_accumulation there
                logs |= terms if logs else {"loss": loss.detach()} | terms
        return logs

    def active(self) -> list[Optimization]:
        """The objectives that take part in the next step; the discriminator starts later."""
        return [o for o in self.optimizations if self.step >= o.objective.start_step]

    def require_finite(self, values: dict[str, Tensor], names: list[str]) -> None:
        """Wait for the device; raises TrainingError that names what is not finite, and the samples of the step."""
        finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist()
        if not all(finite):
            what = ", ".join(name for name, good in zip(values, finite, strict=True) if not good)
            message = f"non-finite at step {self.step}: {what}, in the batch {', '.join(names[:32])}"
            raise TrainingError(f"{message}; nothing was updated; {self._advice()}")

    def _update_scaler(self, scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
        """Update the gradient scaler; raises TrainingError after too many overflows in a row."""
        before = scaler.get_scale()
        scaler.update()
        overflowed = scaler.get_scale() < before
        if overflowed and before < MIN_SCALE:
            message = f"gradients overflowed in fp16 at step {self.step} and many before it (scale {before:.2g})"
            raise TrainingError(f"{message}; {self._advice()}; bf16 or full precision does not overflow")
        return {"grad_scale": torch.tensor(before), "skipped": torch.tensor(float(overflowed))}

    def _advice(self) -> str:
        last = self.checkpointer.last or "none yet"
        return f"last good checkpoint: {last}; try a lower trainer.learning_rate or trainer.mixed_precision: 'no'"

    def _log(self) -> dict[str, float]:
        """Means since the last line, over all processes, to train.log and the trackers."""
        metrics = self.meter.read()
        for optimization in self.optimizations:
            if self.step > optimization.objective.start_step:
                metrics[f"lr_{optimization.name}"] = optimization.optimizer.param_groups[0]["lr"]
        if self.results is not None:
            self.results.metrics("train", metrics, self.step)
        return metrics

    def _validate(self, validation: Validation) -> None:
        """Score the averaged model, and show its maps, where that is due; a new best is saved."""
        scoring = self._due(self.settings.validate_every)
        showing = self._due(self.settings.sample_interval) and self.settings.num_samples > 0
        if not scoring and not showing:
            return
        found = validation.predict(self.ema.shadow, only_drawn=not scoring)
        if self.results is not None and scoring:
            metrics = metrics_of([scores for _, scores in found.values()])
            self.results.metrics("validation", metrics, self.step)
            self.checkpointer.record(self.step, metrics)
        if self.results is not None and showing:
            self.results.picture(self.step, partial(validation.draw, found))
