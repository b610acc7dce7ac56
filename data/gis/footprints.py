"""The polygons of a GeoJSON text (RFC 7946), however it was exported, and which of them are buildings or cars."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

from ..errors import DataError
from ..files import decoded
from .crs import conversion, crs_of

ADVICE = "export building footprints as polygons, for instance from overpass-turbo.eu"
KINDS = "a PNG, GeoJSON in metres or degrees, also with one feature per line, or a polygon file of RadioMapSeer"
SAYS_KIND = {  # properties that say what a feature is: Overture, 3D tiles, vector tiles, Geofabrik, CityGML, detectors
    *("type", "subtype", "class", "theme", "layer", "kind", "category", "fclass"),
    *("featuretype", "featureclass", "objecttype", "citygmlclass", "citygmltype"),
}
BUILDING = {"building", "buildings", "buildingpart", "buildingparts"}
CAR = {"car", "cars", "vehicle", "vehicles"}
FARTHEST = 1e9  # no system has such coordinates; some programs write them for what they do not know
NOT = {"", "no", "none", "null", "false", "0", "nan"}
HEIGHTS = {"height", "building:levels", "building:height", "numfloors", "levels", "measuredheight", "storeys", "hoehe"}


@dataclass
class Footprints:
    """What a file holds.

    Attributes:
        polygons: of buildings, in the file's coordinates.
        cars: the same of cars.
        system: the coordinate reference system that it names; None without one.
        notes: what was left out.
    """

    polygons: list[shapely.Polygon]
    cars: list[shapely.Polygon]
    system: CRS | None
    notes: list[str] = field(default_factory=list)


def json_values(content: bytes | str, name: str) -> list[Any]:
    """The JSON values of a text: usually one; one per line or record in GeoJSON text sequences (RFC 8142) and the like.

    Raises:
        DataError: no JSON.
    """
    text = content if isinstance(content, str) else decoded(content)
    gap = re.compile(r"[\s\x1e,]*")
    place, values = gap.match(text).end(), []
    if text[place : place + 1] not in ("{", "["):
        raise DataError(f"{name}: is no GeoJSON; a city is {KINDS}; {conversion(name)}")
    try:
        while place < len(text):
            value, place = json.JSONDecoder().raw_decode(text, place)
            values.append(value)
            place = gap.match(text, place).end()
    except json.JSONDecodeError as error:
        raise DataError(f"{name}: is no GeoJSON (line {error.lineno}: {error.msg}); {ADVICE}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: is no GeoJSON ({type(error).__name__}); {ADVICE}") from error
    return values


def footprints_of(values: list[Any], name: str) -> Footprints:
    """The building footprints of GeoJSON objects, and their cars, which say that they are.

    Where any feature says that it is a building, only those are taken as buildings. Features without a geometry,
    polygons that are empty or malformed, and everything that is no polygon are left out.

    Raises:
        DataError: no polygon of a building is left.
    """
    system, found, cars, bad, heights = None, [], [], 0, set()
    try:
        for properties, geometry, crs in _features(values, name):
            system = crs_of(crs, name) if system is None else system
            polygons, malformed = _polygons(geometry)
            bad += malformed
            if not says_building(properties) and _says(properties, CAR):
                cars += polygons
                continue
            found.append((bool(polygons) and says_building(properties), polygons))
            heights |= {key for key, value in _tags(properties) if _plain(key) in HEIGHTS and value is not None}
    except RecursionError as error:
        raise DataError(f"{name}: is nested too deeply; {ADVICE}") from error
    count = sum(len(polygons) for _, polygons in found)
    if any(says for says, _ in found):
        found = [(says, polygons) for says, polygons in found if says]
    chosen = [polygon for _, polygons in found for polygon in polygons]
    if not chosen:
        what = f"only cars ({len(cars):,}), no building" if cars else "no polygon that can be read"
        raise DataError(f"{name}: holds {what}; {ADVICE}")
    notes = []
    if len(chosen) < count:
        notes.append(f"polygons that say they are buildings: {len(chosen):,} of {count:,}; the others are left out")
    if bad:
        notes.append(f"polygons left out, because they are empty or hold no coordinates: {bad:,}")
    if heights:
        notes.append(f"{', '.join(sorted(heights))}: not used; every building counts as 25 m high")
    return Footprints(chosen, cars, system, notes)


def says_building(properties: dict[str, Any]) -> bool:
    """Whether a feature says that it is a building, in the words of OpenStreetMap, Overture, 3D tiles and the like."""
    names = ("building", "building:part", "isbuilding")
    said = (str(value).strip().lower() for key, value in _tags(properties) if _plain(key) in names)
    return not NOT.issuperset(said) or _says(properties, BUILDING)


def _says(properties: dict[str, Any], kind: set[str]) -> bool:
    """Whether a property that says what a feature is holds one of the words of `kind`."""
    said = (str(value).strip().rsplit(":", 1)[-1] for key, value in _tags(properties) if _plain(key) in SAYS_KIND)
    return any(_plain(word) in kind for word in said)


def _tags(properties: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values, also of the `tags` of osmtogeojson and the `other_tags` of GDAL."""
    for key, value in properties.items():
        if key == "tags" and isinstance(value, dict):
            yield from value.items()
        elif key == "other_tags" and isinstance(value, str):
            yield from re.findall(r'"([^"]*)"=>"([^"]*)"', value)
        else:
            yield key, value


@lru_cache(10_000)
def _plain(text: Any) -> str:
    return re.sub(r"[_ -]", "", str(text)).lower()


def _features(value: Any, name: str, crs: Any = None) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """Properties, geometry and coordinate reference system of every feature below a value."""
    if isinstance(value, list):
        for part in value:
            yield from _features(part, name, crs)
        return
    kind = value.get("type") if isinstance(value, dict) else None
    if kind is None or kind in ("Topology", "CityJSON", "CityJSONFeature"):
        overpass = isinstance(value, dict) and "elements" in value
        how = "export it as GeoJSON (osmtogeojson does)" if overpass else conversion(name)
        raise DataError(
            f"{name}: holds no polygons that can be read ({kind or 'no GeoJSON'}); a city is {KINDS}; {how}"
        )
    crs = value.get("crs", crs)
    if kind == "FeatureCollection":
        yield from _features(value.get("features") or [], name, crs)
    elif kind == "Feature":
        properties, geometry = value.get("properties"), value.get("geometry")
        inner = geometry.get("crs", crs) if isinstance(geometry, dict) else crs
        yield properties if isinstance(properties, dict) else {}, geometry, inner
    else:
        yield {}, value, crs


def _polygons(geometry: Any) -> tuple[list[shapely.Polygon], int]:
    """The polygons of a GeoJSON geometry, and the number of those that are empty or malformed."""
    if not isinstance(geometry, dict):
        return [], 0
    kind = geometry.get("type")
    parts = geometry.get("geometries" if kind == "GeometryCollection" else "coordinates")
    if kind == "Polygon":
        rings = [_ring(ring) for ring in parts] if isinstance(parts, list) else []
        if not rings or rings[0] is None:
            return [], 1
        return [shapely.Polygon(rings[0], [ring for ring in rings[1:] if ring is not None])], 0
    if kind not in ("MultiPolygon", "GeometryCollection") or not isinstance(parts, list):
        return [], 0
    found = [_polygons({"type": "Polygon", "coordinates": p} if kind == "MultiPolygon" else p) for p in parts]
    return [polygon for polygons, _ in found for polygon in polygons], sum(bad for _, bad in found)


def _ring(ring: Any) -> np.ndarray | None:
    """(N, 2) of a ring's coordinates; None for one that is malformed."""
    try:
        array = np.array([point[:2] for point in ring], np.float64)
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
    return array if array.shape[1:] == (2,) and len(array) >= 3 and (np.abs(array) < FARTHEST).all() else None
