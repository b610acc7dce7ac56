"""What the page and the server send each other: cities, scenes, maps, and files of maps. All input is checked."""

import base64
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np
import shapely
from PIL import Image

from data import DataError, Scene
from data.conditions import simulated_gains
from data.crop import SIDE
from data.geometry.cars import car_outline, cars_of
from data.geometry.georeference import Georeference
from data.geometry.layout import Layout
from data.gis.city import City
from data.gis.geotiff import EPSG_CODES, write_geotiff
from data.gis.measured_points import grey_levels
from data.scene import scene_at
from data.units import GAIN_SPAN_DB, db_to_gain, gain_to_db, gain_to_uint8
from denoising_diffusion_pytorch.predictor import Prediction

MAX_ROWS = {"tx": 8, "points": 2000, "cars": 500}


def encode(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def buildings_of(body: Any) -> Layout:
    """The buildings in view: SIDE * SIDE bytes, 1 inside; raises DataError."""
    try:
        pixels = np.frombuffer(base64.b64decode(body["buildings"], validate=True), np.uint8).reshape(SIDE, SIDE)
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"buildings: must be base64 of {SIDE} x {SIDE} bytes") from error
    return Layout.traced(pixels > 0)


def rows(body: dict[str, Any], key: str, columns: int) -> np.ndarray:
    """The list of `columns` finite numbers each under a key, (N, columns); x and y, the first two, are in view."""
    try:
        found = np.array(body.get(key, []), np.float64).reshape(-1, columns)
        inside = (found[:, :2] >= 0) & (found[:, :2] <= SIDE - 1)
    except (TypeError, ValueError, OverflowError):
        found, inside = np.full((1, columns), np.nan), np.array(False)
    if len(found) > MAX_ROWS[key] or not (np.isfinite(found).all() and inside.all()):
        raise DataError(f"{key}: at most {MAX_ROWS[key]} rows of {columns} numbers, x and y within 0 .. {SIDE - 1}")
    return found


def scenes_of(body: Any) -> list[Scene]:
    """What is in view: `tx` (x, y), `cars` (x, y, degrees) and `points` (x, y, dB, index of a transmitter); or DataError."""
    city = City(buildings_of(body), None)
    transmitters, cars, points = rows(body, "tx", 2), rows(body, "cars", 3).round(), rows(body, "points", 4)
    if not len(transmitters):
        raise DataError("tx: place a transmitter first")
    if len(cars):
        city.add_cars(cars_of([car_outline((x, y), degrees) for x, y, degrees in cars], city.layout.shape))
    scenes = [scene_at("city", city.layout, f"{x:g},{y:g}", cars=city.cars) for x, y in transmitters]
    for number, scene in enumerate(scenes):
        mine = points[points[:, 3] == number, :3]
        if len(mine):
            scene.measurements = grey_levels(mine, "points")
    return scenes


def whole_city(name: str, city: City) -> dict[str, Any]:
    """All of a city, of which the page shows a part."""
    return {
        "buildings": encode(city.layout.inside),
        "width": city.layout.shape[1],
        "height": city.layout.shape[0],
        "georeference": None if city.georeference is None else asdict(city.georeference),
        "cars": [] if city.cars is None else placed(city.cars),
        "note": "; ".join([name, *city.notes]),
        "inverted": city.seems_inverted,
    }


def placed(cars: Layout) -> list[list[int]]:
    """[x, y, degrees] of the cars that are most like the outlines given."""
    turns = [*range(0, 180, 45), *range(5, 180, 5)]  # show all sixteen outlines, right angles first
    shapes = shapely.polygons([car_outline((0, 0), degrees) for degrees in turns])
    found = []
    for ring in cars.outlines:
        x, y = map(round, shapely.Polygon(ring).centroid.coords[0])
        different = shapely.area(shapely.symmetric_difference(shapes, shapely.Polygon(ring - (x, y))))
        found.append([x, y, turns[different.argmin()]])
    return found


def layers_of(prediction: Prediction) -> dict[str, np.ndarray]:
    """The maps of a transmitter by name, in dB, (SIDE, SIDE) float32; `std` for several samples, `car_loss` with cars."""
    scene = prediction.scene
    without, simulated = (gain_to_db(np.where(scene.buildings, 0, each)) for each in simulated_gains(scene))
    model = gain_to_db(prediction.gain)
    layers = {"model": model, "simulator": simulated, "difference": model - simulated}
    if prediction.std is not None:
        layers["std"] = prediction.std * GAIN_SPAN_DB
    if scene.cars is not None:
        layers["car_loss"] = without - simulated
    return {name: layer.astype("<f4") for name, layer in layers.items()}


def write_layer(file: BinaryIO, kind: str, name: str, values: np.ndarray, buildings: np.ndarray, body: Any) -> None:
    """A map as PNG in RadioMapSeer's levels, or as it is in .npy and GeoTIFF; `body` holds the `georeference` of the view."""
    if kind == "npy":
        np.save(file, values)
    elif kind == "tif":
        try:
            x, y, dx, dy = (float(body["georeference"][key]) for key in ("x", "y", "dx", "dy"))
            epsg = body["georeference"]["epsg"]
            if not (np.isfinite([x, y]).all() and 0 < min(dx, dy) <= max(dx, dy) < np.inf):
                raise ValueError("position")
            if epsg is not None and not (type(epsg) is int and epsg in EPSG_CODES):
                raise ValueError("epsg")
            georeference = Georeference(x, y, dx, dy, body["georeference"]["degrees"], epsg)
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise DataError("georeference: must be that of the city in view") from error
        write_geotiff(file, values, georeference)
    elif kind == "png" and name in ("model", "simulator"):
        Image.fromarray(gain_to_uint8(np.where(buildings, 0, db_to_gain(values)))).save(file, "PNG")
    else:
        raise DataError(f"{name} as {kind}: maps are saved as npy and tif, path gains also as png")
