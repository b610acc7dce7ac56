"""Building footprints: which features are buildings, and what their coordinates mean on the ground."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from pyproj import CRS, Geod, Transformer

from ..errors import DataError

WGS_84 = CRS.from_epsg(4326)
HOUSE = (0.1, 0.05)  # in m, what is shorter is no house, and in degrees, what is longer
TAGS, KINDS = ["building", "building:part"], ["type", "class"]  # properties that say that a feature is a building
HEIGHTS = ["height", "building:levels"]
NOT = ["", "no", "none", "false", "0"]


@dataclass
class Footprints:
    """What a file holds.

    Attributes:
        buildings: (N,) polygons in the file's coordinates.
        crs: their coordinate reference system; None for metres of an unknown one.
        notes: what was left out.
    """

    buildings: np.ndarray
    crs: CRS | None
    notes: list[str] = field(default_factory=list)

    @property
    def degrees(self) -> bool:
        return self.crs is not None and self.crs.is_geographic

    @property
    def epsg(self) -> int | None:
        """Code of the EPSG register; None without one."""
        code = self.crs.to_epsg(min_confidence=25) if self.crs else None
        return 3857 if code == 900913 else code  # the old name of the web's projection

    @property
    def unit(self) -> str:
        """Unit or name of the system, and its code."""
        name = "degrees" if self.degrees else self.crs.name if self.crs else "metres"
        return f"{name} (EPSG:{self.epsg})" if self.epsg else name

    def metres(self, point: np.ndarray) -> np.ndarray:
        """Ground metres per unit of x and of y, (2,), at a point (x, y)."""
        if self.crs is None:
            return np.ones(2)
        step = 1e-4 if self.degrees else 10.0
        to_degrees = Transformer.from_crs(self.crs, WGS_84, always_xy=True)
        lon, lat = to_degrees.transform(point[0] + [0, step, 0], point[1] + [0, 0, step])
        return Geod(ellps="WGS84").inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])[2] / step


def footprints_of(content: bytes, name: str) -> Footprints:
    """The building footprints in a file's content.

    Where any polygon says that it is a building, only those are taken.

    Raises:
        DataError: no polygon, or coordinates that cannot be in the file's reference system.
    """
    from .gdal import read_features  # slow to import: after all other errors

    frame = read_features(content, name, [*TAGS, *KINDS, *HEIGHTS])
    shapes = shapely.make_valid(np.array(frame.geometry))
    usable = (shapely.area(shapes) > 0) & np.isfinite(shapely.bounds(shapes)).all(1)
    frame, shapes, notes = frame[usable], shapes[usable], []
    if not len(shapes):
        raise DataError(f"{name}: holds no polygon; export building footprints, for instance from overpass-turbo.eu")
    says = _says(frame, "building")
    if 0 < says.sum() < len(says):
        notes.append(f"features that say they are buildings: {says.sum():,} of {len(says):,}; the others are left out")
    heights = [key for key in HEIGHTS if key in frame and frame[key].notna().any()]
    if heights:
        notes.append(f"{', '.join(heights)}: not used; every building counts as 25 m high")
    buildings = shapes[says] if says.any() else shapes
    while (shapely.get_type_id(buildings) > shapely.GeometryType.POLYGON).any():
        buildings = shapely.get_parts(buildings)
    crs = frame.crs and (frame.crs.sub_crs_list[0] if frame.crs.is_compound else frame.crs.to_2d())  # without heights
    found = Footprints(buildings[shapely.area(buildings) > 0], crs, notes)
    bounds = shapely.bounds(found.buildings)
    house, (x, y) = np.median((bounds[:, 2:] - bounds[:, :2]).max(1)), np.median(bounds, axis=0)[:2]
    if found.crs is None or found.degrees:  # GeoJSON without a name is in degrees, but not everybody's
        degrees = (np.abs(bounds) <= (180, 90, 180, 90)).all(1).mean() > 0.5 and house < HOUSE[1]
        found.crs = (found.crs or WGS_84) if degrees else None
    elif not HOUSE[0] < house * found.metres(np.array([x, y])).max() < np.inf:
        remedy = f"convert it: ogr2ogr -t_srs EPSG:4326 converted.geojson {name}"
        raise DataError(f"{name}: coordinates such as {x:.7g},{y:.7g} cannot be in its {found.crs.name}; {remedy}")
    return found


def _says(frame: Any, kind: str) -> np.ndarray:
    """Which features (N,) of a GeoDataFrame say that they are of a kind, in a property of its name, `type` or `class`."""
    said = np.zeros(len(frame), bool)
    for key in frame.columns.intersection([*TAGS, *KINDS]):
        text = frame[key].astype("string").fillna("").str.lower()
        said |= (text == kind if key in KINDS else ~text.isin(NOT)).to_numpy(bool)
    return said
