"""Whatever a file holds, its reader returns an array or says DataError: no crash, no hang, nothing executed."""

import io
import json
import struct

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from PIL import Image

from data import DataError, FlatTree
from data.gis.city import city_of
from data.gis.measured_points import read_measurements
from data.trees.png import decode_grey, read_grey
from tests.conftest import save_grey

BOUNDED = hypothesis.settings(
    max_examples=200,
    derandomize=True,
    deadline=10_000,  # ms; other work may fill the machine
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)


def saved(save, *arguments, **how):
    file = io.BytesIO()
    save(file, *arguments, **how)
    return file.getvalue()


GREY = Image.fromarray(np.arange(63, dtype=np.uint8).reshape(9, 7))
PNGS = [saved(GREY.convert(mode).save, "PNG") for mode in ("L", "RGB", "RGBA", "1", "P")]
RING = [[10, 50], [10.0003, 50], [10.0003, 50.0002], [10, 50.0002], [10, 50]]
HOUSE = {"type": "Feature", "properties": {"building": "yes"}, "geometry": {"type": "Polygon", "coordinates": [RING]}}
CITY = {"type": "FeatureCollection", "crs": None, "features": [HOUSE]}
JSONS = [json.dumps(value).encode() for value in (CITY, [RING])]
CSVS = [b"x,y,gain_db\n3,4,-90\n5,6,-97.5\n", b"row,dbm,y,x\n1,-67,4,3\n"]


def outcome(name, read):
    """What a reader returns, or None where it says what is wrong with the file of that name."""
    try:
        return read()
    except DataError as error:
        assert str(name) in str(error)


@strategies.composite
def damaged(draw, originals):
    """A file that was right once: bytes changed, inserted or cut off."""
    content = bytearray(draw(strategies.sampled_from(originals)))
    for _ in range(draw(strategies.integers(0, 6))):
        content[draw(strategies.integers(0, len(content) - 1))] = draw(strategies.integers(0, 255))
    if draw(strategies.booleans()):
        content = content[: draw(strategies.integers(0, len(content)))]
    if draw(strategies.booleans()):
        place = draw(strategies.integers(0, len(content)))
        content[place:place] = draw(strategies.binary(max_size=30))
    return bytes(content)


@BOUNDED
@hypothesis.given(strategies.binary(max_size=200) | damaged(PNGS))
def test_pictures(content):
    pixels = outcome("x.png", lambda: decode_grey(content, "x.png"))
    assert pixels is None or pixels.dtype == np.uint8 and pixels.ndim == 2


@BOUNDED
@hypothesis.given(strategies.binary(max_size=200) | damaged(JSONS), strategies.booleans())
def test_footprints(content, cut):
    city = outcome("x.geojson", lambda: city_of(content, "x.geojson", [(10.0001, 50.0005)] if cut else ()))
    assert city is None or city.layout.inside.shape == city.layout.shape and max(city.layout.shape) <= 4096


@BOUNDED
@hypothesis.given(strategies.binary(max_size=200) | damaged(CSVS), strategies.sampled_from([None, 23.0]))
def test_measured_points(tmp_path, content, eirp):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    found = outcome(path, lambda: read_measurements(path, (64, 64), None, eirp))
    points = np.zeros((1, 3)) if found is None else found[0]
    assert len(points) and np.isfinite(points).all() and (points >= -0.5).all() and (points[:, 2] <= 1).all()


def test_huge_arrays_pickles_and_postscript_are_neither_read_nor_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    save_grey(tmp_path / "images" / "x.png", np.zeros((4, 4)))
    (tmp_path / "conditions").mkdir()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4000000, 4000000, 3), }".ljust(117) + b"\n"
    huge = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64
    for content in (huge, saved(np.save, np.array([Evil()], dtype=object))):
        (tmp_path / "conditions" / "x.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.npy"):
            FlatTree(tmp_path).cond(0)
    script = tmp_path / "y.png"
    script.write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({tmp_path}/executed) (w) file closefile\n")
    with pytest.raises(DataError, match=r"y\.png"):
        read_grey(script)
    assert not (tmp_path / "executed").exists()
