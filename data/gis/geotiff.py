"""Where a map lies on the earth, and maps as GeoTIFF, which geographic information systems open in their place."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import ASCII, DOUBLE, SHORT

# tags of OGC GeoTIFF 1.1, and GDAL's for the value that stands for nothing
PIXEL_SCALE, TIE_POINT, GEO_KEYS, NO_DATA = 33550, 33922, 34735, 42113
MODEL_TYPE, RASTER_TYPE, GEODETIC_CRS, PROJECTED_CRS = 1024, 1025, 2048, 3072
PROJECTED, GEOGRAPHIC, PIXEL_IS_AREA, WGS_84 = 1, 2, 1, 4326


@dataclass(frozen=True)
class Georeference:
    """How a map, one pixel per metre and north up, lies in the coordinates of a file of footprints.

    Attributes:
        x, y: coordinates of the first pixel's centre.
        dx, dy: of one metre, in the unit of the coordinates.
        degrees: whether they are longitude and latitude.
        epsg: code of their reference system; None for WGS 84 in degrees, and for metres of an unknown system.
    """

    x: float
    y: float
    dx: float
    dy: float
    degrees: bool
    epsg: int | None = None

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates of the file -> column and row."""
        return (x - self.x) / self.dx, (self.y - y) / self.dy

    def text(self, column: float, row: float) -> str:
        """`X,Y` in the coordinates of the file, to about a decimetre."""
        places = 6 if self.degrees else 1
        return f"{self.x + column * self.dx:.{places}f},{self.y - row * self.dy:.{places}f}"

    def window(self, row: int, column: int) -> "Georeference":
        """Of the part of the map whose first pixel is (row, column)."""
        return replace(self, x=self.x + column * self.dx, y=self.y - row * self.dy)

    def extent(self, shape: tuple[int, int]) -> str:
        """The coordinates that a map of this shape (H, W) spans, for messages."""
        (height, width), places = shape, 5 if self.degrees else 0
        right, bottom = self.x + (width - 1) * self.dx, self.y - (height - 1) * self.dy
        return f"{self.x:.{places}f} .. {right:.{places}f}, {bottom:.{places}f} .. {self.y:.{places}f}"


def write_geotiff(file: Path | BinaryIO, values: np.ndarray, place: Georeference) -> None:
    """Write a map, (H, W) float, as float32 with NaN for nothing."""
    keys = [(RASTER_TYPE, PIXEL_IS_AREA)]
    if place.degrees:
        keys = [(MODEL_TYPE, GEOGRAPHIC), *keys, (GEODETIC_CRS, place.epsg or WGS_84)]
    elif place.epsg:
        keys = [(MODEL_TYPE, PROJECTED), *keys, (PROJECTED_CRS, place.epsg)]
    directory = [1, 1, 0, len(keys), *(number for key, value in keys for number in (key, 0, 1, value))]
    corner = (place.x - place.dx / 2, place.y + place.dy / 2)  # of the first pixel's area
    tags = ImageFileDirectory_v2()
    for tag, kind, value in (
        (PIXEL_SCALE, DOUBLE, (place.dx, place.dy, 0.0)),
        (TIE_POINT, DOUBLE, (0.0, 0.0, 0.0, *corner, 0.0)),
        (GEO_KEYS, SHORT, tuple(directory)),
        (NO_DATA, ASCII, "nan"),
    ):
        tags[tag], tags.tagtype[tag] = value, kind
    Image.fromarray(np.ascontiguousarray(values, np.float32)).save(file, "TIFF", tiffinfo=tags)
