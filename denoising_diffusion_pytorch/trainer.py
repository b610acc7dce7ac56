"""The training loop of both stages: accumulation, clipping, learning rate, EMA, logging, pictures, checkpoints.

A step is an optimizer step. Everything that a step does follows from (seed, step, rank) and the samples' keys, so
that a run which was interrupted goes on as if it had not been.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from tqdm import tqdm

from .checkpoint import Checkpoint, check_geometry, find_checkpoint, load_strictly, prune_checkpoints, save_checkpoint
from .config import to_yaml
from .config_schema import Config, TrainerConfig
from .ema import EMAModel
from .errors import CheckpointError, ConfigError, TrainingError
from .objectives import trained_parameters
from .report import model_report
from .schedule import learning_rate

log = logging.getLogger("radiodiff")


def choose_precision(setting: str) -> str:
    """`auto` -> bf16 where the processor computes it natively, else no; anything else is returned as it is."""
    if setting != "auto":
        return setting
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "no"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()  # no public question in torch yet
    return "bf16" if native else "no"


def make_accelerator(config: TrainerConfig) -> Accelerator:
    """The process group and precision of a run; `accelerate launch --mixed_precision` wins over the file.

    Seeds torch by `seed`, so that networks built afterwards start from the same weights in every run and process.

    Raises:
        ConfigError: a way of distributing the model that this loop does not support.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION")
    precision = launched if launched and launched != "no" else choose_precision(config.mixed_precision)
    if precision == "fp16" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        log.warning("mixed_precision fp16 needs a GPU: training in full precision (bf16 is there for CPUs)")
        precision = "no"
    accelerator = Accelerator(gradient_accumulation_steps=config.gradient_accumulation, mixed_precision=precision)
    torch.manual_seed(config.seed)
    supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in supported:
        raise ConfigError(
            f"accelerate is set to {accelerator.distributed_type.value}; this loop runs on one process or with data-parallel "
            "ones (accelerate launch --num_processes N)"
        )
    return accelerator


class Trainer:
    """Train `model` by its objectives until `training_steps`.

    Args:
        config: resolved; `config.trainer` rules the loop, the rest is written into checkpoints.
        stage: `vae` or `ldm`.
        model: what is averaged, saved and shown.
        objectives: modules of objectives.py, in the order in which they see a batch.
        batches: function (accelerator, first micro-batch) -> endless iterable of batches on the device, with `seeds`
            and `names`.
        preview: function (averaged model, path) that draws a picture, or None.
        prepare: function (accelerator) called once in a run that starts from nothing, e.g. to measure the latent scale.
        prepare_again: call it again before every checkpoint, for a model whose latents go on changing.
    """

    def __init__(
        self,
        config: Config,
        stage: str,
        model: nn.Module,
        objectives: list[nn.Module],
        batches: Callable[[Accelerator, int], Iterable[dict[str, Any]]],
        *,
        accelerator: Accelerator,
        preview: Callable[[nn.Module, Path], None] | None = None,
        prepare: Callable[[Accelerator], None] | None = None,
        prepare_again: bool = False,
    ):
        self.config, self.settings, self.stage = config, config.trainer, stage
        self.accelerator = accelerator
        self.make_batches, self.preview = batches, preview
        self.prepare, self.prepare_again = prepare, prepare_again
        self.results = Path(self.settings.results_folder)
        self.step = 0
        self.stopping = False
        self.last_checkpoint: Path | None = None
        model = model.to(accelerator.device)
        self.model = model
        self.objectives = [objective.to(accelerator.device).train() for objective in objectives]
        self.extra = {o.name: o for o in self.objectives[1:]}  # weights outside `model`: the discriminator
        ema = self.settings.ema
        self.ema = EMAModel(model, ema.beta, ema.start_step, ema.update_interval)
        self.prepared = [accelerator.prepare(objective) for objective in self.objectives]
        self.parameters = [trained_parameters(objective) for objective in self.objectives]
        adam = self.settings.optimizer
        # not prepared by accelerate: its wrapper updates the gradient scaler once for each optimizer
        self.optimizers = [
            torch.optim.AdamW(
                parameters,
                lr=self.settings.learning_rate,
                betas=tuple(adam.betas),
                eps=adam.eps,
                weight_decay=adam.weight_decay,
                fused=accelerator.device.type in ("cuda", "cpu"),
            )
            for parameters in self.parameters
        ]

    # ---- the run ---------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Resume or start, train, and leave a checkpoint of the last step.

        Raises:
            CheckpointError: the results folder holds checkpoints that this run must not touch or cannot continue.
            TrainingError: a loss or gradient became non-finite.
        """
        self._resume()
        main = self.accelerator.is_main_process
        if main:
            self._open_results()
        self.accelerator.wait_for_everyone()
        if self.step == 0 and self.prepare is not None:
            self.prepare(self.accelerator)
        self._install_signals()
        self._loop(iter(self.make_batches(self.accelerator, self.step * self.settings.gradient_accumulation)))
        self.save()
        if self.stopping:
            self.accelerator.print(f"stopped by a signal at step {self.step}; the same command goes on from here")
        if main:
            self.writer.close()
        self.accelerator.end_training()

    def _loop(self, batches: Iterator[dict[str, Any]]) -> None:
        """Steps until the last one or a request to stop, with what is due behind each of them."""
        settings, started, first = self.settings, time.monotonic(), self.step
        hidden = not self.accelerator.is_main_process
        sums: dict[str, list[Tensor]] = {}
        with tqdm(
            total=settings.training_steps,
            initial=self.step,
            desc=self.stage,
            unit="step",
            disable=hidden,
            mininterval=1.0,
        ) as bar:
            while self.step < settings.training_steps and not self._stop_requested():
                for name, value in self._train_step(batches).items():
                    sums.setdefault(name, []).append(value)
                self.step += 1
                self.ema.update_after_step(self.step)
                bar.update()
                last = self.step == settings.training_steps
                if last or self.step % settings.log_interval == 0:
                    figures = self._log(sums, (self.step - first) / (time.monotonic() - started))
                    bar.set_postfix(loss=f"{figures['loss']:.4g}", refresh=False)
                    sums = {}
                if self.step % settings.save_interval == 0:
                    if self.prepare_again:
                        self.prepare(self.accelerator)
                        self.ema.copy_buffers()
                    self.save()
                if last or self.step % settings.sample_interval == 0:
                    self._draw()

    def _train_step(self, batches: Iterator[dict[str, Any]]) -> dict[str, Tensor]:
        """One optimizer step over `gradient_accumulation` micro-batches; returns detached scalars."""
        accelerator = self.accelerator
        active = [i for i, objective in enumerate(self.objectives) if self.step >= objective.start_step]
        # dropout is the one consumer of the global generator
        torch.manual_seed((self.settings.seed * 1_000_003 + self.step) * 4099 + accelerator.process_index)
        logs: dict[str, Tensor] = {}
        names: list[str] = []
        for _ in range(self.settings.gradient_accumulation):
            batch = next(batches)
            names += batch["names"]
            carry: dict[str, Tensor] = {}
            with accelerator.accumulate(*[self.prepared[i] for i in active]):
                for i in active:
                    loss, terms, carry = self.prepared[i](batch, self.step, carry)
                    accelerator.backward(loss)  # divided by gradient_accumulation there
                    if i == 0:
                        terms = {"loss": loss.detach()} | terms
                    for name, value in terms.items():
                        logs[name] = logs.get(name, 0) + value / self.settings.gradient_accumulation
        logs |= self._update(active, names, logs)
        return logs

    def _update(self, active: list[int], names: list[str], logs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Unscale, check, clip and step every active optimizer; then the gradient scaler once."""
        scaler = self.accelerator.scaler
        rate = self.learning_rate()
        norms = {}
        for i in active:
            if scaler is not None:
                scaler.unscale_(self.optimizers[i])
            norm = nn.utils.clip_grad_norm_(self.parameters[i], self.settings.gradient_clip)
            norms[f"grad_norm_{self.objectives[i].name}"] = norm.detach()
        self._require_finite(norms if scaler is None else {}, logs, names)
        for i in active:
            optimizer = self.optimizers[i]
            for group in optimizer.param_groups:
                group["lr"] = rate
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)  # skips by itself where a gradient overflowed
            optimizer.zero_grad(set_to_none=True)
        if scaler is not None:
            scaler.update()
        return norms

    def _require_finite(self, norms: dict[str, Tensor], logs: dict[str, Tensor], names: list[str]) -> None:
        """Stop before the update if a loss, or without a gradient scaler a gradient, is not finite."""
        values = {**logs, **norms}
        bad = torch.stack([~torch.isfinite(value).all() for value in values.values()])
        if not bad.any():
            return
        which = ", ".join(name for name, flag in zip(values, bad.tolist(), strict=True) if flag)
        raise TrainingError(
            f"{which} became non-finite at step {self.step}, in the batch {', '.join(names[:32])}; nothing was updated; last good "
            f"checkpoint: {self.last_checkpoint or 'none yet'}; try a lower learning_rate or mixed_precision: 'no'"
        )

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

    # ---- stopping --------------------------------------------------------------------------------------------

    def _install_signals(self) -> None:
        """SIGTERM and SIGINT finish the step, save and end the run; the second one ends it at once."""

        def handle(number: int, frame: object) -> None:
            if self.stopping:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self.stopping = True

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)

    def _stop_requested(self) -> bool:
        """Whether any process was asked to stop, so that all leave the loop at the same step."""
        if self.accelerator.num_processes > 1:
            flag = torch.tensor(float(self.stopping), device=self.accelerator.device)
            self.stopping = bool(self.accelerator.reduce(flag, "sum") > 0)
        return self.stopping

    # ---- results ---------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Load the newest good checkpoint, or the chosen milestone, if there is one."""
        settings = self.settings
        if settings.enable_resume:
            found = find_checkpoint(self.results, settings.resume_milestone, warn=log.warning)
        else:
            found = find_checkpoint(self.results)
            if found is not None:
                raise CheckpointError(
                    f"{self.results}: already holds checkpoints up to ckpt_{found.step}; set trainer.enable_resume=true to go on, "
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
        load_strictly(self.model, found.weights("model"), found.path)
        self.ema.load_state_dict(found.weights("ema"))
        state = found.training_state()
        for objective, optimizer in zip(self.objectives, self.optimizers, strict=True):
            optimizer.load_state_dict(state["optimizers"][objective.name])
        for name, objective in self.extra.items():
            objective.load_state_dict(state["extra"][name])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.last_checkpoint = found.step, found.path
        self.accelerator.print(f"resumed from {found.path}")

    def save(self) -> None:
        """Write a checkpoint of the current step (main process), then delete the oldest beyond `keep_last`."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            self.last_checkpoint = save_checkpoint(
                self.results,
                step=self.step,
                stage=self.stage,
                config=self.config,
                model=self.model.state_dict(),
                ema=self.ema.state_dict(),
                training={
                    "optimizers": {
                        o.name: p.state_dict() for o, p in zip(self.objectives, self.optimizers, strict=True)
                    },
                    "extra": {name: objective.state_dict() for name, objective in self.extra.items()},
                    "scaler": scaler.state_dict() if scaler is not None else {},
                },
            )
            prune_checkpoints(self.results, self.settings.keep_last)
        self.accelerator.wait_for_everyone()

    def _open_results(self) -> None:
        """Log file, TensorBoard events, resolved configuration, model report."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only the main process writes

        self.results.mkdir(parents=True, exist_ok=True)
        (self.results / "samples").mkdir(exist_ok=True)
        handler = logging.FileHandler(self.results / "train.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        self.writer = SummaryWriter(str(self.results), purge_step=self.step + 1 if self.step else None)
        (self.results / "config.yaml").write_text(to_yaml(self.config), encoding="utf-8")
        report = model_report({"model": self.model} | self.extra)
        (self.results / "model_report.txt").write_text(report, encoding="utf-8")
        command = yaml.safe_dump(sys.argv, default_flow_style=True, width=10**6).strip()
        log.info(
            "step=%d started stage=%s processes=%d device=%s precision=%s command=%s",
            self.step, self.stage, self.accelerator.num_processes, self.accelerator.device,
            self.accelerator.mixed_precision, command,
        )  # fmt: skip

    def _log(self, sums: dict[str, list[Tensor]], steps_per_second: float) -> dict[str, float]:
        """Means since the last line, over all processes, to train.log and TensorBoard."""
        means = {name: torch.stack(values).float().mean() for name, values in sums.items()}
        stacked = self.accelerator.reduce(torch.stack(list(means.values())), "mean")
        figures = dict(zip(means, stacked.tolist(), strict=True))
        samples = self.settings.batch_size * self.settings.gradient_accumulation * self.accelerator.num_processes
        figures |= {"lr": self.learning_rate(), "samples_per_second": steps_per_second * samples}
        if self.accelerator.is_main_process:
            for name, value in figures.items():
                self.writer.add_scalar(f"train/{name}", value, self.step)
            log.info("step=%d %s", self.step, " ".join(f"{name}={value:.6g}" for name, value in figures.items()))
        return figures

    def _draw(self) -> None:
        if self.preview is None or not self.accelerator.is_main_process:
            return
        path = self.results / "samples" / f"sample_{self.step}.png"
        with self.accelerator.autocast():
            self.preview(self.ema.ema_model, path)
        log.info("step=%d picture=%s", self.step, path)
