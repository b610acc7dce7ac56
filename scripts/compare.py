"""Compare configurations at equal cost: train every row of a plan for the same time, and score all.

    python scripts/compare.py --plan configs/compare/field_256.yaml --out runs/compare --threads 1 --parallel 2 \\
        --markdown table.md

A plan is a YAML file: see configs/compare/ and `Plan` in this file. The speed of each row is measured first, one row at
a time, and determines how many steps fit into the time: run nothing else on the machine during this measurement. Later,
other programs, and rows that are trained in parallel, do not change the result. Reading the data and filling caches is not
counted. A row with an autoencoder spends a fifth of its time on it. What is finished is not run again: the same command
resumes after an interruption, or after rows were added; a changed row is a new run.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Lock
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from pydantic import ValidationError

from data import Scene, open_tree
from data.files import read_json, write_text
from data.hashing import digest
from data.workers import usable_processors
from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.cli import new_figure, new_file, positive, run
from denoising_diffusion_pytorch.config import load_config, schema
from denoising_diffusion_pytorch.config.reader import read_yaml
from denoising_diffusion_pytorch.errors import ConfigError, TrainingError
from denoising_diffusion_pytorch.predictor import Predictor
from denoising_diffusion_pytorch.training.run_folder import read_log
from evaluation.figures import curves_figure
from evaluation.metrics import Scores, mean_of, measure
from evaluation.references import REFERENCES
from evaluation.regions import Regions
from evaluation.report import difference, interval, markdown, table

ROOT = Path(__file__).resolve().parents[1]
PROBE = 40  # optimizer steps that measure a row's speed; the first half is not counted
QUIET = ("trainer.validate_every=0", "trainer.num_samples=0")
CURVE_MAPS = 60  # scored along the training
MAX_NAME = 60  # of a folder
VAE_FRACTION = 1 / 5  # of the time of a row with an autoencoder
HEADS = ("", "parameters", "training steps", "sampling steps", "s per map", "minus the first row", "NMSE by seed")
SCRIPTS = {"vae": "train_vae.py", "ldm": "train_cond_ldm.py", "baseline": "scripts/train_baseline.py"}


class Row(schema.Section):
    """One line of the table: a model to train (`config`), or a `reference`."""

    config: schema.Text | None = None  # file of stage 2 or of a baseline, as `stage` says
    stage: Literal["ldm", "baseline"] = "ldm"
    vae: schema.Text | None = None  # autoencoder's file, trained first; once for rows with equal `vae` and `settings`
    settings: list[schema.Text] = []  # key=value for both
    own: list[schema.Text] = []  # key=value for `config` alone
    sampling_steps: list[schema.Count | None] = [None]  # each is scored; None: the configured number
    seeds: list[schema.Natural] = [0]  # of the runs, averaged map by map
    reference: Annotated[str, schema.one_of(REFERENCES)] | None = None  # needs no training


class Plan(schema.Section):
    """What to compare, and for how many `seconds` to train each row."""

    seconds: schema.Positive
    settings: list[schema.Text] = []  # key=value for all rows
    test_sets: dict[str, schema.SourceConfig]
    curve: dict[Literal["points"], schema.Count] = {}  # scores along each training, on maps of the first test set
    rows: dict[str, Row]  # differences are taken against the first


def read_plan(path: Path) -> Plan:
    """A plan from its file; a ConfigError names the key."""
    try:
        plan = Plan.model_validate(read_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    for source in plan.test_sets.values():
        source.split = source.split or "val"
    for name, row in plan.rows.items():
        if (row.config is None) == (row.reference is None):
            raise ConfigError(f"{path}: rows.{name}: give either config or reference")
        if (row.vae or row.sampling_steps != [None]) and (row.reference or row.stage == "baseline"):
            raise ConfigError(f"{path}: rows.{name}: vae and sampling_steps are for latent diffusion")
    return plan


class Runs:
    """The runs of a plan below one folder; each runs once, and resumes if it was interrupted.

    A run's folder is named after its row, seed and a digest of all that makes it: another configuration, budget,
    autoencoder or state of the data is another run. A measured speed depends on `threads` (per process).
    """

    def __init__(self, plan: Plan, out: Path, threads: int, parallel: int = 1):
        self.plan, self.out, self.threads = plan, out, threads
        self._locks: defaultdict[Path, Lock] = defaultdict(Lock)  # rows may have a run in common
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        gpus = visible.split(",")  # one empty name where there is none
        self._gpus: Queue[str] = Queue()  # one for each concurrent run
        for number in range(parallel):
            self._gpus.put(gpus[number % len(gpus)])

    def steps(self, row: Row) -> dict[str, int]:
        """Optimizer steps that fit into a row's time, of its autoencoder (`vae`) and of its stage."""
        stages = {"vae": VAE_FRACTION, "ldm": 1 - VAE_FRACTION} if row.vae else {row.stage: 1.0}
        return {name: max(1, round(part * self.plan.seconds * self.speed(name, row))) for name, part in stages.items()}

    def speed(self, stage: str, row: Row) -> float:
        """Optimizer steps per second."""
        few = ["data.train.max_samples=64", "data.cache_latents=false", "trainer.ema.start_step=0"]
        few.append(f"trainer.log_interval={PROBE // 2}")
        folder = self._trained("speed", stage, stage, row, {"vae": PROBE, stage: PROBE}, few)
        config = load_config(*self.settings(stage, row), stage=stage).trainer
        rate = read_log(folder / "train.log")["samples_per_second"][PROBE]
        return rate / (config.batch_size * config.gradient_accumulation)

    def model(self, name: str, row: Row, seed: int, steps: dict[str, int]) -> Path:
        """Train a row's autoencoder and its stage, unless that is done; returns the results folder."""
        scored = []
        if self.plan.curve:
            source = next(iter(self.plan.test_sets.values()))
            scored = [f"data.validation.{key}={json.dumps(v)}" for key, v in vars(source).items() if v is not None]
            scored.append(f"trainer.validate_every={-(-steps[row.stage] // self.plan.curve['points'])}")
            scored.append(f"trainer.validation_samples={CURVE_MAPS}")
        return self._trained("runs", name, row.stage, row, steps, [f"trainer.seed={seed}"], scored)

    def curve(self, row: Row, folder: Path, steps: dict[str, int]) -> tuple[list[float], list[float]]:
        """Minutes of training, and the NMSE, at every score along a run."""
        scores = read_log(folder / "train.log").get("validation_nmse", {})
        before = VAE_FRACTION if row.vae else 0.0
        used = [self.plan.seconds / 60 * (before + (1 - before) * step / steps[row.stage]) for step in scores]
        return used, [*scores.values()]

    def settings(self, stage: str, row: Row, more: Sequence[str] = ()) -> tuple[str, list[str]]:
        """File and overrides of one of a row's trainings."""
        own = row.own if stage != "vae" else ()
        return str(row.vae if stage == "vae" else row.config), [*self.plan.settings, *row.settings, *own, *more]

    def _trained(
        self, parent: str, name: str, stage: str, row: Row, steps: dict[str, int],
        more: Sequence[str], own: Sequence[str] = (),
    ) -> Path:  # fmt: skip
        """Train a row's autoencoder with settings `more`, then its stage with `own` too; returns the results folder."""
        options = [*QUIET, f"trainer.training_steps={steps[stage]}", *more, *own]
        if row.vae and stage != "vae":
            vae = self._trained(parent, "vae", "vae", row, steps, more)
            options.append(f"first_stage_config.ckpt_path={json.dumps(str(vae.resolve()))}")
        file, overrides = self.settings(stage, row, options)
        readable = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:MAX_NAME]
        config = load_config(file, overrides, stage=stage).model_dump()
        threads = self.threads if parent == "speed" else None  # the weights do not depend on it
        data = open_tree(**config["data"]["train"]).identity()
        folder = self.out / parent / f"{readable}_{digest(config, threads, data)[:8]}"
        with self._locks[folder]:
            found = find_checkpoint(folder)
            if found is None or found.step < steps[stage]:
                folder.mkdir(parents=True, exist_ok=True)
                command = [sys.executable, str(ROOT / SCRIPTS[stage]), "--cfg", file, *overrides]
                command.append(f"trainer.results_folder={json.dumps(str(folder.resolve()))}")
                gpu = self._gpus.get()
                environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "CUDA_VISIBLE_DEVICES": gpu}
                with (folder / "output.txt").open("a", encoding="utf-8") as output:
                    done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
                self._gpus.put(gpu)
                found = find_checkpoint(folder)
                if done.returncode or found is None or found.step < steps[stage]:  # a run that is stopped exits with 0
                    message = "training failed or was stopped; its last lines say why"
                    raise TrainingError(f"{folder / 'output.txt'}: {message}")
        return folder


def timed_scores(predict: Callable[[Sequence[Scene]], Iterable[np.ndarray]], scenes: Sequence[Scene]) -> dict[str, Any]:
    """Scores of a predictor, one of `rows` per scene, and its `seconds` per map."""
    next(iter(predict(scenes[:1])))  # the first one compiles
    rows, seconds, gains = [], 0.0, iter(predict(scenes))
    for scene in scenes:
        began = time.perf_counter()
        gain = next(gains)
        seconds += time.perf_counter() - began
        rows.append(measure(scene.name, gain, scene.gain, Regions.of(scene)))
    return {"rows": rows, "seconds": seconds / len(scenes)}


def model_scores(folder: Path, steps: int | None, source: dict[str, Any], scenes: list[Scene]) -> dict[str, Any]:
    """`timed_scores` of a run's model, with its `parameters` and number of sampling `steps`; kept in the run's folder."""
    predictor = Predictor(folder, steps=steps)
    facts = predictor.identity(1)
    kept = folder / f"scores_{digest(facts, source, [scene.name for scene in scenes])}.json"
    if not kept.exists():
        found = timed_scores(lambda of: (prediction.gain for prediction in predictor.predict(of)), scenes)
        parameters = sum(p.numel() for p in predictor.model.parameters())
        found |= {"parameters": parameters, "steps": facts["steps"] or 1}
        write_text(kept, json.dumps(found))  # with NaN, as Python reads it
    return read_json(kept)


def score_table(
    plan: Plan,
    where: str,
    source: dict[str, Any],
    scenes: list[Scene],
    runs: dict[str, list[Path]],
    steps: dict[str, Any],
) -> str:
    """A line per row and number of sampling steps, with means over the seeds, on the `scenes` of a `source` (its identity);
    `runs` and training `steps` by row.
    """
    lines: dict[tuple[str, ...], dict] = {}
    first, names = None, [scene.name for scene in scenes]
    for name, folders in runs.items():
        row = plan.rows[name]
        for sampling_steps in row.sampling_steps:
            if row.reference:
                seeds = [timed_scores(partial(map, REFERENCES[row.reference]), scenes)]
            else:
                seeds = [model_scores(folder, sampling_steps, source, scenes) for folder in folders]
            nmse = np.array([[one["nmse"] for one in seed["rows"]] for seed in seeds]).mean(0)
            of_seeds = ", ".join(f"{mean_of([one['nmse'] for one in seed['rows']]):.4f}" for seed in seeds)
            cells = (
                name,
                f"{seeds[0]['parameters'] / 1e6:.2f} M" if row.config else "-",
                f"{steps[name][row.stage]:,}" if row.config else "-",
                str(seeds[0].get("steps", "-")),
                f"{np.mean([seed['seconds'] for seed in seeds]):.3f}",
                "-" if first is None else difference(nmse - first, names),
                of_seeds if len(seeds) > 1 else "-",
            )
            scores = Scores([one for seed in seeds for one in seed["rows"]])
            lines[cells] = scores.summary() | {"nmse_interval": interval(nmse, names)}
            first = nmse if first is None else first
    return f"{where}\n\n{markdown(table(lines, heads=HEADS))}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--plan", type=Path, required=True, help="YAML file, e.g. from configs/compare/")
    add("--out", type=Path, required=True, help="folder for all runs")
    add("--parallel", type=positive, default=1, help="concurrent runs, spread over the GPUs (%(default)s)")
    add("--threads", type=positive, default=usable_processors(), help="per run (%(default)s)")
    add("--markdown", type=new_file, help="file for the tables")
    add("--figure", type=new_figure, help="figure of the error along the training, see `curve` of a plan")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    plan = read_plan(arguments.plan)
    trainings = Runs(plan, arguments.out, arguments.threads, arguments.parallel)
    trained = {name: row for name, row in plan.rows.items() if row.config}
    for row in trained.values():  # mistakes show before any time is spent
        for stage in ("vae", row.stage) if row.vae else (row.stage,):
            made_later = ["first_stage_config.ckpt_path=vae"] if row.vae and stage != "vae" else []
            file, overrides = trainings.settings(stage, row, made_later)
            load_config(file, overrides, stage=stage)
    if arguments.figure and not plan.curve:
        raise ConfigError(f"--figure: {arguments.plan} has no `curve`, which scores rows along their training")
    trees = {where: open_tree(**vars(source)) for where, source in plan.test_sets.items()}
    test_sets = {where: [tree.scene(number) for number in range(len(tree))] for where, tree in trees.items()}
    jobs = [(name, seed) for name, row in trained.items() for seed in row.seeds]
    jobs.sort(key=lambda job: trained[job[0]].seeds.index(job[1]))  # all rows once, then again
    with ThreadPoolExecutor(arguments.parallel) as pool:
        steps = {name: trainings.steps(row) for name, row in trained.items()}  # one at a time: under equal conditions
        for name, count in steps.items():
            print(name, count, flush=True)
        folders = list(pool.map(lambda job: trainings.model(job[0], trained[job[0]], job[1], steps[job[0]]), jobs))
    runs: dict[str, list[Path]] = {name: [] for name in plan.rows}
    for (name, _), folder in zip(jobs, folders, strict=True):
        runs[name].append(folder)
    if arguments.figure:
        curves = [(name, *trainings.curve(plan.rows[name], f, steps[name])) for name in steps for f in runs[name]]
        curves_figure(arguments.figure, curves, plan.seconds / 60)
    torch.set_num_threads(arguments.threads)
    tables = (score_table(plan, where, trees[where].identity(), test_sets[where], runs, steps) for where in trees)
    text = "\n\n".join(tables)
    print(text)
    if arguments.markdown:
        write_text(arguments.markdown, text + "\n")


if __name__ == "__main__":
    run(main)
