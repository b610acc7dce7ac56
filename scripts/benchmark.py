"""Speed, memory and share of the machine's peak: training steps, sampling, simulator, reading, saving.

    python scripts/benchmark.py                            the design document's sizes; on a CPU, one map per step
    python scripts/benchmark.py --tiny                     the quickstart's sizes
    python scripts/benchmark.py --only ldm sample --json out.json --profile
    python scripts/benchmark.py --only ldm --batch 16 32 64          the largest batch that fits

Every row runs in a separate process, so that its peak memory is not affected by other rows. `of peak` is the number of
floating point operations that torch.utils.flop_counter counts (products and convolutions, including what checkpointing
computes twice), divided by the time and by the speed of a large matrix product of the same type, measured just before
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
from collections.abc import Callable, Generator
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from data.samples.augment import Augmentation
from data.samples.dataset import training_loader
from data.samples.document import process_batch
from data.simulator import Simulator, random_city, random_transmitter
from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.checkpoint import save_checkpoint
from denoising_diffusion_pytorch.cli import new_file, positive, run
from denoising_diffusion_pytorch.config import load_config
from denoising_diffusion_pytorch.config.schema import Config
from denoising_diffusion_pytorch.errors import ConfigError
from denoising_diffusion_pytorch.predictor import RELEASED, Predictor
from denoising_diffusion_pytorch.training.data import open_dataset
from denoising_diffusion_pytorch.training.objectives import make_objectives
from denoising_diffusion_pytorch.training.run_folder import memory_gib
from denoising_diffusion_pytorch.training.setup import make_accelerator
from denoising_diffusion_pytorch.training.trainer import Trainer, step_networks

ROOT = Path(__file__).resolve().parents[1]
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
    "sample": [(f"{calls} calls", [str(calls)]) for calls in (1, 5, 50)],
    "released": [(f"{calls} calls", [str(calls)]) for calls in (1, 5, 50)],
    "simulator": [("256 px, given outlines", [])],
    "reading": [
        ("PNG", []),
        ("cached in memory", ["data.cache=true"]),
        ("cached on disk", ["data.cache=true", "data.cache_folder={folder}"]),
    ],
    "saving": [("checkpoint", [])],
}
TRAINED = ("vae", "ldm")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="the quickstart's sizes instead of the design document's")
    parser.add_argument(
        "--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="PART", help=", ".join(ROWS)
    )
    parser.add_argument("--rows", nargs="+", default=[], help="only rows whose name contains one of these")
    parser.add_argument(
        "--batch", type=positive, nargs="+", help="maps per step or call; default 1 on a CPU, else as configured"
    )
    parser.add_argument(
        "--repeats", type=positive, default=3, help="timed repetitions after one to warm up (%(default)s)"
    )
    parser.add_argument("--profile", action="store_true", help="show which operations take the time of a training step")
    parser.add_argument("--json", type=new_file, help="file for all measurements")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # the child's work, as JSON
    return parser.parse_args()


# ---- measuring, in the child ----------------------------------------------------------------------------------------


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object], repeats: int) -> list[float]:
    """Durations after one warm-up run."""
    work()
    times = []
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        times.append(time.perf_counter() - started)
    return times


def matmul_peak(dtype: torch.dtype, device: str) -> float:
    """Floating point operations per second of a large matrix product."""
    side = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds_of(lambda: a @ b, 5))


def timed(work: Callable[[], object], repeats: int, maps: int) -> dict[str, Any]:
    """Best and median duration of `work`, which makes `maps` maps, and its peak memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # leave out the matrix products before
    times = seconds_of(work, repeats)
    memory = memory_gib(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return {"seconds": min(times), "median": median(times), "memory": memory, "maps": maps}


def counted(work: Callable[[], object], seconds: float, peak: float) -> dict[str, Any]:
    """The operations of one more run of `work`, and their rate over `seconds` as a share of `peak`."""
    with FlopCounterMode(display=False) as counter:
        work()
    operations = counter.get_total_flops()
    return {"flop": operations, "of_peak": operations / seconds / peak, "matmul_peak": peak}


def synthetic_batches(config: Config, cached: bool, device: torch.device) -> Generator[dict, None, None]:
    """The same random batch again and again."""
    batch, data = config.trainer.batch_size, config.data
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.rand(batch, *shape, generator=generator) * 2 - 1).to(device)

    side, embed_dim = config.unet_config.image_size, config.first_stage_config.embed_dim
    content = {
        "images": random(1, data.image_size, data.image_size),
        "conditions": random(len(data.cond_channels), data.cond_size, data.cond_size),
        "masks": torch.zeros(batch, 1, data.image_size, data.image_size, device=device),
        "moments": random(2 * embed_dim, side, side) if cached else None,
        "names": ["random"] * batch,
        "keys": list(range(batch)),
    }
    while True:
        yield content


def make_step(stage: str, config: Config) -> tuple[Callable[[], object], torch.nn.Module]:
    """One optimizer step of the real trainer on a random batch, and the model."""
    accelerator = make_accelerator(config.trainer)
    model = build_model(config, stage)
    if stage == "ldm":
        model.scale_factor.fill_(1.0)
    batches = synthetic_batches(config, config.data.cache_latents, accelerator.device)
    trainer = Trainer(
        config, stage, model, make_objectives(config, stage, model), lambda *_: batches, accelerator=accelerator
    )
    return lambda: trainer.train_step(batches), model


def stage_seconds(step: Callable[[], object], model: torch.nn.Module) -> dict[str, float]:
    """Seconds of one step spent in each network's forward pass; the rest is backward pass and update."""
    found: defaultdict[str, float] = defaultdict(float)
    handles = []
    for name, module in step_networks(model).items():

        def before(module, inputs, name=name):
            synchronize()
            found[name] -= time.perf_counter()

        def after(module, inputs, output, name=name):
            synchronize()
            found[name] += time.perf_counter()

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    synchronize()
    started = time.perf_counter()
    step()
    synchronize()
    total = time.perf_counter() - started
    for handle in handles:
        handle.remove()
    return dict(found) | {"backward pass and update": total - sum(found.values())}


def top_operations(step: Callable[[], object], count: int = 10) -> dict[str, float]:
    """Share of a step's time per operation, the largest first."""
    gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as found:
        step()
        synchronize()
    kind = "self_device_time_total" if gpu else "self_cpu_time_total"
    averages = sorted(found.key_averages(), key=lambda event: -getattr(event, kind))
    total = sum(getattr(event, kind) for event in averages)
    return {event.key: getattr(event, kind) / total for event in averages[:count]}


def measure_training(stage: str, arguments: argparse.Namespace, config: Config, device: str) -> dict:
    bf16 = config.trainer.mixed_precision == "bf16"
    peak = matmul_peak(torch.bfloat16 if bf16 else torch.float32, device)
    step, model = make_step(stage, config)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    found = timed(step, arguments.repeats, config.trainer.batch_size)
    if not config.trainer.compile:  # the counter cannot see into a compiled graph
        found |= counted(step, found["seconds"], peak) | {"stages": stage_seconds(step, model)}
        if arguments.profile:
            found["operations"] = top_operations(step)
    return found


def measure_sampling(model, cond_shape: tuple[int, ...], calls: int, arguments, batch: int, device: str) -> dict:
    peak = matmul_peak(torch.float32, device)
    cond = torch.rand(batch, *cond_shape, device=device) * 2 - 1

    def draw() -> torch.Tensor:
        return model.sample(cond, steps=calls, keys=range(batch))

    found = timed(draw, arguments.repeats, batch)
    return found | counted(draw, found["seconds"], peak)


def measure_simulator(repeats: int) -> dict:
    scenes = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        city = random_city(random, 256)
        scenes.append((city, random_transmitter(city, random)))
    Simulator(scenes[0][0]).path_gain(scenes[0][1])  # compiles
    return timed(lambda: [Simulator(city).path_gain(tx) for city, tx in scenes], repeats, len(scenes))


def measure_reading(config: Config, folder: Path, repeats: int) -> dict:
    """Batches of the training loader from simulated scenes, which are written first."""
    tree = folder / "tree"
    if not tree.exists():
        command = [sys.executable, str(ROOT / "scripts" / "make_dataset.py"), "--out", str(tree), "--maps", "40"]
        subprocess.run([*command, "--tx", "4", "--seed", "1"], check=True, stdout=subprocess.DEVNULL)
    config.data.train.data_root = str(tree)
    cache = {"cache": config.data.cache, "cache_folder": config.data.cache_folder}
    dataset = open_dataset(config, config.data.train, augmentation=Augmentation(), **cache)
    loader = training_loader(dataset, config.trainer.batch_size, num_workers=config.data.num_workers)
    batches = iter(loader)
    count = max(1, 128 // config.trainer.batch_size)

    def read() -> None:
        for _ in range(count):
            process_batch(next(batches), "cpu")

    return timed(read, repeats, count * config.trainer.batch_size)


def measure_saving(config: Config, folder: Path, repeats: int) -> dict:
    model = build_model(config, "ldm")
    state = model.state_dict()
    moments = {f"{name}.{which}": torch.zeros_like(value) for name, value in state.items() for which in ("m", "v")}
    steps = iter(range(10**6))

    def save() -> None:
        save_checkpoint(
            folder / "saving", step=next(steps), stage="ldm", config=config, model=state, ema=state, training=moments
        )

    return timed(save, repeats, 1)


def measure(arguments: argparse.Namespace, row: dict) -> dict:
    """One row, in a process that does nothing else."""
    part, overrides, batch = row["part"], row["overrides"], row["batch"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stage = part if part in TRAINED else "ldm"
    settings = [] if part in ("sample", "released", "simulator", "saving") else overrides
    batch_size = [f"trainer.batch_size={batch}"] if batch else []
    more = ["trainer.gradient_accumulation=1", "data.train.data_root=unused", "trainer.results_folder=unused"]
    path = ROOT / "configs" / CONFIGS[arguments.tiny][stage]
    config = load_config(path, [*more, *batch_size, *settings], stage=stage)
    folder = Path(row["folder"])
    if part in TRAINED:
        return measure_training(part, arguments, config, device)
    if part == "sample":
        model = build_model(config, "ldm").to(device).eval()
        model.scale_factor.fill_(1.0)
        cond_shape = (len(config.data.cond_channels), config.data.cond_size, config.data.cond_size)
        return measure_sampling(model, cond_shape, int(overrides[0]), arguments, batch or 1, device)
    if part == "released":
        predictor = Predictor(RELEASED)
        data = predictor.config.data
        cond_shape = (len(data.cond_channels), data.cond_size, data.cond_size)
        return measure_sampling(predictor.model, cond_shape, int(overrides[0]), arguments, batch or 1, device)
    if part == "simulator":
        return measure_simulator(arguments.repeats)
    if part == "reading":
        return measure_reading(config, folder, arguments.repeats)
    return measure_saving(config, folder, arguments.repeats)


# ---- the table, in the parent ---------------------------------------------------------------------------------------


def run_row(row: dict) -> dict:
    """The measurements of a row's process, or under `failed` the last line of its error output."""
    command = [sys.executable, __file__, *sys.argv[1:], "--row", json.dumps(row)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"ended with {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def line(name: str, found: dict, first: dict | None) -> str:
    if "failed" in found:
        return f"{name:52s} failed: {found['failed']}"
    rate = found["maps"] / found["seconds"]
    text = f"{name:52s} {found['seconds']:9.3f} s {rate:9.2f} maps/s {found['memory']:7.2f} GiB"
    if "flop" in found:
        text += f" {found['flop'] / 1e9:9.1f} GFLOP {100 * found['of_peak']:5.0f} % of peak"
    elif first is not None:
        text += " " * 32
    if first is not None and "failed" not in first:
        text += (
            f"  speed-up {rate * first['seconds'] / first['maps']:.2f}, memory {found['memory'] / first['memory']:.2f}"
        )
    return text


def main() -> None:
    arguments = parse_arguments()
    if arguments.row:
        print(json.dumps(measure(arguments, json.loads(arguments.row))))
        return
    on_cpu = not torch.cuda.is_available()
    name = f"CPU, {torch.get_num_threads()} threads" if on_cpu else torch.cuda.get_device_name()
    sizes = "tiny" if arguments.tiny else "the design document's"
    print(f"{name}, torch {torch.__version__}, {sizes} sizes; matmul peak of each row's type in --json", flush=True)
    results: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.only:
            batches = arguments.batch or [1 if on_cpu and not arguments.tiny and part != "reading" else 0]
            for batch in batches:
                print(f"\n{part}" + (f", batches of {batch}" if batch else ""), flush=True)
                first = None
                for title, overrides in ROWS[part]:
                    if arguments.rows and not any(wanted in title for wanted in arguments.rows):
                        continue
                    given = [text.format(folder=folder) for text in overrides]
                    found = run_row({"part": part, "overrides": given, "batch": batch, "folder": folder})
                    print(line(title, found, first), flush=True)
                    for key in ("stages", "operations"):
                        for what, value in found.get(key, {}).items():
                            unit = f"{value:.3f} s" if key == "stages" else f"{100 * value:.1f} %"
                            if arguments.profile:
                                print(f"    {what:48s} {unit}")
                    first = first or found
                    results.append({"part": part, "row": title, "batch": batch, **found})
    if not results:
        raise ConfigError(f"--rows {' '.join(arguments.rows)}: no such row")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        facts = {"device": name, "torch": torch.__version__, "sizes": sizes, "cores": os.cpu_count()}
        arguments.json.write_text(json.dumps(facts | {"results": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    run(main)
