"""A scene: one city, one transmitter, and the measured or simulated map if it is known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DataError
from .geometry.cars import cars_from_picture
from .geometry.georeference import Georeference, extent, pixel_of
from .geometry.layout import Layout


@dataclass
class Scene:
    """At native resolution, one pixel per metre, indexed (row, column). DataError for parts that do not fit together.

    Layouts can also be given as pictures (H, W) bool, whose outlines are traced.
    """

    name: str  # e.g. `12_3`, map and transmitter
    layout: Layout  # the real buildings
    tx: tuple[float, float] | None  # (column, row), outdoors; None if only a ready-made condition has it
    gain: np.ndarray | None = None  # (H, W) float32 grey levels in [0, 1]; None if the truth is unknown
    cars: Layout | None = None  # None if the data has none
    cars_are_known: bool = True  # whether the condition shows them
    known: Layout | None = None  # the buildings that the condition may show; None for all of them
    known_tx: tuple[float, float] | None = None  # where the condition shows the transmitter; None for where it is
    tx_is_known: bool = True  # whether the condition shows the transmitter at all
    outlines_are_shifted: bool = False  # `known` is not a part of `layout`: no pixel is certainly inside a building
    truth: str = "real"  # "real" or "simulated", also a title in figures
    measurements: np.ndarray | None = None  # (N, 3) float32, x, y and grey level of measured points
    cond: np.ndarray | None = None  # (C, h, w) float32, a ready-made condition in place of all this

    def __post_init__(self) -> None:
        self.layout = self._layout(self.layout, "buildings")
        self.known = None if self.known is None else self._layout(self.known, "known buildings")
        self.cars = None if self.cars is None else self._layout(self.cars, "cars", cars_from_picture)
        for what, part in (("known buildings", self.known), ("cars", self.cars)):
            if part is not None and part.shape != self.layout.shape:
                raise DataError(f"{self.name}: {what} of shape {part.shape} on a map of {self.layout.shape}")
        height, width = self.layout.shape
        if self.gain is not None:
            self.gain = np.asarray(self.gain, np.float32)
            if self.gain.shape != self.layout.shape:
                raise DataError(f"{self.name}: a map of shape {self.gain.shape} for buildings of {self.layout.shape}")
            if not (self.gain.min() >= 0 and self.gain.max() <= 1):  # nor NaN
                raise DataError(f"{self.name}: its map has values beyond the grey levels [0, 1]")
        if self.measurements is not None:
            points = self.measurements = np.asarray(self.measurements, np.float32)
            is_table = points.ndim == 2 and points.shape[1] == 3 and np.isfinite(points).all()
            if not is_table or (points[:, 2] < 0).any() or (points[:, 2] > 1).any():
                levels = "grey levels within [0, 1] (data.units.db_to_gain)"
                raise DataError(f"{self.name}: measurements must be (N, 3): columns, rows and {levels}")
            if not ((points[:, :2] >= -0.5) & (points[:, :2] < (width - 0.5, height - 0.5))).all():
                raise DataError(f"{self.name}: measured points lie outside the {width}x{height} px map; leave them out")
        if self.tx is not None:
            if np.ndim(self.tx) != 1 or len(self.tx) != 2:
                raise DataError(f"{self.name}: the transmitter is {self.tx!r}; give (column, row)")
            self.tx = float(self.tx[0]), float(self.tx[1])
            if not (-0.5 <= self.tx[0] < width - 0.5 and -0.5 <= self.tx[1] < height - 0.5):
                where = f"the transmitter {self.tx[0]:g},{self.tx[1]:g} is outside the {width}x{height} px map"
                raise DataError(f"{self.name}: {where}")

    def _layout(self, given: Any, what: str, traced: Callable[[np.ndarray], Layout] = Layout.traced) -> Layout:
        """A layout, or the one that a picture shows."""
        if isinstance(given, Layout):
            return given
        if not isinstance(given, np.ndarray):
            raise DataError(
                f"{self.name}: {what} are a {type(given).__name__}; give a numpy array (H, W) bool or a Layout"
            )
        if given.ndim != 2 or given.dtype.kind not in "bui":
            raise DataError(
                f"{self.name}: {what} of {given.dtype} {given.shape}; they must be bool (H, W), true inside"
            )
        return traced(given)

    @property
    def shown(self) -> Layout:
        """The buildings that the condition shows."""
        return self.layout if self.known is None else self.known

    @property
    def shown_cars(self) -> Layout | None:
        """The cars that the condition shows; None for none."""
        return self.cars if self.cars_are_known else None

    @property
    def shown_tx(self) -> tuple[float, float] | None:
        """Where the condition shows the transmitter; None if it does not."""
        return (self.known_tx or self.tx) if self.tx_is_known else None

    @property
    def buildings(self) -> np.ndarray:
        """(H, W) bool: pixels whose centre is inside a real building."""
        return self.layout.inside

    @property
    def ori_mask(self) -> np.ndarray:
        """(H, W) bool: pixels inside the buildings shown, where the map is certainly zero."""
        return np.zeros(self.layout.shape, bool) if self.outlines_are_shifted else self.shown.inside


def parse_position(text: str, georeference: Georeference | None = None) -> tuple[float, float]:
    """`X,Y`, column and row or coordinates of the `georeference`, as column and row; DataError for anything else."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = np.nan
    if not np.isfinite([x, y]).all():
        raise DataError(f"{text!r} is not a position; write X,Y, e.g. 120,80")
    return (x, y) if georeference is None else georeference.pixels(x, y)


def scene_at(
    name: str, layout: Layout, position: str, georeference: Georeference | None = None, cars: Layout | None = None
) -> Scene:
    """The scene of a city with a transmitter at `X,Y`; DataError for a position outside the map or in a building or a car."""
    tx = parse_position(position, georeference)
    height, width = layout.shape
    if not (0 <= tx[0] <= width - 1 and 0 <= tx[1] <= height - 1):
        raise DataError(f"transmitter {position}: is outside {name} ({extent(layout.shape, georeference)})")
    taken = layout if cars is None else Layout.traced(layout.inside | cars.inside)
    if taken.inside[pixel_of(tx)]:
        column, row = taken.nearest_open(tx)
        where = f"{column:g},{row:g}" if georeference is None else georeference.text(column, row)
        what = "a building" if layout.inside[pixel_of(tx)] else "a car"
        raise DataError(
            f"transmitter {position}: is inside {what} of {name}; transmitters must be outdoors, 1.5 m high, "
            f"even base stations on roofs; the nearest open point is {where}"
        )
    name = "_".join([name, *(f"{value:.10g}" for value in parse_position(position))])
    return Scene(name, layout, tx, cars=cars)
