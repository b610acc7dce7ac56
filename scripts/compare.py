"""Compare configurations at equal cost: train every row of a plan for the same time, and score all.

    python scripts/compare.py --plan configs/compare/field_256.yaml --out runs/compare --threads 1 --parallel 2 \\
        --markdown table.md

A plan is a YAML file: see configs/compare/ and `Plan` in this file. The speed of each row is measured first, one row at
a time, and determines how many steps fit into the time: run nothing else on the machine during this measurement. Later,
other programs, and rows that are trained in parallel, do not change the result. Reading the data and filling caches is
not counted. A row spends a fifth of its time on its autoencoder, and the last three fifths on its second training
(`finish`), where it has them. What is complete is not run again: the same command resumes after an interruption, or
after rows were added; a changed row is a new run.
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
from typing import Annotated, Any, Literal, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from pydantic import Field, ValidationError

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
from evaluation.metrics import mean_of, measure, summary_of
from evaluation.references import REFERENCES
from evaluation.regions import Regions
from evaluation.report import difference, interval, markdown, table

ROOT = Path(__file__).resolve().parents[1]
PROBE = 40  # optimizer steps that measure a row's speed; the first half is not counted
QUIET = ("trainer.validate_every=0", "trainer.num_samples=0")
CURVE_MAPS = 60  # scored along the training
MAX_NAME = 60  # of a folder
AUTOENCODER, FINISH = 1 / 5, 3 / 5  # of a row's time, where it has an autoencoder and a `finish`
HEADS = ("", "parameters", "training steps", "sampling steps", "s per map", "minus the first row", "NMSE by seed")
SCRIPTS = {"vae": "train_vae.py", "ldm": "train_cond_ldm.py", "baseline": "scripts/train_baseline.py"}
SOME = Field(min_length=1)


class Training(NamedTuple):
    """One of a row's trainings, with the fraction of the row's time for it."""

    fraction: float
    stage: Literal["vae", "ldm", "baseline"]
    file: str
    settings: list[str]  # key=value
    start: str | None = None  # key for the folder of the training before


class Row(schema.Section):
    """One line of the table: a model to train (`config`), or a `reference`."""

    config: schema.Text | None = None  # file of stage 2 or of a baseline, as `stage` says
    stage: Literal["ldm", "baseline"] = "ldm"
    vae: schema.Text | None = None  # autoencoder's file, trained first; once for rows with equal `vae` and `settings`
    settings: list[schema.Text] = []  # key=value for all its trainings
    own: list[schema.Text] = []  # key=value for `config` alone
    finish: list[schema.Text] = []  # key=value for a second training with `config`, from the weights of the first
    sampling_steps: Annotated[list[schema.Count | None], SOME] = [None]  # each is scored; None: the configured number
    seeds: Annotated[list[schema.Natural], SOME] = [0]  # of the runs, averaged map by map
    reference: Annotated[str, schema.one_of(REFERENCES)] | None = None  # needs no training

    def trainings(self) -> dict[str, Training]:
        """In their order: `vae`, `ldm` or `baseline`, `finish`."""
        found: dict[str, Training] = {}
        if self.vae:
            found["vae"] = Training(AUTOENCODER, "vae", self.vae, self.settings)
        if self.config:
            fraction = 1 - AUTOENCODER * bool(self.vae) - FINISH * bool(self.finish)
            settings = [*self.settings, *self.own]
            start = "first_stage_config.ckpt_path" if self.vae else None
            found[self.stage] = Training(fraction, self.stage, self.config, settings, start)
            if self.finish:
                settings = [*settings, "first_stage_config.ckpt_path=null", *self.finish]
                found["finish"] = Training(FINISH, self.stage, self.config, settings, "trainer.init_from")
        return found


class Plan(schema.Section):
    """What to compare, and for how many `seconds` to train each row."""

    seconds: schema.Positive
    settings: list[schema.Text] = []  # key=value for all rows
    test_sets: Annotated[dict[str, schema.SourceConfig], SOME]
    curve: dict[Literal["points"], schema.Count] = {}  # scores along each training, on maps of the first test set
    rows: Annotated[dict[str, Row], SOME]  # differences are taken against the first


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
        if (row.vae or row.finish or row.sampling_steps != [None]) and (row.reference or row.stage == "baseline"):
            raise ConfigError(f"{path}: rows.{name}: vae, finish and sampling_steps are for latent diffusion")
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
        """Optimizer steps of each training of a row that fit into its time, by their measured speeds. A phase that starts
        later in a training is not measured: a discriminator, or `end_to_end`, for which a row has `finish`.
        """
        few = ["data.train.max_samples=64", "trainer.ema.start_step=0"]
        few.append(f"trainer.log_interval={PROBE // 2}")
        trainings, steps = row.trainings(), {}
        for name, folder in self._train("speed", "", row, dict.fromkeys(trainings, PROBE), few).items():
            config = self._load(trainings[name]).trainer
            rate = read_log(folder / "train.log")["samples_per_second"][PROBE]
            rate /= config.batch_size * config.gradient_accumulation
            steps[name] = max(1, round(trainings[name].fraction * self.plan.seconds * rate))
        return steps

    def models(self, name: str, row: Row, seed: int, steps: dict[str, int]) -> dict[str, Path]:
        """Train what is not trained yet of a row; returns the results folder of each training."""
        return self._train("runs", name, row, steps, [f"trainer.seed={seed}"])

    def curve(self, row: Row, folders: dict[str, Path], steps: dict[str, int]) -> tuple[list[float], list[float]]:
        """Minutes of training, and the NMSE, at every score along a row's trainings."""
        minutes: list[float] = []
        scores: list[float] = []
        before = 0.0
        for name, training in row.trainings().items():
            found = read_log(folders[name] / "train.log").get("validation_nmse", {})
            minutes += [self.plan.seconds / 60 * (before + training.fraction * step / steps[name]) for step in found]
            scores += found.values()
            before += training.fraction
        return minutes, scores

    def check(self, row: Row) -> None:
        """Raise a ConfigError for settings that no training of the row could have."""
        for training in row.trainings().values():
            self._load(training, [f"{training.start}=made_later"] if training.start else [])

    def _load(self, training: Training, more: Sequence[str] = ()) -> schema.Config:
        return load_config(training.file, [*self.plan.settings, *training.settings, *more], stage=training.stage)

    def _scored(self, training: Training, row: Row, steps: int) -> list[str]:
        """Settings for the scores along a training, whose number is its fraction of the curve's points."""
        if not self.plan.curve or training.stage == "vae":
            return []
        source = next(iter(self.plan.test_sets.values()))
        scored = [f"data.validation.{key}={json.dumps(v)}" for key, v in vars(source).items() if v is not None]
        points = max(1, round(self.plan.curve["points"] * training.fraction / (1 - AUTOENCODER * bool(row.vae))))
        return [*scored, f"trainer.validate_every={-(-steps // points)}", f"trainer.validation_samples={CURVE_MAPS}"]

    def _train(self, parent: str, name: str, row: Row, steps: dict[str, int], more: Sequence[str]) -> dict[str, Path]:
        """All trainings of a row with settings `more`, each from the folder of the one before; returns the results folders."""
        folders: dict[str, Path] = {}
        for key, training in row.trainings().items():
            options = [*QUIET, f"trainer.training_steps={steps[key]}", *more]
            if parent == "runs":
                options += self._scored(training, row, steps[key])
            if training.start:
                options.append(f"{training.start}={json.dumps(str([*folders.values()][-1].resolve()))}")
            readable = {"vae": "vae", "finish": f"finish {name}"}.get(key, name or key)
            readable = re.sub(r"[^a-z0-9]+", "_", readable.lower()).strip("_")[:MAX_NAME]
            config = self._load(training, options).model_dump()
            threads = self.threads if parent == "speed" else None  # the weights do not depend on it
            data = open_tree(**config["data"]["train"]).identity()
            folders[key] = self.out / parent / f"{readable}_{digest(config, threads, data)[:8]}"
            self._run(training, folders[key], steps[key], options)
        return folders

    def _run(self, training: Training, folder: Path, steps: int, options: Sequence[str]) -> None:
        """One training in a process of its own, unless it is complete."""
        with self._locks[folder]:
            found = find_checkpoint(folder)
            if found is not None and found.step >= steps:
                return
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, str(ROOT / SCRIPTS[training.stage]), "--cfg", training.file]
            command += [*self.plan.settings, *training.settings, *options]
            command.append(f"trainer.results_folder={json.dumps(str(folder.resolve()))}")
            gpu = self._gpus.get()
            environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "CUDA_VISIBLE_DEVICES": gpu}
            try:
                with (folder / "output.txt").open("a", encoding="utf-8") as output:
                    done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            finally:
                self._gpus.put(gpu)
            found = find_checkpoint(folder)
            if done.returncode or found is None or found.step < steps:  # a run that is stopped exits with 0
                message = "training failed or was stopped; its last lines say why"
                raise TrainingError(f"{folder / 'output.txt'}: {message}")


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
    runs: dict[str, list[dict[str, Path]]],
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
                seeds = [model_scores([*run.values()][-1], sampling_steps, source, scenes) for run in folders]
            nmse = np.array([[one["nmse"] for one in seed["rows"]] for seed in seeds]).mean(0)
            of_seeds = ", ".join(f"{mean_of([one['nmse'] for one in seed['rows']]):.4f}" for seed in seeds)
            cells = (
                name,
                f"{seeds[0]['parameters'] / 1e6:.2f} M" if row.config else "-",
                " + ".join(f"{count:,}" for count in steps[name].values()) if row.config else "-",
                str(seeds[0].get("steps", "-")),
                f"{np.mean([seed['seconds'] for seed in seeds]):.3f}",
                "-" if first is None else difference(nmse - first, names),
                of_seeds if len(seeds) > 1 else "-",
            )
            scores = summary_of([one for seed in seeds for one in seed["rows"]])
            lines[cells] = scores | {"nmse_interval": interval(nmse, names)}
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
    for row in trained.values():
        trainings.check(row)  # mistakes show before any time is spent
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
        folders = list(pool.map(lambda job: trainings.models(job[0], trained[job[0]], job[1], steps[job[0]]), jobs))
    runs: dict[str, list[dict[str, Path]]] = {name: [] for name in plan.rows}
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
