"""Measured points from files of other people's kinds."""

import numpy as np
import pytest

from data import DataError
from data.geometry.georeference import Georeference
from data.gis.measured_points import measurements_of, read_measurements

PIXELS = None
DEGREES = Georeference(10.0, 50.0, 1e-5, 1e-5, True, 4326)  # column 3, row 4 lie at 10.00003, 49.99996
GRID = Georeference(500_000.0, 4_000_000.0, 1.0, 1.0, False, 32632)
MERCATOR = Georeference(1_113_194.91, 6_446_275.84, 1.5, 1.5, False, 3857)  # (10, 50)
RIGHT = [[3, 4, -97.42], [10, 20, -80]]  # column, row and path gain of what every file says


@pytest.mark.parametrize(
    "text, place, eirp, said",
    [
        ("x,y,gain_db,comment\n3,4,-97.42,street\n 10 , 20,-80,\n", PIXELS, None, "x, y, gain_db"),
        ("x,y,path_gain_db\n3,4,-97.42\n10,20,-80\n", PIXELS, None, "path_gain_db"),  # as the web page writes it
        ("column;row;Path gain (dB)\n3;4;-97,42\n10;20;-80,0\n", PIXELS, None, "column, row, Path gain (dB)"),
        ("x\ty\tpath_loss\n3\t4\t97.42\n10\t20\t80\n", PIXELS, None, "path_loss (taken as -gain)"),
        ("x y PL [dB]\n3  4   97.42\n10 20  80\n", PIXELS, None, "PL[dB]"),
        ("# by walking\n\n# x y gain\n3 4 -97.42\n10 20 -80 # no\n".replace(" # no", ""), PIXELS, None, "gain"),
        ('"X","Y","Gain"\n"3","4","-97,42"\n"10","20","-80"\n', PIXELS, None, "X, Y, Gain"),
        ("sep=;\nx;y;dBm\n3;4;-74,42\n10;20;-57 dBm\n", PIXELS, 23, "dBm (dBm, minus the EIRP of 23 dBm)"),
        ("PCI,latitude,longitude,rssi,rsrp\n1,49.99996,10.00003,-60,-97.42\n1,49.9998,10.0001,-60,-80", DEGREES, 0, "rsrp"),
        ("lon;lat;RSRP [dBm]\n10,00003;49,99996;-97,42\n10,0001;49,9998;−80\n", DEGREES, 0, "lon, lat, RSRP [dBm]"),
        ("tx_lat,gps_lat,gps_lng,tx_power_dbm,rx_power\n9,49.99996,10.00003,40,-77.42\n9,49.9998,10.0001,40,-60\n", DEGREES, 20, ""),
        ("x,y,gain\n10.00003,49.99996,-97.42\n10.0001,49.9998,-80\n", DEGREES, None, "x, y"),
        ("column,row,gain\n3,4,-97.42\n10,20,-80\n", DEGREES, None, "column, row"),
        ("Easting,Northing,pathloss\n500003,3999996,97.42\n500010,3999980,80\n", GRID, None, "Easting"),
        ("UTM_E,UTM_N,pathloss\n500003,3999996,97.42\n500010,3999980,80\n", GRID, None, "UTM_E"),
        ("lon,lat,gain\n10.00004042,49.99996535,-97.42\n10.00013475,49.99982677,-80\n", MERCATOR, None, "lon, lat"),
        ("lon,lat,gain\n9.0000333,36.1446820,-97.42\n9.0001111,36.1445378,-80\n", GRID, None, "lon, lat"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_usual_names_units_and_separators(tmp_path, text, place, eirp, said, encoding):
    (tmp_path / "p.csv").write_bytes(text.encode(encoding))
    points, note = read_measurements(tmp_path / "p.csv", (64, 64), place, eirp)
    right = np.array(RIGHT) * (1, 1, 1 / 99.16) + (0, 0, 147 / 99.16)
    assert np.allclose(points, right, atol=(0.02, 0.02, 1e-4)), points
    assert note.startswith("2 measured points from the columns ") and said in note


def test_points_outside_and_rows_without_a_value_are_counted():
    text = "x,y,rssi\n3,4,-97.42\n-1,4,-90\n3,99,-90\n5,5,NaN\n5,5,\n5,,-80\n5,5,2147483647\n10,20,-80\n"
    points, note = measurements_of(text.encode("latin-1"), "p.csv", (64, 64), None, 0)
    assert len(points) == 2 and "outside the map and left out: 2; without a value and left out: 4" in note


@pytest.mark.parametrize(
    "text, place, eirp, message",
    [
        ("x,y\n1,2\n", None, None, "has no column of path gain, path loss or received power; its first line must name"),
        ("1,2,-90\n3,4,-90\n", None, None, "its first line must name the columns, such as x,y,gain_db"),
        ("", None, None, "its first line must name"),
        ("name;rsrp\n", None, None, "has no columns of positions"),
        ("x,y,gain_db\n", None, None, "has a header, but no rows"),
        ("x,y,gain_db\n1,2\n", None, None, "line 2: is no row of numbers x,y,gain_db"),
        ("x,y,gain_db\n\n1,2,-90\n1,b,-90\n", None, None, "line 4: is no row of numbers"),
        ("x,y,gain_db\n10,002543,49,999300,-70,5\n", None, None, "line 2: has 6 fields, .* 3; if commas are decimal"),
        ("x,y,gain_db\n64,2,-90\n", None, None, r"none of its points lies inside the map \(64x64 px\)"),
        ("x,y,gain_db\n6,2,90\n", None, None, "line 2: gain_db is 90 as path gain.* is it a path loss"),
        ("x,y,rsrp\n6,2,-90\n", None, None, "rsrp is received power in dBm; give the transmitter's EIRP"),
        ("x,y,gain (dBm)\n6,2,-90\n", None, None, r"gain \(dBm\) is received power"),
        ("x,y,gain_db\n6,2,-90\n", None, 23, "gain_db needs no EIRP; name the column dbm"),
        ("x,y,rsrp\n6,2,-90\n", None, -60, "line 2: rsrp is -30 as path gain"),
        ("lat,lon,gain\n6,2,-90\n", None, None, "positions in longitude and latitude, but the city's are column and row"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_a_remedy(text, place, eirp, message):
    with pytest.raises(DataError, match=f"^p.csv: .*{message}"):
        measurements_of(text.encode(), "p.csv", (64, 64), place, eirp)
