"""Building footprints as GeoJSON."""

import json

import numpy as np
import pytest
import rasterio
from PIL import Image

from data import DataError
from data.gis.geojson import METRES_PER_DEGREE, read_city, read_geojson
from data.gis.geotiff import Georeference, write_geotiff
from data.measurements import check_measurements
from data.scene import scene_at

SQUARE = [[0, 0], [40, 0], [40, 20], [0, 20], [0, 0]]
COURT = [[10, 5], [10, 15], [30, 15], [30, 5], [10, 5]]


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(geometry):
    return {"type": "Feature", "properties": {}, "geometry": geometry}


def test_metres_north_up_and_courtyards():
    tower = [[200, 100], [210, 100], [210, 130], [200, 130], [200, 100]]
    tree = {
        "type": "FeatureCollection",
        "features": [feature(polygon(SQUARE, COURT)), feature(polygon(tower)), feature(None)],
    }
    layout, place = read_geojson(json.dumps(tree), "a.geojson")
    assert layout.shape == (130 + 32, 210 + 32) and layout.exact
    assert layout.inside.sum() == pytest.approx(40 * 20 - 20 * 10 + 10 * 30, rel=0.1)
    rows, columns = np.nonzero(layout.inside)
    assert (
        rows.min() == pytest.approx(16, abs=1) and columns[rows == rows.min()].min() > 200
    )  # the tower is in the north east
    assert not layout.inside[162 - 16 - 10, 16 + 20]  # the courtyard
    column, row = (round(value) for value in place.pixels(205, 115))  # inside the tower, in the file's coordinates
    assert layout.inside[row, column] and not place.degrees


def test_degrees_become_metres():
    lon, lat = 13.4, 52.5
    metre = np.array([1 / (METRES_PER_DEGREE * np.cos(np.deg2rad(lat))), 1 / METRES_PER_DEGREE])
    ring = [[lon + x * metre[0], lat + y * metre[1], 35.0] for x, y in SQUARE]
    collection = {"type": "GeometryCollection", "geometries": [{"type": "MultiPolygon", "coordinates": [[ring]]}]}
    layout, place = read_geojson(json.dumps(collection), "berlin.geojson")
    assert np.abs(np.subtract(layout.shape, (52, 72))).max() <= 1
    assert layout.inside.sum() == pytest.approx(800, rel=0.08)
    column, row = place.pixels(lon + 20 * metre[0], lat + 10 * metre[1])  # the middle of the square
    assert place.degrees and layout.inside[round(row), round(column)]
    assert (column, row) == pytest.approx((layout.shape[1] / 2, layout.shape[0] / 2), abs=1)
    scene = scene_at("berlin", layout, f"13.39995,{lat}", place)
    assert scene.tx == pytest.approx((16 - 0.00005 / metre[0], 36), abs=0.01) and scene.name == "berlin_13.39995_52.5"
    with pytest.raises(DataError, match=r"--tx 13,52: is outside berlin \(13.39976 .. 13.40"):
        scene_at("berlin", layout, "13,52", place)
    points = check_measurements([("a", (lon, lat, -80))], layout.shape, place)
    assert points[0, :2] == pytest.approx((16, 36), abs=0.01)
    with pytest.raises(DataError, match="a: 20,30 is outside the map"):
        check_measurements([("a", (20, 30, -80))], layout.shape, place)


@pytest.mark.parametrize("degrees", [True, False])
def test_a_geotiff_lies_where_its_city_does(tmp_path, degrees):
    """As GDAL reads it."""
    values = np.linspace(-147, -60, 12, dtype=np.float32).reshape(3, 4)
    values[2, 3] = np.nan
    place = Georeference(13.4, 52.5, 2e-5, 1e-5, degrees).window(1, 2)
    write_geotiff(tmp_path / "a.tif", values, place)
    with rasterio.open(tmp_path / "a.tif") as found:
        assert np.array_equal(found.read(1), values, equal_nan=True) and np.isnan(found.nodata)
        assert found.xy(0, 0) == pytest.approx((13.4 + 2 * 2e-5, 52.5 - 1e-5)) and found.res == pytest.approx(
            (2e-5, 1e-5)
        )
        assert (found.crs is not None and found.crs.to_epsg() == 4326) == degrees


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is no GeoJSON"),
        ("[" * 100_000, "is no GeoJSON"),
        ("[1]", "holds no polygons that can be read; export"),
        ('{"type": "Point", "coordinates": [1, 2]}', "holds no polygon"),
        ('{"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}', "holds no polygon"),
        ('{"type": "Polygon", "coordinates": [[[1, 2], [3, "x"], [5, 6]]]}', "holds no polygons that can be read"),
        ('{"type": "Polygon", "coordinates": [[[1, 2], [3, NaN], [500, 6]]]}', "not finite"),
        ('{"type": "Polygon", "coordinates": [[[1, 2], [1e300, 3], [5, 6]]]}', "spans"),
        (
            '{"type": "Polygon", "coordinates": [[[1, 2], [1' + "0" * 400 + ", 3], [5, 6]]]}",
            "holds no polygons that can be",
        ),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [9000, 0], [9000, 9]]]}', "spans 9032 m x 41 m; at most"),
    ],
)
def test_what_is_no_city_is_refused(content, message):
    with pytest.raises(DataError, match=f"town.json: .*{message}"):
        read_geojson(content, "town.json")


def test_parts_duplicates_and_overlaps_count_once():
    def shifted(dx, dy):
        return [[x + dx, y + dy] for x, y in SQUARE]

    def built(*polygons):
        features = [feature(polygon(*rings)) for rings in polygons]
        return read_geojson(json.dumps({"type": "FeatureCollection", "features": features}), "a.geojson")[
            0
        ].inside.sum()

    once = built([SQUARE])
    assert built([SQUARE], [SQUARE]) == built([SQUARE], [COURT]) == once
    assert built([SQUARE, COURT], [COURT[::-1]]) == once  # a part that fills the courtyard
    assert built([SQUARE], [shifted(20, 0)]) == pytest.approx(1.5 * once, rel=0.06)


def test_large_files_are_refused():
    ring = [[float(i), float(i % 7)] for i in range(50_001)]
    with pytest.raises(DataError, match="has 50,001 vertices"):
        read_geojson(json.dumps(polygon(ring)), "a.geojson")


def test_a_city_is_read_by_its_name(tmp_path):
    (tmp_path / "a.geojson").write_text(json.dumps(polygon(SQUARE)))
    assert read_city(tmp_path / "a.geojson")[0].inside.any()
    pixels = np.zeros((20, 30), np.uint8)
    pixels[3:9, 4:9] = 255
    Image.fromarray(pixels).save(tmp_path / "b.png")
    assert read_city(tmp_path / "b.png")[0].inside.sum() == 30
    with pytest.raises(DataError, match=r"absent.json: cannot be read"):
        read_city(tmp_path / "absent.json")
