"""Simulate the radio map of one given city.

    python scripts/simulate.py --buildings city.png --tx 120,80 --out map.png

The city is a grey picture, one pixel per metre, white inside buildings, or a GeoJSON file of footprints. The result
is an 8-bit PNG in RadioMapSeer's levels (path gain = 99.16 v / 255 - 147 dB, buildings 0). Cars are white in a picture
of the same size, or features of the GeoJSON file with "class": "car".
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.errors import DataError
from data.gis.city import print_city, read_city
from data.scene import parse_position, scene_at
from data.simulator import Simulator
from data.trees.png import write_grey
from data.units import db_to_gain, gain_to_uint8
from denoising_diffusion_pytorch.cli import new_figure, parse, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--buildings", type=Path, required=True, help="PNG, white inside buildings, or footprints as GeoJSON")
    add("--tx", required=True, metavar="X,Y", help="column and row, or coordinates of the footprints")
    add("--cars", type=Path, metavar="PNG", help="a picture of the buildings' size, white inside cars")
    add("--invert", action="store_true", help="the buildings of the PNG are black on white")
    add("--out", type=partial(new_figure, suffixes=[".png"]), required=True, help="PNG to write")
    add("--force", action="store_true", help="overwrite --out")
    arguments = parse(parser)
    if arguments.out.exists() and not arguments.force:
        raise DataError(f"{arguments.out}: exists; choose another --out, or --force to overwrite it")
    if arguments.out.resolve() in [path.resolve() for path in (arguments.buildings, arguments.cars) if path]:
        raise DataError(f"{arguments.out}: is an input, too; choose another --out")
    city = read_city(arguments.buildings, [parse_position(arguments.tx)], arguments.invert, arguments.cars)
    print_city(city, arguments.buildings)
    tx = scene_at(arguments.buildings.stem, city.layout, arguments.tx, city.georeference, city.cars).tx
    path_gain = Simulator(city.layout, cars=city.cars).path_gain(tx)
    write_grey(arguments.out, gain_to_uint8(db_to_gain(path_gain)))
    print(f"{arguments.out}: path gain from {path_gain[~city.layout.inside].min():.1f} to {path_gain.max():.1f} dB")


if __name__ == "__main__":
    run(main)
