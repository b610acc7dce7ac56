"""Kill a training run repeatedly, and check that it ends with the same bits as an uninterrupted run.

python scripts/chaos.py --out runs/chaos [--stage vae|ldm|both] [--kills 20] [--workers 2] [--accumulation 2] [--seed 0]

Uses simulated cities and tiny networks on the CPU and takes about five minutes per stage. A third of the kills
(SIGKILL) are aimed at a save in progress, some at the start of a run, the others at random moments. Exits with 1 if a
bit differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from denoising_diffusion_pytorch.cli import run  # noqa: E402
from denoising_diffusion_pytorch.training.checkpoint import find_checkpoint  # noqa: E402
from denoising_diffusion_pytorch.training.results import read_log  # noqa: E402

SCRIPTS = {"vae": "train_vae.py", "ldm": "train_cond_ldm.py"}
LONGEST_LIFE = 2.5  # seconds of training before a random kill
CONFIG = {
    "first_stage_config": {
        "embed_dim": 2,
        "ddconfig": {"resolution": 32, "ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "mid_attention": False},
        "lossconfig": {"discr_start": 20, "discr_layers": 1, "discr_channels": 8},
    },
    "cond_stage_config": {"num_heads": 2, "window_size": 4, "depths": [1, 1]},
    "unet_config": {
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_res_blocks": 1,
        "num_heads": 2,
        "attention_resolutions": [],
        "context_dim": 8,
        "window_size": 4,
        "use_checkpoint": False,
        "dropout": 0.1,
    },
    "diffusion_config": {"sampling_timesteps": 2},
    "trainer": {
        "batch_size": 4,
        "learning_rate": 1.0e-3,
        "save_interval": 10,
        "log_interval": 1,
        "keep_last": 3,
        "num_samples": 0,
        "validate_every": 0,
        "ema": {"start_step": 5, "update_interval": 2, "beta": 0.9},
    },
}


def environment() -> dict[str, str]:
    """One thread per run, so that killed and uninterrupted runs compute the same bits, even side by side."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}


def set_up(out: Path) -> Path:
    """Simulated cities and the configuration file in `out`; returns the file."""
    data = ("--out", out / "data", "--maps", 10, "--tx", 2, "--seed", 0, "--size", 64, "--workers", 1)
    command = [sys.executable, ROOT / "scripts" / "make_dataset.py", *data]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = out / "chaos.yaml"
    path.write_text(yaml.safe_dump(CONFIG | {"data": {"train": {"data_root": str(out / "data")}}}), encoding="utf-8")
    return path


def train_command(stage: str, config: Path, results: Path, *overrides: str) -> list[str]:
    """The command line of a run."""
    return [
        sys.executable,
        str(ROOT / SCRIPTS[stage]),
        "--cfg",
        str(config),
        f"trainer.results_folder={results}",
        *overrides,
    ]


def lives(results: Path) -> int:
    """How many times training has begun in this folder."""
    path = results / "starts.jsonl"
    return path.read_text(encoding="utf-8").count("\n") if path.exists() else 0


def half_written(results: Path) -> set[tuple[str, int]]:
    """Saves in progress or left unfinished by a killed process: names and times."""
    try:
        return {(path.name, path.stat().st_ctime_ns) for path in (results / "checkpoints").glob(".ckpt_*")}
    except FileNotFoundError:
        return set()  # finished in the meantime


def newest_step(results: Path) -> int:
    """Step of the newest valid checkpoint, 0 if there is none."""
    found = find_checkpoint(results, warn=lambda message: None)
    return found.step if found else 0


def live_and_die(command: list[str], results: Path, log: Path, how: str, moment: float) -> bool:
    """Start a run and kill it; returns False if it ended by itself first.

    Args:
        how: `start`: `moment` seconds after the process began; `random`: `moment` seconds after training began;
            `save`: at the first save after that.
    """
    before, left_behind = lives(results), half_written(results)
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, env=environment(), stdout=output, stderr=output)
        began = time.monotonic()
        if how != "start":
            while process.poll() is None and lives(results) == before:
                time.sleep(0.005)
            began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < moment:
            time.sleep(0.002)
        while how == "save" and process.poll() is None and half_written(results) <= left_behind:
            time.sleep(0.0005)
        if process.poll() is not None:
            if process.returncode:
                raise SystemExit(f"a run failed with {process.returncode}: see {log}")
            return False
        process.send_signal(signal.SIGKILL)
        process.wait()
    return True


def differences(a: object, b: object, name: str) -> list[str]:
    """Dotted names at which two trees of tensors, lists and numbers are not equal."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [name]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differences(a[key], b[key], f"{name}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [found for i, pair in enumerate(zip(a, b, strict=True)) for found in differences(*pair, f"{name}.{i}")]
    return [] if a == b else [name]


def compare(one: Path, other: Path) -> list[str]:
    """What differs between the newest checkpoints of two results folders."""
    first, second = find_checkpoint(one), find_checkpoint(other)
    if first is None or second is None or first.step != second.step:
        return ["step"]
    found = [d for name in ("model", "ema") for d in differences(first.weights(name), second.weights(name), name)]
    return found + differences(first.training_state(), second.training_state(), "training")


def chaos(stage: str, config: Path, out: Path, kills: int, seed: int, steps: int, overrides: list[str]) -> dict:
    """One uninterrupted run and one killed `kills` times; returns the results."""
    overrides = [*overrides, f"trainer.training_steps={steps}"]
    whole, victim, log = out / f"{stage}_whole", out / f"{stage}_killed", out / f"{stage}.log"
    with log.open("a", encoding="utf-8") as output:
        command = train_command(stage, config, whole, *overrides)
        subprocess.run(command, env=environment(), stdout=output, stderr=output, check=True)
    dice = random.Random(seed)
    figures: dict[str, Any] = {"stage": stage, "kills": 0, "saves_interrupted": 0, "most_steps_lost": 0}
    command = train_command(stage, config, victim, *overrides)
    for number in range(kills):
        how = "save" if number % 3 == 0 else "start" if number % 7 == 1 else "random"
        moment = dice.uniform(0, 6 if how == "start" else LONGEST_LIFE)
        left_behind = half_written(victim)
        if not live_and_die(command, victim, log, how, moment):
            break
        figures["kills"] += 1
        figures["saves_interrupted"] += not half_written(victim) <= left_behind
        reached = max(read_log(victim / "train.log").get("loss", {0: 0})) if (victim / "train.log").exists() else 0
        figures["most_steps_lost"] = max(figures["most_steps_lost"], reached - newest_step(victim))
        print(f"{stage}: kill {number + 1} ({how}) after step {reached}, newest checkpoint {newest_step(victim)}")
    with log.open("a", encoding="utf-8") as output:
        subprocess.run(command, env=environment(), stdout=output, stderr=output, check=True)
    different = compare(whole, victim)
    return figures | {"steps": steps, "bits_equal": not different, "different": different[:8]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--stage", choices=("vae", "ldm", "both"), default="both")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1500, help="per run; enough for all kills to happen")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.out.exists() and any(arguments.out.iterdir()):
        parser.error(f"{arguments.out} is not empty")
    arguments.out.mkdir(parents=True, exist_ok=True)
    out = arguments.out.resolve()
    config = set_up(out)
    overrides = [
        f"data.num_workers={arguments.workers}",
        f"trainer.gradient_accumulation={arguments.accumulation}",
        f"first_stage_config.ckpt_path={out / 'vae_whole'}",
    ]
    results = []
    for stage in ("vae", "ldm") if arguments.stage != "vae" else ("vae",):
        # stage 2 needs an autoencoder; if stage 1 is not tested, it is trained without kills
        attacked = arguments.stage in (stage, "both")
        kills, steps = (arguments.kills, arguments.steps) if attacked else (0, 20)
        own = overrides[:2] if stage == "vae" else overrides
        results.append(chaos(stage, config, out, kills, arguments.seed, steps, own))
        print(json.dumps(results[-1]))
    (out / "figures.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0 if all(figures["bits_equal"] for figures in results) else 1


if __name__ == "__main__":
    run(main)
