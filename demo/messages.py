"""What the page and the server send each other: arrays, cities, cars, transmitters, measured values. All of it is checked."""

import base64
from functools import cache

import numpy as np
import shapely

from data import DataError, Scene
from data.crop import SIDE
from data.geometry.cars import car_outline, cars_of
from data.geometry.georeference import Georeference
from data.geometry.layout import Layout
from data.gis.measured_points import check_measurements
from data.scene import scene_at

MAX_TRANSMITTERS = 8
MAX_POINTS = 2000  # of one transmitter
MAX_CARS = 500


def encode(array: np.ndarray) -> str:
    """Bytes in base64, of fractions as little-endian float32."""
    return base64.b64encode(array.astype("<f4" if array.dtype.kind == "f" else array.dtype).tobytes()).decode()


def decode(text: object, dtype: str, count: int, what: str) -> np.ndarray:
    """The inverse of `encode`; raises DataError for anything but `count` numbers."""
    try:
        array = np.frombuffer(base64.b64decode(str(text), validate=True), dtype)
    except ValueError as error:
        raise DataError(f"{what}: is not base64 of {dtype} numbers") from error
    if array.size != count:
        raise DataError(f"{what}: holds {array.size} numbers, not {count}")
    return array


def pack(buildings: np.ndarray) -> str:
    """(H, W) bool as bits, row by row."""
    return encode(np.packbits(buildings))


def unpack(text: object) -> np.ndarray:
    """The inverse of `pack` for what is in view, (SIDE, SIDE)."""
    return np.unpackbits(decode(text, "u1", SIDE * SIDE // 8, "buildings")).astype(bool).reshape(SIDE, SIDE)


def whole_number(value: object, what: str, low: int, high: int) -> int:
    """A number from a request; raises DataError."""
    try:
        number = int(str(value))
    except ValueError as error:
        raise DataError(f"{what}: {value!r:.40} is not a whole number") from error
    if not low <= number <= high:
        raise DataError(f"{what}: {number} is not within {low} .. {high}")
    return number


def read_place(place: object) -> Georeference | None:
    """Where a city lies, as its answer said; None if its coordinates are pixels; raises DataError."""
    if place is None:
        return None
    try:
        x, y, dx, dy = (float(place[key]) for key in ("x", "y", "dx", "dy"))  # type: ignore[index]
        degrees, epsg = bool(place["degrees"]), place["epsg"]  # type: ignore[index]
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise DataError("place: must be what /upload answered") from error
    if not (np.isfinite([x, y, dx, dy]).all() and dx > 0 and dy > 0):
        raise DataError("place: holds numbers that are not finite or not positive")
    code = None if epsg is None else whole_number(epsg, "place: epsg", 1, 2**16 - 1)
    return Georeference(x, y, dx, dy, degrees, code)


def rows_of(rows: object, most: int, what: str) -> np.ndarray:
    """(N, 3) float64 of a list of at most `most` rows of three finite numbers; raises DataError."""
    try:
        array = np.array(rows, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.array(np.nan)
    if array.size and array.shape[1:] != (3,) or len(array) > most or not np.isfinite(array).all():
        raise DataError(f"{what}: must be a list of at most {most} rows of three finite numbers")
    return array.reshape(-1, 3)


@cache
def car_shapes() -> list[dict[str, list]]:
    """By whole degrees, of a car at (0, 0): its corners, and the pixels inside, each [x, y]."""
    cars = [Layout([car_outline((8, 8), degrees)], (16, 16)) for degrees in range(180)]
    return [
        {"corners": (car.outlines[0] - 8).round().tolist(), "pixels": (np.argwhere(car.inside)[:, ::-1] - 8).tolist()}
        for car in cars
    ]


def read_cars(rows: object, layout: Layout) -> Layout | None:
    """The cars of a list of [x, y, degrees], in whole numbers; None for none; raises DataError."""
    numbers = rows_of(rows, MAX_CARS, "cars").round()
    if not ((numbers[:, :2] >= 0) & (numbers[:, :2] < SIDE)).all():
        raise DataError(f"cars: x and y must be within 0 .. {SIDE - 1}")
    cars = cars_of([car_outline((x, y), degrees % 180) for x, y, degrees in numbers], layout.shape)
    blocked = np.argwhere(cars.inside & layout.inside)
    if len(blocked):
        row, column = blocked[0]
        raise DataError(f"cars: the one at {column},{row} is inside a building")
    return cars if len(numbers) else None


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


def read_scenes(body: object) -> list[Scene]:
    """What is in view of a request: buildings, cars, and for each transmitter the values measured of it; raises DataError."""
    if not isinstance(body, dict) or not isinstance(body.get("tx"), list):
        raise DataError("a request needs `buildings` and `tx`")
    count = len(body["tx"])
    if not 1 <= count <= MAX_TRANSMITTERS:
        raise DataError(f"place 1 to {MAX_TRANSMITTERS} transmitters, not {count}")
    layout = Layout.traced(unpack(body.get("buildings")))
    try:
        positions = [f"{float(x)},{float(y)}" for x, y in body["tx"]]
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("tx: must be a list of [x, y]") from error
    cars = read_cars(body.get("cars", []), layout)
    scenes = [scene_at("city", layout, position, cars=cars) for position in positions]
    measured = body.get("points") or [[]] * count
    if not isinstance(measured, list) or len(measured) != count:
        raise DataError("points: must be a list with one list of [x, y, dB] for each transmitter")
    for scene, points in zip(scenes, measured, strict=True):
        if points:
            if not isinstance(points, list) or len(points) > MAX_POINTS:
                raise DataError(f"points: must be a list of at most {MAX_POINTS} [x, y, dB] per transmitter")
            scene.measurements = check_measurements([("points", point) for point in points], layout.shape)
    return scenes
