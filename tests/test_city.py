"""Cities of other people's kinds, footprints and pictures, and points that they measured."""

import json

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform

from data import DataError
from data.geometry.cars import car_outline, picture_of_cars
from data.geometry.georeference import Georeference
from data.geometry.layout import Layout
from data.geometry.registration import picture_of
from data.gis.city import city_of, read_city
from data.gis.geotiff import write_geotiff
from data.gis.measured_points import read_measurements
from data.scene import scene_at
from tests.conftest import save_grey

SQUARE = [[0, 0], [40, 0], [40, 20], [0, 20], [0, 0]]
COURT = [[10, 5], [10, 15], [30, 15], [30, 5], [10, 5]]
HOUSE = [[0, 0], [30, 0], [30, 20], [0, 20], [0, 0]]


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def together(*geometries):
    return {"type": "GeometryCollection", "geometries": list(geometries)}


def feature(geometry, **properties):
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def collection(*features, crs=None):
    named = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    return json.dumps({"type": "FeatureCollection", **named, "features": list(features)}).encode()


def shifted(ring, dx, dy=0):
    return [[x + dx, y + dy] for x, y in ring]


def placed(epsg, lon, lat, ring=HOUSE):
    """A ring in metres from (lon, lat), in another system, as PROJ has it."""
    local = f"+proj=aeqd +lat_0={lat} +lon_0={lon} +datum=WGS84"
    system = f"EPSG:{epsg}" if isinstance(epsg, int) else epsg
    return np.column_stack(transform(local, system, *np.transpose(ring))).tolist()


def read(*features, crs=None, around=()):
    return city_of(collection(*features, crs=crs), "a.geojson", around)


NOTHING = [
    *(None, {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}, polygon([[0, 0], [5, 5], [0, 0]])),
    *(polygon([[1, 2], [x, 3], [5, 6]]) for x in (-1.7e308, 10**400)),
    {"type": "MultiPolygon", "coordinates": [[], None, [[]]]},
    together(polygon(), {"type": "Point", "coordinates": [1, 2]}),
]


def test_metres_north_up_and_courtyards():
    tower = polygon([[x, y, 35.0] for x, y in shifted(SQUARE, 160, 100)])
    twice = together(together(tower, polygon(shifted(SQUARE, 160, 100))))  # counts once
    city = read(feature(polygon(SQUARE, COURT)), feature(twice), *map(feature, NOTHING))
    assert city.layout.shape == (120 + 32, 200 + 32) and city.layout.exact and not city.georeference.degrees
    assert city.layout.coverage.sum() == pytest.approx(40 * 20 - 20 * 10 + 40 * 20)
    assert not city.layout.inside[152 - 16 - 10, 16 + 20]  # the courtyard
    assert city.layout.inside[16:35, 177:215].all() and city.georeference.pixels(160, 120) == (176, 16)


@pytest.mark.parametrize(
    "label, system, written",
    [
        (None, 4326, 4326), ("urn:ogc:def:crs:OGC:1.3:CRS84", 4326, 4326), ("urn:ogc:def:crs:EPSG::4258", 4258, 4258),
        ("urn:ogc:def:crs:ESRI::102100", 3857, 3857), ("EPSG:2263", 2263, 2263),  # in feet
        ("ESRI:102662", "ESRI:102662", None), ("EPSG:900913", 3857, None),  # the former like EPSG:26962, but in feet
        ("OGC:CRS27", "OGC:CRS27", None),  # NAD27 in degrees
        (None, 25832, None), ("urn:x:local", 25832, None), ("EPSG:4326", 25832, None),
    ],
)  # fmt: skip
def test_a_house_has_its_size_in_every_system(tmp_path, label, system, written):
    """30 m x 20 m, and its GeoTIFF says where it lies; what cannot be degrees counts as metres."""
    places = {2263: (-74.0, 41.0), "OGC:CRS27": (-74.0, 41.0), "ESRI:102662": (-156.5, 20.8)}
    ring = placed(system, *places.get(system, (9.0, 60.0)))
    city = read(feature(polygon(ring)), crs=label, around=[ring[0]])
    height, width = city.layout.shape
    assert abs(width - 62) <= 2 >= abs(height - 52) and city.layout.coverage.sum() == pytest.approx(600, rel=0.01)
    with (tmp_path / "a.tif").open("wb") as file:
        write_geotiff(file, city.layout.coverage, city.georeference)
    with rasterio.open(tmp_path / "a.tif") as found:
        assert (found.crs and found.crs.to_epsg()) == written
        x, y = np.mean(ring[:4], axis=0)
        column, row = city.georeference.pixels(x, y)
        assert found.index(x, y) == (round(row), round(column)) and found.read(1)[round(row), round(column)] == 1


def test_positions_in_degrees():
    city = read(feature(polygon(placed(4326, 13.4, 52.5, SQUARE))))
    scene = scene_at("berlin", city.layout, "13.39995,52.5", city.georeference)
    assert scene.tx == pytest.approx((16 - 3.395, 36), abs=0.02) and scene.name == "berlin_13.39995_52.5"
    with pytest.raises(DataError, match=r"transmitter 13,52: is outside berlin \(13.39976\d,52.49985\d .. 13.40"):
        scene_at("berlin", city.layout, "13,52", city.georeference)
    with pytest.raises(DataError, match="inside a building of berlin; .* nearest open point is (.*)") as refused:
        scene_at("berlin", city.layout, "13.4000100,52.5001000", city.georeference)
    nearest = scene_at("berlin", city.layout, str(refused.value).rsplit(" ", 1)[1], city.georeference)
    assert nearest.tx[0] == pytest.approx(15, abs=1)  # west of the wall


def test_a_city_is_cut_around_its_transmitter():
    """A whole country, in degrees; and more vertices than are read at once."""
    far = [feature(polygon(placed(4326, 6 + i / 10, 47 + i / 20))) for i in range(80)]
    city = read(*far, around=[placed(4326, 8, 48, [[50, 10]])[0]])
    assert city.layout.coverage.sum() == pytest.approx(600, rel=0.01) and max(city.layout.shape) < 100
    assert "footprints: 1 of 80, in WGS 84 (EPSG:4326)" in city.notes[0]
    many = [feature(polygon(shifted(HOUSE, 40 * i, 40 * j))) for i in range(101) for j in range(101)]
    with pytest.raises(DataError, match="51,005 vertices; cut it to at most 4096 m"):
        read(*many)
    city = read(*many, around=[(2000, 2000), (2100, 2000)])
    assert city.layout.shape == (1044, 1124 + 32)  # no house stands at the northern border
    with pytest.raises(DataError, match="no building within 512 m of the transmitters; it spans 0,0 .. 4030"):
        read(*many, around=[(9000, 9000)])
    beside = read(feature(polygon(HOUSE)), around=[(-44, 9)])  # in the open beside the only house
    assert beside.layout.shape == (52, 74 + 32) and beside.georeference.pixels(-44, 9) == (16, 16 + 11)


PARK, SITE = polygon(shifted(HOUSE, 60, 60)), polygon([[-50, -50], [150, -50], [150, 150], [-50, 150]])


@pytest.mark.parametrize(
    "properties, other",
    [
        ({"building": "residential"}, {"building": "no"}), ({"Building": "yes"}, {"leisure": "park"}),
        ({"class": "Building"}, {"class": "Road"}),
    ],
)  # fmt: skip
def test_only_what_says_that_it_is_a_building(properties, other):
    city = read(feature(polygon(HOUSE), **properties), feature(PARK, **other), feature(SITE, **other))
    assert city.layout.coverage.sum() == pytest.approx(600) and "without a building tag" in city.notes[1]
    silent = read(feature(polygon(HOUSE)), feature(PARK, **other))
    assert silent.layout.coverage.sum() == pytest.approx(1200) and len(silent.notes) == 1


def test_features_that_say_they_are_cars():
    """Polygons of any size; those outside the map or inside buildings left out, and none is a building."""
    diamond, lorry = [[50, 9], [52, 11], [50, 13], [48, 11]], shifted(SQUARE, 50, 16)
    cars = [
        feature(polygon(diamond), **{"class": "car"}),
        feature(polygon(lorry), Class="Vehicle"),
        feature(polygon([[5, 5], [7, 5], [7, 9], [5, 9]]), **{"class": "car"}),
        feature(polygon(shifted(HOUSE, 900)), **{"class": "vehicle"}),
    ]
    for said in ({}, {"building": "yes"}):
        houses = [feature(polygon(shifted(HOUSE, x)), **said) for x in (0, 100)]
        city = read(*houses, *cars)
        assert city.layout.coverage.sum() == pytest.approx(1200)
        assert city.cars.shape == city.layout.shape == (20 + 32, 130 + 32)
        assert city.cars.coverage.sum() == pytest.approx(8 + 40 * 20, rel=1e-5)
        assert city.notes[-1] == "cars: 2 of 3 are outside of buildings"
        assert city.cars.coverage[25, 66] == pytest.approx(1) and read(*houses).cars is None
    with pytest.raises(DataError, match=r"a.geojson: holds only cars .4., no building; export"):
        read(*cars)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.json", b"{", "is neither a PNG nor JSON"), ("a.json", b"[" * 100_000, "neither a PNG nor JSON"),
        ("a.kml", b"<?xml version='1.0'?><kml/>", "ogr2ogr"), ("a.jpg", b"\xff\xd8\xff\xe0", "neither a PNG"),
        ("a.json", b'{"elements": []}', "holds no polygon of GeoJSON; .*overpass-turbo"), ("a.json", b"3", "holds no polygon"),
        ("a.json", collection(*map(feature, NOTHING)), "holds no polygon"),
        ("a.json", collection(feature(polygon(placed(4326, 9, 48))), crs="EPSG:3857"), "cannot be in its .*ogr2ogr"),
        ("a.json", collection(feature(polygon(HOUSE)), crs="EPSG:4978"), "cannot be in its system"),  # geocentric
        ("0.json", b"[[[1, 2], [3, 4], [5, 9]]]", "holds no polygon"), ("a.png", b"\x89PNG\r\n", "is not a PNG"),
    ],
)  # fmt: skip
def test_what_is_no_city_is_refused_in_one_line(name, content, message):
    with pytest.raises(DataError, match=f"^{name}: [^\n]*{message}[^\n]*$"):
        city_of(content, name)


def test_pictures(tmp_path):
    """Half of the range separates buildings from ground, whatever the range; an inverted picture is noticed."""
    pixels = np.zeros((20, 30), np.uint8)
    pixels[3:9, 4:9] = 255
    ringing = pixels.astype(int) + np.random.default_rng(0).integers(-22, 23, pixels.shape)
    for values in (pixels, pixels // 255, pixels // 2 + 60, ringing.clip(0, 255).astype(np.uint8)):
        city = read_city(save_grey(tmp_path / "a.png", values))
        assert (city.layout.inside == (pixels > 0)).all() and city.georeference is None and not city.seems_inverted
        assert "30 x 20 px, 5.0% of them built" in city.notes[0]
    dark = save_grey(tmp_path / "dark.png", 255 - pixels)
    assert read_city(dark).seems_inverted and (read_city(dark, invert=True).layout.inside == (pixels > 0)).all()
    for plain in (np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)):
        assert read_city(save_grey(tmp_path / "p.png", plain)).layout.inside.all() == plain.all()
    with pytest.raises(DataError, match="only pictures can be inverted"):
        city_of(collection(feature(polygon(HOUSE))), "a.geojson", invert=True)
    with pytest.raises(DataError, match=r"absent.json: no such file"):
        read_city(tmp_path / "absent.json")


def test_pictures_of_cars(tmp_path):
    """The same size, whatever the range of grey levels, white on black also where the buildings are black on white."""
    built, cars = np.zeros((2, 40, 30), np.uint8)
    built[5:15, 5:20] = 255
    cars[8:10, 8:12] = cars[20:24, 4:6] = cars[30:33, 20:28] = 200
    shown = {"town": built, "dark": 255 - built, "cars": cars + 20}
    town, dark, given = (save_grey(tmp_path / f"{name}.png", pixels) for name, pixels in shown.items())
    for city in (read_city(town, cars=given), read_city(dark, invert=True, cars=given)):
        cars[8:10, 8:12] = 0
        assert (city.cars.inside == (cars > 0)).all() and (city.layout.inside == (built > 0)).all()
        assert city.notes[-1] == "cars: 2 of 3 are outside of buildings"
    with pytest.raises(DataError, match="5,21: is inside a car of town; .* nearest open point is"):
        scene_at("town", city.layout, "5,21", None, city.cars)
    assert scene_at("town", city.layout, "10,22", None, city.cars).cars is city.cars
    (tmp_path / "a.geojson").write_bytes(collection(feature(polygon(HOUSE))))
    for path, other, message in (
        (town, save_grey(tmp_path / "small.png", cars[1:]), "small.png: is 30x39 px instead of 30x40"),
        (town, dark, "dark.png: shows cars on 88% of the map; save it with cars white on black"),
        (town, tmp_path / "a.geojson", "a.geojson: is not a PNG"),
        (tmp_path / "a.geojson", given, 'cars.png: .*a.geojson holds footprints; mark .* "class": "car"'),
    ):
        with pytest.raises(DataError, match=message):
            read_city(path, cars=other)


DEGREES = Georeference(10.0, 50.0, 1e-5, 1e-5, True, 4326)  # column 3, row 4 lie at 10.00003, 49.99996
GRID = Georeference(500_000.0, 4_000_000.0, 1.0, 1.0, False, 32632)


@pytest.mark.parametrize(
    "text, georeference, eirp, said",
    [
        ("x,y,gain_db,comment\n3,4,-97.42,Straße\n10 , 20,-80,\n5,,-80,\n5,6,NaN,\n-1,4,-90,\n", None, None,
         "left out, outside the map or without a value: 3"),
        ("PCI,X,Y,dBm\n1,3,4,-74.42\n1,10,20,-57\n", None, 23, "x, y, dbm (minus the EIRP of 23 dBm)"),
        ("lat, lon, dbm\n49.99996,10.00003,-97.42\n49.9998,10.0001,-80", DEGREES, 0, "lon, lat, dbm"),
        ("x,y,gain_db\n10.00003,49.99996,-97.42\n10.0001,49.9998,-80\n", DEGREES, None, "x, y"),
        ("lon,lat,gain_db\n9.0000333,36.1446820,-97.42\n9.0001111,36.1445378,-80\n", GRID, None, "lon, lat"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_columns_are_found_by_their_names(tmp_path, text, georeference, eirp, said, encoding):
    path = tmp_path / "p.csv"
    path.write_bytes(text.encode(encoding))
    points, note = read_measurements(path, (64, 64), georeference, eirp)
    assert np.allclose(points, [[3, 4, 49.58 / 99.16], [10, 20, 67 / 99.16]], atol=(0.02, 0.02, 1e-4)), points
    assert note.startswith("2 measured points from the columns ") and said in note


@pytest.mark.parametrize(
    "text, eirp, message",
    [
        ("x,y\n1,2\n", None, "must name the columns x,y .* and gain_db.*; it has x, y"),
        ("lat,lon,gain_db\n6,2,-90\n", None, "must name the columns"),  # the city is a picture
        ("x,y,gain_db\n6,2,-90\n", 23, "dbm, or gain_db without an EIRP"), ("x,y,dbm\n6,2,-90\n", None, "gain_db, or dbm with"),
        ("", None, "must name the columns"), ("x,y,gain_db\n", None, "none of its points"),
        ("x,y,gain_db\n6,2,-9O\n", None, "is not a table of"), ("x;y;gain_db\n6;2;-90,5\n", None, "is not a table of"),
        ("gain_db,x,y\n-90,5,10,5,20,5\n", None, "with decimal points .a line has more values"),
        ("x,y,gain_db,y\n6,2,-90,3\n", None, "several columns are named y"),
        ("x,y,gain_db\n64,2,-90\n", None, r"none of its points lies inside the map \(64x64 px\)"),
        ("x,y,gain_db\n6,2,-90\n6,2,90\n", None, "90 is not a path gain.* is it a path loss"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_a_remedy(tmp_path, text, eirp, message):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=f"p.csv: [^\n]*{message}[^\n]*$"):
        read_measurements(path, (64, 64), None, eirp)


@pytest.mark.parametrize(
    "folder, turns, known",
    [
        ("png/buildings_complete", 0.0, True),
        ("png/buildings_missing2/1", 0.0, True),
        ("mine", 90.0, False),
        ("mine", 7.0, True),
    ],
)
def test_pictures_of_radiomapseer_lie_beside_its_maps(tmp_path, folder, turns, known):
    """They are known by their folder, or as a copy by cars that nobody paints in so many directions."""
    layout = Layout([np.array([[9.0, 10], [30, 14], [26, 35], [5, 31]]) + (-(2.0**-12), 2.0**-12)], (64, 64))
    centres = np.indices((5, 5)).reshape(2, -1).T * 11 + 8
    cars = Layout([car_outline(centre, number * turns) for number, centre in enumerate(centres)], (64, 64))
    (tmp_path / folder).mkdir(parents=True)
    given = save_grey(tmp_path / "cars.png", picture_of_cars(cars))
    city = read_city(save_grey(tmp_path / folder / "0.png", picture_of(layout)), cars=given)
    assert (city.layout.inside == layout.inside).all() == known
    free = ~city.layout.inside
    assert np.array_equal(city.cars.inside & free, (cars.inside if known else picture_of_cars(cars)) & free)
