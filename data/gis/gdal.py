"""Features of files, as GDAL reads them. Slow to import."""

import warnings

import geopandas
import pyogrio

from ..errors import DataError

# Formats that hold all their data. Others, such as VRT and WFS, follow links to files and addresses, also from an upload.
DRIVERS = {"GeoJSON", "GeoJSONSeq", "ESRIJSON", "TopoJSON", "GPKG", "ESRI Shapefile", "FlatGeobuf", "OSM", "MEM"}
KINDS = "GeoJSON, GeoPackage, zipped Shapefile, FlatGeobuf, OpenStreetMap, a PNG or a polygon file of RadioMapSeer"
MOST_FEATURES = 2_000_000

pyogrio.set_gdal_config_options({"OGR_SKIP": ",".join(set(pyogrio.list_drivers()) - DRIVERS)})
pyogrio.core._register_drivers()  # which removes those; there is no public name
if not set(pyogrio.list_drivers()) <= DRIVERS:
    raise ImportError("this version of pyogrio keeps drivers that open other files; install pyogrio 0.13")


def read_features(content: bytes, name: str, names: list[str]) -> geopandas.GeoDataFrame:
    """The features in a file's content and their properties of these names, in lower or upper case.

    Of several layers, the one named after buildings is read, or else the first one with polygons.

    Raises:
        DataError: nothing that is known, no geometries, or too many.
    """
    columns = [spelt for name in names for spelt in (name, name.upper(), name.capitalize())]
    options = {"columns": columns, "max_features": MOST_FEATURES, "on_invalid": "fix"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layers = pyogrio.list_layers(content).tolist()
            if len(layers) > 1:
                options["layer"] = max(layers, key=lambda of: ("building" in of[0].lower(), "Polygon" in str(of[1])))[0]
            frame = pyogrio.read_dataframe(content, **options)
    except Exception as error:  # GDAL and its Python side meet anything in a damaged file
        reason = f" ({error})" if "vsi" not in str(error) else ""  # the name of a copy in memory
        raise DataError(f"{name}: cannot be read{reason}; a city is {KINDS}") from error
    if not isinstance(frame, geopandas.GeoDataFrame) or len(frame) == MOST_FEATURES:
        raise DataError(f"{name}: has no geometries, or {MOST_FEATURES:,} and more; cut the city out of it")
    return frame
