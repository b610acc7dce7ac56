"""Compare configurations at equal cost: train every row of a plan for the same time, or on as many maps, and score all.

    python scripts/compare.py --plan configs/compare/field.yaml --out runs/compare --threads 1 --parallel 2 \\
        --markdown table.md

A plan is a YAML file: see configs/compare/ and `Plan` below. With `seconds`, the speed of each row is measured first,
`--parallel` at a time, and determines how many steps fit into the time: keep the machine to itself while that lasts; other
programs that run later do not change the result. Reading the data and filling caches is not counted. A row with an
autoencoder gives `vae_share` of its budget to it; one without has all for itself. What is finished is not run again: the
same command resumes after an interruption, or after rows were added; a row that was changed is another run.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import yaml
from pydantic import ValidationError

from data import FlatTree, RadioMapSeer, Scene, open_tree
from data.hashing import digest
from data.incomplete import Incomplete
from data.simulator.scenes import SimulatedScenes
from data.trees.splits import spread
from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.cli import new_file, positive, run
from denoising_diffusion_pytorch.config import load_config, to_dict
from denoising_diffusion_pytorch.config.schema import (
    Config,
    Count,
    IncompleteConfig,
    Natural,
    NotNegative,
    Positive,
    Section,
    Share,
    Text,
)
from denoising_diffusion_pytorch.errors import ConfigError, TrainingError
from denoising_diffusion_pytorch.predictor import Predictor
from denoising_diffusion_pytorch.training.run_folder import read_log
from evaluation.calibration import Calibration
from evaluation.metrics import Scores
from evaluation.references import log_distance_law, los_nlos_law, simulator_map
from evaluation.table import interval, measured_parts, write_json

ROOT = Path(__file__).resolve().parents[1]
PROBE_STEPS = 40  # optimizer steps that measure a row's speed; the first half is not counted
PROBE_SCENES = 64
LONGEST_NAME = 60  # of a folder
SCRIPTS = {"vae": "train_vae.py", "ldm": "train_cond_ldm.py", "baseline": "scripts/train_baseline.py"}
LAWS = {"simulator": simulator_map, "line-of-sight law": los_nlos_law, "25 log10 d": log_distance_law}


class Place(Section):
    """Scenes to score on: a split of a tree, or simulated cities.

    Attributes:
        data_root, simulation_type, split: of a tree; without `data_root` fresh simulated cities.
        maps: that many, spread over the split; None for all of it.
        first_city: number of the first simulated city.
        incomplete: what the condition does not know there; numbers of points and buildings are exact.
    """

    data_root: Text | None = None
    simulation_type: Text = "DPM"
    split: Text = "val"
    maps: Count | None = None
    first_city: Natural = 7_000_000
    incomplete: IncompleteConfig = IncompleteConfig()

    def scenes(self) -> list[Scene]:
        """Read them."""
        if self.data_root is None:
            source: RadioMapSeer | FlatTree | SimulatedScenes = SimulatedScenes(self.maps or 50, self.first_city)
        else:
            source = open_tree(self.data_root, self.simulation_type, self.split)
        incomplete = Incomplete(**vars(self.incomplete), exactly=True)
        chosen = [source.scene(index) for index in spread(len(source), self.maps or len(source))]
        return [incomplete.apply(scene) for scene in chosen]


class Row(Section):
    """One line of the table.

    Attributes:
        config: file of stage 2 or of a baseline, as `stage` says.
        vae: file of the autoencoder, trained first; rows with equal `vae` and `settings` share one.
        settings: key=value for both.
        own: key=value for `config` alone.
        end_to_end: share of stage 2's budget for the end-to-end phase.
        calls: numbers of network calls to score; None for the configured one.
        sampler, noise_scale, pixel_noise: None for the configured one.
        ema: score the averaged weights.
        seeds: of the runs, averaged map by map; None for the plan's.
        law: a predictor that needs no training.
        ckpt: a trained model, `released` for the repository's; not trained here.
    """

    config: Text | None = None
    stage: Literal["ldm", "baseline"] = "ldm"
    vae: Text | None = None
    settings: list[Text] = []
    own: list[Text] = []
    end_to_end: Share = 0.0
    calls: list[Count | None] = [None]
    sampler: Text | None = None
    noise_scale: Positive | None = None
    pixel_noise: NotNegative | None = None
    ema: bool = True
    seeds: list[Natural] | None = None
    law: Literal["simulator", "line-of-sight law", "25 log10 d"] | None = None
    ckpt: Text | None = None


class Plan(Section):
    """What to compare.

    Attributes:
        seconds, samples: the budget of every row, training time or maps seen; one of the two.
        vae_share: of it, for an autoencoder.
        settings: key=value for all rows.
        seeds: of rows that do not say otherwise.
        places: by name, where rows are scored.
        draws: per map, for CRPS and coverage beside the scores of their mean; a row's one-answer models have none.
        rows: by name; differences are taken against the first.
    """

    seconds: Positive | None = None
    samples: Count | None = None
    vae_share: Share = 1 / 3
    settings: list[Text] = []
    seeds: list[Natural] = [0]
    places: dict[str, Place]
    draws: Count = 1
    rows: dict[str, Row]


def read_plan(path: Path) -> Plan:
    """A plan from its file.

    Raises:
        ConfigError: naming the key.
    """
    try:
        plan = Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if (plan.seconds is None) == (plan.samples is None):
        raise ConfigError(f"{path}: give either seconds or samples, the budget of every row")
    for name, row in plan.rows.items():
        if sum(part is not None for part in (row.config, row.law, row.ckpt)) != 1:
            raise ConfigError(f"{path}: rows.{name}: give one of config, law and ckpt")
        if row.stage == "baseline" and (row.vae or row.end_to_end):
            raise ConfigError(f"{path}: rows.{name}: a baseline has neither vae nor end_to_end")
        if (row.noise_scale or row.pixel_noise) and (row.law or row.stage == "baseline"):
            raise ConfigError(f"{path}: rows.{name}: noise_scale and pixel_noise are for samplers")
        if row.law and any(place.incomplete.transmitter_unknown for place in plan.places.values()):
            raise ConfigError(f"{path}: rows.{name}: a law needs the transmitter, which places.*.incomplete hides")
    return plan


class Trainings:
    """The runs of a plan below one folder; each runs once, and resumes if it was interrupted.

    A run's folder is named after its row, seed and a digest of all that makes it: another configuration, budget or
    autoencoder is another run.

    Args:
        plan: see there.
        out: folder.
        threads: per process.
        parallel: how many run at once, which a measured speed depends on.
    """

    def __init__(self, plan: Plan, out: Path, threads: int, parallel: int = 1):
        self.plan, self.out, self.threads, self.parallel = plan, out, threads, parallel
        self._locks: defaultdict[Path, Lock] = defaultdict(Lock)  # rows may share a run

    def steps(self, row: Row) -> dict[str, int]:
        """Optimizer steps that fit into a row's budget: `vae`, the row's stage, and `end_to_end` after it."""
        share = self.plan.vae_share if row.vae else 0.0
        steps = {"vae": self._fitting(share, "vae", row)} if row.vae else {}
        steps[row.stage] = self._fitting((1 - share) * (1 - row.end_to_end), row.stage, row)
        if row.end_to_end:
            whole = "diffusion_config.end_to_end.start_step=0"
            steps["end_to_end"] = self._fitting((1 - share) * row.end_to_end, "ldm", row, whole)
        return steps

    def _fitting(self, share: float, stage: str, row: Row, *more: str) -> int:
        """Steps of a stage that fit into this share of the budget."""
        trainer = self._config(stage, row).trainer
        batch = trainer.batch_size * trainer.gradient_accumulation
        if self.plan.samples:
            return max(1, round(share * self.plan.samples / batch))
        few = [f"trainer.log_interval={PROBE_STEPS // 2}", f"data.train.max_samples={PROBE_SCENES}"]
        few += ["data.cache_latents=false", "trainer.ema.start_step=0", *more]
        if row.vae and stage != "vae":
            few.append(f"first_stage_config.ckpt_path={self._probe('vae', row, few[:4]).resolve()}")
        folder = self._probe(stage, row, few)
        speed = read_log(folder / "train.log")["samples_per_second"][PROBE_STEPS] / batch
        return max(1, round(share * float(self.plan.seconds or 0) * speed))

    def _probe(self, stage: str, row: Row, few: Sequence[str]) -> Path:
        """A few steps, for their speed; returns the folder."""
        load = f"threads={self.threads} parallel={self.parallel}"
        return self._train(self.out / "speed", stage, stage, row, PROBE_STEPS, few, load)

    def _settings(self, stage: str, row: Row) -> list[str]:
        return [*self.plan.settings, *row.settings, *(row.own if stage != "vae" else ())]

    def _config(self, stage: str, row: Row, more: Sequence[str] = ()) -> Config:
        return load_config(row.vae if stage == "vae" else row.config, [*self._settings(stage, row), *more], stage=stage)

    def vae(self, row: Row, seed: int, steps: dict[str, int]) -> Path:
        """Train a row's autoencoder, unless that is done; returns its results folder."""
        return self._train(self.out / "runs", "vae", "vae", row, steps["vae"], [f"trainer.seed={seed}"])

    def model(self, name: str, row: Row, seed: int, steps: dict[str, int]) -> Path:
        """Train a row's stage, after its autoencoder; returns its results folder."""
        own = [f"trainer.seed={seed}"]
        if row.vae:
            own.append(f"first_stage_config.ckpt_path={self.vae(row, seed, steps).resolve()}")
        if row.end_to_end:
            own.append(f"diffusion_config.end_to_end.start_step={steps['ldm']}")
        every = steps[row.stage] + steps.get("end_to_end", 0)
        return self._train(self.out / "runs", name, row.stage, row, every, own)

    def _train(
        self, parent: Path, name: str, stage: str, row: Row, steps: int, more: Sequence[str], load: str = ""
    ) -> Path:
        """Train, unless that is done; returns the results folder."""
        more = [f"trainer.training_steps={steps}", "trainer.validate_every=0", "trainer.num_samples=0", *more]
        config = to_dict(self._config(stage, row, more))
        readable = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:LONGEST_NAME]
        folder = parent / f"{readable}_{digest(config, load)[:8]}"
        with self._locks[folder]:
            found = find_checkpoint(folder)
            if found is None or found.step < steps:
                self._run(folder, stage, row, more)
        return folder

    def _run(self, folder: Path, stage: str, row: Row, more: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(ROOT / SCRIPTS[stage]), "--cfg", str(row.vae if stage == "vae" else row.config)]
        command += [*self._settings(stage, row), *more, f"trainer.results_folder={folder.resolve()}"]
        with (folder / "output.txt").open("a", encoding="utf-8") as output:
            environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
            done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            raise TrainingError(f"{folder / 'output.txt'}: training failed; its last lines say why")


def score(predictor: Predictor, draws: int, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Scores of a model on scenes: of its mean over the draws and, for more than one, of their distribution."""
    scores, calibration, seconds = Scores(), Calibration(), 0.0
    list(predictor.predict(scenes[:1]))  # the first one compiles
    predictions = predictor.predict(scenes)
    for scene in scenes:
        began = time.perf_counter()
        prediction = next(predictions)
        seconds += time.perf_counter() - began
        scores.add(scene.name, prediction.gain, scene.gain, measured_parts(scene))
        calibration.add_prediction(scene, prediction.draws)
    found = summary(scores) | {"seconds_per_map": seconds / len(scenes) / draws}
    found["parameters"] = sum(p.numel() for p in predictor.model.parameters())
    if calibration.rows:
        found |= {key: value for key, value in calibration.summary().items() if key not in ("ranks", "by_spread")}
        found["crps_per_map"] = [row["crps"] for row in calibration.rows]
    return found


def score_law(name: str, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Scores of a predictor that needs no training."""
    scores, seconds = Scores(), 0.0
    LAWS[name](scenes[0])  # the first one compiles
    for scene in scenes:
        began = time.perf_counter()
        gain = LAWS[name](scene)
        seconds += time.perf_counter() - began
        scores.add(scene.name, gain, scene.gain, measured_parts(scene))
    return summary(scores) | {"seconds_per_map": seconds / len(scenes), "parameters": 0}


def summary(scores: Scores) -> dict[str, Any]:
    """Means over maps, and the NMSE of each."""
    return scores.summary() | {"nmse_per_map": [row["nmse"] for row in scores.rows]}


def score_row(plan: Plan, row: Row, folder: Path | None, places: dict[str, list[Scene]]) -> dict[str, dict]:
    """{calls: {place: scores}} of a row and seed, kept in the run's folder."""
    if row.law:
        return {"-": {where: score_law(row.law, scenes) for where, scenes in places.items()}}
    source = folder or (None if row.ckpt == "released" else row.ckpt)
    found = find_checkpoint(folder) if folder else None
    kept = None if folder is None else folder / ("scores.json" if row.ema else "scores_without_ema.json")
    known = json.loads(kept.read_text(encoding="utf-8")) if kept is not None and kept.exists() else {}
    figures: dict[str, dict] = {}
    for calls in row.calls:
        how = {name: getattr(row, name) for name in ("sampler", "noise_scale", "pixel_noise")}
        predictor = Predictor(source, use_ema=row.ema, steps=calls, **how)
        predictor.num_samples = plan.draws if predictor.draws_differ else 1
        for where, scenes in places.items():
            names = [scene.name for scene in scenes]
            facts = {
                "step": found and found.step,
                "sampler": predictor.sampler,
                "noise_scale": predictor.noise_scale,
                "pixel_noise": predictor.pixel_noise,
                "scenes": names,
                "draws": plan.draws,
                "place": plan.places[where].model_dump(),
            }
            place = known.setdefault(str(predictor.steps), {}).setdefault(where, {})
            if place.get("facts") != facts:
                place |= {"facts": facts, "scores": score(predictor, predictor.num_samples, scenes)}
            figures.setdefault(str(predictor.steps), {})[where] = place["scores"]
            if kept is not None:
                write_json(kept, known)
    return figures


def pooled(seeds: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """A score of each map, averaged over the seeds."""
    return np.mean([seed[key] for seed in seeds], axis=0)


def with_interval(values: np.ndarray, sign: str = "") -> str:
    """The mean over maps and its interval."""
    bounds = interval(values.tolist())
    text = f"{values.mean():{sign}.4f}"
    return text if bounds is None else f"{text} [{bounds[0]:{sign}.4f}, {bounds[1]:{sign}.4f}]"


def markdown(plan: Plan, found: dict[str, list[dict]], steps: dict[str, dict[str, int]]) -> str:
    """One table per place: a line per row and number of calls; NMSE of each seed in parentheses where there are several."""
    parts = []
    for where in plan.places:
        drawn = ["CRPS, dB", "90 % interval covers"] if plan.draws > 1 else []
        near = ["NMSE near points", "far"] if plan.places[where].incomplete.points else []
        heads = [
            "NMSE, raw",
            "minus the first row's",
            "RMSE",
            "SSIM",
            "NMSE 0.2, whole set",
            "NMSE 0.2, per map",
            *near,
            *drawn,
        ]
        lines = [["", "parameters", "steps", "calls", *heads, "s per map"]]
        lines.append(["---"] * len(lines[0]))
        reference = None
        for name, seeds in found.items():
            taken = " + ".join(f"{count:,}" for stage, count in steps.get(name, {}).items() if stage != "vae") or "-"
            for calls in seeds[0]:
                each = [seed[calls][where] for seed in seeds]
                nmse = pooled(each, "nmse_per_map")
                reference = nmse if reference is None else reference
                several = " (" + ", ".join(f"{seed['nmse']:.4f}" for seed in each) + ")" if len(each) > 1 else ""

                def mean(*path: str, each: list[dict] = each) -> float:
                    values: list[Any] = each
                    for key in path:
                        values = [value[key] for value in values]
                    return float(np.mean(values))

                cells = [name, f"{mean('parameters') / 1e6:.2f} M" if mean("parameters") else "-", taken, calls]
                cells += [with_interval(nmse) + several]
                cells += ["-" if nmse is reference else with_interval(nmse - reference, "+")]
                cells += [f"{mean('rmse'):.4f}", f"{mean('ssim'):.3f}"]
                cells += [f"{mean('thresholded', key):.4f}" for key in ("nmse_whole_set", "nmse")]
                cells += [f"{mean(f'nmse_{part}'):.4f}" for part in ("near", "far") if near]
                if drawn and "crps" in each[0]:
                    cells += [f"{mean('crps'):.2f}", f"{mean('coverage', '0.9'):.1%}"]
                else:
                    cells += ["-" for _ in drawn]
                lines.append([*cells, f"{mean('seconds_per_map'):.3f}"])
        parts.append(f"{where}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, required=True, help="YAML file, e.g. of configs/compare/")
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows alone")
    parser.add_argument("--parallel", type=positive, default=1, help="concurrent runs (%(default)s)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="per run (%(default)s)")
    parser.add_argument("--markdown", type=new_file, help="file for the tables")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    plan = read_plan(arguments.plan)
    unknown = set(arguments.only or ()) - plan.rows.keys()
    if unknown:
        raise ConfigError(f"--only {unknown.pop()}: no row of {arguments.plan}; there are {', '.join(plan.rows)}")
    rows = {name: row for name, row in plan.rows.items() if name in (arguments.only or plan.rows)}
    places = {where: place.scenes() for where, place in plan.places.items()}
    trainings = Trainings(plan, arguments.out, arguments.threads, arguments.parallel)
    jobs = [(n, seed) for n, row in rows.items() if row.config for seed in row.seeds or plan.seeds]
    with ThreadPoolExecutor(arguments.parallel) as pool:
        trained = {name: row for name, row in rows.items() if row.config}
        steps = dict(zip(trained, pool.map(trainings.steps, trained.values()), strict=True))
        for name, count in steps.items():
            print(name, count, flush=True)
        folders = list(pool.map(lambda job: trainings.model(job[0], rows[job[0]], job[1], steps[job[0]]), jobs))
    torch.set_num_threads(arguments.threads)
    found: dict[str, list[dict]] = {}
    for name, row in rows.items():
        runs: list[Path | None] = [folder for (n, _), folder in zip(jobs, folders, strict=True) if n == name]
        found[name] = [score_row(plan, row, folder, places) for folder in runs or [None]]
    text = markdown(plan, found, steps)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
