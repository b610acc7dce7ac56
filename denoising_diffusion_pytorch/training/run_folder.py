"""The results folder of a run, apart from its checkpoints: its lock, how the run was started, metrics and pictures.

config.yaml         the resolved configuration
starts.jsonl        one line per start: time, step, command, git revision, versions, processes, device, precision
train.log           `TIME step=N key=value ...`, one line per logging step; later lines of a step win after a crash
model_report.txt    parameters of every part
samples/            pictures
events.out.tfevents.*
"""

import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from data.files import write_text

from ..checkpoint import versions
from ..config import to_yaml
from ..config.schema import Config
from ..errors import CheckpointError

try:
    import fcntl
    import resource
except ImportError:  # Windows: two runs in one folder go unnoticed there
    fcntl = resource = None

log = logging.getLogger("radiodiff")


class RunFolder:
    """Writes the folder's files; a context, used by the main process only. CheckpointError: another process trains there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writer: Any = None  # TensorBoard's
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        self._lock = (folder / ".lock").open("a")
        try:
            if fcntl is not None:  # a POSIX lock ends with its process, however that ends; workers do not inherit it
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            said = "another process is training here; wait for it, or choose another trainer.results_folder"
            raise CheckpointError(f"{folder}: {said}") from error
        except OSError as error:
            log.warning("%s: the file system has no locks (%s); do not start a second run here", folder, error)
        # from now on, so that it holds what is said of damaged checkpoints
        self._handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
        log.addHandler(self._handler)
        log.setLevel(logging.INFO)

    def begin(self, config: Config, report: str, accelerator: Accelerator, step: int) -> None:
        """Write what is known before the first step, and open TensorBoard's events to continue after `step`."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only the main process writes

        self.writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)
        write_text(self.folder / "config.yaml", to_yaml(config))
        write_text(self.folder / "model_report.txt", report)
        device = accelerator.device
        start = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "step": step,
            "command": sys.argv,
            "directory": os.getcwd(),
            "git": git_revision(),
            "versions": versions(),
            "host": platform.node(),
            "processes": accelerator.num_processes,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "precision": accelerator.mixed_precision,
        }
        with (self.folder / "starts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(start) + "\n")
        log.info("step=%d event=start processes=%d precision=%s", step, start["processes"], start["precision"])

    def metrics(self, group: str, values: dict[str, float], step: int) -> None:
        """A line of train.log and a scalar each in TensorBoard under `group`/."""
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)
        prefix = "" if group == "train" else f"{group}_"
        log.info("step=%d %s", step, " ".join(f"{prefix}{name}={value:.6g}" for name, value in values.items()))

    def picture(self, step: int, write: Callable[[Path], None]) -> None:
        """The picture of a step, which `write` writes to the path that it is given."""
        path = self.folder / "samples" / f"sample_{step}.png"
        write(path)
        with Image.open(path) as picture:
            self.writer.add_image("samples", np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            self.writer.close()
        log.removeHandler(self._handler)
        self._handler.close()
        self._lock.close()


def git_revision() -> str | None:
    """Commit of this code, with `+` appended where files differ; None outside a git checkout."""
    here = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit, changes = (
            subprocess.run([*here, *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changes else "")


def read_log(path: str | Path) -> dict[str, dict[int, float]]:
    """The metrics of a train.log: {name: {step: value}}; of a step that was taken again, the last line's."""
    metrics: dict[str, dict[int, float]] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        pairs = [word.split("=", 1) for word in line.split()[1:] if "=" in word]
        if pairs and pairs[0][0] == "step" and pairs[1][0] != "event":
            for key, value in pairs[1:]:
                metrics.setdefault(key, {})[int(pairs[0][1])] = float(value)
    return metrics


# ---- what is written there -----------------------------------------------------------------------------------------


class Meter:
    """Means over all processes of what the steps report between two log lines; scalars stay on the device until then."""

    def __init__(self, accelerator: Accelerator, samples_per_step: int):
        self.accelerator, self.samples_per_step = accelerator, samples_per_step
        self.values: defaultdict[str, list[Tensor]] = defaultdict(list)
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0

    def add(self, values: dict[str, Tensor], started: float) -> None:
        """A step's detached scalars; `started`: `time.monotonic()` at its beginning."""
        for name, value in values.items():
            self.values[name].append(value)
        self.steps += 1
        self.seconds += time.monotonic() - started

    def read(self) -> dict[str, float]:
        """Means over steps and processes since the last call, samples per second, fraction of time waited, peak memory."""
        means = {}
        for name, values in self.values.items():
            finite = [value for value in torch.stack(values).float().tolist() if math.isfinite(value)]
            means[name] = sum(finite) / len(finite) if finite else math.nan  # overflowed gradients have no norm
        means |= {"data_wait": self.waited / self.seconds, "memory_gib": memory_gib(self.accelerator.device)}
        local = torch.tensor([*means.values()], device=self.accelerator.device)
        metrics = dict(zip(means, self.accelerator.reduce(local, "mean").tolist(), strict=True))
        metrics["samples_per_second"] = self.steps * self.samples_per_step / self.seconds
        self.values.clear()
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        return metrics


def memory_gib(device: torch.device) -> float:
    """Peak memory so far, GiB: of the GPU's allocator, else of this process; NaN where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if resource is None:
        return math.nan
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def count_parameters(module: nn.Module, *, trained: bool = False) -> int:
    """Parameters, all or only those that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def model_report(modules: dict[str, nn.Module]) -> str:
    """A table of parts down to two levels: parameters, those that are trained, and whether the part is frozen."""
    lines = [f"{'part':<48} {'parameters':>14} {'trained':>14}  state"]
    for name, module in modules.items():
        for path, part in module.named_modules(prefix=name):
            total, trained = count_parameters(part), count_parameters(part, trained=True)
            if total and path.count(".") - name.count(".") <= 2:
                state = "trained" if trained == total else "partly frozen" if trained else "frozen"
                lines.append(f"{path:<48} {total:>14,} {trained:>14,}  {state}")
    return "\n".join(lines) + "\n"
