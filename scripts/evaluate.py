"""Score a trained model, the simulator, predictors that need no training, and a baseline.

    python scripts/evaluate.py                                  the released model on unseen simulated cities
    python scripts/evaluate.py --data path/to/RadioMapSeer --split test --json scores.json --markdown table.md
    python scripts/evaluate.py --ckpt radiodiff_results_LDM --baseline radiodiff_results_baseline --data ... \\
        --csv maps.csv

Every scene is predicted with the averaged weights and scored at the data's native resolution. The scores under all
conventions of the literature, which must not be compared with each other, are in --markdown and --json.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from data import DataError, FlatTree, RadioMapSeer, open_tree
from data.incomplete import Incomplete
from data.simulator.scenes import CIRCULAR, SimulatedScenes
from denoising_diffusion_pytorch.cli import natural, new_figure, new_file, positive, run
from denoising_diffusion_pytorch.config import parse_config
from denoising_diffusion_pytorch.errors import ConfigError
from denoising_diffusion_pytorch.predictor import Predictor
from evaluation.figures import comparison_figure, figure_row, reliability_figure
from evaluation.references import REFERENCES, MeanMap
from evaluation.report import report, wrapped, write_markdown, write_scores
from evaluation.scoring import Answer, Evaluation
from evaluation.table import write_csv
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
    add("--csv", type=new_file, help="file for the scores of each map")
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
    add("--seed", type=natural, default=0)
    arguments = parser.parse_args()
    if arguments.reliability and arguments.num_samples < 2:
        parser.error("--reliability needs several samples: --num_samples 16")
    return arguments


def load(arguments: argparse.Namespace, incomplete: Incomplete) -> tuple[Predictor, Predictor | None]:
    """The model and the baseline."""
    how = {name: getattr(arguments, name) for name in ("sampler", "steps", "noise_scale", "pixel_noise", "seed")}
    predictor = Predictor(arguments.ckpt, **how)
    baseline = Predictor(arguments.baseline, seed=arguments.seed) if arguments.baseline else None
    models = [model for model in (predictor, baseline) if model]
    for model in models:
        if incomplete.points and not model.sees_measurements:
            said = "has no channel that shows measured points; --incomplete points needs one"
            raise ConfigError(f"{model.checkpoint.path}: {said}")
    if arguments.reliability and not any(model.samples_differ for model in models):
        raise ConfigError(f"{predictor.checkpoint.path}: gives one map, no samples; --reliability needs a sampler")
    return predictor, baseline


def coarse(predictor: Predictor) -> str:
    """The name of the model's maps before they are enlarged to the data's resolution."""
    return f"{predictor.title} at its {predictor.config.data.image_size} px"


def mean_map(predictor: Predictor) -> MeanMap:
    """The mean of the maps that the model was trained on; raises DataError if they are not there."""
    source = predictor.config.data.train
    scenes = open_tree(source.data_root, source.simulation_type, source.split, max_samples=source.max_samples)
    return MeanMap(scenes.scene(i) for i in tqdm(range(len(scenes)), desc="mean map", unit="map", leave=False))


def score(
    arguments: argparse.Namespace, predictor: Predictor, baseline: Predictor | None, scenes: TestSet
) -> tuple[Evaluation, list[str]]:
    """Scores of everything on the scenes, and notes on what is missing."""
    evaluation, notes, how = Evaluation(REFERENCES), [], {"num_samples": arguments.num_samples}
    try:
        evaluation.references["mean map"] = mean_map(predictor)
    except DataError as error:
        notes.append(f"no mean map: the training data is not available ({error})")
    other = f"{baseline.title} (--baseline)" if baseline else ""
    predictions = predictor.predict(scenes, arguments.batch_size, reconstruct=True, **how)
    for prediction in tqdm(predictions, total=len(scenes), desc="scoring", unit="map", leave=False):
        scene = prediction.scene
        answers: dict[str, Any] = {predictor.title: prediction}
        if prediction.reconstruction is not None:
            answers[RECONSTRUCTION] = Answer(prediction.reconstruction)
        if baseline:
            answers[other] = next(baseline.predict([scene], **how))
        evaluation.add(scene, answers)
        if prediction.model_gain.shape[0] < scene.gain.shape[0]:
            evaluation.scores[coarse(predictor)].add(scene.name, prediction.model_gain, prediction.truth)
    return evaluation, evaluation.notes() + notes


def main() -> None:
    arguments = parse_arguments()
    given = parse_config({}, [f"data.incomplete.{setting}" for setting in arguments.incomplete])
    incomplete = Incomplete(**vars(given.data.incomplete), exactly=True)
    predictor, baseline = load(arguments, incomplete)
    source: RadioMapSeer | FlatTree | SimulatedScenes = SimulatedScenes(arguments.maps or SIMULATED, FRESH_CITIES)
    if arguments.data:
        source = open_tree(arguments.data, arguments.simulation_type, arguments.split)
    scenes = TestSet(source, arguments.maps, incomplete)
    facts = predictor.facts(arguments.num_samples) | {"incomplete": " ".join(arguments.incomplete) or None}
    settings = ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None and key != "checkpoint")
    head = f"{predictor.title}: {facts['checkpoint']}", settings, source.report, f"scored on {len(scenes)} maps"
    print(wrapped(*head), flush=True)
    evaluation, notes = score(arguments, predictor, baseline, scenes)
    if arguments.data is None and predictor.sees_simulation:
        notes.append(f"{CIRCULAR} (--data)")
    rows = evaluation.summaries()
    print(report(rows, evaluation.mean_by_region(), notes))
    facts |= {"data": source.report, "split": arguments.split if arguments.data else None}
    if arguments.json:
        own = {"model_resolution": coarse(predictor), "reconstruction": RECONSTRUCTION}
        write_scores(arguments.json, evaluation, rows, facts, own)
    if arguments.markdown:
        write_markdown(arguments.markdown, rows, facts)
    if arguments.csv:
        write_csv(arguments.csv, evaluation.scores)
    chosen = [scenes.scene(number) for number in evaluation.best_to_worst(predictor.title, GALLERY_ROWS)]
    if arguments.gallery and chosen:
        again = predictor.predict(chosen, num_samples=arguments.num_samples)
        rows_shown = [figure_row(found.scene, sampled=found.gain, std=found.std) for found in again]
        comparison_figure(arguments.gallery, rows_shown)
    if arguments.reliability:
        found = {name: row["calibration"] for name, row in rows.items() if "calibration" in row}
        reliability_figure(arguments.reliability, found)
    for path in (arguments.json, arguments.markdown, arguments.csv, arguments.gallery, arguments.reliability):
        if path:
            print(f"written: {path}")


if __name__ == "__main__":
    run(main)
