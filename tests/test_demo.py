"""The web page: what the server refuses and answers, and the page itself in a browser."""

import io
import json
import re
import shutil
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("flask", reason="the web page needs: pip install -r requirements-demo.txt")

from data.geometry.cars import car_outline
from data.geometry.georeference import Georeference
from data.geometry.layout import Layout
from data.gis.measured_points import read_measurements
from data.simulator import random_cars
from data.units import COVERAGE_DB, db_to_gain, gain_to_db, gain_to_uint8
from demo.maps import MAX_WAITING
from demo.messages import decode, encode, pack
from demo.server import MAX_UPLOAD, create_app
from denoising_diffusion_pytorch.predictor import Predictor

OPEN = np.zeros((256, 256), bool)
CITY = OPEN.copy()
CITY[100:140, 60:120] = True
SCREEN = {"viewport": {"width": 1280, "height": 720}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
TWO = {"buildings": pack(CITY), "tx": [[30, 120], [200, 40]]}
METRES = {"x": 5000.0, "y": 8000.0, "dx": 1.0, "dy": 1.0, "degrees": False, "epsg": 25832}


def png(array):
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    return content.getvalue()


BLACK = png(np.where(CITY, 0, 255).astype(np.uint8))  # on white


def houses(columns, rows, cars=()):
    """Footprints of 18 m x 12 m every 30 m, in metres of UTM zone 32, and rings of cars."""
    corners = np.array([[0, 0], [18, 0], [18, 12], [0, 12], [0, 0]]) + (500_000, 5_600_000)
    rings = [("building", (corners + (30 * i, 30 * j)).tolist()) for i in range(columns) for j in range(rows)]
    features = [
        {"type": "Feature", "properties": {"class": kind}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for kind, ring in [*rings, *(("car", ring) for ring in cars)]
    ]
    crs = {"type": "name", "properties": {"name": "EPSG:25832"}}
    return json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}).encode()


def floats(text):
    return decode(text, "<f4", 256 * 256, "map").reshape(256, 256)


def bits(city):
    return np.unpackbits(decode(city["buildings"], "u1", -(-city["width"] * city["height"] // 8), "city")).astype(bool)


@pytest.fixture(scope="module")
def app():
    return create_app(Predictor())


@pytest.fixture
def client(app):
    return app.test_client()


def upload(client, content, name="city.png", **more):
    return client.post("/upload", data={"file": (io.BytesIO(content), name)} | more)


def refused(answer, words, status=400):
    return answer.status_code == status and words in answer.json["error"]


def test_prediction(client):
    first, second = client.post("/predict", json=TWO).json["maps"]
    model, simulator = floats(first["model"]), floats(first["simulator"])
    assert (model[CITY] == -147).all() and (simulator[CITY] == -147).all() and first["std"] is None
    assert np.abs(model - simulator)[~CITY].mean() < 3  # dB
    assert np.unravel_index(floats(second["model"]).argmax(), (256, 256)) == pytest.approx((40, 200), abs=2)
    spread = client.post("/predict", json=TWO | {"tx": [[30, 120]], "draws": 4}).json["maps"][0]
    assert floats(spread["std"])[~CITY].mean() > 0.1


@pytest.mark.parametrize(
    "path,key,values,words",
    [
        ("predict", "buildings", [""], "buildings: holds 0 numbers"),
        ("predict", "tx", [None, ["here"]], "tx"),
        ("predict", "tx", [[], [[1, 1]] * 9], "place 1 to 8 transmitters"),
        ("predict", "tx", [[[float("nan"), 1]]], "is no position"),
        ("predict", "tx", [[[300, 1]], [[80, 120]]], "transmitter "),
        ("predict", "draws", [1000], "draws: 1000"),
        ("predict", "cars", [None, [[1, 2, 3]] * 501, [[1, 2]] * 3, [[1, 2, np.inf]]], "at most 500 rows"),
        ("predict", "cars", [[[9, 9, 0], [9, 256, 0]], [[9, 9, 0], [59, 120, 0]]], "cars: "),
        ("predict", "cars", [[[31, 121, 45]]], "transmitter 30.0,120.0: is inside a car"),
        ("predict", "points", [[[], []], [[[1, 2]]], [[[10**400, 2, -80]]], [[[1, 300, -80]]]], "points: "),
        ("predict", "points", [[[[1, 2, -80]] * 2001]], "at most 2000"),
        ("file/exe", "layer", ["model"], "request one of"),
        ("file/png", "values", ["AAAA"], "values: "),
        ("file/png", "layer", ["best_server"], "a PNG holds path gains"),
        ("file/tif", "place", [METRES | {"x": "far"}, METRES | {"dy": 10**400}], "place: "),
        ("file/csv", "points", [[[1, 2]], [[1, 2]] * 3], "points"),
        ("file/npy", "points", [[]], "CSV only"),
    ],
)
def test_requests_are_refused(client, path, key, values, words):
    whole = TWO | {"tx": [[30, 120]], "layer": "model", "values": encode(np.full((256, 256), -80, "<f4"))}
    for value in values:
        assert refused(client.post(f"/{path}", json=whole | {key: value}), words)


def test_cars_take_away(client):
    first, second = client.post("/predict", json=TWO | {"cars": [[30, 150, 0]]}).json["maps"]
    bare = client.post("/predict", json=TWO).json["maps"][0]
    loss, change = floats(first["car_loss"]), floats(bare["model"]) - floats(first["model"])
    assert loss[200, 30] > 2 and loss[:140].max() == 0 == loss.min() and bare["car_loss"] is None
    assert np.allclose(floats(first["simulator"]) + loss, floats(bare["simulator"]), atol=1e-3)
    assert abs(change - loss)[170:, 30].max() < 1.5  # the model follows the simulator
    assert floats(second["car_loss"])[200, 30] == 0  # it does not stand in every way
    streets = client.post("/cars", data={"buildings": TWO["buildings"], "seed": 3}).json
    assert client.post("/predict", json=TWO | {"cars": streets}).status_code == 200
    drawn = random_cars(Layout.traced(CITY), np.random.default_rng(3)).outlines
    again = [car_outline((x, y), degrees) for x, y, degrees in streets]
    assert len(drawn) > 50 and [{*map(tuple, car)} for car in again] == [{*map(tuple, car)} for car in drawn]


def test_measured_values_correct_the_map_of_their_transmitter(client, monkeypatch):
    points = {"points": [[[40, 130, -85], [150, 30.2, -94]], []]}
    assert client.get("/settings").json["measurements"] is True

    def predicted(body):
        return [floats(each["model"]) for each in client.post("/predict", json=body).json["maps"]]

    without, told = predicted(TWO), predicted(TWO | points)
    for (column, row), level in (((40, 130), -85), ((150, 30), -94)):
        assert abs(told[0][row, column] - level) < 4 < abs(without[0][row, column] - level)
    assert np.abs(told[0] - without[0])[200:, 200:].max() < 0.5  # out of their reach
    assert np.allclose(told[1], without[1], atol=1e-2)  # the other one's map
    for what, shown in {"measurements": points, "cars": {"cars": [[9, 9, 0]]}}.items():
        monkeypatch.setattr(Predictor, f"sees_{what}", False)
        assert refused(client.post("/predict", json=TWO | shown), "no channel")
        assert not client.get("/settings").json[what]


def test_cities_are_answered_whole(client):
    first, again, other = (client.get(f"/city?seed={seed}").json for seed in (3, 3, 4))
    assert first == again != other and (first["width"], first["height"]) == (256, 256)
    assert client.get("/city?seed=x").status_code == 400 and client.get("/city").status_code == 400
    settings = client.get("/settings").json
    assert settings["threshold"] == COVERAGE_DB and "town.geojson" in settings["cities"]
    assert all(client.get(f"/example?name={name}").status_code == 200 for name in settings["cities"])
    assert client.get("/example?name=../README.md").status_code == 400
    large = np.zeros((401, 603), np.uint8)
    large[72:328, 172:428] = CITY * 200
    city = upload(client, png(large)).json
    assert (city["width"], city["height"], city["place"]) == (603, 401, None) and not city["inverted"]
    assert (bits(city)[: large.size].reshape(large.shape) == (large > 0)).all()
    inverted = upload(client, BLACK).json
    assert inverted["inverted"] and bits(inverted).mean() > 0.5
    righted = upload(client, BLACK, invert="yes").json
    assert not righted["inverted"] and righted["buildings"] == pack(CITY)
    city = upload(client, houses(10, 20), "a.geojson").json
    assert city["place"]["epsg"] == 25832 and city["height"] > 256 and not city["cars"]
    assert city["place"]["x"] == pytest.approx(500_000 - 16, abs=0.1)
    car = [[500_022, 5_600_000], [500_022, 5_600_005], [500_024, 5_600_005], [500_024, 5_600_000]]
    assert upload(client, houses(1, 1, [[*car, car[0]]]), "a.geojson").json["cars"] == [[39, 26, 90]]
    too_many = houses(110, 110)
    assert "50,000 vertices" in upload(client, too_many, "a.geojson").json["error"]
    near = upload(client, too_many, "a.geojson", around="501000,5601000").json
    assert near["place"]["x"] > 500_000 and "near enough" in near["note"]
    for content, name, words in (
        (b"GIF89a", "city.png", "is no PNG"),
        (png(CITY.astype(np.uint8))[:60], "city.png", "city.png"),
        (png(np.zeros((1, 5000), np.uint8)), "city.png", "5000x1"),
        (b"{}", "a.geojson", "a.geojson"),
    ):
        assert refused(upload(client, content, name), words)
    assert refused(upload(client, bytes(MAX_UPLOAD + 1)), "8 MiB", 413)
    assert client.post("/upload").status_code == 400


def test_files(client, tmp_path):
    values = np.random.default_rng(0).uniform(-140, -50, (256, 256)).astype("<f4")
    body = {"values": encode(values), "buildings": pack(CITY), "layer": "model", "left": 30, "top": 50}

    def file(kind, **more):
        return client.post(f"/file/{kind}", json=body | more)

    picture = np.asarray(Image.open(io.BytesIO(file("png").data)))
    assert (picture == np.where(CITY, 0, gain_to_uint8(db_to_gain(values)))).all()
    assert (np.load(io.BytesIO(file("npy").data)) == values).all()
    for place, corner in ((None, (29.5, -49.5)), (METRES, (5029.5, 7950.5))):
        tif = Image.open(io.BytesIO(file("tif", place=place, layer="best_server").data))
        assert tif.tag_v2[33922][3:5] == corner and (np.asarray(tif) == values).all()
        path = tmp_path / "points.csv"  # what sample.py --measurements reads
        path.write_text(file("csv", place=place).text)
        points, _ = read_measurements(path, (400, 400), place and Georeference(**place))
        column, row, level = points[0]
        assert len(points) == (~CITY).sum() and (column, row) == (30, 50)
        assert gain_to_db(level) == pytest.approx(values[0, 0], abs=0.01)
    degrees = METRES | {"x": 10.0, "y": 50.0, "dx": 1e-5, "dy": 1e-5, "degrees": True, "epsg": None}
    measured = client.post("/file/csv", json={"layer": "measured", "place": degrees, "points": [[3, 2, -93]]})
    assert measured.text.splitlines() == ["lon,lat,gain_db", "10.0000300,49.9999800,-93.00"]
    path.write_text(measured.text)
    assert np.allclose(read_measurements(path, (400, 400), Georeference(**degrees))[0][:, :2], [[3, 2]], atol=0.02)
    nothing = encode(np.where(CITY, 1, np.nan).astype("<f4"))
    assert file("csv", layer="coverage", values=nothing).text.strip() == "x,y,covered"


def test_what_would_harm_the_server_is_refused(client, app):
    width = (60_000).to_bytes(4, "big")
    header = b"\x00\x00\x00\rIHDR" + width + width + b"\x08\x00\x00\x00\x00"
    bomb = b"\x89PNG\r\n\x1a\n" + header + zlib.crc32(header[4:]).to_bytes(4, "big")
    assert upload(client, bomb).status_code == 400
    assert refused(client.post("/predict", data="[" * 100_000, content_type="application/json"), "")
    assert refused(client.get("/settings", headers={"Host": "evil.example:7860"}), "localhost", 403)
    for host in ("127.0.0.1:7860", "localhost", "[::1]:7860"):
        answer = client.get("/settings", headers={"Host": host})
        policy = answer.headers["Content-Security-Policy"]
        assert answer.status_code == 200 and "default-src 'self'" in policy and "script-src" not in policy
    anywhere = create_app(Predictor(), hosts=None).test_client()
    assert anywhere.get("/settings", headers={"Host": "lab.example"}).status_code == 200


def test_a_crowd_is_told_to_wait(monkeypatch):
    predictor, go = Predictor(), threading.Event()
    app = create_app(predictor)

    def slow(scenes, predict=predictor.predict, **how):
        go.wait(60)
        return predict(scenes, **how)

    def ask():
        return app.test_client().post("/predict", json=TWO).status_code

    monkeypatch.setattr(predictor, "predict", slow)
    with ThreadPoolExecutor(1 + MAX_WAITING) as pool:
        crowd = [pool.submit(ask) for _ in range(1 + MAX_WAITING)]
        deadline = time.monotonic() + 30
        while app.extensions["places"]._value and time.monotonic() < deadline:  # until all of them wait
            time.sleep(0.01)
        assert ask() == 503
        go.set()
    assert [each.result() for each in crowd] == [200] * len(crowd)


class Visit:
    """The page in a headless Chromium."""

    def __init__(self, page, expect):
        self.page, self.expect = page, expect

    def answered(self, text="^Model"):
        self.expect(self.page.locator("#status")).to_have_text(re.compile(text))

    def at(self, x, y, canvas="city"):
        box = self.page.locator(f"#{canvas}").bounding_box()
        return box["x"] + (x + 0.5) / 256 * box["width"], box["y"] + (y + 0.5) / 256 * box["height"]

    def click(self, x, y):
        self.page.mouse.click(*self.at(x, y))

    def drag(self, start, end):
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(*end), steps=4)
        self.page.mouse.up()

    def hover(self, x, y):
        self.page.mouse.move(*self.at(x, y))

    def read(self, pattern):
        return [*map(float, re.search(pattern, self.page.inner_text("#readout")).groups())]

    def model(self, x, y, layer="model"):
        """Path gain, or another layer, and received power."""
        self.hover(x, y)
        return self.read(layer + r" (\S+) dB.*received (\S+) dBm")

    def place(self):
        """The cursor's coordinates; a pixel is 1 m on the ground, in UTM a little less."""
        return pytest.approx(self.read(r"\((\S+), (\S+)\)"), abs=1)

    def note(self, text):
        self.expect(self.page.locator("#note")).to_contain_text(text)

    def upload(self, content, name, note):
        self.page.set_input_files("#upload", {"name": name, "mimeType": "", "buffer": content})
        self.note(note)

    def go(self, position, *keys):
        self.page.fill("#position", position)
        self.press("Enter", *keys)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def download(self, layer, kind, path):
        self.page.select_option("#layer", layer)
        with self.page.expect_download() as download:
            self.page.click(f"[data-file={kind}]")
        download.value.save_as(path)
        return path


@pytest.fixture
def visit(app, request):
    """A visit; parametrised by what describes the browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("the browser test needs Chromium (apt install chromium)")
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_context(**getattr(request, "param", SCREEN)).new_page()
            page.set_default_timeout(60_000)
            sync_api.expect.set_options(timeout=60_000)
            problems = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(f"http://127.0.0.1:{server.server_port}")
            visit = Visit(page, sync_api.expect)
            visit.answered()  # a random city to begin with
            yield visit
            assert not problems
            browser.close()
    finally:
        server.shutdown()
        thread.join()


def test_draw_place_measure_and_download(visit, tmp_path):
    page = visit.page
    page.click("#clear")
    page.click("[data-tool=build]")
    visit.drag((100, 60), (100, 180))
    page.click("[data-tool=place]")
    visit.click(100, 100)
    assert "outside of buildings" in page.inner_text("#status")
    visit.click(40, 120)
    visit.answered()
    visit.hover(100, 120)
    assert page.inner_text("#readout") == "(100, 120) building"
    shadow, _ = visit.model(140, 120)
    seen, received = visit.model(60, 120)
    assert seen > shadow + 10 and received == pytest.approx(seen + 23, abs=0.11)
    array = np.load(visit.download("model", "npy", tmp_path / "map.npy"))
    assert array[120, 60] == pytest.approx(seen, abs=0.06)
    page.click("[data-tool=measure]")
    visit.click(60, 120)
    page.fill("#measured", "20 dBm")
    visit.press("Enter")
    visit.answered("20 dBm is a path gain of -3")
    visit.hover(200, 20)  # the value stays where it was measured
    page.fill("#measured", str(seen - 15 + 23))  # received power
    visit.press("Enter")
    visit.answered("^Model.*1 of transmitter 1")
    assert abs(visit.model(60, 120)[0] - seen + 15) < 4  # the map follows it
    points, _ = read_measurements(visit.download("measured", "csv", tmp_path / "points.csv"), (256, 256))
    assert points.tolist() == [[60, 120, pytest.approx(db_to_gain(seen - 15), abs=1e-3)]]
    page.fill("#eirp", "30")  # the same power, sent with more
    page.wait_for_timeout(400)
    visit.answered()
    points, _ = read_measurements(visit.download("measured", "csv", tmp_path / "points.csv"), (256, 256))
    assert gain_to_db(points[0, 2]) == pytest.approx(seen - 22, abs=0.02)
    page.click("[data-tool=place]")
    visit.click(200, 200)
    visit.expect(page.locator("#shown option")).to_have_text(["transmitter 1", "transmitter 2", "the best of all"])
    assert "from -127 dB, -97 dBm" in page.inner_text("#coverage")
    server = np.asarray(Image.open(visit.download("best server", "tif", tmp_path / "best.tif")))
    assert set(np.unique(server[~np.isnan(server)])) == {1, 2} and server[200, 200] == 2 and np.isnan(server[120, 100])
    visit.download("city", "png", tmp_path / "city.png")
    assert np.asarray(Image.open(tmp_path / "city.png").convert("L"))[120, 95:107].all()


def test_cars_are_drawn_moved_saved_and_removed(visit, tmp_path):
    page, loss = visit.page, visit.page.locator("#figure-car_loss")

    def lost(x, y):
        visit.answered()
        return visit.model(x, y, "car loss")[0]

    page.click("#clear")
    visit.click(40, 120)
    page.click("[data-tool=car]")
    visit.click(41, 120)
    assert "A car must be outside" in page.inner_text("#status")
    visit.drag((100, 120), (100, 140))  # points down
    visit.expect(loss).to_be_visible()
    assert lost(160, 120) > 2 and lost(160, 60) == 0
    visit.drag((101, 120), (101, 60))
    page.wait_for_timeout(100)
    assert lost(160, 120) == 0
    visit.press("Control+z")
    page.wait_for_timeout(100)
    assert lost(160, 120) > 2
    assert visit.download("car loss", "csv", tmp_path / "loss.csv").read_text().startswith("x,y,car_loss_db\n")
    picture = np.asarray(Image.open(visit.download("cars", "png", tmp_path / "cars.png")).convert("L")) > 0
    assert (picture == Layout([car_outline((100, 120), 90)], picture.shape).inside).all()
    page.mouse.dblclick(*visit.at(100, 120))
    visit.expect(loss).to_be_hidden()
    visit.press("Control+z")
    visit.expect(loss).to_be_visible()
    page.click("[data-tool=build]")
    visit.drag((95, 120), (105, 120))  # built over
    visit.expect(loss).to_be_hidden()
    page.click("#cars")
    visit.expect(loss).to_be_visible()
    assert page.evaluate("cars.length") > 50
    page.click("#clear-cars")
    visit.expect(loss).to_be_hidden()


def test_undo_move_remove_and_share(visit):
    page, shown = visit.page, visit.page.locator("#overview, #shown option")

    def placed(x, y):
        visit.expect(page.locator("#shown option")).to_have_count(1)
        assert visit.model(x, y)[0] > -55  # the strongest value is where it stands

    page.click("#clear")
    visit.click(60, 60)
    visit.answered()
    placed(60, 60)
    visit.drag((61, 60), (121, 90))
    page.wait_for_timeout(300)
    visit.answered()
    placed(121, 90)
    visit.click(200, 200)
    visit.expect(shown).to_have_count(4)
    page.mouse.dblclick(*visit.at(200, 200))
    visit.expect(shown).to_have_count(2)
    page.click("[data-tool=car]")
    visit.click(30, 30)
    page.click("#link")
    visit.answered("holds the whole scene")
    again = Visit(page.context.new_page(), visit.expect)
    again.page.goto(page.url)
    again.answered()
    assert again.model(121, 90)[0] > -55 and "car loss" in again.page.inner_text("#readout")
    again.page.goto(page.url.partition("#")[0] + "#nonsense")
    again.page.reload()
    again.answered()
    again.page.close()
    visit.press(*["Control+z"] * 4)
    page.wait_for_timeout(100)
    visit.answered()
    placed(60, 60)


def test_a_large_city_by_keyboard_in_its_own_coordinates(visit, tmp_path):
    page = visit.page
    visit.upload(houses(30, 40), "city.geojson", "256 m × 256 m of it are in view")
    visit.answered("Click in the city to place a transmitter")
    visit.go("500334, 5600771", "Shift+ArrowLeft", "ArrowRight", "ArrowUp", "Enter")  # from the field into the city
    visit.answered()
    assert visit.place() == [500_325, 5_600_772] and "transmitter 1: model -4" in page.inner_text("#readout")
    assert page.evaluate("document.activeElement.id") == "city"
    page.click("[data-tool=measure]")
    page.focus("#city")
    visit.press("Shift+ArrowUp", "Shift+ArrowUp", "Enter")
    page.keyboard.type("-80")
    visit.press("Enter")
    visit.answered("1 of transmitter 1")
    header, row = visit.download("measured", "csv", tmp_path / "a.csv").read_text().split()
    assert header == "x,y,gain_db" and [*map(float, row.split(","))] == pytest.approx([500_325, 5_600_792, -103], abs=1)
    tif = Image.open(visit.download("model", "tif", tmp_path / "a.tif"))
    assert tif.tag_v2[33922][3] == pytest.approx(500334 - 128.5, abs=1)
    page.focus("#city")
    visit.press(*["Shift+ArrowRight"] * 14)  # the cursor takes the view along
    visit.answered("No transmitter is in view|^Model")
    assert visit.place() == [500_465, 5_600_792]
    box = page.locator("#overview").bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + 2)  # the north-western corner
    visit.answered("No transmitter is in view")
    visit.hover(0, 0)
    assert visit.place() == [500_000 - 16, 5_600_000 + 39 * 30 + 12 + 16]
    visit.drag((0, 0), (-40, 0))  # the ground is dragged
    visit.hover(0, 0)
    assert visit.place() == [500_000 + 24, 5_600_000 + 39 * 30 + 12 + 16]
    visit.go("500325 5600772")
    visit.answered("1 of transmitter 1")
    page.click("[data-tool=place]")
    page.focus("#city")
    visit.press("Delete")
    visit.answered("Click in the city")


def test_the_last_choice_wins_and_what_is_too_large_is_not_sent(visit):
    page, sent = visit.page, []
    page.on("request", lambda request: sent.append(request.url.rpartition("/")[2]))
    page.evaluate("""() => { const real = window.fetch; let first = true; window.fetch = (path, how) => {
        if (path !== "/upload" || !first) return real(path, how);
        first = false;
        return new Promise(done => { window.release = async () => {
            done(await real(path, {...how, signal: undefined}));
            await new Promise(go => setTimeout(go, 300)); }; });
    }; }""")
    visit.upload(houses(9, 9), "first.geojson", "Reading first.geojson")
    visit.upload(png(CITY.astype(np.uint8) * 255), "second.png", "second.png: 256 x 256 px")
    page.evaluate("release()")
    assert "second.png" in page.inner_text("#note")
    del sent[:]
    visit.upload(bytes(MAX_UPLOAD + 1), "huge.geojson", "at most 8 MiB can be sent")
    visit.upload(png(np.zeros((2, 5000), np.uint8)), "wide.png", "wide.png is 5000 × 2 px; at most 4096 per side")
    visit.upload(houses(110, 110), "many.geojson", "many.geojson has 60,500 vertices; at most 50,000")
    assert not sent and page.locator("#allowed").inner_text().count("4096") == 4
    visit.upload(houses(150, 1), "wide.geojson", "wide.geojson: spans 4522 m")
    visit.go("501000, 5600000")
    visit.note("near enough")
    visit.go("504000, 5600000")  # elsewhere in the same file
    visit.expect(page.locator("#position")).to_have_value("504000.0, 5600000.0")
    visit.upload(BLACK, "black.png", "Mostly built: are buildings black on white?")
    city = page.locator("#city").bounding_box()
    for name in ("note", "status", "invert"):  # in sight, above the city
        box = page.locator(f"#{name}").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= city["y"] < 300
    page.click("#invert")
    visit.expect(page.locator("#invert")).to_be_hidden()
    visit.click(200, 200)
    visit.answered()
    visit.upload(b"nothing", "no.png", "no.png: is no PNG")


@pytest.mark.parametrize("visit", [PHONE], indirect=True)
def test_a_tap_gives_the_value(visit):
    page = visit.page
    page.click("#clear")
    page.touchscreen.tap(*visit.at(128, 128))
    visit.answered()
    page.locator("#map-model").scroll_into_view_if_needed()
    page.touchscreen.tap(*visit.at(168, 128, "map-model"))
    assert page.inner_text("#readout").startswith("(168, 128) transmitter 1: model -")
    assert page.locator("#readout").bounding_box()["y"] < 844
    assert page.evaluate("document.documentElement.scrollWidth") == 390
