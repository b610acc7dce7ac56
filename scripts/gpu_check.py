"""Check this machine's GPU in at most eight minutes, without data: precision, memory, speed, resuming, several GPUs.

    python scripts/gpu_check.py            the design document's sizes; without a GPU, the quickstart's (--tiny)

Prints one table; `not done` says why. The exit code is 1 if a check failed. Batches are random. `of peak` is what a step
computes (`Forecast.flops`), divided by its time and by the speed of a large matrix product of the same type.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.config import load_config
from denoising_diffusion_pytorch.training.forecast import forecast, random_trainer
from denoising_diffusion_pytorch.training.setup import make_accelerator
from denoising_diffusion_pytorch.training.speed import matmul_peak, memory_gib, seconds_of

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    False: {"vae": "first_radio_m.yaml", "ldm": "radio_train_m.yaml"},
    True: {"vae": "tiny_vae.yaml", "ldm": "tiny_ldm.yaml"},
}
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SECONDS = 480.0  # for all checks
GPUS = torch.cuda.device_count()


def trainer_of(job: dict[str, Any], **settings: Any) -> Any:
    """The real trainer on random batches, one micro-batch per step."""
    changes = {"gradient_accumulation": 1, "mixed_precision": job["precision"], "results_folder": job["folder"]}
    changes |= {"num_samples": 0, "validate_every": 0} | settings
    overrides = [f"trainer.{key}={value}" for key, value in changes.items()]
    if job["stage"] == "ldm":
        overrides.append("diffusion_config.scale_factor=1")
    name = CONFIGS[job["tiny"]][job["stage"]]
    config = load_config(ROOT / "configs" / name, [*overrides, "data.train.data_root=unused"], stage=job["stage"])
    return random_trainer(config, job["stage"], make_accelerator(config.trainer))


# ---- checks, each in a process of its own ----------------------------------------------------------------------------


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """A few steps: losses, seconds, GiB, and whether one of them waits for the GPU."""
    trainer = trainer_of(job, compile=job["compile"])
    batches, device = trainer.make_batches(0), trainer.accelerator.device
    losses = [float(trainer.train_step(batches)["loss"]) for _ in range(3)]
    found: dict[str, Any] = {"maps": trainer.settings.batch_size, "losses": losses}
    if GPUS and trainer.accelerator.scaler is None:  # a gradient scaler waits for every step
        torch.cuda.set_sync_debug_mode("error")
        try:
            trainer.train_step(batches)
            found["waits"] = ""
        except RuntimeError as error:
            found["waits"] = str(error).splitlines()[0]
        torch.cuda.set_sync_debug_mode("default")
    found |= {"memory": memory_gib(device), "seconds": min(seconds_of(lambda: trainer.train_step(batches), 3))}
    expected, peak = forecast(trainer.config, job["stage"], step=3), matmul_peak(device, TYPES[job["precision"]])
    return found | {"forecast": expected.peak / 2**30, "flops": expected.flops, "peak": peak}


def resume(job: dict[str, Any]) -> dict[str, Any]:
    """Four steps at once and in two runs: the largest difference of a weight."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    folder, how = Path(job["folder"]), {"save_interval": 2, "training_steps": 4, "log_interval": 2, "log_with": "[]"}
    for name, stops in (("whole", [4]), ("parts", [2, 4])):
        for stop in stops:
            trainer = trainer_of(job | {"folder": str(folder / name)}, **how)
            trainer.stop.agreed = lambda t=trainer, last=stop: t.step == last
            trainer.train()
    whole, parts = (find_checkpoint(folder / name, 4).weights("model") for name in ("whole", "parts"))
    return {"difference": max(float((whole[key] - parts[key]).abs().max()) for key in whole)}


def nccl(job: dict[str, Any]) -> dict[str, Any]:
    """In each of two processes, steps on different batches: the largest difference of their weights."""
    trainer = trainer_of(job)
    torch.manual_seed(trainer.accelerator.process_index)
    batches = trainer.make_batches(0)
    for _ in range(3):
        trainer.train_step(batches)
    total = torch.stack([p.detach().double().sum() for p in trainer.model.parameters()])
    sums = trainer.accelerator.gather(total[None])
    return {"difference": float((sums[0] - sums[1]).abs().max()), "backend": torch.distributed.get_backend()}


CHECKS = {"steps": steps, "resume": resume, "nccl": nccl}


# ---- the table -------------------------------------------------------------------------------------------------------


class Table:
    """Prints a line per check, and remembers whether one failed."""

    def __init__(self) -> None:
        self.failed, self.started = False, time.monotonic()

    def line(self, name: str, good: bool | None, text: str) -> None:
        """`good`: None if the check was not done."""
        self.failed |= good is False
        print(f"{name:34s} {'not done' if good is None else 'ok' if good else 'FAILED':9s} {text}", flush=True)

    def measure(self, name: str, job: dict[str, Any], launcher: tuple[str, ...] = ()) -> dict[str, Any] | None:
        """What a check's process found; None, and a line that says why, if it did not end well."""
        command = [sys.executable, *launcher, __file__, "--job", json.dumps(job)]
        environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        left = SECONDS - (time.monotonic() - self.started)
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=max(1.0, left))
        except subprocess.TimeoutExpired:
            self.line(name, None, f"the {SECONDS / 60:.0f} minutes are over")
            return None
        if done.returncode:
            self.line(name, False, (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1])
            return None
        return json.loads(done.stdout.strip().splitlines()[-1])


def check_steps(table: Table, job: dict[str, Any]) -> dict[str, Any] | None:
    """The lines of one stage and precision."""
    name = f"{job['stage']}, {job['precision']}"
    if job["precision"] == "fp16" and not GPUS:
        table.line(name, None, "fp16 needs a GPU")
        return None
    found = table.measure(name, job)
    if found is None:
        return None
    finite = all(map(math.isfinite, found["losses"]))
    table.line(f"{name}: finite loss", finite, " ".join(f"{loss:.4g}" for loss in found["losses"]))
    rate, part = found["maps"] / found["seconds"], found["flops"] / found["seconds"] / found["peak"]
    table.line(f"{name}: speed", True, f"{rate:.3g} maps/s, {100 * part:.0f} % of {found['peak'] / 1e12:.3g} TFLOP/s")
    if not GPUS:
        table.line(f"{name}: memory", None, f"no GPU; forecast {found['forecast']:.2f} GiB")
        return found
    ratio = found["memory"] / found["forecast"]
    table.line(f"{name}: memory", 0.85 < ratio < 1.15, f"{found['memory']:.2f} GiB, forecast {found['forecast']:.2f}")
    if "waits" in found:
        table.line(f"{name}: no step waits", not found["waits"], found["waits"])
    return found


def check_compile(table: Table, job: dict[str, Any], eager: dict[str, Any] | None) -> None:
    """The same losses as without, and the speed-up."""
    if not GPUS:
        table.line("compile", None, "takes minutes without a GPU")
        return
    found = table.measure("compile", job | {"compile": True}) if eager else None
    if found and eager:
        same = all(math.isclose(a, b, rel_tol=0.02) for a, b in zip(found["losses"], eager["losses"], strict=True))
        table.line("compile: same loss", same, f"speed-up {eager['seconds'] / found['seconds']:.2f}")


def check_bits(table: Table, job: dict[str, Any]) -> None:
    """Resuming, and two GPUs."""
    found = table.measure("resume", job | {"check": "resume"})
    if found:
        same = found["difference"] == 0
        table.line("resume: 4 steps = 2 + 2", same, f"largest difference of a weight {found['difference']:.3g}")
    if GPUS < 2:
        table.line("two GPUs, NCCL", None, f"there are {GPUS} GPUs")
        return
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    found = table.measure("two GPUs, NCCL", job | {"check": "nccl"}, (*launcher, "--num_machines", "1"))
    if found:
        good = found["difference"] == 0 and found["backend"].endswith("nccl")
        table.line("two GPUs, NCCL", good, f"{found['backend']}, weights differ by {found['difference']:.3g}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="the quickstart's sizes; always so without a GPU")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)  # the work of a process
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(CHECKS[arguments.job["check"]](arguments.job)))
        return 0
    name = torch.cuda.get_device_name() if GPUS else "no GPU, so that much is not done"
    tiny = arguments.tiny or not GPUS
    print(
        f"{name}; torch {torch.__version__}; {'the quickstart' if tiny else 'the design document'}'s sizes", flush=True
    )
    table, found = Table(), None
    with tempfile.TemporaryDirectory() as folder:
        job = {"check": "steps", "tiny": tiny, "compile": False, "folder": folder}
        for stage in ("vae", "ldm"):
            for precision in ("fp16", "bf16"):
                found = check_steps(table, job | {"stage": stage, "precision": precision})
        job |= {"stage": "ldm", "precision": "bf16"}
        check_bits(table, job)
        check_compile(table, job, found)
    return int(table.failed)


if __name__ == "__main__":
    run(main)
