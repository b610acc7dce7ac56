"""The training loop of all stages: accumulation, clipping, learning rate, EMA, logging, pictures, checkpoints.

A step is an optimizer step. Everything that a step does follows from (seed, step, rank) and the samples' keys, so
that an interrupted run continues as if it had not been interrupted.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from ..config.schema import Config
from ..errors import TrainingError
from ..randomness import seed_global
from .checkpointer import Checkpointer
from .ema import EMAModel
from .finite_guard import FiniteGuard, reproduce
from .objectives import Batch, Optimization, make_optimization
from .run_folder import RunFolder, model_report
from .schedule import learning_rate
from .speed import TIMED, WARM_UP, Meter
from .stopping import StopRequest
from .validation import Validation, metrics_of

log = logging.getLogger("radiodiff")
MAX_SKIPPED = 40  # overflowed fp16 steps in a row: 2^-40 of the first gradient scale is beyond help


class Trainer:
    """Train `model` by its objectives until `training_steps`.

    Args:
        config: resolved; `config.trainer` rules the loop, the rest is written into checkpoints.
        model: what is averaged, saved and validated.
        objectives: modules of objectives.py, in the order in which they see a batch.
        batches: function (first micro-batch) -> endless generator of batches on the device, as `to_device` gives them.
        validation: the scenes that are scored and shown, or None.
        utilization: a `forecast.Utilization`, which tells the fraction of the device's peak; None leaves it out.
        prepare: function called once in a run that starts from nothing, e.g. to measure the latent scale.
        prepare_again: call it again every `save_interval` steps, for a model whose latents keep changing.
    """

    def __init__(
        self,
        config: Config,
        stage: str,
        model: nn.Module,
        objectives: Sequence[Any],
        batches: Callable[[int], Generator[Batch, None, None]],
        *,
        accelerator: Accelerator,
        validation: Validation | None = None,
        utilization: Any = None,
        prepare: Callable[[], None] | None = None,
        prepare_again: bool = False,
    ):
        self.config, self.settings, self.stage = config, config.trainer, stage
        self.accelerator, self.make_batches, self.validation = accelerator, batches, validation
        self.prepare, self.prepare_again = prepare, prepare_again
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        objectives = [o.to(accelerator.device).to(memory_format=layout).train() for o in objectives]
        self.model = model = model.to(accelerator.device).to(memory_format=layout)
        self.ema = EMAModel(model, **dict(self.settings.ema))
        # after the copy that EMA takes: validation runs rarely, and in batches of other sizes
        for network in step_networks(model).values() if self.settings.compile else ():
            network.compile()
        self.fused = accelerator.device.type in ("cuda", "cpu")
        self.optimizations = [make_optimization(o, accelerator, self.settings, self.fused) for o in objectives]
        self.guard = FiniteGuard(accelerator)
        self.checkpointer = Checkpointer(config, stage, accelerator, model, self.ema, self.optimizations)
        self.stop = StopRequest(accelerator)
        self.results: RunFolder | None = None  # the main process's
        self.step, self.skipped = 0, 0  # steps taken, and overflowed fp16 steps in a row
        samples = self.settings.batch_size * self.settings.gradient_accumulation * accelerator.num_processes
        self.meter, self.utilization = Meter(accelerator, samples), utilization

    # ---- the run ---------------------------------------------------------------------------------------------

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
                self._prepare()
            with closing(self.make_batches(self.step * self.settings.gradient_accumulation)) as batches:
                self._loop(batches)
            if self.step:
                self.save()
            if main:  # of all machines, where accelerator.print has one on each
                done = f"{self.stage}: all {self.step:,} steps are taken; the result is {self.checkpointer.last}"
                stopped = f"stopped at step {self.step}; the same command continues from here"
                print(done if self.step >= self.settings.training_steps else stopped)
            self.accelerator.end_training()

    def _loop(self, batches: Iterator[Batch]) -> None:
        """Steps until the last one or a request to stop, with what is due after each of them."""
        settings = self.settings
        # smoothing 0: the mean speed, pauses for saving and validation included
        progress: dict[str, Any] = {"desc": self.stage, "unit": "step", "mininterval": 1.0, "smoothing": 0}
        progress["disable"] = not self.accelerator.is_main_process
        with tqdm(total=settings.training_steps, initial=self.step, **progress) as bar:
            while self.step < settings.training_steps:
                started = time.monotonic()
                if self.stop.agreed():  # where the processes wait for the slowest one
                    break
                logs = self.train_step(batches)
                if self._due(settings.log_interval) or self.meter.taken + 1 in (WARM_UP, TIMED):
                    self.raise_if_nonfinite()  # what the device has still to do belongs to these steps
                self.meter.add(logs, started)
                bar.update()
                if self.meter.taken == TIMED:
                    self._expect(bar)
                if self._due(settings.log_interval):
                    bar.set_postfix(loss=f"{self._log()['loss']:.4g}", refresh=False)
                if self._due(settings.save_interval):
                    if self.prepare_again:
                        self.raise_if_nonfinite()  # whose step is taken again with the scale that it had
                        self._prepare()  # here, not in save(): an interruption must not change what comes after it
                    self.save()
                if self.validation is not None:
                    self._validate()

    def _prepare(self) -> None:
        if self.prepare is not None:
            self.prepare()
            self.ema.copy_buffers()

    def _due(self, interval: int) -> bool:
        """Whether something that happens every `interval` steps, and after the last one, is due now; never for 0."""
        return interval > 0 and (self.step % interval == 0 or self.step == self.settings.training_steps)

    # ---- a step ----------------------------------------------------------------------------------------------

    def train_step(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """Accumulate, backward, finite guard, clip, step, EMA; returns detached scalars."""
        scaler = self.accelerator.scaler
        logs: dict[str, Tensor] = {}
        for micro_batch in range(self.settings.gradient_accumulation):
            batch = self._next_batch(batches)
            for name, value in self.backward(batch, micro_batch).items():
                logs[name] = logs.get(name, 0) + value / self.settings.gradient_accumulation
        norms, active = {}, self.active()
        for optimization in active:
            if scaler is not None:
                scaler.unscale_(optimization.optimizer)
            norms[f"grad_norm_{optimization.name}"] = optimization.grad_norm()
        # a gradient scaler expects gradients to overflow now and then; a loss must be finite all the same
        self.guard.check(self.step, logs | (norms if scaler is None else {}))
        if scaler is not None or not self.fused:  # these optimizers do not obey the guard's flag
            self.raise_if_nonfinite()
        for optimization, norm in zip(active, norms.values(), strict=True):
            nn.utils.clip_grads_with_norm_(optimization.parameters, self.settings.gradient_clip, norm)
            optimizer = optimization.optimizer
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            if scaler is not None:
                scaler.step(optimizer)  # skips where a gradient overflowed
            else:
                if self.fused:  # fused AdamW changes nothing where this is 1; torch declares the attribute nowhere
                    setattr(optimizer, "found_inf", self.guard.found_inf)  # noqa: B010
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if scaler is not None:
            logs |= self._update_scale(scaler)
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
        """What takes part in the step to be taken; the discriminator starts later."""
        return [o for o in self.optimizations if self.step >= o.objective.start_step]

    def learning_rate(self) -> float:
        """The rate of the step to be taken."""
        settings, curve = self.settings, self.settings.lr_scheduler
        lr, min_lr = settings.learning_rate, settings.min_learning_rate
        return learning_rate(self.step, lr, min_lr, settings.training_steps, curve.power, curve.warmup_steps)

    def _next_batch(self, batches: Iterator[Batch]) -> Batch:
        """The next micro-batch. If it cannot be read, the steps taken so far are saved before the error is raised."""
        started = time.monotonic()
        try:
            batch = next(batches)
        except Exception:
            if self.step and self.accelerator.is_main_process and self.guard.nonfinite_step() is None:
                self.checkpointer.write(self.step)  # a step may be half accumulated, but no weight has changed in it
            raise
        self.meter.waited += time.monotonic() - started
        return batch

    def _update_scale(self, scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
        """Update the gradient scaler; raises TrainingError after too many overflows in a row."""
        before = scaler.get_scale()
        scaler.update()
        overflowed = scaler.get_scale() < before
        self.skipped = self.skipped + 1 if overflowed else 0
        if self.skipped > MAX_SKIPPED:
            said = f"{self.skipped} steps in a row, up to step {self.step}, overflowed in fp16 and were skipped"
            raise TrainingError(f"{said}; {self._advice()}; bf16 or full precision does not overflow")
        return {"grad_scale": torch.tensor(before), "skipped": torch.tensor(float(overflowed))}

    # ---- what is due after a step ----------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of the current step, unless a value before it was not finite."""
        self.raise_if_nonfinite()
        self.checkpointer.save(self.step)

    def _log(self) -> dict[str, float]:
        """Means since the last line, over all processes, to train.log and the trackers."""
        metrics = self.meter.read()
        for optimization in self.optimizations:
            if self.step > optimization.objective.start_step:
                metrics[f"lr_{optimization.name}"] = optimization.optimizer.param_groups[0]["lr"]
        if self.utilization is not None and self.results is not None and self.meter.taken >= TIMED:
            metrics |= self.utilization.of(self.step - 1, self.meter.samples_per_step / metrics["samples_per_second"])
        if self.results is not None:
            self.results.metrics("train", metrics, self.step)
        return metrics

    def _expect(self, bar: tqdm) -> None:
        """Print the expected duration, on the main process."""
        left = self.settings.training_steps - self.step
        if self.results is None or not left:
            return
        expectation = self.meter.expectation(left)
        bar.write(f"{self.stage}: {expectation}")
        log.info("step=%d event=expectation %s", self.step, expectation)

    def _validate(self) -> None:
        """Score the averaged model, and show its maps, where that is due; a new best is saved."""
        scoring = self._due(self.settings.validate_every)
        showing = self._due(self.settings.sample_interval) and self.settings.num_samples > 0
        if not scoring and not showing:
            return
        self.raise_if_nonfinite()
        predictions = self.validation.predict(self.ema.ema_model, only_drawn=not scoring)
        if self.results is not None and scoring:
            metrics = metrics_of(predictions.values())
            self.results.metrics("validation", metrics, self.step)
            self.checkpointer.record(self.step, metrics)
        if self.results is not None and showing:
            self.results.picture(self.step, partial(self.validation.draw, predictions))

    # ---- a value that is not finite --------------------------------------------------------------------------

    def raise_if_nonfinite(self) -> None:
        """Wait for the device; raises TrainingError if any value so far was not finite (nothing was updated since)."""
        step = self.guard.nonfinite_step()
        if step is None:
            return
        self.step = step
        accumulation, rank = self.settings.gradient_accumulation, self.accelerator.process_index
        path = self.checkpointer.folder / "nonfinite" / f"step_{step}_rank_{rank}.pt"
        with closing(self.make_batches(step * accumulation)) as batches:
            what = reproduce(step, islice(batches, accumulation), self.backward, self.optimizations, path)
        raise TrainingError(f"{what}; {self._advice()}")

    def _advice(self) -> str:
        last = self.checkpointer.last or "none yet"
        return f"last good checkpoint: {last}; try a lower trainer.learning_rate or trainer.mixed_precision: 'no'"


def step_networks(model: nn.Module) -> dict[str, nn.Module]:
    """The networks that a training step calls, by name: what torch.compile takes whole, and what can be timed apart."""
    parts = ("unet", "cond_stage_model", "first_stage_model.encoder", "first_stage_model.decoder", "encoder", "decoder")
    modules = dict(model.named_modules())
    return {name: modules[name] for name in parts if name in modules} or {"model": model}
