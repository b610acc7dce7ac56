"""Draw radio maps from a trained checkpoint: of the scenes of a data set, or of one city of your own.

    python sample.py --cfg configs/radio_sample_m.yaml [key=value ...]
    python sample.py --cfg configs/radio_sample_m.yaml --buildings city.png --tx 120,80

Each map is written as NAME.png (8-bit, RadioMapSeer's levels), NAME.npy (dB) and NAME_figure.png; metrics.json holds the
scores where the truth is known.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data import DataError, RadioMapSeer, Scene, gain_to_db
from data.figures import comparison_figure, radio_map_figure
from data.metrics import Scores
from data.scene import parse_position, read_grey
from data.units import gain_to_uint8
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.config import load_config
from denoising_diffusion_pytorch.config_schema import SampleConfig
from denoising_diffusion_pytorch.errors import ConfigError
from denoising_diffusion_pytorch.inference import Prediction, Predictor


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, help="YAML file with a `sample` section")
    parser.add_argument(
        "--buildings", type=Path, help="a city of your own: square PNG, one pixel a metre, non-zero inside buildings"
    )
    parser.add_argument("--tx", metavar="X,Y", help="with --buildings: column and row of the transmitter in pixels")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    arguments = parser.parse_args()
    if (arguments.buildings is None) != (arguments.tx is None):
        parser.error("--buildings and --tx belong together")
    return arguments


def own_scene(path: Path, position: str) -> Scene:
    """The scene of --buildings and --tx; raises DataError where the transmitter is not in the open."""
    buildings, tx = read_grey(path) > 0, parse_position(position)
    height, width = buildings.shape
    if not (0 <= tx[0] <= width - 1 and 0 <= tx[1] <= height - 1):
        raise DataError(f"--tx {position}: is outside {path} ({width}x{height} px)")
    if buildings[round(tx[1]), round(tx[0])]:
        raise DataError(f"--tx {position}: is inside a building of {path}")
    return Scene(f"{path.stem}_{tx[0]:g}_{tx[1]:g}", buildings, tx)


def scenes_of(arguments: argparse.Namespace, settings: SampleConfig) -> tuple[int, Iterable[Scene]]:
    """(number, scenes) to draw."""
    if arguments.buildings is not None:
        return 1, [own_scene(arguments.buildings, arguments.tx)]
    source = settings.source
    if source.data_root is None:
        raise ConfigError("sample.source.data_root: is not set; name a RadioMapSeer tree, or use --buildings and --tx")
    dataset = RadioMapSeer(
        source.data_root,
        source.simulation_type,
        source.split,
        missing_buildings=source.missing_buildings,
        max_samples=source.max_samples,
    )
    return len(dataset), (dataset.scene(i) for i in range(len(dataset)))


def write(folder: Path, prediction: Prediction) -> None:
    """PNG, dB array and picture of one map."""
    scene, gain = prediction.scene, prediction.gain
    Image.fromarray(gain_to_uint8(gain)).save(folder / f"{scene.name}.png")
    np.save(folder / f"{scene.name}.npy", gain_to_db(gain).astype(np.float32))
    figure = folder / f"{scene.name}_figure.png"
    if scene.gain is None:
        radio_map_figure(figure, gain, scene.buildings, scene.tx, scene.name)
    else:
        row = {"name": scene.name, "real": scene.gain, "sampled": gain, "buildings": scene.buildings, "tx": scene.tx}
        comparison_figure(figure, [row])


def main() -> None:
    arguments = parse_arguments()
    settings = load_config(arguments.cfg, arguments.overrides).sample
    if settings.ckpt is None:
        raise ConfigError(
            "sample.ckpt: is not set; name a results folder of train_cond_ldm.py or one of its checkpoints"
        )
    count, scenes = scenes_of(arguments, settings)
    predictor = Predictor(
        settings.ckpt,
        use_ema=settings.use_ema,
        steps=settings.steps,
        sampler=settings.sampler,
        seed=settings.seed,
    )
    folder = Path(settings.output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    scores = Scores()
    for prediction in tqdm(predictor.predict(scenes, settings.batch_size), total=count, desc="sampling", unit="map"):
        write(folder, prediction)
        if prediction.scene.gain is not None:
            scores.add(prediction.scene.name, prediction.gain, prediction.scene.gain)
    if scores.rows:
        summary = scores.summary() | {"checkpoint": str(predictor.checkpoint.path), "per_map": scores.rows}
        (folder / "metrics.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        print(f"NMSE {summary['nmse']:.4f}, SSIM {summary['ssim']:.3f} over {summary['maps']} maps")
    print(f"{count} maps in {folder} ({predictor.sampler}, {predictor.steps} steps, {predictor.checkpoint.path})")


if __name__ == "__main__":
    run(main)
