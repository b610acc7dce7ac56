"""The training loop of both stages: accumulation, clipping, learning rate, EMA, logging, pictures, checkpoints.

A step is an optimizer step. Everything that a step does follows from (seed, step, rank) and the samples' keys, so
that a run which was interrupted goes on as if it had not been.
"""

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from .checkpoint import (
    Checkpoint,
    best_score,
    check_geometry,
    find_checkpoint,
    prune_checkpoints,
    record_metrics,
    save_checkpoint,
    set_aside_newer,
)
from .config.schema import Config
from .ema import EMAModel
from .errors import CheckpointError, TrainingError
from .loading import load_strictly
from .objectives import trained_parameters
from .report import model_report
from .results import Results, memory_gib
from .schedule import learning_rate
from .stopping import StopRequest
from .validation import Validation, score
from .watch import Watch

log = logging.getLogger("radiodiff")

MAX_SKIPPED = 40  # overflowed fp16 steps in a row: 2^-40 of the first gradient scale is beyond help


class Trainer:
    """Train `model` by its objectives until `training_steps`.

    Args:
        config: resolved; `config.trainer` rules the loop, the rest is written into checkpoints.
        stage: `vae` or `ldm`.
        model: what is averaged, saved and validated.
        objectives: modules of objectives.py, in the order in which they see a batch.
        batches: function (accelerator, first micro-batch) -> endless generator of batches on the device, with `seeds`,
            `names` and optionally `problems`.
        validation: the scenes that are scored and drawn, or None.
        prepare: function (accelerator) called once in a run that starts from nothing, e.g. to measure the latent scale.
        prepare_again: call it again before every checkpoint, for a model whose latents go on changing.
    """

    def __init__(
        self,
        config: Config,
        stage: str,
        model: nn.Module,
        objectives: list[Any],
        batches: Callable[[Accelerator, int], Generator[dict[str, Any], None, None]],
        *,
        accelerator: Accelerator,
        validation: Validation | None = None,
        prepare: Callable[[Accelerator], None] | None = None,
        prepare_again: bool = False,
    ):
        self.config, self.settings, self.stage = config, config.trainer, stage
        self.accelerator = accelerator
        self.make_batches, self.validation = batches, validation
        self.prepare, self.prepare_again = prepare, prepare_again
        self.folder = Path(self.settings.results_folder)
        self.results: Results | None = None  # the main process's
        self.step = 0
        self.stop = StopRequest()
        self.stop_agreed = False  # by all processes, in the step before
        self.last_checkpoint: Path | None = None
        self.bad_samples: set[str] = set()  # what could not be read so far
        self.skipped = 0  # overflowed fp16 steps in a row
        self.waited = 0.0  # seconds spent waiting for data since the last log line
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        self.model = model = model.to(accelerator.device).to(memory_format=layout)
        self.objectives: list[Any] = [o.to(accelerator.device).to(memory_format=layout).train() for o in objectives]
        # weights outside `model`: the discriminator
        self.extra: dict[str, nn.Module] = {o.name: o for o in self.objectives[1:]}
        ema = self.settings.ema
        self.ema = EMAModel(model, ema.beta, ema.start_step, ema.update_interval)
        if self.settings.compile:
            # behind the copy that EMA takes: validation runs rarely, and in batches of other sizes
            for network in step_networks(model).values():
                network.compile()
        self.prepared = [accelerator.prepare(objective) for objective in self.objectives]
        self.parameters = [trained_parameters(objective) for objective in self.objectives]
        adam = self.settings.optimizer
        self.fused = accelerator.device.type in ("cuda", "cpu")
        self.watch = Watch(accelerator)
        # not prepared by accelerate: its wrapper updates the gradient scaler once for each optimizer
        self.optimizers = [
            torch.optim.AdamW(
                parameters,
                lr=self.settings.learning_rate,
                betas=(adam.betas[0], adam.betas[1]),
                eps=adam.eps,
                weight_decay=adam.weight_decay,
                fused=self.fused,
            )
            for parameters in self.parameters
        ]

    # ---- the run ---------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Resume or start, train, and leave a checkpoint of the last step.

        Raises:
            CheckpointError: the results folder holds checkpoints that this run must not touch or cannot continue.
            TrainingError: a loss or gradient became non-finite, or too much of the data is unreadable.
        """
        self.stop.install()
        main = self.accelerator.is_main_process
        if main:
            self.results = Results(self.folder)
        self.accelerator.wait_for_everyone()
        self._resume()
        self.accelerator.wait_for_everyone()  # all have read before the main process moves anything
        if main:
            aside = set_aside_newer(self.folder, self.step) if self.last_checkpoint else None
            if aside is not None:
                log.warning("newer checkpoints are in %s now (trainer.resume_milestone)", aside)
            report = model_report({"model": self.model} | self.extra)
            self.results.open(self.config, report, self.accelerator, self.step)
        if self.step == 0 and self.prepare is not None:
            self._prepare()
        with closing(self.make_batches(self.accelerator, self.step * self.settings.gradient_accumulation)) as batches:
            self._loop(batches)
        if self.step:
            self.save()
        if self._stopping():
            self.accelerator.print(f"stopped by a signal at step {self.step}; the same command goes on from here")
        if main:
            self.results.close()
        self.accelerator.end_training()

    def _loop(self, batches: Iterator[dict[str, Any]]) -> None:
        """Steps until the last one or a request to stop, with what is due behind each of them."""
        settings = self.settings
        sums: dict[str, list[Tensor]] = {}
        seconds = 0.0
        with tqdm(
            total=settings.training_steps,
            initial=self.step,
            desc=self.stage,
            unit="step",
            disable=not self.accelerator.is_main_process,
            mininterval=1.0,
            smoothing=0,  # the mean speed, pauses for saving and validation included: their share of what is left
        ) as bar:
            while self.step < settings.training_steps and not self._stopping():
                started = time.monotonic()
                for name, value in self.take_step(batches).items():
                    sums.setdefault(name, []).append(value)
                seconds += time.monotonic() - started
                bar.update()
                if self._due(settings.log_interval):
                    figures = self._log(sums, seconds)
                    bar.set_postfix(loss=f"{figures['loss']:.4g}", refresh=False)
                    sums, seconds, self.waited = {}, 0.0, 0.0
                if self._due(settings.save_interval):
                    if self.prepare_again and self.prepare is not None:
                        self._prepare()  # here, not in save(): an interruption must not change what comes after it
                    self.save()
                if self.validation is not None:
                    self._validate()

    def _prepare(self) -> None:
        self.prepare(self.accelerator)
        self.ema.copy_buffers()

    def _due(self, interval: int) -> bool:
        """Whether something that happens every `interval` steps, and after the last one, is due now; never for 0."""
        return interval > 0 and (self.step % interval == 0 or self.step == self.settings.training_steps)

    def take_step(self, batches: Iterator[dict[str, Any]]) -> dict[str, Tensor]:
        """One optimizer step over `gradient_accumulation` micro-batches, and the average's; returns detached scalars."""
        seen = [self._next_batch(batches) for _ in range(self.settings.gradient_accumulation)]
        active, logs = self._backward(seen)
        logs |= self._update(active, seen, logs)
        self.step += 1
        self.ema.update_after_step(self.step)
        return logs

    def _backward(self, seen: list[dict[str, Any]]) -> tuple[list[int], dict[str, Tensor]]:
        """The gradients of a step's micro-batches -> (objectives that take part, logs); the same again for the same batches."""
        accelerator = self.accelerator
        active = [i for i, objective in enumerate(self.objectives) if self.step >= objective.start_step]
        logs: dict[str, Tensor] = {}
        for micro_batch, batch in enumerate(seen):
            self._seed_dropout(micro_batch)
            carry: dict[str, Tensor] = {}
            with accelerator.accumulate(*[self.prepared[i] for i in active]):
                for i in active:
                    loss, terms, carry = self.prepared[i](batch, self.step, carry)
                    accelerator.backward(loss)  # divided by gradient_accumulation there
                    if i == 0:
                        terms = {"loss": loss.detach()} | terms
                    for name, value in terms.items():
                        logs[name] = logs.get(name, 0) + value / self.settings.gradient_accumulation
        return active, logs

    def _seed_dropout(self, micro_batch: int) -> None:
        """Seed the global generator by (seed, step, micro-batch, rank), behind whatever reading the batches drew from it."""
        numbers = (self.settings.seed, self.step, micro_batch, self.accelerator.process_index)
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1)

    def _next_batch(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """The next micro-batch. Where there is none, the steps taken so far are saved before the error goes on."""
        started = time.monotonic()
        try:
            batch = next(batches)
            self._note_bad_samples(batch.get("problems", ()))
        except Exception:
            self._settle()
            if self.accelerator.is_main_process and self.step:
                self._write_checkpoint()  # no step is half taken: gradients are, weights are not
            raise
        self.waited += time.monotonic() - started
        return batch

    def _note_bad_samples(self, problems: Iterable[str]) -> None:
        new = set(problems) - self.bad_samples
        if not new:
            return
        self.bad_samples |= new
        for problem in sorted(new):
            log.error("unreadable, the next sample takes its place: %s", problem)
        if len(self.bad_samples) > self.settings.max_bad_samples:
            raise TrainingError(
                f"{len(self.bad_samples)} unreadable samples, more than trainer.max_bad_samples "
                f"{self.settings.max_bad_samples}; the last: {sorted(new)[-1]}"
            )

    def _update(self, active: list[int], seen: list[dict], logs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Unscale, check, clip and step every active optimizer; then the gradient scaler once."""
        scaler = self.accelerator.scaler
        rate = self.learning_rate()
        norms = {}
        for i in active:
            if scaler is not None:
                scaler.unscale_(self.optimizers[i])
            norm = nn.utils.get_total_norm([p.grad for p in self.parameters[i] if p.grad is not None])
            norms[f"grad_norm_{self.objectives[i].name}"] = norm.detach()
        self._settle()  # of the step before: by now the device has this one's work
        # a gradient scaler expects gradients to overflow now and then; a loss must be finite all the same
        self.watch.ask(self.step, logs | (norms if scaler is None else {}), seen, self.stop.requested)
        if scaler is not None or not self.fused:
            self._settle()
        for i, norm in zip(active, norms.values(), strict=True):
            optimizer = self.optimizers[i]
            if scaler is None and self.fused:
                # AdamW then leaves everything as it is, by itself; torch declares the attribute nowhere
                setattr(optimizer, "found_inf", self.watch.nonfinite)  # noqa: B010
            nn.utils.clip_grads_with_norm_(self.parameters[i], self.settings.gradient_clip, norm)
            for group in optimizer.param_groups:
                group["lr"] = rate
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)  # skips by itself where a gradient overflowed
            optimizer.zero_grad(set_to_none=True)
        return norms | (self._update_scale(scaler) if scaler is not None else {})

    def _update_scale(self, scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
        """Let the gradient scaler adapt; raises TrainingError where step after step overflows."""
        before = scaler.get_scale()
        scaler.update()
        overflowed = scaler.get_scale() < before
        self.skipped = self.skipped + 1 if overflowed else 0
        if self.skipped > MAX_SKIPPED:
            raise TrainingError(
                f"{self.skipped} steps in a row, up to step {self.step}, overflowed in fp16 and were skipped; "
                f"{self._advice()}; bf16 or full precision does not overflow"
            )
        return {"grad_scale": torch.tensor(before), "skipped": torch.tensor(float(overflowed))}

    def _settle(self) -> None:
        """Hear of the step that was asked about last, if any; raises TrainingError on all processes where a value was not finite."""
        asked = self.watch.hear()
        if asked is None:
            return
        nonfinite, stop = asked.answer.tolist()
        self.stop_agreed = stop > 0
        if not nonfinite:
            return
        self.step, values, seen = asked.step, asked.values, asked.seen
        which = ", ".join(k for k, value in values.items() if not torch.isfinite(value).all()) or "another process"
        names = [name for batch in seen for name in batch["names"]]
        dump = self._dump({name: float(value) for name, value in values.items()}, seen)
        raise TrainingError(
            f"non-finite at step {self.step}: {which}, in the batch {', '.join(names[:32])}; nothing was updated; "
            f"weights, batch and gradients' names are in {dump}; {self._advice()}"
        )

    def _advice(self) -> str:
        last = self.last_checkpoint or "none yet"
        return f"last good checkpoint: {last}; try a lower trainer.learning_rate or trainer.mixed_precision: 'no'"

    def _dump(self, values: dict[str, float], seen: list[dict[str, Any]]) -> Path:
        """Write what reproduces the step: torch.load(path, weights_only=True) reads it. The gradients are computed once more."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._backward(seen)
        rank = self.accelerator.process_index
        path = self.folder / "nonfinite" / f"step_{self.step}_rank_{rank}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        states = []
        for micro_batch in range(len(seen)):
            self._seed_dropout(micro_batch)
            states.append(torch.get_rng_state())
        content = {
            "step": self.step,
            "rank": rank,
            "values": values,
            "batches": seen,
            "rng_states": states,  # before the forward pass of each of them
            "nonfinite_gradients": [
                f"{objective.name}.{name}"
                for objective in self.objectives
                for name, parameter in objective.named_parameters()
                if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
            ],
            "objectives": {objective.name: objective.state_dict() for objective in self.objectives},
        }
        torch.save(content, path)
        return path

    def learning_rate(self) -> float:
        """The rate of the step to be taken."""
        settings = self.settings
        return learning_rate(
            self.step,
            lr=settings.learning_rate,
            min_lr=settings.min_learning_rate,
            total_steps=settings.training_steps,
            power=settings.lr_scheduler.power,
            warmup_steps=settings.lr_scheduler.warmup_steps,
        )

    def _stopping(self) -> bool:
        """Whether to leave the loop: with several processes at the step on which all have agreed."""
        return self.stop_agreed or (self.stop.requested and self.accelerator.num_processes == 1)

    # ---- checkpoints -----------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Load the newest good checkpoint, or the chosen milestone, if there is one."""
        settings = self.settings
        if settings.enable_resume:
            found = find_checkpoint(self.folder, settings.resume_milestone, warn=log.warning)
        else:
            found = find_checkpoint(self.folder)
            if found is not None:
                raise CheckpointError(
                    f"{self.folder}: already holds checkpoints up to ckpt_{found.step}; set trainer.enable_resume=true to go on, "
                    "or choose another trainer.results_folder"
                )
        if found is None:
            return
        if found.stage != self.stage:
            raise CheckpointError(
                f"{found.path}: belongs to stage {found.stage}; choose another trainer.results_folder"
            )
        for line in check_geometry(found, self.config):
            self.accelerator.print(f"changed since the checkpoint: {line}")
        self._restore(found)

    def _restore(self, found: Checkpoint) -> None:
        state = found.training_state()
        for objective, parameters in zip(self.objectives, self.parameters, strict=True):
            saved = state["optimizers"].get(objective.name)
            if saved is None or len(saved["param_groups"][0]["params"]) != len(parameters):
                raise CheckpointError(
                    f"{found.path}: its run trained other weights than this configuration does; "
                    "diffusion_config.end_to_end.start_step (null or a number) and first_stage_config.trainable must be those of "
                    "the run, or choose another trainer.results_folder"
                )
        load_strictly(self.model, found.weights("model"), found.path)
        self.ema.load_state_dict(found.weights("ema"))
        for objective, optimizer in zip(self.objectives, self.optimizers, strict=True):
            options = {key: optimizer.param_groups[0][key] for key in ("betas", "eps", "weight_decay", "fused")}
            optimizer.load_state_dict(state["optimizers"][objective.name])
            for group in optimizer.param_groups:  # the run's settings and device decide, not the checkpoint's
                group.update(options)
            for parameter, moments in optimizer.state.items():  # fused AdamW needs them in the parameter's layout
                for name, value in moments.items():
                    if value.shape == parameter.shape:
                        moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        for name, objective in self.extra.items():
            objective.load_state_dict(state["extra"][name])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.bad_samples = set(state["bad_samples"])
        self.step, self.last_checkpoint = found.step, found.path
        self.accelerator.print(f"resumed from {found.path}")

    def save(self) -> None:
        """Write a checkpoint of the current step (main process), then delete those that need not be kept."""
        self._settle()
        if self.accelerator.is_main_process:
            self._write_checkpoint()
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(self) -> None:
        scaler = self.accelerator.scaler
        self.last_checkpoint = save_checkpoint(
            self.folder,
            step=self.step,
            stage=self.stage,
            config=self.config,
            model=self.model.state_dict(),
            ema=self.ema.state_dict(),
            training={
                "optimizers": {o.name: p.state_dict() for o, p in zip(self.objectives, self.optimizers, strict=True)},
                "extra": {name: objective.state_dict() for name, objective in self.extra.items()},
                "scaler": scaler.state_dict() if scaler is not None else {},
                "bad_samples": sorted(self.bad_samples),
            },
        )
        milestone = self.settings.resume_milestone
        keep = [milestone] if isinstance(milestone, int) else []
        prune_checkpoints(self.folder, self.settings.keep_last, self.settings.keep_every, keep)

    # ---- figures and pictures --------------------------------------------------------------------------------

    def _log(self, sums: dict[str, list[Tensor]], seconds: float) -> dict[str, float]:
        """Means since the last line, over all processes, to train.log and TensorBoard."""
        self._settle()
        settings, main = self.settings, self.accelerator.is_main_process
        means = {}
        for name, values in sums.items():
            finite = [value for value in torch.stack(values).float().tolist() if math.isfinite(value)]
            means[name] = sum(finite) / len(finite) if finite else math.nan  # overflowed gradients have no norm
        timing = {"data_wait": self.waited / seconds, "memory_gib": memory_gib(self.accelerator.device)}
        local = torch.tensor([*means.values(), *timing.values()], device=self.accelerator.device)
        figures = dict(zip([*means, *timing], self.accelerator.reduce(local, "mean").tolist(), strict=True))
        steps = len(next(iter(sums.values())))
        samples = steps * settings.batch_size * settings.gradient_accumulation * self.accelerator.num_processes
        figures["samples_per_second"] = samples / seconds
        for objective, optimizer in zip(self.objectives, self.optimizers, strict=True):
            if self.step > objective.start_step:
                figures[f"lr_{objective.name}"] = optimizer.param_groups[0]["lr"]
        if main:
            self.results.figures("train", figures, self.step)
        return figures

    def _validate(self) -> None:
        """Score and draw the averaged model where either is due; a new best is saved."""
        scoring = self._due(self.settings.validate_every)
        drawing = self._due(self.settings.sample_interval) and self.settings.num_samples > 0
        if not scoring and not drawing:
            return
        self._settle()
        predictions = self.validation.predict(self.ema.ema_model, only_drawn=not scoring)
        if not self.accelerator.is_main_process:
            return
        if scoring:
            figures = score(predictions.values())
            self.results.figures("validation", figures, self.step)
            saved = self.last_checkpoint is not None and self.last_checkpoint.name == f"ckpt_{self.step}"
            if not saved and figures["nmse"] < best_score(self.folder):
                self._write_checkpoint()
                saved = True
            if saved:
                record_metrics(self.last_checkpoint, figures)
        if self.settings.num_samples > 0:
            self.validation.draw(predictions, self.results.picture_path(self.step))
            self.results.picture(self.step)


def step_networks(model: nn.Module) -> dict[str, nn.Module]:
    """The networks that a training step calls, by name: what torch.compile takes whole, and what can be timed apart."""
    parts = ("unet", "cond_stage_model", "first_stage_model.encoder", "first_stage_model.decoder", "encoder", "decoder")
    modules = dict(model.named_modules())
    return {name: modules[name] for name in parts if name in modules} or {"model": model}
