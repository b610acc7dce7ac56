"""Measured points from files of other people's kinds."""

import numpy as np
import pytest

from data import DataError
from data.geometry.georeference import Georeference
from data.gis.measured_points import measurements_of

DEGREES = Georeference(10.0, 50.0, 1e-5, 1e-5, True, 4326)  # column 3, row 4 lie at 10.00003, 49.99996
GRID = Georeference(500_000.0, 4_000_000.0, 1.0, 1.0, False, 32632)


@pytest.mark.parametrize(
    "text, place, eirp, said",
    [
        ("x,y,gain_db,comment\n3,4,-97.42,street\n 10 , 20,-80,\n5,,-80,\n5,6,NaN,\n", None, None, "without a value and left out: 2"),
        ("column;row;Path gain (dB)\n3;4;-97,42\n\n10;20;-80,0\n", None, None, "column, row, path_gain_db"),
        ("# by walking\nx\ty\tpath_loss\n3\t4\t97.42\n10\t20\t80\n-1\t4\t90\n", None, None, "outside the map and left out: 1"),
        ("x y dBm # with a scanner\n3  4   -74.42\n10 20  -57\n5 5 2147483647\n", None, 23, "(dBm, minus the EIRP of 23 dBm)"),
        ("PCI,latitude,longitude,rssi,rsrp\n1,49.99996,10.00003,-60,-97.42\n1,49.9998,10.0001,-60,-80", DEGREES, 0, "rsrp"),
        ("lon;lat;RSRP [dBm]\n10,00003;49,99996;-97,42\n10,0001;49,9998;-80\n", DEGREES, 0, "lon, lat, rsrp_dbm"),
        ("x,y,gain\n10.00003,49.99996,-97.42\n10.0001,49.9998,-80\n", DEGREES, None, "x, y"),
        ("column,row,gain\n3,4,-97.42\n10,20,-80\n", DEGREES, None, "column, row"),
        ("lon,lat,gain\n9.0000333,36.1446820,-97.42\n9.0001111,36.1445378,-80\n", GRID, None, "lon, lat"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_usual_names_and_separators(text, place, eirp, said, encoding):
    points, note = measurements_of(text.encode(encoding), "p.csv", (64, 64), place, eirp)
    assert np.allclose(points, [[3, 4, 49.58 / 99.16], [10, 20, 67 / 99.16]], atol=(0.02, 0.02, 1e-4)), points
    assert note.startswith("2 measured points from the columns ") and said in note


@pytest.mark.parametrize(
    "text, place, eirp, message",
    [
        ("x,y\n1,2\n", None, None, "has the columns x, y, but not gain_db, path_loss_db, .*, such as x,y,gain_db"),
        ("lat,lon,gain\n6,2,-90\n", None, None, "has the columns lat, lon, gain, but not x,y or column,row; its first line"),
        ("1,2,-90\n3,4,-90\n", None, None, "its first line must name the columns"),
        ("", None, None, "its first line must name"),
        ("x,y,gain_db\n", None, None, "none of its points"),
        ("x,y,gain_db\n10,002543,49,999300,-70,5\n", None, None, "if commas are decimal points, separate .* semicolons"),
        ("x,y,gain_db\n64,2,-90\n", None, None, r"none of its points lies inside the map \(64x64 px\)"),
        ("x,y,gain_db\n6,2,-90\n6,2,90\n", None, None, "row 2: gain_db is 90 as path gain.* is it a path loss"),
        ("x,y,rsrp\n6,2,-90\n", None, None, "rsrp is received power in dBm; give the transmitter's EIRP"),
        ("x,y,gain_db\n6,2,-90\n", None, 23, "gain_db is no received power in dBm; do not give"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_a_remedy(text, place, eirp, message):
    with pytest.raises(DataError, match=f"^p.csv: [^\n]*{message}[^\n]*$"):
        measurements_of(text.encode(), "p.csv", (64, 64), place, eirp)
