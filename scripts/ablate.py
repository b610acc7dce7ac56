"""Compare choices at equal wall-clock time: every variant trains equally long, then all are scored on the same scenes.

    python scripts/make_dataset.py --out runs/ablation/data --maps 500 --tx 3 --seed 1
    python scripts/ablate.py --train runs/ablation/data --real path/to/RadioMapSeer --out runs/ablation \\
        --markdown table.md

The speed of each variant is measured first, all under the same load, and determines how many steps fit into its time;
other programs that run later therefore do not change the result. The regression U-Net gets the autoencoder's time too.
A finished variant is not run again: the same command resumes after an interruption. All variants use the tiny 64 px
configurations.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from data import RadioMapSeer, Scene
from data.evaluation import interval, write_json
from data.metrics import Scores
from data.simulated import SimulatedScenes
from denoising_diffusion_pytorch.cli import natural, new_file, positive, run
from denoising_diffusion_pytorch.errors import TrainingError
from denoising_diffusion_pytorch.inference import Predictor
from denoising_diffusion_pytorch.training.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.training.results import read_log

ROOT = Path(__file__).resolve().parents[1]
PROBE_STEPS = 40  # optimizer steps that measure a variant's speed; the first half is not counted
PROBE_SCENES = 64
FRESH_CITIES = 7_000_000  # number of the first simulated city that is scored
STAGES = {  # command, configuration, maps per step
    "vae": ("train_vae.py", "tiny_vae.yaml", 8),
    "ldm": ("train_cond_ldm.py", "tiny_ldm.yaml", 16),
    "baseline": ("scripts/train_baseline.py", "tiny_baseline.yaml", 16),
}
SAME_TIME = "diffusion_config.final_step_share=0"
NOISE = ("diffusion_config.objective=pred_noise", SAME_TIME)
SCALED_LINEAR = "diffusion_config.beta_schedule=scaled_linear"
LAST_STEP_ONLY = "diffusion_config.final_step_share=1"
FEW_CHANNELS = "data.cond_channels=[buildings, transmitter]"
SOME_CHANNELS = "data.cond_channels=[buildings, transmitter, line_of_sight]"
NO_DETOUR = "data.cond_channels=[buildings, transmitter, line_of_sight, log_distance]"
PLAIN = "first_stage_config.ddconfig.decoder_cond=false"
COARSE = "data.cond_size=16"


@dataclass(frozen=True)
class Variant:
    """One row: overrides of configs/tiny_ldm.yaml, or of tiny_baseline.yaml for the regression.

    Attributes:
        overrides: key=value for the run of the diffusion, or of the baseline.
        vae: key=value for the runs of both stages.
        calls: numbers of network calls to score.
        end_to_end: share of the time spent on the end-to-end phase.
        ema: score the averaged weights.
        seeds: run all seeds, not only the first.
        baseline: train the regression U-Net instead of the latent diffusion.
    """

    overrides: tuple[str, ...] = ()
    vae: tuple[str, ...] = ()
    calls: tuple[int, ...] = (1,)
    end_to_end: float = 0.0
    ema: bool = True
    seeds: bool = False
    baseline: bool = False


VARIANTS = {
    "regression U-Net": Variant(baseline=True, seeds=True),
    "latent diffusion, x0": Variant(calls=(1, 2, 4, 10), seeds=True),
    "x0, end-to-end for the last 40 %": Variant(calls=(1, 2, 4, 10), end_to_end=0.4, seeds=True),
    "x0, t = T only (latent regression)": Variant((LAST_STEP_ONLY,)),
    "x0, t uniform": Variant((SAME_TIME,), calls=(1, 4)),
    "v": Variant(("diffusion_config.objective=pred_v",), calls=(1, 4, 10)),
    "v, t uniform": Variant(("diffusion_config.objective=pred_v", SAME_TIME), calls=(1, 4, 10)),
    "noise (the document's), t uniform": Variant(NOISE, calls=(1, 4, 10, 50)),
    "noise, t uniform, scaled_linear schedule": Variant((*NOISE, SCALED_LINEAR), calls=(1, 4, 10, 50)),
    "decoupled (const_sde)": Variant(
        ("diffusion_config.model_type=const_sde", "diffusion_config.objective=pred_KC"), calls=(1, 2, 5)
    ),
    "flow matching": Variant(
        ("diffusion_config.model_type=flow", "diffusion_config.objective=pred_velocity"), calls=(1, 2, 5)
    ),
    "buildings and transmitter only": Variant(vae=(FEW_CHANNELS,)),
    "+ line of sight": Variant(vae=(SOME_CHANNELS,)),
    "+ line of sight, log-distance": Variant(vae=(NO_DETOUR,)),
    "plain decoder": Variant(vae=(PLAIN,)),
    "plain decoder, condition at the latent's resolution": Variant(vae=(PLAIN, COARSE)),
    "8 latent channels": Variant(vae=("first_stage_config.embed_dim=8",)),
    "KL weight 1e-6": Variant(vae=("first_stage_config.lossconfig.kl_weight=1.0e-6",)),
    "no EMA": Variant(ema=False),
    "no augmentation": Variant(("data.augmentation.p=0",)),
}


class Trainings:
    """Training commands below one folder; each runs once, and resumes if it was interrupted.

    Args:
        out: folder.
        tree: training data.
        threads: per process.
    """

    def __init__(self, out: Path, tree: Path, threads: int):
        self.out, self.tree, self.threads = out, tree, threads
        self._locks: defaultdict[Path, Lock] = defaultdict(Lock)  # variants may share a run

    def train(self, folder: Path, stage: str, steps: int, overrides: Sequence[str]) -> Path:
        """Train `stage` for `steps` in `folder`, unless that is done; returns the folder."""
        with self._locks[folder]:
            found = find_checkpoint(folder)
            if found is None or found.step < steps:
                self._run(folder, stage, steps, overrides)
        return folder

    def _run(self, folder: Path, stage: str, steps: int, overrides: Sequence[str]) -> None:
        script, config, _ = STAGES[stage]
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, str(ROOT / script), "--cfg", str(ROOT / "configs" / config)),
            *(f"data.train.data_root={self.tree.resolve()}", f"trainer.results_folder={folder.resolve()}"),
            *(f"trainer.training_steps={steps}", "trainer.validate_every=0", "trainer.num_samples=0"),
            *overrides,
        ]
        with (folder / "output.txt").open("a", encoding="utf-8") as output:
            environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
            done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            raise TrainingError(f"{folder / 'output.txt'}: training failed; its last lines say why")

    def speed(self, stage: str, overrides: Sequence[str], vae: Sequence[str] = ()) -> float:
        """Optimizer steps per second, measured once on a few scenes; stage 2 uses the autoencoder timed for `vae`."""
        probes = self.out / "speed"
        few = [*vae, *overrides, f"trainer.log_interval={PROBE_STEPS // 2}", f"data.train.max_samples={PROBE_SCENES}"]
        if stage == "ldm":
            few.append(f"first_stage_config.ckpt_path={(probes / 'vae' / slug(vae)).resolve()}")
        folder = self.train(probes / stage / slug((*vae, *overrides)), stage, PROBE_STEPS, few)
        return read_log(folder / "train.log")["samples_per_second"][PROBE_STEPS] / STAGES[stage][2]


def slug(texts: Sequence[str]) -> str:
    """A name for a folder."""
    return re.sub(r"[^a-z0-9]+", "_", " ".join(texts).lower()).strip("_") or "default"


def probe(trainings: Trainings, variant: Variant, seconds: float, vae_seconds: float) -> dict[str, int]:
    """The steps that fit into a variant's time: `baseline`, or `vae`, `ldm` and the `end_to_end` steps after these."""
    if variant.baseline:
        return {"baseline": round((seconds + vae_seconds) * trainings.speed("baseline", variant.overrides))}
    steps = {"vae": round(vae_seconds * trainings.speed("vae", variant.vae))}
    latent = trainings.speed("ldm", variant.overrides, variant.vae)
    steps["ldm"] = round(seconds * (1 - variant.end_to_end) * latent)
    if variant.end_to_end:
        whole = trainings.speed("ldm", (*variant.overrides, "diffusion_config.end_to_end.start_step=0"), variant.vae)
        steps["end_to_end"] = round(seconds * variant.end_to_end * whole)
    return steps


def train_variant(trainings: Trainings, variant: Variant, steps: dict[str, int], seed: int) -> Path:
    """Train stage 2 on its autoencoder, which is already trained, or the regression; returns the results folder."""
    seeded = [f"trainer.seed={seed}"]
    if variant.baseline:
        folder = trainings.out / "runs" / f"baseline_{slug(variant.overrides)}_{seed}"
        return trainings.train(folder, "baseline", steps["baseline"], [*seeded, *variant.overrides])
    vae = trainings.out / "runs" / f"vae_{slug(variant.vae)}_{seed}"
    overrides = [*seeded, *variant.vae, *variant.overrides, f"first_stage_config.ckpt_path={vae.resolve()}"]
    end_to_end: tuple[str, ...] = ()
    if variant.end_to_end:
        end_to_end = (f"end-to-end {variant.end_to_end}",)
        overrides.append(f"diffusion_config.end_to_end.start_step={steps['ldm']}")
    folder = trainings.out / "runs" / f"ldm_{slug((*variant.vae, *variant.overrides, *end_to_end))}_{seed}"
    return trainings.train(folder, "ldm", steps["ldm"] + steps.get("end_to_end", 0), overrides)


def score(folder: Path, variant: Variant, scenes: dict[str, list[Scene]]) -> dict:
    """NMSE and SSIM by number of calls and set of scenes, saved in the folder."""
    kept = folder / ("scores.json" if variant.ema else "scores_without_ema.json")
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    facts = {"step": find_checkpoint(folder).step, "scenes": {k: [s.name for s in v] for k, v in scenes.items()}}
    if found.get("facts") != facts:
        figures: dict[str, dict] = {}
        for calls in variant.calls:
            predictor = Predictor(folder, use_ema=variant.ema, steps=None if variant.baseline else calls)
            for where, chosen in scenes.items():
                scores = Scores()
                for prediction in predictor.predict(chosen):
                    scores.add(prediction.scene.name, prediction.gain, prediction.scene.gain)
                summary = scores.summary() | {"nmse_per_map": [row["nmse"] for row in scores.rows]}
                figures.setdefault(str(calls), {})[where] = summary
        found = {"facts": facts, "figures": figures}
        write_json(kept, found)
    return found["figures"]


def markdown(found: dict[str, list[dict]], steps: dict[str, dict[str, int]], places: Sequence[str]) -> str:
    """One line per variant and number of calls; seeds are averaged map by map before the interval is taken."""
    heads = [f"{quantity}, {where}" for where in places for quantity in ("NMSE", "SSIM")]
    lines = [["", "steps", "seeds", "calls", *heads]]
    lines.append(["---"] * len(lines[0]))
    for name, seeds in found.items():
        taken = " + ".join(f"{count:,}" for stage, count in steps[name].items() if stage != "vae")
        for calls in seeds[0]:
            line = [name, taken, str(len(seeds)), calls]
            for where in places:
                per_map = np.mean([seed[calls][where]["nmse_per_map"] for seed in seeds], axis=0)
                low, high = interval(per_map)
                each = ", ".join(f"{seed[calls][where]['nmse']:.4f}" for seed in seeds) if len(seeds) > 1 else ""
                line.append(f"{per_map.mean():.4f} [{low:.4f}, {high:.4f}]" + (f" ({each})" if each else ""))
                line.append(f"{np.mean([seed[calls][where]['ssim'] for seed in seeds]):.4f}")
            lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="RadioMapSeer tree to train on")
    parser.add_argument("--real", type=Path, help="RadioMapSeer tree to score on, besides simulated cities")
    parser.add_argument("--split", default="all", help="of --real (%(default)s)")
    parser.add_argument("--maps", type=positive, default=50, help="simulated cities to score on (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs")
    parser.add_argument("--seconds", type=float, default=200, help="training time of the diffusion (%(default)s)")
    parser.add_argument("--vae_seconds", type=float, default=120, help="training time of the autoencoder (%(default)s)")
    parser.add_argument("--seeds", type=natural, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--parallel", type=positive, default=1, help="concurrent runs (%(default)s)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="per run (%(default)s)")
    parser.add_argument("--markdown", type=new_file, help="file for the table")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    trainings = Trainings(arguments.out, arguments.train, arguments.threads)
    sources: dict[str, SimulatedScenes | RadioMapSeer] = {
        "simulated": SimulatedScenes(arguments.maps, seed=FRESH_CITIES)
    }
    if arguments.real:
        sources["real"] = RadioMapSeer(arguments.real, "DPM", arguments.split)
    scenes = {where: [source.scene(i) for i in range(len(source))] for where, source in sources.items()}
    chosen = {name: VARIANTS[name] for name in arguments.only}
    with ThreadPoolExecutor(arguments.parallel) as pool:

        def each(function: Callable, items: Iterable[tuple]) -> list:
            """function(*item) for all items, `parallel` at a time."""
            return list(pool.map(lambda item: function(*item), items))

        each(trainings.speed, {("vae", variant.vae) for variant in chosen.values() if not variant.baseline})
        counts = each(probe, [(trainings, v, arguments.seconds, arguments.vae_seconds) for v in chosen.values()])
        steps = dict(zip(chosen, counts, strict=True))
        for name, count in steps.items():
            print(name, count, flush=True)
        jobs = [
            (n, v, seed) for n, v in chosen.items() for seed in (arguments.seeds if v.seeds else arguments.seeds[:1])
        ]
        autoencoders = {(v.vae, seed): steps[n]["vae"] for n, v, seed in jobs if not v.baseline}
        each(
            trainings.train,
            [
                (trainings.out / "runs" / f"vae_{slug(vae)}_{seed}", "vae", count, [*vae, f"trainer.seed={seed}"])
                for (vae, seed), count in autoencoders.items()
            ],
        )
        folders = each(train_variant, [(trainings, v, steps[n], seed) for n, v, seed in jobs])
    found: dict[str, list[dict]] = {}
    for (n, v, _), folder in zip(jobs, folders, strict=True):
        found.setdefault(n, []).append(score(folder, v, scenes))
    text = markdown(found, steps, list(scenes))
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
