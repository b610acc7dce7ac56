"""Draw radio maps from a trained checkpoint: of the scenes of a data set, of a city of your own, or of a simulated one.

    python sample.py --buildings city.png --tx 120,80 [--tx 30,200 ...] [--num_samples 8]
    python sample.py --simulate 7 [--tx 120,80 ...]
    python sample.py --ckpt RUN --buildings city.png --tx 120,80 --measurements points.csv    x,y,gain_db of measured points
    python sample.py --ckpt radiodiff_results_LDM ...                   a model of your own in place of the released one
    python sample.py --cfg configs/radio_sample_m.yaml [key=value ...]  a split of a data set

Each map is written as NAME.png (8-bit, RadioMapSeer's levels), NAME.npy (dB, NaN where nothing is predicted) and
NAME_figure.png; for footprints as NAME.tif (GeoTIFF, dB) too; with --num_samples K the mean of K draws, and
NAME_std.npy (dB). metrics.json holds the scores where the truth is
known, coverage.png / .json / .npy the best server of several transmitters.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data import FlatTree, RadioMapSeer, Scene, gain_to_db, open_tree
from data.crop import SIDE, Window, best_server, window
from data.files import write_json
from data.gis.geojson import read_city
from data.gis.geotiff import Georeference, write_geotiff
from data.measurements import pixels_of, read_measurements
from data.scene import scene_at
from data.units import GAIN_SPAN_DB, NOISE_FLOOR_DB, gain_to_uint8
from denoising_diffusion_pytorch.cli import natural, run
from denoising_diffusion_pytorch.config import load_config, parse_config, resolve
from denoising_diffusion_pytorch.config.schema import SampleConfig
from denoising_diffusion_pytorch.errors import ConfigError
from evaluation.figures import comparison_figure, coverage_figure, radio_map_figure
from evaluation.metrics import Scores

FLAGS = {
    "ckpt": str,
    "output_folder": str,
    "sampler": str,
    "steps": int,
    "noise_scale": float,
    "pixel_noise": float,
    "num_samples": int,
    "seed": int,
}


def parse_arguments() -> tuple[argparse.Namespace, SampleConfig]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", help="YAML file with a `sample` section")
    city = parser.add_mutually_exclusive_group()
    city.add_argument(
        "--buildings",
        type=Path,
        help="a city: PNG of any size, one pixel a metre, non-zero inside buildings; or footprints as GeoJSON",
    )
    city.add_argument(
        "--simulate", type=natural, metavar="SEED", help="a random city, and the simulator's map beside it"
    )
    parser.add_argument("--tx", action="append", metavar="X,Y",
                        help="column and row of a transmitter, or coordinates of the footprints' file; may be repeated")  # fmt: skip
    parser.add_argument("--measurements", type=Path, metavar="CSV",
                        help="measured points, columns x,y,gain_db")  # fmt: skip
    parser.add_argument("--threshold", type=float, default=NOISE_FLOOR_DB, metavar="DB",
                        help="path gain from which a pixel is covered (%(default)g)")  # fmt: skip
    for name, kind in FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, help=f"the same as sample.{name}=...")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    arguments = parser.parse_args()
    if arguments.buildings and not arguments.tx:
        parser.error("--buildings needs --tx X,Y")
    of_one = (arguments.buildings or arguments.simulate is not None) and len(arguments.tx or ()) <= 1
    if arguments.measurements and not of_one:
        parser.error("--measurements belong to one --tx of --buildings or --simulate")
    if arguments.tx and arguments.buildings is None and arguments.simulate is None:
        parser.error("--tx belongs to --buildings or --simulate")
    given = {name: getattr(arguments, name) for name in FLAGS if getattr(arguments, name) is not None}
    overrides = [*arguments.overrides, *(f"sample.{name}={json.dumps(value)}" for name, value in given.items())]
    config = load_config(arguments.cfg, overrides) if arguments.cfg else resolve(parse_config({}, overrides), "ldm")
    return arguments, config.sample


def city_scenes(arguments: argparse.Namespace) -> tuple[list[Window], Georeference | None]:
    """One window a transmitter of the city on the command line, and where it lies."""
    if arguments.buildings is not None:
        (layout, place), name = read_city(arguments.buildings), arguments.buildings.stem
        scenes = [scene_at(name, layout, position, place) for position in arguments.tx]
    else:
        from data.simulator.scenes import random_scenes  # numba is slow to import

        scenes, place = random_scenes(arguments.simulate, arguments.tx), None
    if arguments.measurements:
        scenes[0].measurements = read_measurements(arguments.measurements, scenes[0].layout.shape, place)
    return [window(scene) for scene in scenes], place


def data_scenes(settings: SampleConfig) -> RadioMapSeer | FlatTree:
    """The split of a tree, or a flat tree."""
    source = settings.source
    if source.data_root is None:
        raise ConfigError(
            "sample.source.data_root: is not set; name a RadioMapSeer tree, or use --buildings or --simulate"
        )
    return open_tree(
        source.data_root, source.simulation_type, source.split, source.missing_buildings, source.max_samples
    )


def write(folder: Path, scene: Scene, gain: np.ndarray, std: np.ndarray | None) -> None:
    """PNG, dB array and picture of one map; gain and std (H, W) grey levels, NaN where nothing is predicted."""
    Image.fromarray(gain_to_uint8(np.nan_to_num(gain))).save(folder / f"{scene.name}.png")
    np.save(folder / f"{scene.name}.npy", gain_to_db(gain).astype(np.float32))
    if std is not None:
        np.save(folder / f"{scene.name}_std.npy", (std * GAIN_SPAN_DB).astype(np.float32))
    figure = folder / f"{scene.name}_figure.png"
    if scene.gain is None or std is not None:
        radio_map_figure(figure, gain, scene.buildings, scene.tx, scene.name, std, scene.measurements)
    else:
        row = {"name": scene.name, "real": scene.gain, "sampled": gain, "buildings": scene.buildings, "tx": scene.tx}
        comparison_figure(figure, [row | {"points": scene.measurements, "truth": scene.truth}])


def write_coverage(folder: Path, windows: list[Window], gains: list[np.ndarray], threshold_db: float) -> None:
    """Best server and coverage of several transmitters of one city; shares are of the open area that was predicted."""
    buildings = windows[0].city.buildings
    server, best = best_server(np.stack(gains), buildings)
    predicted = server >= 0
    predicted_share = float(predicted.sum() / max((~buildings).sum(), 1))
    covered_share = float((predicted & (gain_to_db(best) >= threshold_db)).sum() / max(predicted.sum(), 1))
    summary = {
        "threshold_db": threshold_db,
        "predicted_share_of_open_area": predicted_share,
        "covered_share_of_predicted_area": covered_share,
        "best_server_share": {
            w.city.name: float((server == i).sum() / max((server >= 0).sum(), 1)) for i, w in enumerate(windows)
        },
    }
    write_json(folder / "coverage.json", summary)
    np.save(folder / "best_server.npy", server.astype(np.int16))
    coverage_figure(folder / "coverage.png", server, best, buildings, [w.city.tx for w in windows], threshold_db)
    if predicted_share < 1:
        print(f"{predicted_share:.1%} of the open area was predicted; more transmitters would reach more of it")
    of_it = " of that" if predicted_share < 1 else " of the open area"
    print(f"{covered_share:.1%}{of_it} has at least {threshold_db:g} dB")


def main() -> None:
    arguments, settings = parse_arguments()
    if (
        not arguments.cfg
        and not arguments.buildings
        and settings.source.data_root is None
        and arguments.simulate is None
    ):
        arguments.simulate = 0  # nothing was asked for: show what the model does
    windows, place = None, None
    if arguments.buildings or arguments.simulate is not None:
        windows, place = city_scenes(arguments)
    source = data_scenes(settings) if windows is None else None
    count = len(windows if source is None else source)
    scenes: Iterable[Scene] = (source.scene(i) for i in range(count)) if source else (w.scene for w in windows)
    names = ("use_ema", "steps", "sampler", "noise_scale", "pixel_noise", "seed")
    how = {name: getattr(settings, name) for name in names}
    from denoising_diffusion_pytorch.predictor import Predictor  # torch is slow to import: after all other errors

    predictor = Predictor(settings.ckpt, **how)
    if arguments.measurements and not predictor.sees_measurements:
        raise ConfigError(
            f"{predictor.checkpoint.path}: has no channel that shows measured points, and would ignore "
            f"{arguments.measurements}; use the released model, or train one with data.incomplete.points"
        )
    folder = Path(settings.output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    scores, gains = Scores(), []
    predictions = predictor.predict(scenes, settings.batch_size, num_samples=settings.num_samples)
    for index, prediction in enumerate(tqdm(predictions, total=count, desc="sampling", unit="map")):
        scene, gain, std = prediction.scene, prediction.gain, prediction.std
        if scene.gain is not None:
            scores.add(scene.name, gain, scene.gain)
        if windows:
            scene, gain = windows[index].city, windows[index].place(gain)
            std = None if std is None else windows[index].place(std)
            gains.append(gain)
        write(folder, scene, gain, std)
        if place is not None:
            write_geotiff(folder / f"{scene.name}.tif", gain_to_db(gain), place)
    if scores.rows:
        summary = scores.summary() | {"checkpoint": str(predictor.checkpoint.path), "per_map": scores.rows}
        write_json(folder / "metrics.json", summary)
        print(f"NMSE {summary['nmse']:.4f}, SSIM {summary['ssim']:.3f} over {summary['maps']} maps")
    if len(gains) > 1:
        write_coverage(folder, windows, gains, arguments.threshold)
    if arguments.measurements:
        scene, given = windows[0].scene, len(windows[0].city.measurements)
        column, row = pixels_of(scene.measurements, SIDE, SIDE)
        inside = int(scene.layout.inside[row, column].sum())
        print(f"{len(column)} of {given} measured points lie in what was predicted, {inside} of them inside buildings")
    for note in sorted({w.note for w in windows or () if w.note}):
        print(f"note: {note}")
    if arguments.simulate is not None and predictor.is_told_the_simulation:
        from data.simulator.scenes import TOLD

        print(TOLD)
    facts = predictor.facts(settings.num_samples)
    print(f"{count} maps in {folder} ({facts['sampler']}, {facts['steps']} steps, {facts['checkpoint']})")


if __name__ == "__main__":
    run(main)
