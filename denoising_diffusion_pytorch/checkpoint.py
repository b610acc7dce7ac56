"""The format of checkpoints on disk.

`RESULTS/checkpoints/ckpt_STEP/` holds

    model.safetensors   every parameter and buffer of the model
    ema.safetensors     the averaged parameters (frozen ones are in model.safetensors) and buffers
    training.pt         optimizers, gradient scaler, discriminator; loadable with weights_only=True
    meta.json           stage, step, processes, resolved configuration, versions, validation metrics, SHA-256 of the files
                        above and of itself

A checkpoint is written under a hidden name, synced and renamed, so that a reader never sees half of one.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.files import write_text

from .config import differences, parse_config, resolve
from .config.schema import Config
from .errors import CheckpointError, ConfigError

log = logging.getLogger("radiodiff")
Tensors = dict[str, Tensor]

FORMAT = 3
META = {"stage", "step", "config", "metrics", "sha256"}  # in every meta.json
SCALE = ".scale"  # suffix of the names of the factors of int8 tensors
_PROCESS = [f"diffusion_config.{k}" for k in ("model_type", "objective", "timesteps", "beta_schedule", "scale_factor")]
_SECOND_STAGE = ("cond_stage_config", "unet_config", "data.cond_channels", "data.cond_size", *_PROCESS)
ARCHITECTURE = {  # settings that change what the weights of a stage mean
    "vae": ("first_stage_config.embed_dim", "first_stage_config.ddconfig", "data.cond_channels"),
    "ldm": ("first_stage_config.embed_dim", "first_stage_config.ddconfig", *_SECOND_STAGE),
    "baseline": ("baseline_config", "data.cond_channels", "data.image_size"),
}
MAY_CHANGE = ("unet_config.use_checkpoint", "unet_config.dropout", "first_stage_config.ddconfig.dropout")
SAMPLING = [  # settings that a trained model can be exported with
    f"diffusion_config.{name}" for name in ("sampler", "sampling_timesteps", "noise_scale", "pixel_noise")
]


@dataclass
class Checkpoint:
    """A checkpoint on disk: its folder and what meta.json says."""

    path: Path
    meta: dict[str, Any]
    step = property(lambda self: self.meta["step"], doc="Optimizer steps taken.")
    stage = property(lambda self: self.meta["stage"], doc="`vae`, `ldm` or `baseline`.")

    @property
    def config(self) -> Config:
        """The resolved configuration of the run."""
        return resolve(parse_config(self.meta["config"]), stage=self.stage)

    def weights(self, name: str) -> Tensors:
        """The tensors of `model`, `ema`, or `averaged` (`model` with those of `ema` in their place), on the CPU."""
        if name == "averaged":
            return self.weights("model") | self.weights("ema")
        if name == "ema" and self.meta.get("exported"):
            return {}  # an exported model has its averaged weights under `model`
        return load_tensors(self.path / f"{name}.safetensors")

    def training_state(self) -> dict[str, Any]:
        """The `training` that `save_checkpoint` got, on the CPU."""
        return load_tensors(self.path / "training.pt")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    names = ("torch", "torchvision", "accelerate", "numpy", "safetensors")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def save_checkpoint(
    results: Path, step: int, config: Config, model: Tensors, ema: Tensors, training: dict[str, Any], **facts: Any
) -> Path:
    """Write `results/checkpoints/ckpt_STEP`, unless this step was saved before, and return its path; `facts` are stage and
    number of processes. Raises CheckpointError if it cannot be written, for instance because the disk is full.
    """
    target = results / "checkpoints" / f"ckpt_{step}"
    if target.exists():
        return target
    facts |= {"format": FORMAT, "step": step, "config": config.model_dump(), "versions": versions(), "metrics": {}}
    for half_written in target.parent.glob(".ckpt_[0-9]*"):  # by a run that was killed while it saved
        shutil.rmtree(half_written, ignore_errors=True)
    with _complete(target, "older ones are untouched; free some space, or lower trainer.keep_last") as aside:
        for name, tensors in (("model", model), ("ema", ema)):
            _save_tensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, aside / f"{name}.safetensors")
        torch.save(training, aside / "training.pt")
        write_meta(aside, facts | {"sha256": _digests(aside)})
    return target


@contextmanager
def _complete(target: Path, remedy: str) -> Iterator[Path]:
    """A hidden folder to write to, which becomes `target` at the end; raises CheckpointError if it cannot be written."""
    aside = target.with_name(f".{target.name}_{secrets.token_hex(4)}")
    try:
        aside.mkdir(parents=True)
        yield aside
        for path in (*aside.iterdir(), aside):
            _sync(path)
        os.rename(aside, target)
        _sync(target.parent)
    except (SafetensorError, RuntimeError, OSError) as error:  # the first two are what a full disk raises
        reason = f"could not be written ({' '.join(str(error).split())})"
        raise CheckpointError(f"{target}: {reason}; {remedy}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def export_model(checkpoint: Checkpoint, folder: Path, overrides: Sequence[str] = (), int8: bool = False) -> Path:
    """Write only what is needed to use a model: averaged weights, matrices and kernels in half precision or as 8-bit
    integers, and meta.json. Raises CheckpointError if `folder` exists or cannot be written, ConfigError for
    `overrides` of settings not in SAMPLING.
    """
    if folder.exists():
        raise CheckpointError(f"{folder}: exists; choose a new folder")
    for override in overrides:
        if override.partition("=")[0].strip() not in SAMPLING:
            raise ConfigError(f"{override}: is fixed by training; only these can be changed: {', '.join(SAMPLING)}")
    config = resolve(parse_config(checkpoint.config.model_dump(), overrides), checkpoint.stage)
    state = checkpoint.weights("averaged")
    for name in [name for name, weight in state.items() if weight.ndim > 1 and weight.is_floating_point()]:
        state |= quantized(name, state[name]) if int8 else {name: state[name].half().contiguous()}
    with _complete(folder.resolve(), "free some space, or choose another folder") as aside:
        _save_tensors(state, aside / "model.safetensors")
        facts = {"exported": True, "config": config.model_dump(), "sha256": _digests(aside)}
        write_meta(aside, checkpoint.meta | facts)
    return folder


def _save_tensors(tensors: Tensors, path: Path) -> None:
    save_file(tensors, path)
    with suppress(OSError):  # some file systems have no modes
        path.chmod(path.parent.stat().st_mode & 0o666)  # the umask's; safetensors makes private files


def quantized(name: str, weight: Tensor) -> Tensors:
    """A matrix or kernel as 8-bit integers, and their factors, one per output channel."""
    weight = weight.float()  # in half precision, a small factor is too coarse
    scale = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-30) / 127
    return {name: (weight / scale).round().to(torch.int8).contiguous(), name + SCALE: scale}


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write meta.json whole or not at all, with its own checksum."""
    write_text(folder / "meta.json", json.dumps(meta | {"checksum": _checksum(meta)}, indent=1))


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders, and syncs only files that are open for writing
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _checksum(meta: dict[str, Any]) -> str:
    content = {key: value for key, value in meta.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a checkpoint by name."""
    digests = {path.name: hashlib.sha256() for path in folder.iterdir() if path.suffix in (".safetensors", ".pt")}
    for name, digest in digests.items():
        with (folder / name).open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def load_tensors(path: Path) -> Any:
    """The content of a .safetensors file or a torch file of tensors and plain containers, on the CPU. The file need not be
    trusted: nothing in it is executed. Raises CheckpointError if it is damaged, of another kind, or unpickling needs code.
    """
    try:
        if path.suffix != ".safetensors":
            return torch.load(path, "cpu", weights_only=True)
        stored = load_file(path)
        for name in [name for name, tensor in stored.items() if tensor.dtype == torch.int8]:
            stored[name] = stored[name] * stored.pop(name + SCALE)
        return stored
    except Exception as error:  # many kinds; all mean that the file cannot be trusted
        # torch explains first how to execute what is in the file
        reason = " ".join(str(error).rpartition("WeightsUnpickler error: ")[2].split())[:200] or type(error).__name__
        raise CheckpointError(f"{path}: is not a .safetensors or torch file of plain tensors ({reason})") from error


def read_meta(folder: Path) -> dict[str, Any]:
    """meta.json; raises CheckpointError if it is damaged or of another format."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        is_good = meta["checksum"] == _checksum(meta) and meta["format"] == FORMAT and meta.keys() >= META
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        is_good = False
    if not is_good:
        raise CheckpointError(f"{folder}: meta.json is missing, altered, or not of format {FORMAT}")
    return meta


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint folder; raises CheckpointError if one of its files is missing or altered."""
    meta = read_meta(path)
    found = _digests(path)
    for name, digest in meta["sha256"].items():
        if found.get(name) != digest:
            raise CheckpointError(f"{path}: {name} is {'truncated or altered' if name in found else 'missing'}")
    return Checkpoint(path, meta)


def steps_of(results: Path) -> dict[int, Path]:
    """The checkpoint folders of a results folder by step, damaged ones too, the oldest first."""
    found = [(re.fullmatch(r"ckpt_(\d+)", path.name), path) for path in (results / "checkpoints").glob("ckpt_*")]
    return dict(sorted((int(match[1]), path) for match, path in found if match and path.is_dir()))


def find_checkpoint(
    results: Path, milestone: int | str = "latest", warn: Callable[[str], None] = log.warning
) -> Checkpoint | None:
    """The checkpoint of a step, or the newest good one (0 or `latest`); None if there are no checkpoints. Raises
    CheckpointError if that step is missing or damaged, or if all checkpoints are damaged.
    """
    steps = steps_of(results)
    if milestone not in (0, "latest"):
        if milestone not in steps:
            listed = ", ".join(map(str, steps)) or "none"
            raise CheckpointError(f"{results}: no ckpt_{milestone}; there are: {listed} (trainer.resume_milestone)")
        return read_checkpoint(steps[milestone])
    for path in reversed(steps.values()):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            warn(f"{error}; falling back to an older one")
    if steps:
        raise CheckpointError(f"{results}: every checkpoint is damaged; start in another results folder")
    return None


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A checkpoint folder, or the newest checkpoint of a results folder; raises CheckpointError if there is neither."""
    path = Path(path)
    if found := read_checkpoint(path) if (path / "meta.json").is_file() else find_checkpoint(path):
        return found
    raise CheckpointError(f"{path}: no checkpoint; give a ckpt_STEP folder, or a results folder that has one")


def checkpoint_to_continue(config: Config, stage: str, warn: Callable[[str], None] = log.warning) -> Checkpoint | None:
    """The checkpoint that a run continues from: the newest good one, or the chosen milestone; None for a new run. Raises
    CheckpointError if the results folder holds checkpoints that this run must not touch or cannot continue.
    """
    settings, elsewhere = config.trainer, "choose another trainer.results_folder"
    milestone = settings.resume_milestone if settings.enable_resume else 0
    found = find_checkpoint(Path(settings.results_folder), milestone, warn=warn)
    if found is None:
        return None
    if not settings.enable_resume:
        message = f"{found.path.parent}: already holds checkpoints; set trainer.enable_resume=true to continue"
        raise CheckpointError(f"{message}, or {elsewhere}")
    if found.stage != stage:
        raise CheckpointError(f"{found.path}: belongs to stage {found.stage}; {elsewhere}")
    changed = [line for line in differences(found.config, config) if not line.startswith(MAY_CHANGE)]
    if altered := "; ".join(line for line in changed if line.startswith(ARCHITECTURE[stage])):
        raise CheckpointError(
            f"{found.path}: has a different architecture: {altered}; use those settings, or {elsewhere}"
        )
    if altered := "; ".join(line for line in changed if line.startswith("trainer.optimizer.type")):
        raise CheckpointError(f"{found.path}: {altered}; an optimizer cannot resume another's state; {elsewhere}")
    return found
