"""Score a trained model on the scenes of a RadioMapSeer tree, beside predictors that need no training.

    python scripts/evaluate.py --ckpt radiodiff_results_LDM --data path/to/RadioMapSeer --split test --json scores.json

Every scene is sampled with the averaged weights; scores are taken at the data's own resolution, raw grey levels with
buildings at zero (RadioDiff's convention), and beside them after RadioUNet's threshold of 0.2.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from data import DataError, RadioMapSeer
from data.baselines import MeanMap, log_distance_law, los_nlos_law
from data.figures import comparison_figure
from data.metrics import Scores
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.inference import Predictor

GALLERY_ROWS = 6
COLUMNS = ("nmse", "rmse", "ssim", "psnr")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True, help="checkpoint folder or results folder of train_cond_ldm.py")
    parser.add_argument("--data", type=Path, required=True, help="RadioMapSeer tree")
    parser.add_argument("--split", default="test", help="train, val, test, all, or a split of your own")
    parser.add_argument("--json", type=Path, required=True, help="file for the scores")
    parser.add_argument("--simulation_type", default="DPM")
    parser.add_argument("--gallery", type=Path, help="PNG: real | sampled | error for a few scenes, from best to worst")
    parser.add_argument("--steps", type=int, help="network calls a map; default: as configured for the checkpoint")
    parser.add_argument(
        "--sampler", help="ddim, ddpm, decoupled or dpm_solver; default: as configured for the checkpoint"
    )
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def mean_map(predictor: Predictor) -> MeanMap | None:
    """The mean of the maps that the model was trained on; None, with a word why, where they are not at hand."""
    source = predictor.config.data.train
    try:
        scenes = RadioMapSeer(source.data_root, source.simulation_type, source.split, max_samples=source.max_samples)
        return MeanMap(scenes.scene(i) for i in tqdm(range(len(scenes)), desc="mean map", unit="map", leave=False))
    except DataError as error:
        print(f"no mean map: the training data is not at hand ({error})", file=sys.stderr)
        return None


def print_table(rows: dict[str, dict]) -> None:
    print(f"{'':<28}" + "".join(f"{column.upper():>9}" for column in COLUMNS))
    for name, row in rows.items():
        print(f"{name:<28}" + "".join(f"{row[c]:>9.2f}" if c == "psnr" else f"{row[c]:>9.4f}" for c in COLUMNS))


def main() -> None:
    arguments = parse_arguments()
    dataset = RadioMapSeer(arguments.data, arguments.simulation_type, arguments.split)
    predictor = Predictor(arguments.ckpt, steps=arguments.steps, sampler=arguments.sampler, seed=arguments.seed)
    baselines = {"mean map": mean_map(predictor), "25 log10 d": log_distance_law, "line-of-sight law": los_nlos_law}
    baselines = {name: baseline for name, baseline in baselines.items() if baseline is not None}
    ours, coarse, ceiling = Scores(), Scores(), Scores()
    others = {name: Scores() for name in baselines}
    scenes = (dataset.scene(i) for i in range(len(dataset)))
    gallery = []
    predictions = predictor.predict(scenes, arguments.batch_size)
    for prediction in tqdm(predictions, total=len(dataset), desc="sampling", unit="map"):
        scene = prediction.scene
        scores = ours.add(scene.name, prediction.gain, scene.gain)
        coarse.add(scene.name, prediction.model_gain, prediction.truth)
        ceiling.add(scene.name, prediction.reconstruction, scene.gain)
        for name, baseline in list(baselines.items()):
            try:
                others[name].add(scene.name, baseline(scene), scene.gain)
            except DataError as error:
                print(f"no {name}: {error}", file=sys.stderr)
                del baselines[name], others[name]
        row = {"name": scene.name, "real": scene.gain, "sampled": prediction.gain}
        gallery.append((scores["nmse"], row | {"buildings": scene.buildings, "tx": scene.tx}))
    summary = ours.summary() | {
        "model_resolution": coarse.summary() | {"pixels": predictor.config.data.image_size},
        "reconstruction": ceiling.summary(),
        "baselines": {name: scores.summary() for name, scores in others.items()},
        "checkpoint": str(predictor.checkpoint.path),
        "step": predictor.checkpoint.step,
        "sampler": predictor.sampler,
        "steps": predictor.steps,
        "data": str(arguments.data),
        "split": arguments.split,
        "convention": "raw grey level v / 255, buildings zero, means over maps, native resolution",
        "per_map": ours.rows,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print(f"{dataset.report}; raw grey levels, means over maps")
    size = predictor.config.data.image_size
    rows = {"latent diffusion": summary, f"the same, at {size} px": summary["model_resolution"]}
    print_table(rows | {"autoencoder's ceiling": summary["reconstruction"]} | summary["baselines"])
    if arguments.gallery:
        gallery.sort(key=lambda entry: entry[0])
        count = min(GALLERY_ROWS, len(gallery))
        chosen = [gallery[round(i * (len(gallery) - 1) / max(count - 1, 1))][1] for i in range(count)]
        comparison_figure(arguments.gallery, chosen, ("sampled",))
    print(f"scores in {arguments.json}" + (f", gallery in {arguments.gallery}" if arguments.gallery else ""))


if __name__ == "__main__":
    run(main)
