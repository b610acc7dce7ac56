"""Maps as GeoTIFF, which geographic information systems open at the right place."""

from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import ASCII, DOUBLE, SHORT

from ..geometry.georeference import Georeference

# tags of OGC GeoTIFF 1.1, and GDAL's for the value that means no data
PIXEL_SCALE, TIE_POINT, GEO_KEYS, NO_DATA = 33550, 33922, 34735, 42113
MODEL_TYPE, RASTER_TYPE, GEODETIC_CRS, PROJECTED_CRS = 1024, 1025, 2048, 3072
PROJECTED, GEOGRAPHIC, PIXEL_IS_AREA = 1, 2, 1
EPSG_CODES = range(1, 2**16)  # numbers that fit into a key


def write_geotiff(file: BinaryIO, values: np.ndarray, georeference: Georeference) -> None:
    """Write a map, (H, W) float, as float32 with NaN for no data."""
    keys = {RASTER_TYPE: PIXEL_IS_AREA}
    if georeference.epsg:
        model, system = (GEOGRAPHIC, GEODETIC_CRS) if georeference.degrees else (PROJECTED, PROJECTED_CRS)
        keys = {MODEL_TYPE: model, **keys, system: georeference.epsg}
    tags = ImageFileDirectory_v2()
    tags.tagtype.update({PIXEL_SCALE: DOUBLE, TIE_POINT: DOUBLE, GEO_KEYS: SHORT, NO_DATA: ASCII})
    tags[PIXEL_SCALE] = (georeference.dx, georeference.dy, 0.0)
    left, top = georeference.x - georeference.dx / 2, georeference.y + georeference.dy / 2  # of the first pixel's area
    tags[TIE_POINT] = (0.0, 0.0, 0.0, left, top, 0.0)
    tags[GEO_KEYS] = (1, 1, 0, len(keys), *(number for key, value in keys.items() for number in (key, 0, 1, value)))
    tags[NO_DATA] = "nan"
    Image.fromarray(np.ascontiguousarray(values, np.float32)).save(file, "TIFF", tiffinfo=tags)
