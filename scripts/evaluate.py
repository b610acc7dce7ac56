"""Score a trained model and, on request, a baseline, the simulator, and predictors that need no training.

    python scripts/evaluate.py --references                     the released model on unseen simulated cities
    python scripts/evaluate.py --data path/to/RadioMapSeer --split test --csv maps.csv --markdown table.md
    accelerate launch --multi_gpu --num_processes 8 scripts/evaluate.py --ckpt radiodiff_results_LDM --data ...

Every scene is predicted with the averaged weights and scored at the data's native resolution. The scores under all
conventions of the literature, which must not be compared with each other, are in --markdown and --json. With --csv the
same command continues where it was interrupted. Any number of processes gives the same digits.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from data import FlatTree, RadioMapSeer, Scene, open_tree
from data.incomplete import Incomplete
from data.samples.sharing import Processes, shared
from data.simulator.scenes import CIRCULAR, SimulatedScenes
from denoising_diffusion_pytorch.cli import MISTAKES, natural, new_figure, new_file, positive, run
from denoising_diffusion_pytorch.config import parse_config
from denoising_diffusion_pytorch.config.schema import SourceConfig
from denoising_diffusion_pytorch.errors import ConfigError
from denoising_diffusion_pytorch.predictor import Predictor
from evaluation.figures import comparison_figure, figure_row, reliability_figure
from evaluation.metrics import measure
from evaluation.records import GrowingCsv, Records
from evaluation.references import REFERENCES, MeanMap
from evaluation.regions import Regions
from evaluation.report import report, wrapped, write_markdown, write_scores
from evaluation.scoring import Answer, Evaluation, Reference, record_of, record_of_references
from evaluation.test_set import TestSet

SIMULATED = 50  # cities without --data
GALLERY_ROWS = 5  # best, lower quartile, median, upper quartile, worst
FRESH_CITIES = 9_000_000  # number of the first city without --data
RECONSTRUCTION = "autoencoder's reconstruction"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ckpt", help="checkpoint or results folder of train_cond_ldm.py; default: the released model")
    add("--baseline", help="checkpoint or results folder of scripts/train_baseline.py")
    add("--data", type=Path, help="tree of either kind; default: simulated cities that no model has seen")
    add("--maps", type=positive, help="that many, spread over the split; default: all, or 50 simulated")
    add("--split", default="test", help="train, val, test, all, or your own split (%(default)s)")
    add("--simulation_type", default="DPM")
    add("--json", type=new_file, help="file for all scores")
    add("--markdown", type=new_file, help="file for the table of all scores")
    add(
        "--csv",
        type=new_file,
        help="file for the scores of each map; grows, with FILE.jsonl beside it, and is continued",
    )
    add("--references", action="store_true", help="score the simulator and two path-loss models, too")
    add("--mean_map", action="store_true", help="score the mean of the maps that the model was trained on, too")
    add("--reconstruction", action="store_true", help="score the autoencoder's reconstruction of the real maps, too")
    add("--gallery", type=new_figure, help="figure: real | sampled | error | spread, from the best map to the worst")
    add("--reliability", type=new_figure, help="figure: coverage and spread of --num_samples samples")
    add("--steps", type=positive, help="network calls per map; default: as configured for the checkpoint")
    add("--sampler", help="ddim, ddpm, decoupled, euler or heun; default: as configured for the checkpoint")
    add("--num_samples", type=positive, default=1, help="samples per map, whose mean is scored (%(default)s)")
    add("--noise_scale", type=float, help="above 1 samples differ more; default: as configured")
    add("--pixel_noise", type=float, help="dB on every pixel of several samples; default: as configured")
    add("--incomplete", nargs="+", default=[], metavar="key=value",
        help="what the condition does not know: points=50 missing_buildings=2 transmitter_error=5 ..., "
             "see data/incomplete.py")  # fmt: skip
    add("--batch_size", type=positive, default=8)
    add("--num_workers", type=natural, help="that prepare maps, per process; default: for all processors")
    add("--seed", type=natural, default=0)
    arguments = parser.parse_args()
    if arguments.reliability and arguments.num_samples < 2:
        parser.error("--reliability needs several samples: --num_samples 16")
    return arguments


@dataclass
class Read:
    """A scene as workers hand it over: prepared for each model, its regions, and the references' scores."""

    scene: Scene
    prepared: list[dict[str, np.ndarray]]
    regions: Regions
    references: dict[str, Any]


def read(scene: Scene, models: list[Callable[[Scene], Any]], references: Mapping[str, Reference]) -> Read:
    """`models`: `Predictor.prepared` of each."""
    prepared, regions = [model(scene) for model in models], Regions.of(scene)
    return Read(scene, prepared, regions, record_of_references(scene, references, regions))


class Task:
    """What the command line asks for: the models, and the scenes that they are scored on."""

    def __init__(self) -> None:
        self.arguments = arguments = parse_arguments()
        given = parse_config({}, [f"data.incomplete.{setting}" for setting in arguments.incomplete])
        incomplete = Incomplete(**vars(given.data.incomplete), exactly=True)
        how = {name: getattr(arguments, name) for name in ("sampler", "steps", "noise_scale", "pixel_noise", "seed")}
        self.predictor = Predictor(arguments.ckpt, **how)
        self.baseline = Predictor(arguments.baseline, seed=arguments.seed) if arguments.baseline else None
        self.models = [model for model in (self.predictor, self.baseline) if model]
        for model in self.models:
            if incomplete.points and not model.sees_measurements:
                said = "has no channel that shows measured points; --incomplete points needs one"
                raise ConfigError(f"{model.checkpoint.path}: {said}")
        if arguments.reliability and not any(model.samples_differ for model in self.models):
            path = self.predictor.checkpoint.path
            raise ConfigError(f"{path}: gives one map, no samples; --reliability needs a sampler")
        source: RadioMapSeer | FlatTree | SimulatedScenes = SimulatedScenes(arguments.maps or SIMULATED, FRESH_CITIES)
        if arguments.data:
            source = open_tree(arguments.data, arguments.simulation_type, arguments.split)
        self.scenes = TestSet(source, arguments.maps, incomplete)
        self.coarse = f"{self.predictor.title} at its {self.predictor.config.data.image_size} px"

    def identities(self) -> list[dict[str, Any]]:
        """Of the models."""
        return [model.identity(self.arguments.num_samples) for model in self.models]

    def settings(self) -> dict[str, Any]:
        """All that a map's record depends on."""
        names = ("incomplete", "references", "mean_map", "reconstruction", "batch_size", "split", "simulation_type")
        ours, *baseline = self.identities()
        asked = {name: getattr(self.arguments, name) for name in names}
        return ours | asked | {"maps": len(self.scenes), "baseline": baseline} | self.scenes.source.identity()

    def facts(self) -> dict[str, Any]:
        """What is said about the scores."""
        facts = self.predictor.facts(self.arguments.num_samples)
        return facts | {"incomplete": " ".join(self.arguments.incomplete) or None}

    def references(self, processes: Processes) -> dict[str, Reference]:
        """By name. The main process reads the maps for their mean."""
        found: dict[str, Reference] = dict(REFERENCES) if self.arguments.references else {}
        if self.arguments.mean_map:
            of = self.predictor.config.data.train
            mean = processes.each(lambda: MeanMap(trained_on(of)) if processes.is_main else None)
            found["mean map"] = processes.broadcast(mean)
        return found

    def records(self, batch: list[Read]) -> list[dict[str, Any]]:
        """Of a batch of scenes."""
        how = {"num_samples": self.arguments.num_samples}
        scenes = [each.scene for each in batch]
        wanted = self.arguments.reconstruction  # of the model, not of the baseline
        ours, *theirs = (
            model.predict_batch(scenes, [each.prepared[n] for each in batch], reconstruct=wanted and n == 0, **how)
            for n, model in enumerate(self.models)
        )
        found = []
        for n, (each, prediction) in enumerate(zip(batch, ours, strict=True)):
            answers: dict[str, Any] = {self.predictor.title: prediction}
            if prediction.reconstruction is not None:
                answers[RECONSTRUCTION] = Answer(prediction.reconstruction)
            answers |= {f"{self.baseline.title} (--baseline)": predictions[n] for predictions in theirs}
            record = record_of(each.scene, answers, each.regions) | {"failures": each.references["failures"]}
            if prediction.model_gain.shape[0] < each.scene.gain.shape[0]:
                record["scores"][self.coarse] = measure(each.scene.name, prediction.model_gain, prediction.truth)
            record["scores"] |= each.references["scores"]
            found.append(record)
        return found


def trained_on(source: SourceConfig) -> Iterator[Scene]:
    """The scenes that a model was trained on; raises DataError if they are not there."""
    scenes = open_tree(source.data_root, source.simulation_type, source.split, max_samples=source.max_samples)
    return (scenes.scene(i) for i in tqdm(range(len(scenes)), desc="mean map", unit="map", leave=False))


def score(task: Task, processes: Processes) -> Evaluation:
    """Scores of everything on the scenes; on the other processes without any."""
    arguments, evaluation = task.arguments, Evaluation()
    path = arguments.csv if processes.is_main else None

    def open_files() -> tuple[Records, GrowingCsv]:
        records = Records(path and path.with_name(f"{path.name}.jsonl"), task.settings() if path else {})
        for record in records.earlier():
            evaluation.add(record)
        return records, GrowingCsv(path, records.earlier())

    records, table = processes.each(open_files)
    reading = partial(read, models=[model.prepared() for model in task.models], references=task.references(processes))
    how = {"done": records.known, "num_workers": arguments.num_workers, "title": "scoring"}
    for number, record in shared(processes, task.scenes, arguments.batch_size, read=reading, work=task.records, **how):
        records.add(number, record)
        table.add(record)
        evaluation.add(record)
    return evaluation


def write(task: Task, evaluation: Evaluation, rows: Mapping[str, Any]) -> None:
    """The files that were asked for."""
    arguments, predictor, source = task.arguments, task.predictor, task.scenes.source
    facts = task.facts() | {"data": source.report, "split": arguments.split if arguments.data else None}
    if arguments.json:
        own = {"model_resolution": task.coarse, "reconstruction": RECONSTRUCTION}
        write_scores(arguments.json, evaluation, rows, facts, own)
    if arguments.markdown:
        write_markdown(arguments.markdown, rows, facts)
    numbers = evaluation.best_to_worst(predictor.title, GALLERY_ROWS) if arguments.gallery else []
    if numbers:
        again = predictor.predict(map(task.scenes.scene, numbers), num_samples=arguments.num_samples)
        rows_shown = [figure_row(found.scene, sampled=found.gain, std=found.std) for found in again]
        comparison_figure(arguments.gallery, rows_shown)
    if arguments.reliability:
        found = {name: row["calibration"] for name, row in rows.items() if "calibration" in row}
        reliability_figure(arguments.reliability, found)
    for path in (arguments.json, arguments.markdown, arguments.csv, arguments.gallery, arguments.reliability):
        if path:
            print(f"written: {path}")


def main() -> None:
    processes = Processes(MISTAKES)
    task = processes.each(Task)
    processes.agree(task.scenes, task.identities())
    facts = task.facts()
    settings = ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None and key != "checkpoint")
    title, source = task.predictor.title, task.scenes.source
    scored = f"scored on {len(task.scenes)} maps"
    print(wrapped(f"{title}: {facts['checkpoint']}", settings, source.report, scored), flush=True)
    evaluation = score(task, processes)
    if processes.is_main:
        notes, rows = evaluation.notes(), evaluation.summaries()
        if task.arguments.data is None and task.predictor.sees_simulation:
            notes.append(f"{CIRCULAR} (--data)")
        print(report(rows, evaluation.mean_by_region(), notes))
        write(task, evaluation, rows)


if __name__ == "__main__":
    run(main)
