"""Predict radio maps with a trained model: of your own city, a simulated one, or the scenes of a dataset.

    python sample.py --buildings city.png --tx 120,80 [--tx 30,200 ...] [--num_samples 8] [--cars cars.png]
    python sample.py --buildings footprints.geojson --tx 10.002543,49.999488 --measurements drive.csv --eirp 23
    python sample.py --simulate 7 [--tx 121,83 ...]
    python sample.py --ckpt radiodiff_results_LDM ...                   a model of your own in place of the released one
    python sample.py --cfg configs/radio_sample_m.yaml [key=value ...]  a split of a dataset; settings as in the file

Each map is written as NAME.png (8-bit, RadioMapSeer's levels) and NAME.npy (dB, NaN where nothing is predicted), and up
to --figures of them also as NAME_figure.png. With --num_samples K, a map is the mean of K samples, and NAME_std.npy
(dB) their standard deviation. metrics.json holds the scores where the true map is known. Several transmitters, numbered
from 1, also give CITY_coverage.png, CITY_coverage.json and CITY_best_server.npy (0: none). For footprints every array
is also a GeoTIFF. A split can be shared by processes (`accelerate launch`), and the same command continues it where it
was interrupted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from data import open_tree
from data.crop import crop
from data.files import write_json
from data.geometry.georeference import Georeference
from data.gis.city import print_city, read_city
from data.gis.measured_points import read_measurements
from data.measurements import pixels_of
from data.samples.sharing import Processes, shared
from data.scene import Scene, parse_position, scene_at
from data.trees.folder import is_part_of
from data.trees.splits import evenly_spaced
from data.units import COVERAGE_DB
from denoising_diffusion_pytorch.cli import FATAL_ERRORS, finite, natural, parse, run
from denoising_diffusion_pytorch.config import load_config, parse_config
from denoising_diffusion_pytorch.config.schema import SampleConfig
from denoising_diffusion_pytorch.errors import ConfigError
from evaluation.maps import draw_map, write_coverage, write_map
from evaluation.metrics import measure, summary_of
from evaluation.records import Records

if TYPE_CHECKING:
    from denoising_diffusion_pytorch.predictor import Predictor

SETTINGS = {  # of the section `sample`, that are options where there is no configuration file
    str: ("ckpt", "output_folder", "sampler"),
    int: ("steps", "num_samples", "seed", "figures"),
    float: ("noise_scale", "pixel_noise"),
}
RECORDS = "metrics.jsonl"  # the scores of a split's maps, as they are made


def parse_arguments() -> tuple[argparse.Namespace, SampleConfig]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, city = parser.add_argument, parser.add_mutually_exclusive_group()
    footprints = "a city: footprints as GeoJSON, or a PNG, one pixel per metre, white inside buildings"
    city.add_argument("--buildings", type=Path, metavar="FILE", help=footprints)
    city.add_argument("--simulate", type=natural, metavar="SEED", help="a random city, and the simulator's map of it")
    add("--cars", type=Path, metavar="PNG", help="a picture of the buildings' size, white inside cars")
    position = "a transmitter: column and row, or coordinates of the footprints; may be repeated"
    add("--tx", action="append", default=[], metavar="X,Y", help=position)
    add("--invert", action="store_true", help="the buildings of the PNG are black on white")
    add("--measurements", type=Path, metavar="CSV", help="measured points: x,y or lon,lat, and gain_db or dbm")
    add("--eirp", type=finite, metavar="DBM", help="turns measured dBm into path gain: dBm - EIRP")
    covered = f"with several --tx: path gain from which a pixel is covered ({COVERAGE_DB:g})"
    add("--threshold", type=finite, metavar="DB", help=covered)
    options = [(name, kind) for kind, names in SETTINGS.items() for name in names]
    for name, kind in options:
        field = SampleConfig.model_fields[name]
        default = "" if field.default is None else f" (default: {field.default})"
        add(f"--{name}", type=kind, help=field.description.replace("null:", "default:") + default)
    add("--cfg", metavar="YAML", help="a configuration file with a section `sample`, in place of these")
    add("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    arguments = parse(parser)
    given = {name: value for name, _ in options if (value := getattr(arguments, name)) is not None}
    own = arguments.buildings is not None or arguments.simulate is not None
    if arguments.buildings and not arguments.tx:
        parser.error("--buildings needs --tx X,Y")
    for name, other in (("cars", "buildings"), ("invert", "buildings"), ("eirp", "measurements")):
        if getattr(arguments, name) not in (None, False) and not getattr(arguments, other):
            parser.error(f"--{name} needs --{other}")
    if arguments.tx and not own:
        parser.error("--tx needs --buildings or --simulate")
    if arguments.threshold is not None and len(arguments.tx) < 2:
        parser.error("--threshold needs several --tx, which give the coverage")
    if arguments.measurements and not (own and len(arguments.tx) <= 1):
        parser.error("--measurements needs --buildings or --simulate, and a single --tx")
    if arguments.cfg:
        for name, value in given.items():
            parser.error(f"--{name}: with --cfg, write sample.{name}={value}")
        settings = load_config(arguments.cfg, arguments.overrides, stage=None).sample  # of any stage's file
        settings.source.split = settings.source.split or "test"
        if not own and settings.source.data_root is None:
            raise ConfigError("sample.source.data_root: is not set; give a dataset, or use --buildings or --simulate")
        return arguments, settings
    if arguments.overrides:
        parser.error(f"{arguments.overrides[0]} overrides a configuration file; give one with --cfg")
    if not own:
        arguments.simulate = 0  # nothing was asked for: show what the model does
    return arguments, parse_config({"sample": given}).sample


def city_scenes(arguments: argparse.Namespace) -> tuple[list[Scene], Georeference | None]:
    """One scene per transmitter of the city on the command line, and where the city lies."""
    georeference = None
    if arguments.buildings is not None:
        city = read_city(arguments.buildings, list(map(parse_position, arguments.tx)), arguments.invert, arguments.cars)
        print_city(city, arguments.buildings)
        name, georeference = arguments.buildings.stem, city.georeference
        scenes = [scene_at(name, city.layout, text, georeference, city.cars) for text in arguments.tx]
    else:
        from data.simulator.scenes import random_scenes  # numba is slow to import

        scenes = random_scenes(arguments.simulate, arguments.tx)
    if arguments.measurements:
        shape = scenes[0].layout.shape
        scenes[0].measurements, note = read_measurements(arguments.measurements, shape, georeference, arguments.eirp)
        print(f"{arguments.measurements.name}: {note}")
    return scenes, georeference


def load_predictor(settings: SampleConfig, measurements: Any = None, cars: Any = None) -> "Predictor":
    """The model; raises ConfigError if it would ignore a file of measured points or of cars."""
    from denoising_diffusion_pytorch.predictor import Predictor  # torch is slow to import: after all other errors

    names = ("use_ema", "steps", "sampler", "noise_scale", "pixel_noise", "seed")
    predictor = Predictor(settings.ckpt, **{name: getattr(settings, name) for name in names})
    points = ("measured points", measurements, predictor.sees_measurements)
    for what, file, is_seen in (points, ("cars", cars, predictor.sees_cars)):
        if file and not is_seen:
            blind = f"{predictor.checkpoint.path}: has no channel that shows {what}, and would ignore {file}"
            raise ConfigError(f"{blind}; use the released model, or train one with such a channel (docs/data.md)")
    return predictor


def sample_split(settings: SampleConfig, processes: Processes) -> None:
    """Maps of all scenes of a split; those that are there, made with the same settings, are kept."""
    folder, count = Path(settings.output_folder), settings.num_samples
    source, predictor = processes.each(lambda: (open_tree(**vars(settings.source)), load_predictor(settings)))
    processes.agree(source, predictor.identity(count))
    if is_part_of(source.root, folder):
        raise ConfigError(f"sample.output_folder: {folder} is a part of the data, whose maps have the same names")
    derived = {f"{name}{end}" for name in source.names for end in ("_std", "_figure")}
    if clash := sorted(derived.intersection(source.names)):
        raise ConfigError(f"{source.root}: rename {clash[0]}: the files of another map would have this name")
    own = predictor.identity(count) | {"batch_size": settings.batch_size} | source.identity()
    drawn = evenly_spaced(len(source), settings.figures)

    def open_records() -> Records:
        path = folder / RECORDS
        if processes.is_main and not path.exists():
            for file in (folder / f"{name}{end}" for name in source.names for end in (".png", ".npy")):
                if file.is_file():
                    message = f"would be replaced, and {RECORDS}, which would list it, is missing"
                    remedy = "choose another output_folder, or delete the maps in this one"
                    raise ConfigError(f"{file}: {message}; {remedy}")
        return Records(path if processes.is_main else None, own)

    records = processes.each(open_records)

    def is_there(number: int) -> bool:
        ends = [".png", ".npy", *["_std.npy"] * (count > 1)]
        ends += ["_figure.png"] * (number in drawn)
        return all((folder / f"{source.names[number]}{end}").exists() for end in ends)

    def work(batch: list[tuple[Scene, Any]]) -> list[tuple[np.ndarray, np.ndarray | None, dict[str, Any]]]:
        scenes, prepared = zip(*batch, strict=True)
        predictions = predictor.predict_batch(scenes, prepared, num_samples=count)
        return [(p.gain, p.std, measure(p.scene.name, p.gain, p.scene.gain)) for p in predictions]

    done = {number for number in records.known if is_there(number)}
    options: dict[str, Any] = {"read": predictor.prepared(), "work": work, "done": done}
    for number, (gain, std, measured) in shared(processes, source, settings.batch_size, title="sampling", **options):
        write_map(folder, source.names[number], gain, std)
        if number in drawn:
            draw_map(folder, source.scene(number), gain, std)
        if number not in records.known:
            records.add(number, measured)
    if processes.is_main:
        for note in predictor.score_notes(source.scene(0)):
            print(note)
        print_end(len(source), folder, predictor, count, list(records.known.values()))


def print_end(count: int, folder: Path, predictor: "Predictor", num_samples: int, rows: Sequence[Any]) -> None:
    """Write and print the scores, `rows` of the maps whose truth is known, and say what was made."""
    if rows:
        summary = summary_of(rows) | {"checkpoint": str(predictor.checkpoint.path), "per_map": rows}
        write_json(folder / "metrics.json", summary)
        print(f"NMSE {summary['nmse']:.4f}, SSIM {summary['ssim']:.3f} over {summary['maps']} maps")
    elif (folder / "metrics.json").exists():
        print(f"note: {folder / 'metrics.json'} has the scores of earlier maps")
    sampling = predictor.sampling_of(num_samples)
    method = f"{sampling.sampler}, {sampling.steps} steps" if sampling else predictor.title  # of a regression
    print(f"{count} maps in {folder} ({method}, {predictor.checkpoint.path})")


def sample_city(arguments: argparse.Namespace, settings: SampleConfig) -> None:
    """Maps of one city, and its coverage."""
    cities, georeference = city_scenes(arguments)
    predictor = load_predictor(settings, arguments.measurements, arguments.cars)
    if cities[0].cars is not None and not predictor.sees_cars:
        print(f"note: {predictor.checkpoint.path} has no channel that shows cars; those in the file are ignored")
    crops = [crop(city, predictor.side) for city in cities]
    for note in sorted({part.note for part in crops if part.note}):
        print(f"note: {note}")
    folder = Path(settings.output_folder)
    if (folder / RECORDS).exists():
        raise ConfigError(f"{folder}: holds the maps of a dataset; choose another output_folder")
    folder.mkdir(parents=True, exist_ok=True)
    stem = arguments.buildings.stem if arguments.buildings else f"city{arguments.simulate}"
    made = {f"{city.name}{end}.png" for city in cities for end in ("", "_figure")} | {f"{stem}_coverage.png"}
    if arguments.cars and arguments.cars.resolve() in [(folder / file).resolve() for file in made]:
        raise ConfigError(f"{arguments.cars}: would be replaced; rename it, or choose another output_folder")
    rows, gains, drawn = [], [], evenly_spaced(len(crops), settings.figures)
    scenes = [part.scene for part in crops]
    predictions = predictor.predict(scenes, settings.batch_size, num_samples=settings.num_samples)
    for index, prediction in enumerate(tqdm(predictions, total=len(crops), desc="sampling", unit="map")):
        part, std = crops[index], prediction.std
        gain, std = part.paste(prediction.gain), None if std is None else part.paste(std)
        if part.city.gain is not None:
            seen = slice(part.row, part.row + predictor.side), slice(part.column, part.column + predictor.side)
            rows.append(measure(part.city.name, gain[seen], part.city.gain[seen]))
        for end in (".tif", "_std.npy", "_std.tif", "_figure.png"):  # of an earlier map of this transmitter
            (folder / f"{part.city.name}{end}").unlink(missing_ok=True)
        gains.append(gain)
        write_map(folder, part.city.name, gain, std, georeference)
        if index in drawn:
            draw_map(folder, part.city, gain, std)
    if rows:
        for note in predictor.score_notes(scenes[0]):
            print(note)
    if len(crops) > 1:
        for end in ("coverage", "best_server"):
            (folder / f"{stem}_{end}.tif").unlink(missing_ok=True)
        threshold = COVERAGE_DB if arguments.threshold is None else arguments.threshold
        summary = write_coverage(folder, stem, np.stack(gains), cities, threshold, georeference)
        predicted, covered = summary["predicted_fraction_of_open_area"], summary["covered_fraction_of_predicted_area"]
        print(f"{predicted:.1%} of the open area was predicted; {covered:.1%} of that has at least {threshold:g} dB")
        if (common := summary["fraction_predicted_for_all_transmitters"]) < 1:
            print(f"note: all transmitters were predicted in {common:.1%} of that area; elsewhere, one may be missing")
    if arguments.measurements:
        column, row = pixels_of(scenes[0].measurements, predictor.side, predictor.side)
        inside, given = int(scenes[0].layout.inside[row, column].sum()), len(cities[0].measurements)
        print(f"{len(column)} of {given} measured points lie in the predicted area, {inside} of them inside buildings")
    print_end(len(crops), folder, predictor, settings.num_samples, rows)


def main() -> None:
    processes = Processes(FATAL_ERRORS)
    arguments, settings = processes.each(parse_arguments)
    if arguments.buildings is None and arguments.simulate is None:
        sample_split(settings, processes)
    elif processes.is_main:  # one city is little work
        sample_city(arguments, settings)


if __name__ == "__main__":
    run(main)
