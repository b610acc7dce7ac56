"""Compare configurations at equal cost: train every row of a plan for the same time, or on as many maps, and score all.

    python scripts/compare.py --plan configs/compare/field.yaml --out runs/compare --threads 1 --parallel 2 \\
        --markdown table.md

A plan is a YAML file: see configs/compare/ and `Plan` below. With `seconds`, the speed of each row is measured first,
`--parallel` at a time, and determines how many steps fit into the time: keep the machine to itself while that lasts; other
programs that run later do not change the result. Reading the data and filling caches is not counted. A row with an
autoencoder gives `vae_fraction` of its budget to it; one without has all for itself. What is finished is not run again: the
same command resumes after an interruption, or after rows were added; a row that was changed is another run.
"""

import argparse
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import yaml
from pydantic import ValidationError

from data import Scene, open_tree
from data.files import read_json, write_json, write_text
from data.hashing import digest
from data.incomplete import Incomplete
from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.cli import new_figure, new_file, positive, run
from denoising_diffusion_pytorch.config import load_config, schema, to_dict
from denoising_diffusion_pytorch.errors import ConfigError, TrainingError
from denoising_diffusion_pytorch.predictor import Predictor
from denoising_diffusion_pytorch.training.run_folder import read_log
from evaluation.figures import curves_figure
from evaluation.metrics import mean_of
from evaluation.references import REFERENCES
from evaluation.scoring import Answer, score
from evaluation.table import averaged, difference, interval, markdown, table
from evaluation.test_set import TestSet

ROOT = Path(__file__).resolve().parents[1]
PROBE_STEPS = 40  # optimizer steps that measure a row's speed; the first half is not counted
PROBE_SCENES = 64
LONGEST_NAME = 60  # of a folder
HEADS = ("", "parameters", "training steps", "sampling steps", "s per map", "minus the first row", "of the seeds")
SCRIPTS = {"vae": "train_vae.py", "ldm": "train_cond_ldm.py", "baseline": "scripts/train_baseline.py"}
SAMPLING = ("sampler", "noise_scale", "pixel_noise")


class Scenes(schema.Section):
    """What rows are scored on."""

    data_root: schema.Text  # of a tree
    simulation_type: schema.Text = "DPM"
    split: schema.Text = "val"
    maps: schema.Count | None = None  # that many, spread over the split; None: all of it
    incomplete: schema.IncompleteConfig = schema.IncompleteConfig()  # numbers of points and buildings are exact

    def read(self) -> list[Scene]:
        """All of them."""
        tree = open_tree(self.data_root, self.simulation_type, self.split)
        return list(TestSet(tree, self.maps, Incomplete(**vars(self.incomplete), exactly=True)))


class Curve(schema.Section):
    """Scores along the training of every row, on scenes of the first test set."""

    points: schema.Count  # scores per row
    maps: schema.Count = 60


class Row(schema.Section):
    """One line of the table: a model to train (`config`), a trained one (`ckpt`), or a `reference`."""

    config: schema.Text | None = None  # file of stage 2 or of a baseline, as `stage` says
    stage: Literal["ldm", "baseline"] = "ldm"
    vae: schema.Text | None = (
        None  # file of the autoencoder, trained first; one for rows with equal `vae` and `settings`
    )
    settings: list[schema.Text] = []  # key=value for both
    own: list[schema.Text] = []  # key=value for `config` alone
    end_to_end: schema.Fraction = 0.0  # fraction of stage 2's budget for the end-to-end phase
    sampling_steps: list[schema.Count | None] = [None]  # each is scored; None: the configured number
    sampler: schema.Text | None = None  # None, here and below: the configured one
    noise_scale: schema.Positive | None = None
    pixel_noise: schema.NotNegative | None = None
    seeds: list[schema.Natural] | None = None  # of the runs, averaged map by map; None: the plan's
    reference: Literal["simulator", "line-of-sight path-loss model", "25 log10 d"] | None = None  # needs no training
    ckpt: schema.Text | None = None  # `released` for the repository's model


class Plan(schema.Section):
    """What to compare, at which budget: `seconds` of training or `samples`, the number of maps seen."""

    seconds: schema.Positive | None = None
    samples: schema.Count | None = None
    vae_fraction: schema.Fraction = 1 / 3  # of the budget, for an autoencoder
    settings: list[schema.Text] = []  # key=value for all rows
    seeds: list[schema.Natural] = [0]
    test_sets: dict[str, Scenes]
    curve: Curve | None = None  # none without it
    num_samples: schema.Count = 1  # per map: their mean is scored, and their CRPS and coverage
    rows: dict[str, Row]  # differences are taken against the first


def read_plan(path: Path) -> Plan:
    """A plan from its file; a ConfigError names the key."""
    try:
        plan = Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if (plan.seconds is None) == (plan.samples is None):
        raise ConfigError(f"{path}: give either seconds or samples, the budget of every row")
    for name, row in plan.rows.items():
        if sum(part is not None for part in (row.config, row.reference, row.ckpt)) != 1:
            raise ConfigError(f"{path}: rows.{name}: give one of config, reference and ckpt")
        if row.stage == "baseline" and (row.vae or row.end_to_end):
            raise ConfigError(f"{path}: rows.{name}: a baseline has neither vae nor end_to_end")
        is_sampled = any(getattr(row, key) is not None for key in SAMPLING) or row.sampling_steps != [None]
        if is_sampled and (row.reference or row.stage == "baseline"):
            raise ConfigError(f"{path}: rows.{name}: sampling_steps, {', '.join(SAMPLING)} are for latent diffusion")
        if row.reference and any(each.incomplete.transmitter_unknown for each in plan.test_sets.values()):
            raise ConfigError(f"{path}: rows.{name}: needs the transmitter, which test_sets.*.incomplete hides")
    return plan


class Trainings:
    """The runs of a plan below one folder; each runs once, and resumes if it was interrupted.

    A run's folder is named after its row, seed and a digest of all that makes it: another configuration, budget or
    autoencoder is another run. A measured speed depends on `threads` (per process) and on how many run in `parallel`.
    """

    def __init__(self, plan: Plan, out: Path, threads: int, parallel: int = 1):
        self.plan, self.out, self.threads, self.parallel = plan, out, threads, parallel
        self._locks: defaultdict[Path, Lock] = defaultdict(Lock)  # rows may have a run in common

    def steps(self, row: Row) -> dict[str, int]:
        """Optimizer steps that fit into a row's budget: `vae`, the row's stage, and `end_to_end` after it."""
        fraction = self.plan.vae_fraction if row.vae else 0.0
        steps = {"vae": self._fitting(fraction, "vae", row)} if row.vae else {}
        steps[row.stage] = self._fitting((1 - fraction) * (1 - row.end_to_end), row.stage, row)
        if row.end_to_end:
            whole = "diffusion_config.end_to_end.start_step=0"
            steps["end_to_end"] = self._fitting((1 - fraction) * row.end_to_end, "ldm", row, whole)
        return steps

    def _fitting(self, fraction: float, stage: str, row: Row, *more: str) -> int:
        """Steps of a stage that fit into this fraction of the budget."""
        trainer = self.config(stage, row).trainer
        batch = trainer.batch_size * trainer.gradient_accumulation
        if self.plan.samples:
            return max(1, round(fraction * self.plan.samples / batch))
        few = [f"trainer.log_interval={PROBE_STEPS // 2}", f"data.train.max_samples={PROBE_SCENES}"]
        few += ["data.cache_latents=false", "trainer.ema.start_step=0"]
        load = f"threads={self.threads} parallel={self.parallel}"
        if row.vae and stage != "vae":
            vae = self._train(self.out / "speed", "vae", "vae", row, PROBE_STEPS, few, load)
            more = (*more, f"first_stage_config.ckpt_path={vae.resolve()}")
        folder = self._train(self.out / "speed", stage, stage, row, PROBE_STEPS, [*few, *more], load)
        speed = read_log(folder / "train.log")["samples_per_second"][PROBE_STEPS] / batch
        return max(1, round(fraction * float(self.plan.seconds or 0) * speed))

    def model(self, name: str, row: Row, seed: int, steps: dict[str, int]) -> Path:
        """Train a row's autoencoder and its stage, unless that is done; returns the results folder."""
        more = [f"trainer.seed={seed}"]
        if row.vae:
            vae = self._train(self.out / "runs", "vae", "vae", row, steps["vae"], more)
            more = [*more, f"first_stage_config.ckpt_path={vae.resolve()}"]
        if row.end_to_end:
            more.append(f"diffusion_config.end_to_end.start_step={steps['ldm']}")
        total = steps[row.stage] + steps.get("end_to_end", 0)
        return self._train(self.out / "runs", name, row.stage, row, total, [*more, *self._scored(total)])

    def _scored(self, steps: int) -> list[str]:
        """Settings by which a run of so many steps is scored along the way."""
        if self.plan.curve is None:
            return []
        scenes = next(iter(self.plan.test_sets.values()))
        source = {key: getattr(scenes, key) for key in ("data_root", "simulation_type", "split")}
        settings = [f"data.validation.{key}={value}" for key, value in source.items()]
        every = -(-steps // self.plan.curve.points)
        return [*settings, f"trainer.validate_every={every}", f"trainer.validation_samples={self.plan.curve.maps}"]

    def curve(self, row: Row, folder: Path, steps: dict[str, int]) -> tuple[list[float], list[float]]:
        """The fraction of the budget that was used, and the NMSE, at every score along a run."""
        scores = read_log(folder / "train.log").get("validation_nmse", {})
        before = self.plan.vae_fraction if row.vae else 0.0
        first, last = steps[row.stage], steps[row.stage] + steps.get("end_to_end", 0)
        used = [before, before + (1 - before) * (1 - row.end_to_end), 1.0]
        return np.interp([*scores], [0, first, last], used).tolist(), [*scores.values()]

    def _settings(self, stage: str, row: Row) -> list[str]:
        return [*self.plan.settings, *row.settings, *(row.own if stage != "vae" else ())]

    def config(self, stage: str, row: Row, more: Sequence[str] = ()) -> schema.Config:
        """Of one of a row's trainings."""
        return load_config(row.vae if stage == "vae" else row.config, [*self._settings(stage, row), *more], stage=stage)

    def _train(
        self, parent: Path, name: str, stage: str, row: Row, steps: int, more: Sequence[str], load: str = ""
    ) -> Path:
        """Train, unless that is done; returns the results folder."""
        more = ["trainer.validate_every=0", "trainer.num_samples=0", f"trainer.training_steps={steps}", *more]
        readable = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:LONGEST_NAME]
        folder = parent / f"{readable}_{digest(to_dict(self.config(stage, row, more)), load)[:8]}"
        with self._locks[folder]:
            found = find_checkpoint(folder)
            if found is None or found.step < steps:
                file = str(row.vae if stage == "vae" else row.config)
                own = [*self._settings(stage, row), *more, f"trainer.results_folder={folder.resolve()}"]
                self.run(folder, [str(ROOT / SCRIPTS[stage]), "--cfg", file, *own])
        return folder

    def run(self, folder: Path, command: Sequence[str]) -> None:
        """Run a training script; what it prints goes into a file in its folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "output.txt").open("a", encoding="utf-8") as output:
            environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
            done = subprocess.run([sys.executable, *command], env=environment, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            raise TrainingError(f"{folder / 'output.txt'}: training failed; its last lines say why")


def score_row(plan: Plan, row: Row, folder: Path | None, test_sets: dict[str, list[Scene]]) -> dict[str, dict]:
    """{sampling steps: {test set: scores}} of a row and seed, kept in the run's folder."""
    if row.reference:
        predict = REFERENCES[row.reference]
        return {"-": {where: score(lambda of: (Answer(predict(s)) for s in of), s) for where, s in test_sets.items()}}
    kept = folder / "scores.json" if folder else None
    known = read_json(kept) if kept is not None and kept.exists() else {}
    found: dict[str, dict] = {}
    for steps in row.sampling_steps:
        sampling = {key: getattr(row, key) for key in SAMPLING}
        source = folder or (None if row.ckpt == "released" else row.ckpt)
        predictor = Predictor(source, steps=steps, **sampling)
        number = plan.num_samples if predictor.samples_differ else 1
        facts = {key: value for key, value in predictor.facts(number).items() if key != "checkpoint"}
        used = str(facts["steps"] or 1)
        for where, scenes in test_sets.items():
            of = facts | {"scenes": [scene.name for scene in scenes], "test_set": plan.test_sets[where].model_dump()}
            entry = known.setdefault(used, {}).setdefault(where, {})
            if entry.get("facts") != of:
                entry |= {"facts": of, "scores": score(partial(predictor.predict, num_samples=number), scenes)}
                entry["scores"]["parameters"] = sum(p.numel() for p in predictor.model.parameters())
            found.setdefault(used, {})[where] = entry["scores"]
            if kept is not None:
                write_json(kept, known)
    return found


def tables(plan: Plan, found: dict[str, list[dict]], steps: dict[str, dict[str, int]]) -> str:
    """One table per test set: a line per row and number of sampling steps; scores are means over the seeds."""
    parts = []
    for where in plan.test_sets:
        rows: dict[tuple[str, ...], dict] = {}
        reference: np.ndarray | None = None
        for name, seeds in found.items():
            trained = " + ".join(f"{count:,}" for stage, count in steps.get(name, {}).items() if stage != "vae") or "-"
            for used in seeds[0]:
                each = [seed[used][where] for seed in seeds]
                row = averaged(each)
                nmse = np.array(row["nmse_per_map"], float)
                row["nmse_interval"] = interval(nmse.tolist())
                size = f"{row['parameters'] / 1e6:.2f} M" if "parameters" in row else "-"
                minus = "-" if reference is None else difference(nmse - reference)
                of_seeds = ", ".join(f"{mean_of([one['nmse']]):.4f}" for one in each) if len(each) > 1 else "-"
                rows[name, size, trained, used, f"{row['seconds_per_map']:.3f}", minus, of_seeds] = row
                reference = nmse if reference is None else reference
        parts.append(f"{where}\n\n{markdown(table(rows, heads=HEADS))}")
    return "\n\n".join(parts)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, required=True, help="YAML file, e.g. of configs/compare/")
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows alone")
    parser.add_argument("--parallel", type=positive, default=1, help="concurrent runs (%(default)s)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="per run (%(default)s)")
    parser.add_argument("--markdown", type=new_file, help="file for the tables")
    parser.add_argument(
        "--figure", type=new_figure, help="figure of the error along the training, see `curve` of a plan"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    plan = read_plan(arguments.plan)
    unknown = set(arguments.only or ()) - plan.rows.keys()
    if unknown:
        raise ConfigError(f"--only {unknown.pop()}: no row of {arguments.plan}; there are {', '.join(plan.rows)}")
    if arguments.figure and plan.curve is None:
        raise ConfigError(f"--figure: {arguments.plan} has no `curve`, which scores rows along their training")
    rows = {name: row for name, row in plan.rows.items() if name in (arguments.only or plan.rows)}
    test_sets = {where: scenes.read() for where, scenes in plan.test_sets.items()}
    trainings = Trainings(plan, arguments.out, arguments.threads, arguments.parallel)
    trained = {name: row for name, row in rows.items() if row.config}
    jobs = [(name, seed) for name, row in trained.items() for seed in row.seeds or plan.seeds]
    jobs.sort(key=lambda job: (rows[job[0]].seeds or plan.seeds).index(job[1]))  # all rows once, then again
    with ThreadPoolExecutor(arguments.parallel) as pool:
        steps = dict(zip(trained, pool.map(trainings.steps, trained.values()), strict=True))
        for name, count in steps.items():
            print(name, count, flush=True)
        folders = list(pool.map(lambda job: trainings.model(job[0], rows[job[0]], job[1], steps[job[0]]), jobs))
    if arguments.figure:
        curves = [
            (name, *trainings.curve(rows[name], folder, steps[name]))
            for (name, _), folder in zip(jobs, folders, strict=True)
        ]
        budget = (plan.seconds / 60, "minutes") if plan.seconds else (plan.samples, "maps seen")
        curves_figure(arguments.figure, curves, *budget)
    torch.set_num_threads(arguments.threads)
    found: dict[str, list[dict]] = {}
    for name, row in rows.items():
        runs: list[Path | None] = [folder for (n, _), folder in zip(jobs, folders, strict=True) if n == name]
        found[name] = [score_row(plan, row, folder, test_sets) for folder in runs or [None]]
    text = tables(plan, found, steps)
    print(text)
    if arguments.markdown:
        write_text(arguments.markdown, text + "\n")


if __name__ == "__main__":
    run(main)
