"""Draw radio maps from a trained checkpoint: of a city of your own, of a simulated one, or of the scenes of a data set.

    python sample.py --buildings city.png --tx 120,80 [--tx 30,200 ...] [--num_samples 8] [--cars cars.png]
    python sample.py --buildings footprints.geojson --tx 10.002543,49.999488 --measurements drive.csv --eirp 23
    python sample.py --simulate 7 [--tx 120,80 ...]
    python sample.py --ckpt radiodiff_results_LDM ...                   a model of your own in place of the released one
    python sample.py --cfg configs/radio_sample_m.yaml [key=value ...]  a split of a data set; settings as in the file

Each map is written as NAME.png (8-bit, RadioMapSeer's levels), NAME.npy (dB, NaN where nothing is predicted) and, --figures
of them, NAME_figure.png; with --num_samples K as the mean of K samples, and NAME_std.npy (dB). metrics.json holds the scores
where the truth is known. Several transmitters, numbered from 1, also give coverage.png, coverage.json and best_server.npy
(0: none). For footprints every array is also a GeoTIFF. A split can be shared by processes (`accelerate launch`), and the
same command continues it where it was interrupted.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from data import FlatTree, RadioMapSeer, open_tree
from data.crop import SIDE, Crop, crop
from data.files import write_json
from data.geometry.georeference import Georeference
from data.gis.city import read_city
from data.gis.measured_points import read_measurements
from data.measurements import pixels_of
from data.samples.sharing import Processes, shared
from data.scene import Scene, parse_position, scene_at
from data.trees.splits import spread
from data.units import COVERAGE_DB
from denoising_diffusion_pytorch.cli import MISTAKES, natural, parse, print_city, run
from denoising_diffusion_pytorch.config import load_config, parse_config
from denoising_diffusion_pytorch.config.schema import SampleConfig, SourceConfig
from denoising_diffusion_pytorch.errors import ConfigError
from evaluation.maps import Coverage, draw_map, write_coverage, write_map
from evaluation.metrics import Scores, measure
from evaluation.records import Records

if TYPE_CHECKING:
    from denoising_diffusion_pytorch.predictor import Predictor

SETTINGS = {  # of the section `sample`, that are options where there is no configuration file
    "ckpt": (str, "a results folder, a checkpoint or an exported model; default: the released model"),
    "output_folder": (str, "default: ./radiodiff_samples"),
    "sampler": (str, "default: the checkpoint's"),
    "steps": (int, "number of sampling steps; default: the checkpoint's"),
    "noise_scale": (float, "times the noise of training; default: the checkpoint's"),
    "pixel_noise": (float, "dB of independent noise on every pixel of several samples; default: the checkpoint's"),
    "num_samples": (int, "samples per map; several give their mean and standard deviation (default: 1)"),
    "seed": (int, "the same seed gives the same map (default: 0)"),
    "figures": (int, "pictures, spread over the maps (default: 20)"),
}
RECORDS = "metrics.jsonl"  # the scores of a split's maps, as they are made


def parse_arguments() -> tuple[argparse.Namespace, SampleConfig]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    city = parser.add_mutually_exclusive_group()
    city.add_argument("--buildings", type=Path, metavar="FILE",
                      help="a city: footprints as GeoJSON, or a PNG, one pixel per metre, white inside buildings")  # fmt: skip
    city.add_argument("--simulate", type=natural, metavar="SEED", help="a random city, and the simulator's map of it")
    parser.add_argument("--cars", type=Path, metavar="PNG",
                        help="a picture as large as that of the buildings, white inside cars")  # fmt: skip
    parser.add_argument("--tx", action="append", metavar="X,Y",
                        help="a transmitter: column and row, or coordinates of the footprints; may be repeated")  # fmt: skip
    parser.add_argument("--invert", action="store_true", help="the buildings of the PNG are black on white")
    parser.add_argument("--measurements", type=Path, metavar="CSV", help="measured points: x,y or lon,lat, and gain_db or dbm")
    parser.add_argument("--eirp", type=float, metavar="DBM", help="turns measured dBm into path gain: dBm - EIRP")
    parser.add_argument("--threshold", type=float, default=COVERAGE_DB, metavar="DB",
                        help="path gain from which a pixel is covered (%(default)g)")  # fmt: skip
    for name, (kind, meaning) in SETTINGS.items():
        parser.add_argument(f"--{name}", type=kind, help=meaning)
    parser.add_argument("--cfg", metavar="YAML", help="a configuration file with a section `sample`, in place of these")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    arguments = parse(parser)
    if arguments.buildings and not arguments.tx:
        parser.error("--buildings needs --tx X,Y")
    if arguments.cars and not arguments.buildings:
        parser.error("--cars belongs to --buildings")
    own = arguments.buildings is not None or arguments.simulate is not None
    if arguments.measurements and not (own and len(arguments.tx or ()) <= 1):
        parser.error("--measurements belong to one --tx of --buildings or --simulate")
    if arguments.tx and not own:
        parser.error("--tx belongs to --buildings or --simulate")
    given = {name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name) is not None}
    if not arguments.cfg:
        if arguments.overrides:
            parser.error(f"{arguments.overrides[0]} changes a configuration file; name it with --cfg")
        if not own:
            arguments.simulate = 0  # nothing was asked for: show what the model does
        return arguments, parse_config({"sample": given}).sample
    if given:
        name, value = next(iter(given.items()))
        parser.error(f"--{name}: with --cfg, write sample.{name}={value}")
    return arguments, load_config(arguments.cfg, arguments.overrides).sample


def city_crops(arguments: argparse.Namespace) -> tuple[list[Crop], Georeference | None]:
    """One crop per transmitter of the city on the command line, and where the city lies."""
    if arguments.buildings is not None:
        around = [parse_position(text) for text in arguments.tx]
        city = read_city(arguments.buildings, around, arguments.invert, arguments.cars)
        print_city(city, arguments.buildings)
        name, place = arguments.buildings.stem, city.place
        scenes = [scene_at(name, city.layout, text, place, city.cars) for text in arguments.tx]
    else:
        from data.simulator.scenes import random_scenes  # numba is slow to import

        scenes, place = random_scenes(arguments.simulate, arguments.tx), None
    if arguments.measurements:
        shape = scenes[0].layout.shape
        scenes[0].measurements, note = read_measurements(arguments.measurements, shape, place, arguments.eirp)
        print(f"{arguments.measurements.name}: {note}")
    crops = [crop(scene) for scene in scenes]
    for note in sorted({part.note for part in crops if part.note}):
        print(f"note: {note}")
    return crops, place


def data_scenes(source: SourceConfig) -> RadioMapSeer | FlatTree:
    """The split of a tree, or a flat tree."""
    if source.data_root is None:
        remedy = "name a RadioMapSeer tree, or use --buildings or --simulate"
        raise ConfigError(f"sample.source.data_root: is not set; {remedy}")
    return open_tree(**vars(source))


def load_predictor(settings: SampleConfig, measurements: Path | None = None, cars: bool = False) -> "Predictor":
    """The model; raises ConfigError if it would ignore measured points or cars."""
    from denoising_diffusion_pytorch.predictor import Predictor  # torch is slow to import: after all other errors

    names = ("use_ema", "steps", "sampler", "noise_scale", "pixel_noise", "seed")
    predictor = Predictor(settings.ckpt, **{name: getattr(settings, name) for name in names})
    if measurements and not predictor.sees_measurements:
        raise ConfigError(
            f"{predictor.checkpoint.path}: has no channel that shows measured points, and would ignore {measurements}; "
            "use the released model, or train one with data.incomplete.points"
        )
    if cars and not predictor.sees_cars:
        raise ConfigError(f"{predictor.checkpoint.path}: has no channel that shows cars; use the released model")
    return predictor


def print_coverage(coverage: Coverage, threshold_db: float) -> None:
    of_it = " of the open area"
    if coverage.predicted_fraction < 1:
        print(f"{coverage.predicted_fraction:.1%}{of_it} was predicted; more transmitters would reach more of it")
        of_it = " of that"
    print(f"{coverage.covered_fraction:.1%}{of_it} has at least {threshold_db:g} dB")


def print_measured(part: Crop) -> None:
    column, row = pixels_of(part.scene.measurements, SIDE, SIDE)
    inside = int(part.scene.layout.inside[row, column].sum())
    given = len(part.city.measurements)
    print(f"{len(column)} of {given} measured points lie in what was predicted, {inside} of them inside buildings")


def read(scene: Scene, prepared: Callable[[Scene], Any]) -> tuple[Scene, Any]:
    """What workers hand over; `prepared` as `Predictor.prepared`."""
    return scene, prepared(scene)


def sample_split(settings: SampleConfig, processes: Processes) -> None:
    """Maps of all scenes of a split; those that are there, made with the same settings, are kept."""
    folder, count = Path(settings.output_folder), settings.num_samples
    source, predictor = processes.each(lambda: (data_scenes(settings.source), load_predictor(settings)))
    processes.agree(source, predictor.identity(count))
    own = predictor.identity(count) | {"batch_size": settings.batch_size} | source.identity()
    records = processes.each(lambda: Records(folder / RECORDS if processes.is_main else None, own))
    drawn = {source.names[index] for index in spread(len(source), settings.figures)}

    def is_there(number: int) -> bool:
        name = source.names[number]
        ends = [
            ".png",
            ".npy",
            *["_std.npy"] * (count > 1 and predictor.samples_differ),
            *["_figure.png"] * (name in drawn),
        ]
        return all((folder / f"{name}{end}").exists() for end in ends)

    def work(batch: list[tuple[Scene, Any]]) -> list[tuple[np.ndarray, np.ndarray | None, dict[str, Any]]]:
        scenes, prepared = zip(*batch, strict=True)
        predictions = predictor.predict_batch(scenes, prepared, num_samples=count)
        return [(p.gain, p.std, measure(p.scene.name, p.gain, p.scene.gain)) for p in predictions]

    done = {number for number in records.known if is_there(number)}
    how: dict[str, Any] = {"read": partial(read, prepared=predictor.prepared()), "work": work, "done": done}
    for number, (gain, std, measured) in shared(processes, source, settings.batch_size, title="sampling", **how):
        name = source.names[number]
        write_map(folder, name, gain, std)
        if name in drawn:
            draw_map(folder, source.scene(number), gain, std)
        if number not in records.known:
            records.add(number, measured)
    if processes.is_main:
        scores = Scores()
        for record in records.earlier():
            scores.take(record)
        write_metrics(folder, scores, predictor)
        print_end(len(source), folder, predictor, count)


def write_metrics(folder: Path, scores: Scores, predictor: "Predictor") -> None:
    summary = scores.summary() | {"checkpoint": str(predictor.checkpoint.path), "per_map": scores.rows}
    write_json(folder / "metrics.json", summary)
    print(f"NMSE {summary['nmse']:.4f}, SSIM {summary['ssim']:.3f} over {summary['maps']} maps")


def print_end(count: int, folder: Path, predictor: "Predictor", num_samples: int) -> None:
    sampling = predictor.sampling_of(num_samples)
    how = f"{sampling.sampler}, {sampling.steps} steps" if sampling else predictor.title  # of a regression
    print(f"{count} maps in {folder} ({how}, {predictor.checkpoint.path})")


def sample_city(arguments: argparse.Namespace, settings: SampleConfig) -> None:
    """Maps of one city, and its coverage."""
    crops, place = city_crops(arguments)
    predictor = load_predictor(settings, arguments.measurements, crops[0].city.cars is not None)
    folder = Path(settings.output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    scores, gains, drawn = Scores(), [], spread(len(crops), settings.figures)
    scenes = [part.scene for part in crops]
    predictions = predictor.predict(scenes, settings.batch_size, num_samples=settings.num_samples)
    for index, prediction in enumerate(tqdm(predictions, total=len(crops), desc="sampling", unit="map")):
        part, std = crops[index], prediction.std
        if prediction.scene.gain is not None:
            scores.add(prediction.scene.name, prediction.gain, prediction.scene.gain)
        gain, std = part.place(prediction.gain), None if std is None else part.place(std)
        gains.append(gain)
        write_map(folder, part.city.name, gain, std, place)
        if index in drawn:
            draw_map(folder, part.city, gain, std)
    if arguments.simulate is not None and predictor.sees_simulation:
        from data.simulator.scenes import CIRCULAR

        print(CIRCULAR)
    if scores.rows:
        write_metrics(folder, scores, predictor)
    if len(gains) > 1:
        cities = [part.city for part in crops]
        coverage = Coverage.of(np.stack(gains), cities[0].buildings, arguments.threshold)
        write_coverage(folder, coverage, cities, arguments.threshold, place)
        print_coverage(coverage, arguments.threshold)
    if arguments.measurements:
        print_measured(crops[0])
    print_end(len(crops), folder, predictor, settings.num_samples)


def main() -> None:
    processes = Processes(MISTAKES)
    arguments, settings = processes.each(parse_arguments)
    if arguments.buildings is None and arguments.simulate is None:
        sample_split(settings, processes)
    elif processes.is_main:  # one city is little work
        sample_city(arguments, settings)


if __name__ == "__main__":
    run(main)
