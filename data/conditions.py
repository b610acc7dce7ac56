"""Condition channels: what the network sees of a scene.

A channel is a function (scene, size) -> (size, size) float32 in [0, 1], registered under the name that
`data.cond_channels` uses. To add one, write such a function with `@channel`. Channels of the transmitter are zero where
it is unknown.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps

import numpy as np
import shapely

from .errors import DataError
from .geometry.layout import Layout
from .geometry.outlines import united
from .geometry.resize import resize
from .measurements import corrected, spread_points
from .scene import Scene
from .units import GAIN_MAX_DB, db_to_gain

Channel = Callable[[Scene, int], np.ndarray]
CONDITION_CHANNELS: dict[str, Channel] = {}
CAR_CHANNELS = frozenset({"cars", "simulated"})  # channels that cars change
DOCUMENT_CHANNELS = ("buildings", "transmitter", "cars")  # the three of the design document: the default


def channel(function: Channel) -> Channel:
    """Register a condition channel under its function's name."""
    CONDITION_CHANNELS[function.__name__] = function
    return function


def transmitter_channel(function: Channel) -> Channel:
    """`channel` for one that needs the transmitter."""

    @wraps(function)
    def known(scene: Scene, size: int) -> np.ndarray:
        return np.zeros((size, size), np.float32) if scene.shown_tx is None else function(scene, size)

    return channel(known)


@channel
def buildings(scene: Scene, size: int) -> np.ndarray:
    """Fraction of each pixel's area that buildings cover."""
    return resize(scene.shown.coverage, size)


@transmitter_channel
def transmitter(scene: Scene, size: int) -> np.ndarray:
    """The transmitter spread over its four nearest pixels (sum 1), drawn at the target resolution."""
    side = scene.layout.shape[0]
    x, y = ((c + 0.5) * size / side - 0.5 for c in scene.shown_tx)  # pixel centres are whole numbers in both grids
    image = np.zeros((size, size), np.float32)
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    for row, weight_y in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for column, weight_x in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            # a part that falls outside goes to the border pixel, so that the total stays 1
            image[np.clip(row, 0, size - 1), np.clip(column, 0, size - 1)] += weight_x * weight_y
    return image


@channel
def cars(scene: Scene, size: int) -> np.ndarray:
    """Fraction of each pixel's area that cars cover; the buildings again if the data has no cars, as in RadioDiff."""
    if scene.shown_cars is None:
        return buildings(scene, size)
    together = united([shapely.Polygon(ring) for ring in scene.shown_cars.outlines])  # cars may overlap
    return resize(Layout(together, scene.shown_cars.shape).coverage, size)


@transmitter_channel
def line_of_sight(scene: Scene, size: int) -> np.ndarray:
    """Fraction of each pixel that sees the transmitter past the buildings shown."""
    from .simulator import line_of_sight as cast_rays  # numba is slow to import, and only this channel needs it

    return resize(cast_rays(scene.shown, scene.shown_tx), size)


@transmitter_channel
def log_distance(scene: Scene, size: int) -> np.ndarray:
    """Grey level of the path-loss model in line of sight, 25 log10 d dB, d in metres, at least 1."""
    return resize(los_gain(scene), size)


@transmitter_channel
def detour(scene: Scene, size: int) -> np.ndarray:
    """Grey level of a loss of 28.6 log10 d + 1.4 dB, d the geodesic distance in metres, at least 2; 0 where there is none."""
    from .simulator import shortest_paths  # numba is slow to import

    length, _ = shortest_paths(scene.shown.inside, scene.shown_tx)
    return resize(db_to_gain(GAIN_MAX_DB - 28.6 * np.log10(np.maximum(length, 2)) - 1.4), size)


@transmitter_channel
def turns(scene: Scene, size: int) -> np.ndarray:
    """How straight the shortest path is: 1 minus the sum of its turns / 360 degrees, at least 0.1; 0 where there is no path."""
    from .simulator import shortest_paths  # numba is slow to import

    _, turn = shortest_paths(scene.shown.inside, scene.shown_tx, straight=True)
    return resize(np.where(np.isinf(turn), 0, np.maximum(1 - turn / (2 * np.pi), 0.1)).astype(np.float32), size)


@transmitter_channel
def simulated(scene: Scene, size: int) -> np.ndarray:
    """The simulator's map of what is shown, corrected by measured points; useless if the simulator also made the truth."""
    _, gain = simulated_gains(scene)
    return resize(corrected(gain, scene.measurements), size)


@channel
def measured_gain(scene: Scene, size: int) -> np.ndarray:
    """The gain according to measured points, fading to 0 far from them; goes with `measured`."""
    return spread_points(scene.measurements, scene.layout.shape[0], size)[0]


@channel
def measured(scene: Scene, size: int) -> np.ndarray:
    """The confidence of `measured_gain`: almost 1 at a measured point, 0 far from all of them."""
    return spread_points(scene.measurements, scene.layout.shape[0], size)[1]


def simulated_gains(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels (H, W) of the embedded simulator for the buildings shown, without cars and with the cars shown; 0 inside
    the buildings. Read-only.
    """
    x, y = scene.shown.nearest_open(_transmitter(scene))  # a layout from a picture may lie over the transmitter
    return _simulate(scene.shown, scene.shown_cars, float(x), float(y))


@lru_cache(8)  # a scene's condition, its references and the web page ask for the same
def _simulate(layout: Layout, cars: Layout | None, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    from .simulator import Simulator  # numba is slow to import

    without, gain = Simulator(layout, cars=cars).path_gains((x, y))
    level = db_to_gain(without).astype(np.float32)
    return level, level if gain is without else db_to_gain(gain).astype(np.float32)


def _transmitter(scene: Scene) -> tuple[float, float]:
    if scene.shown_tx is None:
        raise DataError(f"scene {scene.name}: its transmitter is unknown")
    return scene.shown_tx


def distance(scene: Scene) -> np.ndarray:
    """Distance from the transmitter in metres, at least 1, (H, W) float32."""
    x, y = _transmitter(scene)
    rows, columns = np.indices(scene.layout.shape, dtype=np.float32)
    return np.maximum(np.hypot(columns - x, rows - y), 1)


def los_gain(scene: Scene) -> np.ndarray:
    """Grey levels (H, W) of the path-loss model in line of sight: 25 log10 d dB below the strongest value."""
    return db_to_gain(GAIN_MAX_DB - 25 * np.log10(distance(scene)))


def check_channels(names: Sequence[str]) -> None:
    """Raise DataError for a name that is not a channel."""
    for name in set(names) - CONDITION_CHANNELS.keys():
        raise DataError(f"data.cond_channels: {name!r} is unknown; choose from {', '.join(CONDITION_CHANNELS)}")


def condition(scene: Scene, names: Sequence[str], size: int) -> np.ndarray:
    """The condition of a scene, (C, size, size) float32 in [-1, 1]."""
    check_channels(names)
    return np.stack([2 * CONDITION_CHANNELS[name](scene, size) - 1 for name in names]).astype(np.float32)
