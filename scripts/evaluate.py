"""Score a trained model next to the simulator, untrained predictors and a baseline.

    python scripts/evaluate.py                                  the released model on unseen simulated cities
    python scripts/evaluate.py --data path/to/RadioMapSeer --split test --json scores.json --markdown table.md
    python scripts/evaluate.py --ckpt radiodiff_results_LDM --baseline radiodiff_results_baseline --data ... \\
        --csv maps.csv

Every scene is predicted with the averaged weights and scored at the data's native resolution, under the three
conventions of the literature (evaluation/metrics.py), which must never be compared with each other.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from data import DataError, FlatTree, RadioMapSeer, Scene, open_tree
from data.incomplete import Incomplete
from data.simulator import line_of_sight
from data.simulator.scenes import TOLD, SimulatedScenes
from data.trees.splits import spread
from denoising_diffusion_pytorch.cli import natural, new_figure, new_file, positive, run
from denoising_diffusion_pytorch.config import parse_config
from denoising_diffusion_pytorch.errors import ConfigError
from denoising_diffusion_pytorch.predictor import Predictor
from evaluation.calibration import Calibration
from evaluation.figures import comparison_figure, reliability_figure
from evaluation.metrics import Scores
from evaluation.references import MeanMap, log_distance_law, los_nlos_law, simulator_map
from evaluation.table import LEGEND, error_shares, measured_parts, summarize, table, write_csv, write_json

GALLERY_ROWS = 5  # best, lower quartile, median, upper quartile, worst
SIMULATED = 50  # cities without --data
FRESH_CITIES = 9_000_000  # number of the first city without --data
COARSE, CEILING = "the same, before enlarging", "autoencoder's ceiling"

Predictors = dict[str, Callable[[Scene], np.ndarray]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", help="checkpoint or results folder of train_cond_ldm.py; default: the released model")
    parser.add_argument("--baseline", help="checkpoint or results folder of scripts/train_baseline.py")
    parser.add_argument(
        "--data", type=Path, help="tree of either kind; default: simulated cities that no model has seen"
    )
    parser.add_argument("--maps", type=positive, help="that many, spread over the split; default: all, or 50 simulated")
    parser.add_argument("--split", default="test", help="train, val, test, all, or your own split")
    parser.add_argument("--simulation_type", default="DPM")
    parser.add_argument("--json", type=new_file, help="file for all scores")
    parser.add_argument("--markdown", type=new_file, help="file for the table")
    parser.add_argument("--csv", type=new_file, help="file for the scores of each map")
    parser.add_argument(
        "--gallery",
        type=new_figure,
        help="figure (PNG, PDF, SVG): real | sampled | error | spread of several draws, from the best to the worst map",
    )
    parser.add_argument(
        "--steps", type=positive, help="network calls per map; default: as configured for the checkpoint"
    )
    parser.add_argument(
        "--sampler", help="ddim, ddpm, decoupled, euler or heun; default: as configured for the checkpoint"
    )
    parser.add_argument("--num_samples", type=positive, default=1, help="draws per map, whose mean is scored")
    parser.add_argument("--noise_scale", type=float, help="above 1 draws differ more; default: as configured")
    parser.add_argument("--pixel_noise", type=float, help="dB on every pixel of several draws; default: as configured")
    parser.add_argument("--incomplete", nargs="+", metavar="key=value",
                        help="what the condition does not know: points=50 missing_buildings=2 transmitter_error=5 "
                             "outline_error=1 ..., see data/incomplete.py")  # fmt: skip
    parser.add_argument("--reliability", type=new_figure, help="figure: coverage and spread of --num_samples draws")
    parser.add_argument("--batch_size", type=positive, default=8)
    parser.add_argument("--seed", type=natural, default=0)
    arguments = parser.parse_args()
    if arguments.reliability and arguments.num_samples < 2:
        parser.error("--reliability needs several draws: --num_samples 16")
    return arguments


def mean_map(predictor: Predictor) -> Predictors:
    """The mean of the maps that the model was trained on; empty, with a message, if they are not available."""
    source = predictor.config.data.train
    try:
        scenes = open_tree(source.data_root, source.simulation_type, source.split, max_samples=source.max_samples)
        progress = tqdm(range(len(scenes)), desc="mean map", unit="map", leave=False)
        return {"mean map": MeanMap(scenes.scene(i) for i in progress)}
    except DataError as error:
        print(f"no mean map: the training data is not available ({error})", file=sys.stderr)
        return {}


def score_others(others: Predictors, scores: dict[str, Scores], scene: Scene, parts: dict) -> dict[str, str]:
    """Score the predictors that take one scene at a time; returns the reason for each that fails."""
    failures = {}
    for name, predict in others.items():
        try:
            scores[name].add(scene.name, predict(scene), scene.gain, parts)
        except DataError as error:
            failures[name] = str(error)
    return failures


def score_all(
    arguments: argparse.Namespace, predictor: Predictor, dataset, incomplete: Incomplete
) -> tuple[dict[str, Scores], dict[str, Calibration], list[dict]]:
    """Scores and calibration by predictor, and rows for `comparison_figure`, from the best to the worst map."""
    how = {"num_samples": arguments.num_samples, "seed": arguments.seed}
    baseline = Predictor(arguments.baseline, **how) if arguments.baseline else None
    for model in (predictor, baseline):
        if model is not None and incomplete.points and not model.sees_measurements:
            raise ConfigError(
                f"{model.checkpoint.path}: has no channel that shows measured points; --incomplete points needs one"
            )
    if arguments.reliability and not any(model.draws_differ for model in (predictor, baseline) if model):
        raise ConfigError(f"{predictor.checkpoint.path}: has one answer and no draws; --reliability needs a sampler")
    title = predictor.title
    other = baseline.title if baseline else "no baseline"
    if other == title:
        other += " (--baseline)"
    calibrations = {title: Calibration(), other: Calibration()}
    others: Predictors = {"simulator": simulator_map, "line-of-sight law": los_nlos_law, "25 log10 d": log_distance_law}
    others |= mean_map(predictor)
    scores = {name: Scores() for name in (title, COARSE, CEILING, other, *others)}
    gallery: list[tuple[float, dict]] = []
    failures: dict[str, list[str]] = {}
    chosen = spread(len(dataset), arguments.maps or len(dataset))
    scenes = (incomplete.apply(dataset.scene(index)) for index in chosen)
    predictions = predictor.predict(scenes, arguments.batch_size, ceiling=True)
    for prediction in tqdm(predictions, total=len(chosen), desc="scoring", unit="map"):
        scene = prediction.scene
        nowhere = np.zeros(scene.layout.shape, bool)
        visible = nowhere if scene.tx is None else line_of_sight(scene.layout, scene.tx)
        parts = {"los": visible, "nlos": ~visible} | measured_parts(scene)
        ours = scores[title].add(scene.name, prediction.gain, scene.gain, parts)
        calibrations[title].add_prediction(scene, prediction.draws)
        scores[COARSE].add(scene.name, prediction.model_gain, prediction.truth)
        if prediction.reconstruction is not None:
            scores[CEILING].add(scene.name, prediction.reconstruction, scene.gain, parts)
        if baseline:
            answer = next(baseline.predict([scene]))
            scores[other].add(scene.name, answer.gain, scene.gain, parts)
            calibrations[other].add_prediction(scene, answer.draws)
        for name, why in score_others(others, scores, scene, parts).items():
            failures.setdefault(name, []).append(why)
        row = {"name": scene.name, "real": scene.gain, "sampled": prediction.gain, "std": prediction.std}
        row |= {"points": scene.measurements, "truth": scene.truth}
        row["shares"] = error_shares(prediction.gain, scene, visible)
        gallery.append((ours["nmse"], row | {"buildings": scene.buildings, "tx": scene.tx}))
    for name, reasons in failures.items():
        print(
            f"{name} is scored without {len(reasons)} of {len(gallery)} maps; the first: {reasons[0]}", file=sys.stderr
        )
        if scores[name].rows:
            scores[f"{name} ({len(scores[name].rows)} of {len(gallery)} maps)"] = scores.pop(name)
    gallery.sort(key=lambda entry: entry[0])
    scored = {name: each for name, each in scores.items() if each.rows}
    return scored, {name: each for name, each in calibrations.items() if each.rows}, [row for _, row in gallery]


def is_enlarged(predictor: Predictor, gallery: list[dict]) -> bool:
    """Whether the network's maps are smaller than the data's."""
    return any(row["real"].shape[0] > predictor.config.data.image_size for row in gallery)


def main() -> None:
    arguments = parse_arguments()
    how = {name: getattr(arguments, name) for name in ("steps", "sampler", "num_samples", "noise_scale", "pixel_noise")}
    predictor = Predictor(arguments.ckpt, seed=arguments.seed, **how)
    dataset: RadioMapSeer | FlatTree | SimulatedScenes
    if arguments.data:
        dataset = open_tree(arguments.data, arguments.simulation_type, arguments.split)
    else:
        dataset = SimulatedScenes(arguments.maps or SIMULATED, FRESH_CITIES)
    given = parse_config({}, [f"data.incomplete.{setting}" for setting in arguments.incomplete or ()])
    incomplete = Incomplete(**vars(given.data.incomplete), exactly=True)
    scores, calibrations, gallery = score_all(arguments, predictor, dataset, incomplete)
    rows = {name: summarize(each) for name, each in scores.items()}
    for name, each in calibrations.items():
        rows[name]["calibration"] = each.summary()
    shares = {place: float(np.mean([row["shares"][place] for row in gallery])) for place in gallery[0]["shares"]}
    facts = {
        "checkpoint": str(predictor.checkpoint.path),
        "step": predictor.checkpoint.step,
        "sampler": predictor.sampler,
        "steps": predictor.steps,
        "num_samples": arguments.num_samples,
        "noise_scale": predictor.noise_scale,
        "pixel_noise": predictor.pixel_noise,
        "incomplete": " ".join(arguments.incomplete or ()) or None,
        "data": str(arguments.data or dataset.report),
        "split": arguments.split if arguments.data else None,
    }
    where = f"{dataset.report}\n" + ", ".join(f"{key} {value}" for key, value in facts.items() if key != "data")
    shown = {name: row for name, row in rows.items() if name != COARSE or is_enlarged(predictor, gallery)}
    print(f"{where}\n{table(shown)}\n{LEGEND}")
    print("its NMSE by place: " + ", ".join(f"{place} {share:.4f}" for place, share in shares.items()))
    for name in calibrations:
        found = rows[name]["calibration"]
        parts = {"": "all open pixels", "_where_draws_differ": f"the {found['differing']:.1%} whose draws differ"}
        for suffix, where in parts.items():
            covered = found[f"coverage{suffix}"].items()
            levels = ", ".join(f"{float(level):.0%}: {share:.1%}" for level, share in covered)
            print(f"{name}: intervals cover {levels} of {where}")
        print(f"{name}: spread {found['spread']:.2f} dB, error {found['error']:.2f} dB")
    if isinstance(dataset, SimulatedScenes) and predictor.is_told_the_simulation:
        print(f"{TOLD} (--data)")
    if arguments.json:
        summary = rows[predictor.title] | {
            "model_resolution": rows[COARSE] | {"pixels": predictor.config.data.image_size},
            "reconstruction": rows.get(CEILING),
            "baselines": {name: row for name, row in rows.items() if name not in (predictor.title, COARSE, CEILING)},
        }
        write_json(
            arguments.json,
            summary | facts | {"nmse_by_place": shares, "convention": LEGEND, "per_map": scores[predictor.title].rows},
        )
    if arguments.markdown:
        arguments.markdown.parent.mkdir(parents=True, exist_ok=True)
        arguments.markdown.write_text(f"{where}\n\n{table(shown, markdown=True)}", encoding="utf-8")
    if arguments.csv:
        write_csv(arguments.csv, {name: each for name, each in scores.items() if name != COARSE})
    if arguments.gallery:
        count = min(GALLERY_ROWS, len(gallery))
        chosen = [gallery[round(i * (len(gallery) - 1) / max(count - 1, 1))] for i in range(count)]
        comparison_figure(arguments.gallery, chosen)
    if arguments.reliability:
        reliability_figure(arguments.reliability, {name: rows[name]["calibration"] for name in calibrations})
    for path in (arguments.json, arguments.markdown, arguments.csv, arguments.gallery, arguments.reliability):
        if path:
            print(f"written: {path}")


if __name__ == "__main__":
    run(main)
