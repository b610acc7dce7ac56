"""The results folder of a run, except its checkpoints: the lock, how the run was started, and metrics and pictures, which
also go to accelerate's trackers.

config.yaml         the resolved configuration
starts.jsonl        one line per start: time, step, command, git revision, versions, processes, device, precision
train.log           `TIME step=N key=value ...`, one line per logging step; later lines of a step win after a crash
model_report.txt    parameters of every part
samples/            pictures
events.out.tfevents.* of the tracker `tensorboard`
"""

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from data.files import lock, write_text

from ..checkpoint import steps_of, versions
from ..config import to_yaml
from ..config.schema import Config
from ..errors import CheckpointError

log = logging.getLogger("radiodiff")


class RunFolder:
    """Writes the folder's files; a context, used by the main process only. CheckpointError: another process trains there, or
    config.yaml is not a run's.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        is_run = (folder / "starts.jsonl").exists() or steps_of(folder)
        if (folder / "config.yaml").exists() and not is_run:
            raise CheckpointError(f"{folder}: its config.yaml is not a run's and would be replaced; move it elsewhere")
        for part in ("samples", "checkpoints"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        self._lock = (folder / ".lock").open("a")
        if not lock(self._lock):
            message = "another process is training here; wait for it, or choose another trainer.results_folder"
            raise CheckpointError(f"{folder}: {message}")
        # opened before the run resumes, which may warn about damaged checkpoints
        self._handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
        log.addHandler(self._handler)
        log.setLevel(logging.INFO)

    def begin(self, config: Config, report: str, accelerator: Accelerator, step: int) -> None:
        """Write what is known before the first step, and start the trackers in a project with the folder's name."""
        self.accelerator, device = accelerator, accelerator.device
        # TensorBoard's events continue after `step`
        continued = {"tensorboard": {"purge_step": step + 1}}
        accelerator.init_trackers(self.folder.resolve().name, init_kwargs=continued)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        start = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "step": step, "command": sys.argv, "git": git_revision()}
        start |= {"directory": os.getcwd(), "versions": versions(), "host": platform.node(), "device": name}
        start |= {"processes": accelerator.num_processes, "precision": accelerator.mixed_precision}
        with (self.folder / "starts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(start) + "\n")
        write_text(self.folder / "config.yaml", to_yaml(config))
        write_text(self.folder / "model_report.txt", report)
        log.info("step=%d event=start processes=%d precision=%s", step, start["processes"], start["precision"])

    def metrics(self, group: str, values: dict[str, float], step: int) -> None:
        """A line of train.log, and a scalar each for the trackers under `group`/."""
        self.accelerator.log({f"{group}/{name}": value for name, value in values.items()}, step=step)
        prefix = "" if group == "train" else f"{group}_"
        log.info("step=%d %s", step, " ".join(f"{prefix}{name}={value:.6g}" for name, value in values.items()))

    def picture(self, step: int, write: Callable[[Path], None]) -> None:
        """The picture of a step, which `write` writes to a given path; TensorBoard shows the picture."""
        path = self.folder / "samples" / f"sample_{step}.png"
        write(path)
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB"))[None]  # (1, H, W, 3)
                tracker.log_images({"samples": pixels}, step=step, dataformats="NHWC")

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        log.removeHandler(self._handler)
        self._handler.close()
        self._lock.close()


def git_revision() -> str | None:
    """Commit of this code, with `-dirty` appended where files differ; None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True) if shutil.which("git") else None
    return found.stdout.strip() or None if found else None


def read_log(path: str | Path) -> dict[str, dict[int, float]]:
    """The metrics of a train.log: {name: {step: value}}; the last line counts for a step that was repeated. Other lines, and
    one that was cut by a full disk, are left out.
    """
    metrics: dict[str, dict[int, float]] = {}
    text = Path(path).read_text(encoding="utf-8")
    for line in text[: text.rfind("\n") + 1].splitlines():
        try:
            values = {key: float(value) for key, value in (word.split("=") for word in line.split()[1:])}
            step = int(values.pop("step"))
        except (ValueError, KeyError):
            continue
        for key, value in values.items():
            metrics.setdefault(key, {})[step] = value
    return metrics


def model_report(modules: dict[str, nn.Module]) -> str:
    """One line per part, two levels deep: its number of parameters, and how many of them are trained."""
    lines = []
    for name, module in modules.items():
        for path, part in module.named_modules(prefix=name):
            total = sum(p.numel() for p in part.parameters())
            trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
            if total and path.count(".") <= 2:
                lines.append(f"{path:<48} {total:>14,} parameters, {f'{trained:,} trained' if trained else 'frozen'}")
    return "\n".join(lines) + "\n"
