"""Speed, memory and fraction of the machine's peak of training steps and sampling.

    python scripts/benchmark.py                            the design document's sizes; on a CPU, one map per step
    python scripts/benchmark.py --tiny                     the quickstart's sizes
    python scripts/benchmark.py --only ldm --batch 16 32 64          the largest batch that fits

Every row runs in a separate process, so that its peak memory is not affected by other rows. `of peak` is the number of
floating point operations (products and convolutions by torch's formulas, including what checkpointing computes
twice), divided by the time and by the speed of a large matrix product of the same type, measured just before
in the same process. `speed-up` compares with the first row of the part. Compare only numbers from the same run.
"""

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.cli import positive, run
from denoising_diffusion_pytorch.config import load_config
from denoising_diffusion_pytorch.config.schema import Config
from denoising_diffusion_pytorch.predictor import Predictor
from denoising_diffusion_pytorch.training.forecast import Tally, random_trainer
from denoising_diffusion_pytorch.training.setup import make_accelerator
from denoising_diffusion_pytorch.training.speed import matmul_peak, memory_gib, seconds_of

ROOT = Path(__file__).resolve().parents[1]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONFIGS = {
    False: {"vae": "first_radio_m.yaml", "ldm": "radio_train_m.yaml"},
    True: {"vae": "tiny_vae.yaml", "ldm": "tiny_ldm.yaml"},
}
FULL, BF16 = "trainer.mixed_precision=no", "trainer.mixed_precision=bf16"
COMPILE, PLAIN_LAYOUT = "trainer.compile=true", "trainer.channels_last=false"
KEEP = "unet_config.use_checkpoint=false"  # keep activations instead of recomputing them
CACHED = "data.cache_latents=true"
ADVERSARIAL = ("first_stage_config.lossconfig.discr_start=0", "first_stage_config.lossconfig.discr_weight=0.5")
# part: overrides by row; the others are compared with the first
ROWS: dict[str, dict[str, list[str]]] = {
    "vae": {
        "fp32": [FULL],
        "fp32, contiguous layout": [FULL, PLAIN_LAYOUT],
        "bf16": [BF16],
        "bf16, compiled": [BF16, COMPILE],
        "fp32, with discriminator": [FULL, *ADVERSARIAL],
    },
    "ldm": {
        "fp32": [FULL],
        "fp32, latents cached": [FULL, CACHED],
        "fp32, latents cached, contiguous layout": [FULL, CACHED, PLAIN_LAYOUT],
        "fp32, latents cached, no checkpointing": [FULL, CACHED, KEEP],
        "bf16, latents cached": [BF16, CACHED],
        "bf16, latents cached, no checkpointing": [BF16, CACHED, KEEP],
        "bf16, latents cached, no checkpointing, compiled": [BF16, CACHED, KEEP, COMPILE],
    },
    "sample": {f"{steps} calls": [f"diffusion_config.sampling_timesteps={steps}"] for steps in (1, 5, 50)},
    "released": {"as configured": []},
}
Work = Callable[[], object]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tiny", action="store_true", help="the quickstart's sizes instead of the design document's")
    add("--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="PART", help=", ".join(ROWS))
    add("--batch", type=positive, nargs="+", help="maps per step or call; default 1 on a CPU, else as configured")
    add("--repeats", type=positive, default=3, help="timed repetitions after one to warm up (%(default)s)")
    return parser.parse_args()


def sampling(model: Any, config: Config) -> Work:
    batch, data = config.trainer.batch_size, config.data
    cond = torch.rand(batch, len(data.cond_channels), data.cond_size, data.cond_size, device=DEVICE) * 2 - 1
    return lambda: model.sample(cond, keys=range(batch))


def measure(tiny: bool, repeats: int, part: str, overrides: list[str], batch: int) -> dict[str, Any]:
    """One row, in a process that does nothing else."""
    stage = "vae" if part == "vae" else "ldm"
    more = ["trainer.gradient_accumulation=1", "data.train.data_root=unused", "trainer.results_folder=unused"]
    more += [f"trainer.batch_size={batch}"] if batch else []
    config = load_config(ROOT / "configs" / CONFIGS[tiny][stage], [*more, *overrides], stage=stage)
    maps, bf16 = config.trainer.batch_size, part in CONFIGS[tiny] and config.trainer.mixed_precision == "bf16"
    peak = matmul_peak(DEVICE, torch.bfloat16 if bf16 else torch.float32)
    if part in CONFIGS[tiny]:  # an optimizer step of the real trainer on a random batch
        trainer = random_trainer(config, part, make_accelerator(config.trainer))
        work: Work = partial(trainer.train_step, trainer.make_batches(0))
    elif part == "sample":
        work = sampling(build_model(config, "ldm").to(DEVICE).eval(), config)
    else:
        predictor = Predictor()
        predictor.config.trainer.batch_size = maps
        work = sampling(predictor.model, predictor.config)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # leave out the matrix products
    found = {"seconds": min(seconds_of(work, repeats)), "memory": memory_gib(DEVICE), "maps": maps}
    if COMPILE not in overrides:  # compiled operations are not counted one by one
        with Tally() as tally:
            work()
        found |= {"flop": tally.flops, "of_peak": tally.flops / found["seconds"] / peak}
    return found


def line(name: str, found: dict, first: dict) -> str:
    """A line of the table; `first`: the first row of the part."""
    if "failed" in found:
        return f"{name:52s} failed: {found['failed']}"
    rate = found["maps"] / found["seconds"]
    text = f"{name:52s} {found['seconds']:9.3f} s {rate:9.2f} maps/s {found['memory']:7.2f} GiB"
    if "flop" in found:
        text += f" {found['flop'] / 1e9:9.1f} GFLOP {100 * found['of_peak']:5.0f} % of peak"
    if first is not found and "failed" not in first:
        faster, memory = rate * first["seconds"] / first["maps"], found["memory"] / first["memory"]
        text += f"  speed-up {faster:.2f}, memory {memory:.2f}"
    return text


def main() -> None:
    arguments = parse_arguments()
    on_cpu = DEVICE.type == "cpu"
    name = f"CPU, {torch.get_num_threads()} threads" if on_cpu else torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, {os.cpu_count()} cores", flush=True)
    for part in arguments.only:
        for batch in arguments.batch or [1 if on_cpu and not arguments.tiny else 0]:
            print(f"\n{part}" + (f", batches of {batch}" if batch else ""), flush=True)
            found: list[dict] = []
            for title, overrides in ROWS[part].items():
                with ProcessPoolExecutor(1, get_context("spawn")) as process:
                    row = process.submit(measure, arguments.tiny, arguments.repeats, part, overrides, batch)
                    found.append({"failed": str(row.exception())} if row.exception() else row.result())
                print(line(title, found[-1], found[0]), flush=True)


if __name__ == "__main__":
    run(main)
