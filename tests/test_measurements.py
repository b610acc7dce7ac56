"""Measured points from CSV files."""

import numpy as np
import pytest

from data import DataError
from data.geometry.georeference import Georeference
from data.gis.measured_points import read_measurements

DEGREES = Georeference(10.0, 50.0, 1e-5, 1e-5, True, 4326)  # column 3, row 4 lie at 10.00003, 49.99996
GRID = Georeference(500_000.0, 4_000_000.0, 1.0, 1.0, False, 32632)


@pytest.mark.parametrize(
    "text, place, eirp, said",
    [
        ("x,y,gain_db,comment\n3,4,-97.42,street\n10 , 20,-80,\n5,,-80,\n5,6,NaN,\n-1,4,-90,\n", None, None,
         "left out, outside the map or without a value: 3"),
        ("PCI,X,Y,dBm\n1,3,4,-74.42\n1,10,20,-57\n", None, 23, "x, y, dbm (minus the EIRP of 23 dBm)"),
        ("lat, lon, dbm\n49.99996,10.00003,-97.42\n49.9998,10.0001,-80", DEGREES, 0, "lon, lat, dbm"),
        ("x,y,gain_db\n10.00003,49.99996,-97.42\n10.0001,49.9998,-80\n", DEGREES, None, "x, y"),
        ("lon,lat,gain_db\n9.0000333,36.1446820,-97.42\n9.0001111,36.1445378,-80\n", GRID, None, "lon, lat"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_columns_are_found_by_their_names(tmp_path, text, place, eirp, said, encoding):
    path = tmp_path / "p.csv"
    path.write_bytes(text.encode(encoding))
    points, note = read_measurements(path, (64, 64), place, eirp)
    assert np.allclose(points, [[3, 4, 49.58 / 99.16], [10, 20, 67 / 99.16]], atol=(0.02, 0.02, 1e-4)), points
    assert note.startswith("2 measured points from the columns ") and said in note


@pytest.mark.parametrize(
    "text, eirp, message",
    [
        ("x,y\n1,2\n", None, "must name the columns x,y .* and gain_db.*; it has x, y"),
        ("lat,lon,gain_db\n6,2,-90\n", None, "must name the columns"),  # the city is a picture
        ("x,y,gain_db\n6,2,-90\n", 23, "or dbm with the transmitter's EIRP"), ("x,y,dbm\n6,2,-90\n", None, "gain_db, or dbm with"),
        ("", None, "must name the columns"), ("x,y,gain_db\n", None, "none of its points"),
        ("x,y,gain_db\n6,2,-9O\n", None, "is no table of numbers"), ("x;y;gain_db\n6;2;-90,5\n", None, "must name the columns"),
        ("x,y,gain_db\n64,2,-90\n", None, r"none of its points lies inside the map \(64x64 px\)"),
        ("x,y,gain_db\n6,2,-90\n6,2,90\n", None, "90 is no path gain.* is it a path loss"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_a_remedy(tmp_path, text, eirp, message):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=f"p.csv: [^\n]*{message}[^\n]*$"):
        read_measurements(path, (64, 64), None, eirp)
