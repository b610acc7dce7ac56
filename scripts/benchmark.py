"""Speed, memory and fraction of the machine's peak: training steps, sampling, simulator, reading.

    python scripts/benchmark.py                            the design document's sizes; on a CPU, one map per step
    python scripts/benchmark.py --tiny                     the quickstart's sizes
    python scripts/benchmark.py --only ldm sample --json out.json --profile
    python scripts/benchmark.py --only ldm --batch 16 32 64          the largest batch that fits

Every row runs in a separate process, so that its peak memory is not affected by other rows. `of peak` is the number of
floating point operations (products and convolutions by torch's formulas, including what checkpointing computes
twice), divided by the time and by the speed of a large matrix product of the same type, measured just before
in the same process. `speed-up` compares with the first row of the part. Compare only numbers from the same run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from data.files import write_json
from data.samples.augment import Augmentation
from data.samples.dataset import to_device, training_loader
from data.simulator import Simulator
from data.simulator.scenes import random_scenes
from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.cli import new_file, positive, run
from denoising_diffusion_pytorch.config import load_config
from denoising_diffusion_pytorch.config.schema import Config
from denoising_diffusion_pytorch.predictor import Predictor
from denoising_diffusion_pytorch.training.data import open_dataset
from denoising_diffusion_pytorch.training.forecast import Tally, random_trainer
from denoising_diffusion_pytorch.training.setup import make_accelerator
from denoising_diffusion_pytorch.training.speed import matmul_peak, memory_gib, seconds_of, synchronize
from denoising_diffusion_pytorch.training.trainer import step_networks

ROOT = Path(__file__).resolve().parents[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIGS = {
    False: {"vae": "first_radio_m.yaml", "ldm": "radio_train_m.yaml"},
    True: {"vae": "tiny_vae.yaml", "ldm": "tiny_ldm.yaml"},
}
BF16, COMPILE, PLAIN_LAYOUT = "trainer.mixed_precision=bf16", "trainer.compile=true", "trainer.channels_last=false"
FULL = "trainer.mixed_precision=no"
KEEP = "unet_config.use_checkpoint=false"  # keep activations instead of recomputing them
AFTER_START = "first_stage_config.lossconfig.discr_start=0"
CACHED = "data.cache_latents=true"
# part: rows of (name, overrides); the others are compared with the first
ROWS: dict[str, list[tuple[str, list[str]]]] = {
    "vae": [
        ("fp32", [FULL]),
        ("fp32, contiguous layout", [FULL, PLAIN_LAYOUT]),
        ("bf16", [BF16]),
        ("bf16, compiled", [BF16, COMPILE]),
        ("fp32, with discriminator", [FULL, AFTER_START]),
    ],
    "ldm": [
        ("fp32", [FULL]),
        ("fp32, latents cached", [FULL, CACHED]),
        ("fp32, latents cached, contiguous layout", [FULL, CACHED, PLAIN_LAYOUT]),
        ("fp32, latents cached, no checkpointing", [FULL, CACHED, KEEP]),
        ("bf16, latents cached", [BF16, CACHED]),
        ("bf16, latents cached, no checkpointing", [BF16, CACHED, KEEP]),
        ("bf16, latents cached, no checkpointing, compiled", [BF16, CACHED, KEEP, COMPILE]),
    ],
    **{part: [(f"{calls} calls", [str(calls)]) for calls in (1, 5, 50)] for part in ("sample", "released")},
    "simulator": [("256 px, given outlines", [])],
    "reading": [
        ("PNG", []),
        ("cached in memory", ["data.cache=true"]),
        ("cached on disk", ["data.cache=true", "data.cache_folder={folder}"]),
    ],
}
TRAINED, SAMPLED = ("vae", "ldm"), ("sample", "released")
Work = Callable[[], object]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tiny", action="store_true", help="the quickstart's sizes instead of the design document's")
    add("--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="PART", help=", ".join(ROWS))
    add("--batch", type=positive, nargs="+", help="maps per step or call; default 1 on a CPU, else as configured")
    add("--repeats", type=positive, default=3, help="timed repetitions after one to warm up (%(default)s)")
    add("--profile", action="store_true", help="show which networks take the time of a training step")
    add("--json", type=new_file, help="file for all measurements")
    add("--row", type=json.loads, help=argparse.SUPPRESS)  # the work of a process, as JSON
    return parser.parse_args()


# ---- measuring, in a process of its own -----------------------------------------------------------------------------


def training_step(stage: str, config: Config) -> tuple[Work, torch.nn.Module]:
    """One optimizer step of the real trainer on a random batch, and the model."""
    trainer = random_trainer(config, stage, make_accelerator(config.trainer))
    batches = trainer.make_batches(0)
    return lambda: trainer.train_step(batches), trainer.model


def sampling(model: Any, config: Config, steps: int, batch: int) -> Work:
    """Sampling of a batch."""
    data = config.data
    cond = torch.rand(batch, len(data.cond_channels), data.cond_size, data.cond_size, device=DEVICE) * 2 - 1
    return lambda: model.sample(cond, steps=steps, keys=range(batch))


def simulating() -> Work:
    """Eight random cities."""
    scenes = [random_scenes(seed)[0] for seed in range(8)]
    return lambda: [Simulator(scene.layout).path_gain(scene.tx) for scene in scenes]


def reading(config: Config, folder: Path, count: int) -> Work:
    """`count` batches of the training loader, from simulated scenes that are written first."""
    tree = folder / "tree"
    if not tree.exists():
        command = [sys.executable, str(ROOT / "scripts" / "make_dataset.py"), "--out", str(tree), "--maps", "40"]
        subprocess.run([*command, "--tx", "4", "--seed", "1"], check=True, stdout=subprocess.DEVNULL)
    config.data.train.data_root = str(tree)
    options: dict[str, Any] = {"cache": config.data.cache, "cache_folder": config.data.cache_folder}
    dataset = open_dataset(config, config.data.train, augmentation=Augmentation(), **options)
    batches = iter(training_loader(dataset, config.trainer.batch_size, num_workers=config.data.num_workers))
    return lambda: [to_device(next(batches), "cpu") for _ in range(count)]


def network_seconds(step: Work, model: torch.nn.Module) -> dict[str, float]:
    """Seconds of one step spent in each network's forward pass; the rest is backward pass and update."""
    found: defaultdict[str, float] = defaultdict(float)

    def clock(*_, name: str, sign: int) -> None:
        synchronize()
        found[name] += sign * time.perf_counter()

    for name, module in step_networks(model).items():
        module.register_forward_pre_hook(partial(clock, name=name, sign=-1))
        module.register_forward_hook(partial(clock, name=name, sign=1))
    total = seconds_of(step, 1)[0]
    networks = {name: seconds / 2 for name, seconds in found.items()}  # of two steps
    return networks | {"backward pass and update": total - sum(networks.values())}


def measure(arguments: argparse.Namespace, part: str, overrides: list[str], batch: int, folder: Path) -> dict[str, Any]:
    """One row, in a process that does nothing else."""
    stage = part if part in TRAINED else "ldm"
    more = ["trainer.gradient_accumulation=1", "data.train.data_root=unused", "trainer.results_folder=unused"]
    more += [f"trainer.batch_size={batch}"] if batch else []
    more += overrides if part in (*TRAINED, "reading") else []
    config = load_config(ROOT / "configs" / CONFIGS[arguments.tiny][stage], more, stage=stage)
    maps, peak, model = batch or 1, 0.0, None
    if part in (*TRAINED, *SAMPLED):
        bf16 = part in TRAINED and config.trainer.mixed_precision == "bf16"
        peak = matmul_peak(torch.device(DEVICE), torch.bfloat16 if bf16 else torch.float32)
    if part in TRAINED:
        maps = config.trainer.batch_size
        work, model = training_step(part, config)
    elif part == "sample":
        work = sampling(build_model(config, "ldm").to(DEVICE).eval(), config, int(overrides[0]), maps)
    elif part == "released":
        predictor = Predictor()
        work = sampling(predictor.model, predictor.config, int(overrides[0]), maps)
    elif part == "simulator":
        maps, work = 8, simulating()
    else:
        count = max(1, 128 // config.trainer.batch_size)
        maps, work = count * config.trainer.batch_size, reading(config, folder, count)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()  # leave out the matrix products
    times = seconds_of(work, arguments.repeats)
    memory = memory_gib(torch.device(DEVICE))
    found: dict[str, Any] = {"seconds": min(times), "median": median(times), "memory": memory, "maps": maps}
    if peak and not (part in TRAINED and config.trainer.compile):  # whose operations are not seen one by one
        with Tally() as tally:
            work()
        found |= {"flop": tally.flops, "matmul_peak": peak}
        found["of_peak"] = found["flop"] / found["seconds"] / peak
        if model is not None and arguments.profile:
            found["networks"] = network_seconds(work, model)
    return found


# ---- the table ------------------------------------------------------------------------------------------------------


def run_row(row: list) -> dict:
    """The measurements of a row's process, or under `failed` the last line of its error output."""
    command = [sys.executable, __file__, *sys.argv[1:], "--row", json.dumps(row)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"ended with {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def show(name: str, found: dict, first: dict | None) -> None:
    """One line, and the profile below it."""
    if "failed" in found:
        print(f"{name:52s} failed: {found['failed']}", flush=True)
        return
    rate = found["maps"] / found["seconds"]
    text = f"{name:52s} {found['seconds']:9.3f} s {rate:9.2f} maps/s {found['memory']:7.2f} GiB"
    if "flop" in found:
        text += f" {found['flop'] / 1e9:9.1f} GFLOP {100 * found['of_peak']:5.0f} % of peak"
    if first is not None and "failed" not in first:
        faster, memory = rate * first["seconds"] / first["maps"], found["memory"] / first["memory"]
        text += f"  speed-up {faster:.2f}, memory {memory:.2f}"
    print(text, flush=True)
    for what, seconds in found.get("networks", {}).items():
        print(f"    {what:48s} {seconds:9.3f} s")


def main() -> None:
    arguments = parse_arguments()
    if arguments.row:
        part, overrides, batch, folder = arguments.row
        print(json.dumps(measure(arguments, part, overrides, batch, Path(folder))))
        return
    on_cpu = DEVICE == "cpu"
    name = f"CPU, {torch.get_num_threads()} threads" if on_cpu else torch.cuda.get_device_name()
    facts = {"device": name, "torch": torch.__version__, "cores": os.cpu_count(), "tiny": arguments.tiny}
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    results: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.only:
            for batch in arguments.batch or [1 if on_cpu and not arguments.tiny and part != "reading" else 0]:
                print(f"\n{part}" + (f", batches of {batch}" if batch else ""), flush=True)
                first = None
                for title, overrides in ROWS[part]:
                    found = run_row([part, [text.format(folder=folder) for text in overrides], batch, folder])
                    show(title, found, first)
                    first = first or found
                    results.append({"part": part, "row": title, "batch": batch, **found})
    if arguments.json:
        write_json(arguments.json, facts | {"results": results})


if __name__ == "__main__":
    run(main)
