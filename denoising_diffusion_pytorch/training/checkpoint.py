"""The on-disk format of checkpoints, which no other module knows.

`RESULTS/checkpoints/ckpt_STEP/` holds

    model.safetensors   every parameter and buffer of the model
    ema.safetensors     the averaged parameters (frozen ones are in model.safetensors) and buffers
    training.pt         optimizers, gradient scaler, discriminator; loadable with weights_only=True
    meta.json           stage, step, resolved configuration, versions, validation metrics, SHA-256 of the files above
                        and of itself

A checkpoint is written under a hidden name, synced and renamed, so that a reader never sees half of one.
"""

import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..config import differences, parse_config, resolve, to_dict
from ..config.schema import Config, FirstStageConfig
from ..errors import CheckpointError, ConfigError

log = logging.getLogger("radiodiff")

FORMAT = 3
FOLDER = "checkpoints"
PATTERN = re.compile(r"ckpt_(\d+)$")
_AUTOENCODER = ("first_stage_config.embed_dim", "first_stage_config.ddconfig")
ARCHITECTURE = {  # settings that change what the weights of a stage mean
    "vae": _AUTOENCODER,
    "ldm": (
        *_AUTOENCODER,
        "cond_stage_config",
        "unet_config",
        "data.cond_channels",
        "data.cond_size",
        "diffusion_config.model_type",
        "diffusion_config.objective",
        "diffusion_config.timesteps",
        "diffusion_config.beta_schedule",
    ),
    "baseline": ("baseline_config", "data.cond_channels", "data.image_size"),
}
SAMPLING = tuple(  # settings that a trained model can be exported with
    f"diffusion_config.{name}" for name in ("sampler", "sampling_timesteps", "noise_scale", "pixel_noise", "ddim_eta")
)
NOT_DECISIVE = ("unet_config.use_checkpoint", "unet_config.dropout", "first_stage_config.ddconfig.dropout")


@dataclass
class Checkpoint:
    """A checkpoint on disk: its folder and what meta.json says."""

    path: Path
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.meta["step"]

    @property
    def stage(self) -> str:
        """`vae`, `ldm` or `baseline`."""
        return self.meta["stage"]

    @property
    def config(self) -> Config:
        """The resolved configuration of the run."""
        return resolve(parse_config(self.meta["config"]), stage=self.stage)

    def weights(self, name: str) -> dict[str, Tensor]:
        """The tensors of `model` or `ema`, on the CPU; an exported model has its averaged weights under `model`."""
        if name == "ema" and self.meta.get("exported"):
            return {}
        return load_safetensors(self.path / f"{name}.safetensors")

    def training_state(self) -> dict[str, Any]:
        """What save_checkpoint was given as `training`, on the CPU."""
        return torch.load(self.path / "training.pt", map_location="cpu", weights_only=True)


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU; raises CheckpointError where it is unreadable."""
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _digest(path: Path) -> str:
    """SHA-256 of a file, which is read again only after it has changed: a run looks at its checkpoints several times."""
    state = path.stat()
    return _digest_of(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest_of(path: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    names = ("torch", "torchvision", "accelerate", "numpy", "safetensors")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def save_checkpoint(
    results: Path,
    *,
    step: int,
    stage: str,
    config: Config,
    model: dict[str, Tensor],
    ema: dict[str, Tensor],
    training: dict[str, Any],
    metrics: dict[str, float] | None = None,
) -> Path:
    """Write `results/checkpoints/ckpt_STEP` and return it.

    Raises:
        CheckpointError: too little space on the disk: checked before anything is written, and no other checkpoint is
            touched.
    """
    folder = results / FOLDER
    target = folder / f"ckpt_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    if target.exists():
        if damage(target) is None:
            return target  # this very step was saved before
        os.rename(target, folder / f"damaged_ckpt_{step}_{time.time_ns()}")
    size = sum(t.numel() * t.element_size() for t in (*model.values(), *ema.values(), *_tensors(training)))
    free, needed = shutil.disk_usage(folder).free, size * 1.05 + 2**20  # names and numbers beside the tensors
    if free < needed:
        raise CheckpointError(
            f"{folder}: {free / 2**20:.1f} MiB free, a checkpoint needs {needed / 2**20:.1f} MiB; free some space, or keep "
            "fewer (trainer.keep_last); what is there is untouched"
        )
    for half_written in folder.glob(".ckpt_*"):  # by a run that was killed while it saved
        shutil.rmtree(half_written)
    aside = folder / f".ckpt_{step}"
    aside.mkdir()
    try:
        safetensors.torch.save_file(
            {k: v.detach().cpu().contiguous() for k, v in model.items()}, aside / "model.safetensors"
        )
        safetensors.torch.save_file(
            {k: v.detach().cpu().contiguous() for k, v in ema.items()}, aside / "ema.safetensors"
        )
        torch.save(training, aside / "training.pt")
        files = {path.name: _digest(path) for path in sorted(aside.iterdir())}
        meta = {
            "stage": stage,
            "step": step,
            "config": to_dict(config),
            "versions": versions(),
            "metrics": metrics or {},
        }
        _write_meta(aside, {"format": FORMAT} | meta | {"sha256": files})
        for path in (*aside.iterdir(), aside):
            _sync(path)
        os.rename(aside, target)
        _sync(folder)
    except (SafetensorError, RuntimeError) as error:  # what safetensors and torch.save make of a full disk
        raise CheckpointError(f"{target}: could not be written ({error}); older checkpoints are untouched") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def export_model(checkpoint: Checkpoint, folder: Path, overrides: Sequence[str] = ()) -> Path:
    """What is needed to use a model, and no more: averaged weights, matrices and kernels in half precision, and meta.json.

    Args:
        checkpoint: to export.
        folder: new.
        overrides: key=value of settings in SAMPLING.

    Raises:
        CheckpointError: `folder` holds a model already.
        ConfigError: another setting.
    """
    if (folder / "meta.json").exists():
        raise CheckpointError(f"{folder}: holds a model already; name another folder")
    config = resolve(parse_config(to_dict(checkpoint.config), overrides), checkpoint.stage)
    for change in differences(checkpoint.config, config):
        if change.partition(":")[0] not in SAMPLING:
            raise ConfigError(f"{change}: is fixed by training; what can be changed is {', '.join(SAMPLING)}")
    folder.mkdir(parents=True, exist_ok=True)
    state = checkpoint.weights("model") | checkpoint.weights("ema")
    state = {k: v.half().contiguous() if v.ndim > 1 and v.is_floating_point() else v for k, v in state.items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    files = {"model.safetensors": _digest(folder / "model.safetensors")}
    _write_meta(folder, checkpoint.meta | {"exported": True, "sha256": files, "config": to_dict(config)})
    return folder


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, list | tuple) else []


def record_metrics(path: Path, metrics: dict[str, float]) -> None:
    """Add validation metrics to the checkpoint that they were measured on."""
    meta = _read_meta(path)
    meta["metrics"] = metrics
    _write_meta(path, meta)
    _sync(path)


def prune_checkpoints(results: Path, keep_last: int, keep_every: int = 0, keep: Iterable[int] = ()) -> None:
    """Delete checkpoints, except the newest, the best by validation NMSE, and those to be kept for good.

    Args:
        results: results folder.
        keep_last: how many of the newest stay.
        keep_every: multiples of this step stay; 0 for none.
        keep: steps that stay.
    """
    steps = _steps(results / FOLDER)
    newest = sorted(steps)[-keep_last:]
    scores = {step: score for step, path in steps.items() if (score := _score(path)) is not None}
    best = [min(scores, key=scores.get)] if scores else []
    for step in steps.keys() - {*newest, *best, *keep}:
        if not keep_every or step % keep_every:
            shutil.rmtree(steps[step])


def best_score(results: Path) -> float:
    """The lowest validation NMSE among the checkpoints of a results folder; infinity where there is none."""
    scores = [_score(path) for path in _steps(results / FOLDER).values()]
    return min((score for score in scores if score is not None), default=math.inf)


def _score(path: Path) -> float | None:
    try:
        score = _read_meta(path)["metrics"].get("nmse")
    except (CheckpointError, KeyError, AttributeError):
        return None  # a damaged one is nobody's best
    return score if isinstance(score, float) and math.isfinite(score) else None


def set_aside_newer(results: Path, step: int) -> Path | None:
    """Move checkpoints after `step` out of the way of a run that goes on from there; nothing is deleted.

    Returns:
        the folder that holds them now, None where there were none.
    """
    folder = results / FOLDER
    newer = [path for number, path in _steps(folder).items() if number > step]
    if not newer:
        return None
    aside = folder / f"superseded_{time.strftime('%Y%m%d_%H%M%S')}_{time.time_ns() % 10**9:09d}"
    aside.mkdir()
    for path in newer:
        os.rename(path, aside / path.name)
    return aside


def _steps(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    matches = ((PATTERN.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return {int(match[1]): path for match, path in matches if match}


def _meta_digest(meta: dict[str, Any]) -> str:
    content = {key: value for key, value in meta.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write meta.json whole or not at all."""
    meta["checksum"] = _meta_digest(meta)
    aside = folder / ".meta.json"
    aside.write_text(json.dumps(meta, indent=1), encoding="utf-8")
    _sync(aside)
    os.replace(aside, folder / "meta.json")


def _read_meta(folder: Path) -> dict[str, Any]:
    """meta.json, or CheckpointError that says in a few words what is wrong with it."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT or meta["stage"] not in ARCHITECTURE:
            raise CheckpointError(f"is of format {meta['format']!r:.20}; this version reads {FORMAT}")
        if meta["checksum"] != _meta_digest(meta):
            raise CheckpointError("meta.json is altered")
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"meta.json is unreadable ({type(error).__name__})") from error
    return meta


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, in a few words; None if every file is as it was written."""
    try:
        meta = _read_meta(path)
    except CheckpointError as error:
        return str(error)
    for name, digest in meta["sha256"].items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _digest(path / name) != digest:
            return f"{name} is truncated or altered"
    return None


def _read(path: Path) -> Checkpoint:
    problem = damage(path)
    if problem:
        raise CheckpointError(f"{path}: {problem}; use an older checkpoint")
    return Checkpoint(path, _read_meta(path))


def find_checkpoint(
    results: Path, milestone: int | str = "latest", warn: Callable[[str], None] = log.warning
) -> Checkpoint | None:
    """The checkpoint of a step, or the newest good one (0 or `latest`), None where there is none at all.

    Raises:
        CheckpointError: the step is not there (the message lists those that are), or all are damaged.
    """
    steps = _steps(results / FOLDER)
    if milestone not in (0, "latest"):
        if milestone not in steps:
            listed = ", ".join(map(str, sorted(steps))) or "none"
            raise CheckpointError(
                f"{results / FOLDER}: no ckpt_{milestone}; there are: {listed} (trainer.resume_milestone)"
            )
        return _read(steps[milestone])
    for step in sorted(steps, reverse=True):
        problem = damage(steps[step])
        if problem is None:
            return Checkpoint(steps[step], _read_meta(steps[step]))
        warn(f"{steps[step]}: {problem}; falling back to an older one")
    if steps:
        raise CheckpointError(f"{results / FOLDER}: every checkpoint is damaged; start in another results folder")
    return None


def checkpoint_to_continue(config: Config, stage: str, warn: Callable[[str], None] = log.warning) -> Checkpoint | None:
    """The checkpoint that a run goes on from: the newest good one, or the chosen milestone; None for a new run.

    Raises:
        CheckpointError: the results folder holds checkpoints that this run must not touch or cannot continue.
    """
    settings, folder = config.trainer, Path(config.trainer.results_folder)
    found = find_checkpoint(folder, settings.resume_milestone if settings.enable_resume else 0, warn=warn)
    if found is None:
        return None
    if not settings.enable_resume:
        raise CheckpointError(
            f"{folder}: already holds checkpoints up to ckpt_{found.step}; set trainer.enable_resume=true to go on, "
            "or choose another trainer.results_folder"
        )
    if found.stage != stage:
        raise CheckpointError(f"{found.path}: belongs to stage {found.stage}; choose another trainer.results_folder")
    altered = [
        line
        for line in differences(found.config, config)
        if line.startswith(ARCHITECTURE[stage]) and not line.startswith(NOT_DECISIVE)
    ]
    if altered:
        raise CheckpointError(
            f"{found.path}: made with another architecture: {'; '.join(altered)}; use those settings, or choose another "
            "trainer.results_folder"
        )
    return found


def is_continued(config: Config, stage: str) -> bool:
    """Whether a run goes on from a checkpoint; errors as `checkpoint_to_continue`, without a word about damaged ones."""
    return checkpoint_to_continue(config, stage, warn=lambda line: None) is not None


def trained_first_stage(path: str) -> FirstStageConfig | None:
    """The autoencoder's settings of a checkpoint of either stage; None where the path holds no readable one of ours."""
    try:
        return open_checkpoint(path).config.first_stage_config
    except (CheckpointError, ConfigError):
        return None  # a file of other code, or a mistake that is reported when the weights are loaded


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A checkpoint folder, or the newest checkpoint of a results folder.

    Raises:
        CheckpointError: neither is there.
    """
    path = Path(path)
    if (path / "meta.json").is_file():
        return _read(path)
    found = find_checkpoint(path) if path.is_dir() else None
    if found is None:
        raise CheckpointError(
            f"{path}: no checkpoint; name a ckpt_STEP folder, or a results folder with checkpoints/ckpt_STEP"
        )
    return found
