"""Score a trained model and, on request, the simulator and path-loss models.

    python scripts/evaluate.py --data path/to/RadioMapSeer --split test --references --csv maps.csv --markdown table.md
    accelerate launch --multi_gpu --num_processes 8 scripts/evaluate.py --ckpt radiodiff_results_LDM --data ...

Every scene is predicted with the averaged weights and scored at the data's native resolution. The scores under all
conventions of the literature, which must not be compared with each other, are in --markdown and --json. With --csv the
same command continues where it was interrupted. Any number of processes gives the same digits.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from data import Scene, open_tree
from data.errors import DataError
from data.files import decoded, read_bytes, write_json, write_text
from data.incomplete import Incomplete
from data.samples.sharing import Processes, shared
from denoising_diffusion_pytorch.cli import FATAL_ERRORS, natural, new_figure, new_file, positive, run
from denoising_diffusion_pytorch.config import parse_config
from denoising_diffusion_pytorch.errors import ConfigError
from denoising_diffusion_pytorch.predictor import Predictor
from evaluation.figures import comparison_figure
from evaluation.metrics import measure
from evaluation.records import Records, csv_of
from evaluation.regions import Regions
from evaluation.report import LEGEND, Rows, markdown_report, terminal_report, wrapped
from evaluation.scoring import Evaluation, SelectedScenes, reference_scores

GALLERY_ROWS = 5  # best, lower quartile, median, upper quartile, worst
RECONSTRUCTION = "autoencoder's reconstruction"
Read = tuple[dict[str, np.ndarray], Regions, dict[str, Any]]  # the scene prepared for the model; references' scores


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ckpt", help="checkpoint or results folder, also of a baseline; default: the released model")
    add("--data", type=Path, required=True, help="a RadioMapSeer or flat tree")
    add("--maps", type=positive, help="number of maps, evenly spaced in the split; default: all")
    add("--split", default="test", help="train, val, test, all, or your own split (%(default)s)")
    add("--simulation_type", help="default: that of the model's training maps")
    add("--missing_buildings", type=natural, help="RadioMapSeer's variants that lack this many; default: as trained")
    add("--json", type=new_file, help="file for all scores")
    add("--markdown", type=new_file, help="file for the table of all scores")
    add("--csv", type=new_file, help="file for the scores of each map; they are kept in FILE.jsonl as they are made")
    add("--references", action="store_true", help="score the simulator and two path-loss models, too")
    add("--reconstruction", action="store_true", help="score the autoencoder's reconstruction of the true maps, too")
    add("--gallery", type=new_figure, help="figure: true map | sample | error | standard deviation, from best to worst")
    add("--steps", type=positive, help="network calls per map; default: as configured for the checkpoint")
    add("--sampler", help="one that fits the model; default: as configured for the checkpoint")
    add("--num_samples", type=positive, default=1, help="samples per map, whose mean is scored (%(default)s)")
    add(
        "--noise_scale", type=float, help="of the sampler's noise: above 1, samples differ more; default: as configured"
    )
    add("--pixel_noise", type=float, help="noise on every pixel with --num_samples above 1, dB; default: as configured")
    add("--incomplete", nargs="+", default=[], metavar="key=value",
        help="errors of the condition, and measured points: points=50 missing_buildings=2 transmitter_error=5 ..., "
             "see data/incomplete.py")  # fmt: skip
    add("--batch_size", type=positive, default=8, help="maps at a time (%(default)s)")
    add("--num_workers", type=natural, help="workers per process that prepare maps; default: one per free processor")
    add("--seed", type=natural, default=0, help="seed of the noise (%(default)s)")
    arguments = parser.parse_args()
    files = [path for path in (arguments.json, arguments.markdown, arguments.csv, arguments.gallery) if path]
    files += [records_of(arguments.csv)] if arguments.csv else []
    if len(set(files)) < len(files):
        parser.error("--json, --markdown, --csv, the FILE.jsonl of --csv, and --gallery need a file each")
    return arguments


def records_of(csv: Path) -> Path:
    """The file that holds the records of a CSV."""
    return csv.with_name(f"{csv.name}.jsonl")


class Task:
    """What the command line asks for: the model, the scenes that it is scored on, and `facts` that go with the scores."""

    def __init__(self) -> None:
        self.arguments = arguments = parse_arguments()
        given = parse_config({}, [f"data.incomplete.{setting}" for setting in arguments.incomplete])
        incomplete = Incomplete(**vars(given.data.incomplete), exactly=True)
        names = ("sampler", "steps", "noise_scale", "pixel_noise", "seed")
        self.predictor = Predictor(arguments.ckpt, **{name: getattr(arguments, name) for name in names})
        if arguments.reconstruction and self.predictor.sampling is None:
            message = "is a regression baseline, without an autoencoder; leave out --reconstruction"
            raise ConfigError(f"{self.predictor.checkpoint.path}: {message}")
        self.facts = self.predictor.facts(arguments.num_samples)
        self.facts["incomplete"] = " ".join(arguments.incomplete) or None
        if incomplete.points and not self.predictor.sees_measurements:
            message = "has no channel that shows measured points; --incomplete points needs one"
            raise ConfigError(f"{self.predictor.checkpoint.path}: {message}")
        trained = self.predictor.config.data.train
        for name in ("simulation_type", "missing_buildings"):
            if getattr(arguments, name) is None:
                setattr(arguments, name, getattr(trained, name))
        self.facts["missing_buildings"] = arguments.missing_buildings or None
        source = open_tree(arguments.data, arguments.simulation_type, arguments.split, arguments.missing_buildings)
        self.scenes = SelectedScenes(source, arguments.maps, incomplete)

    def settings(self) -> dict[str, Any]:
        """All that a map's record depends on."""
        names = ("references", "reconstruction", "batch_size", "split", "simulation_type", "missing_buildings")
        asked = {name: getattr(self.arguments, name) for name in names} | {"maps": len(self.scenes)}
        asked["incomplete"] = asdict(self.scenes.incomplete)
        return self.predictor.identity(self.arguments.num_samples) | asked | self.scenes.source.identity()

    def records(self, batch: Sequence[tuple[Scene, Read]]) -> list[dict[str, Any]]:
        """Of a batch of scenes: scores by predictor."""
        scenes, ready = zip(*batch, strict=True)
        prepared, regions, references = zip(*ready, strict=True)
        options = {"num_samples": self.arguments.num_samples, "reconstruct": self.arguments.reconstruction}
        predictions, found = self.predictor.predict_batch(scenes, prepared, **options), []
        for p, where, theirs in zip(predictions, regions, references, strict=True):
            name, truth = p.scene.name, p.scene.gain
            record = {self.predictor.title: measure(name, p.gain, truth, where, p.samples)}
            if p.reconstruction is not None:
                record[RECONSTRUCTION] = measure(name, p.reconstruction, truth, where)
            found.append(record | theirs)
        return found


def read(scene: Scene, prepared: Callable[[Scene], Any], references: bool) -> Read:
    """What workers do; `prepared` as `Predictor.prepared` gives it."""
    regions = Regions.of(scene)
    return prepared(scene), regions, reference_scores(scene, regions) if references else {}


def score(task: Task, processes: Processes) -> list[dict[str, Any]]:
    """The records of all scenes, in the main process."""
    arguments = task.arguments
    path = arguments.csv if processes.is_main else None

    def kept() -> Records:
        records = Records(path and records_of(path), task.settings() if path else {})
        if path and path.exists() and decoded(read_bytes(path)) != csv_of(records.known.values()):
            raise DataError(f"{path}: does not match its records; choose another file, or move it away")
        return records

    records = processes.each(kept)
    reading = partial(read, prepared=task.predictor.prepared(), references=arguments.references)
    options: dict[str, Any] = {"read": reading, "work": task.records, "num_workers": arguments.num_workers}
    options |= {"done": records.known, "title": "scoring"}
    for number, record in shared(processes, task.scenes, arguments.batch_size, **options):
        records.add(number, record)
    return list(records.known.values())


def write(task: Task, records: list[dict[str, Any]], evaluation: Evaluation, rows: Rows) -> None:
    """The files that were asked for."""
    arguments, predictor, source = task.arguments, task.predictor, task.scenes.source
    facts = task.facts | {"data": source.report, "split": arguments.split}
    if arguments.json:
        baselines = {name: row for name, row in rows.items() if name not in (predictor.title, RECONSTRUCTION)}
        content = dict(rows[predictor.title]) | {"reconstruction": rows.get(RECONSTRUCTION), "baselines": baselines}
        per_map = evaluation.rows[predictor.title]
        write_json(arguments.json, content | facts | {"convention": LEGEND, "per_map": per_map})
    if arguments.markdown:
        write_text(arguments.markdown, markdown_report(rows, facts))
    if arguments.csv:
        write_text(arguments.csv, csv_of(records))
    if arguments.gallery and (numbers := evaluation.best_to_worst(predictor.title, GALLERY_ROWS)):
        again = predictor.predict(map(task.scenes.scene, numbers), num_samples=arguments.num_samples)
        comparison_figure(arguments.gallery, [(p.scene, {"sampled": p.gain, "std": p.std}) for p in again])
    for path in (arguments.json, arguments.markdown, arguments.csv, arguments.gallery):
        if path:
            print(f"written: {path}")


def main() -> None:
    processes = Processes(FATAL_ERRORS)
    task = processes.each(Task)
    processes.agree(task.scenes, task.predictor.identity(task.arguments.num_samples))
    title, facts = task.predictor.title, {key: value for key, value in task.facts.items() if value is not None}
    about = f"{title}: {facts.pop('checkpoint')}", ", ".join(f"{key} {value}" for key, value in facts.items())
    print(wrapped(*about, task.scenes.source.report, f"scored on {len(task.scenes)} maps"), flush=True)
    records = score(task, processes)
    if processes.is_main:
        evaluation = Evaluation(records)
        notes, rows = evaluation.notes(), evaluation.summaries()
        print(terminal_report(rows, [*notes, *task.predictor.score_notes(task.scenes.scene(0))]))
        write(task, records, evaluation, rows)


if __name__ == "__main__":
    run(main)
