"""The web page: what the server refuses and answers, and the page itself in a browser."""

import base64
import io
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("flask", reason="the web page needs: pip install -r requirements-demo.txt")

from data.geometry.cars import car_outline
from data.geometry.layout import Layout
from data.simulator import random_cars
from data.units import db_to_gain, gain_to_uint8
from demo.messages import encode
from demo.server import MAX_UPLOAD, MAX_WAITING, create_app
from denoising_diffusion_pytorch.predictor import Predictor

CITY = np.zeros((256, 256), np.uint8)
CITY[100:140, 60:120] = 1
SCREEN = {"viewport": {"width": 1280, "height": 720}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
TWO = {"buildings": encode(CITY), "tx": [[30, 120], [200, 40]]}
TOWN = (Path(__file__).parents[1] / "examples" / "town.geojson").read_bytes()
METRES = {"x": 5000.0, "y": 8000.0, "dx": 1.0, "dy": 1.0, "degrees": False, "epsg": 25832}


def png(array):
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    return content.getvalue()


BLACK = png(255 - CITY * 255)  # on white


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(256, 256)


def built(city):
    return np.frombuffer(base64.b64decode(city["buildings"]), bool).reshape(city["height"], city["width"])


@pytest.fixture(scope="module")
def app():
    return create_app(Predictor())


@pytest.fixture
def client(app):
    return app.test_client()


def predict(client, **more):
    return [{k: floats(v) for k, v in each.items()} for each in client.post("/predict", json=TWO | more).json["maps"]]


def upload(client, content, more=""):
    return client.post(f"/upload?name=city.png{more}", data=content)


def refused(answer, words, status=400):
    return answer.status_code == status and words in answer.json["error"]


def test_maps(client):
    first, second = predict(client)
    assert (first["model"][CITY > 0] == -147).all() and (first["simulator"][CITY > 0] == -147).all()
    assert np.abs(first["difference"])[CITY == 0].mean() < 3  # dB
    assert np.unravel_index(second["model"].argmax(), (256, 256)) == pytest.approx((40, 200), abs=2)
    assert {*first} == {"model", "simulator", "difference"}
    assert predict(client, tx=[[30, 120]], draws=4)[0]["std"][CITY == 0].mean() > 0.1
    behind, beside = predict(client, cars=[[30, 150, 0]])
    loss = behind["car_loss"]
    assert loss[200, 30] > 2 and loss[:140].max() == 0 == loss.min() == beside["car_loss"][200, 30]
    assert abs(first["model"] - behind["model"] - loss)[170:, 30].max() < 1.5  # the model follows the simulator


@pytest.mark.parametrize(
    "path, key, values, words",
    [
        ("predict", "buildings", [None, "", "AAAA", 3], "buildings: must be base64"),
        ("predict", "tx", [None, ["here"], [[1, 1]] * 2 + [[1, 300]], [[1, 1]] * 9, [[float("nan"), 1]]], "tx: at most 8"),
        ("predict", "tx", [[]], "place a transmitter"), ("predict", "tx", [[[80, 120]]], "inside a building"),
        ("predict", "draws", [1000, 0, 2.0, "many", [1]], "draws: must be within 1 .. 8"),
        ("predict", "cars", [3, [[1, 2, 3]] * 501, [[1, 2]] * 2, [[1, 2, np.inf]], [[9, 256, 0]]], "cars: at most 500"),
        ("predict", "cars", [[[31, 121, 45]]], "inside a car"),
        ("predict", "points", [[[1, 2]], [[10**400, 2, -80, 0]], [[1, 300, -80, 0]], [[1, 2, -80, 0]] * 2001], "points: at most"),
        ("predict", "points", [[[1, 2, 80, 0]]], "80 is no path gain"),
        ("file/model/exe", "draws", [1], "maps are saved as"), ("file/difference/png", "draws", [1], "path gains also as png"),
        ("file/secret/png", "draws", [1], "there is no secret map"), ("file/std/npy", "draws", [1], "choose several samples"),
        ("file/model/tif", "place", [METRES | {"x": "far"}, METRES | {"dy": 10**400}, {"z": 1}, None], "place: must be"),
        ("file/model/tif", "place", [METRES | {"epsg": 900913}, METRES | {"epsg": 2.0}], "place: must be"),
    ],
)  # fmt: skip
def test_requests_are_refused(client, path, key, values, words):
    whole = TWO | {"tx": [[30, 120]], "place": METRES}
    for value in values:
        assert refused(client.post(f"/{path}", json=whole | {key: value}), words), value


def test_cars_along_streets(client):
    streets = client.post("/cars?seed=3", json=TWO).json
    drawn = random_cars(Layout.traced(CITY > 0), np.random.default_rng(3)).outlines
    again = [car_outline((x, y), degrees) for x, y, degrees in streets]
    assert len(drawn) > 50 and [{*map(tuple, car)} for car in again] == [{*map(tuple, car)} for car in drawn]


def test_measured_values_correct_the_map_of_their_transmitter(client, monkeypatch):
    points = {"points": [[40, 130, -85, 0], [150, 30.2, -94, 0]]}
    without, told = ([each["model"] for each in predict(client, **more)] for more in ({}, points))
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
    large = np.zeros((401, 603), np.uint8)
    large[72:328, 172:428] = CITY * 200
    city = upload(client, png(large)).json
    assert (built(city) == (large > 0)).all() and city["place"] is None and not city["inverted"]
    assert upload(client, BLACK).json["inverted"]
    assert (built(upload(client, BLACK, more="&invert=1").json) == CITY).all()
    town = json.loads(TOWN)
    car = {"type": "Polygon", "coordinates": [[[10.0, 50.0], [10.0, 50.00003], [10.00003, 50.00003]]]}
    town["features"].append({"type": "Feature", "properties": {"class": "car"}, "geometry": car})
    city = upload(client, json.dumps(town).encode()).json
    assert city["place"]["epsg"] == 4326 and city["height"] > 256 and len(city["cars"]) == 1


def test_files(client):
    body = TWO | {"place": METRES}
    model = predict(client, tx=[[30, 120]])[0]["model"]

    def file(kind, layer="model"):
        return client.post(f"/file/{layer}/{kind}", json=body)

    picture = np.asarray(Image.open(io.BytesIO(file("png").data)))
    assert (picture == np.where(CITY, 0, gain_to_uint8(db_to_gain(model)))).all()
    assert (np.load(io.BytesIO(file("npy").data)) == model).all()
    tif = Image.open(io.BytesIO(file("tif").data))
    assert tif.tag_v2[33922][3:5] == (4999.5, 8000.5) and (np.asarray(tif) == model).all()
    assert (np.load(io.BytesIO(file("npy", "difference").data)) != model).any()


def test_what_would_harm_the_server_is_refused(client):
    bomb = png(np.zeros((6000, 6000), np.uint8))
    broken = png(CITY)[:60]
    for content, words in ((bomb, "usable"), (b"GIF89a", "neither"), (broken, "usable"), (b"{}", "no polygon")):
        assert refused(upload(client, content), "city.png: ") and refused(upload(client, content), words)
    assert refused(upload(client, bytes(MAX_UPLOAD + 1)), "capacity", 413)
    assert client.post("/predict", data="[" * 100_000, content_type="application/json").json["error"]
    assert refused(client.get("/settings", headers={"Host": "evil.example:7860"}), "localhost", 403)
    for host in ("127.0.0.1:7860", "localhost", "[::1]:7860"):
        answer = client.get("/settings", headers={"Host": host})
        assert answer.status_code == 200 and "default-src 'self'" in answer.headers["Content-Security-Policy"]
    anywhere = create_app(Predictor(), hosts=None).test_client()
    assert anywhere.get("/settings", headers={"Host": "lab.example"}).status_code == 200


def test_a_crowd_is_told_to_wait(app, client):
    places = app.extensions["places"]
    taken = [places.acquire(blocking=False) for _ in range(1 + MAX_WAITING)]
    assert all(taken) and refused(client.post("/predict", json=TWO), "others are waiting", 503)
    places.release(len(taken))
    assert client.post("/predict", json=TWO).status_code == 200


class Visit:
    """The page in a headless Chromium."""

    def __init__(self, page, expect):
        self.page, self.expect = page, expect

    def answered(self, text="^Model"):
        self.page.wait_for_timeout(250)  # requests wait for further changes
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

    def value(self, x, y, layer="model"):
        """Path gain, or another layer, and received power, once the maps are there."""
        self.answered()
        self.page.mouse.move(*self.at(x, y))
        found = re.search(layer + r" (\S+) dB.*received (\S+) dBm", self.page.inner_text("#readout"))
        return [*map(float, found.groups())]

    def upload(self, content, name, note):
        self.page.set_input_files("#upload", {"name": name, "mimeType": "", "buffer": content})
        self.expect(self.page.locator("#note")).to_contain_text(note)

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
    assert "Outside of buildings" in page.inner_text("#status")
    visit.click(40, 120)
    shadow, _ = visit.value(140, 120)
    seen, received = visit.value(60, 120)
    assert seen > shadow + 10 and received == pytest.approx(seen + 23, abs=0.11)
    page.mouse.move(*visit.at(100, 120))
    assert page.inner_text("#readout") == "(100, 120) building"
    assert np.load(visit.download("model", "npy", tmp_path / "a.npy"))[120, 60] == pytest.approx(seen, abs=0.06)
    page.click("[data-tool=measure]")
    for value, said in ((20, "-3 is no path gain"), (seen - 15 + 23, "^Model.*measured values: 1")):  # received power
        visit.click(60, 120)
        page.click("#forget")
        visit.click(60, 120)
        page.fill("#measured", str(value))
        page.keyboard.press("Enter")
        visit.answered(said)
    assert abs(visit.value(60, 120)[0] - seen + 15) < 4  # the map follows it
    page.click("[data-tool=place]")
    visit.click(200, 200)
    visit.answered("transmitters: 2")
    assert visit.value(200, 200)[0] > -55 and page.locator("#shown").input_value() == "2"
    visit.drag((201, 200), (151, 220))
    assert visit.value(151, 220)[0] > -55 > visit.value(200, 200)[0]
    page.mouse.dblclick(*visit.at(151, 220))
    visit.answered("transmitters: 1")
    page.click("#undo")
    visit.answered("transmitters: 2")
    visit.download("city", "png", tmp_path / "city.png")
    assert np.asarray(Image.open(tmp_path / "city.png").convert("L"))[120, 95:107].all()


def test_cars_are_drawn_moved_and_removed(visit, tmp_path):
    page, loss = visit.page, visit.page.locator("#figure-car_loss")
    page.click("#clear")
    visit.click(40, 120)
    page.click("[data-tool=car]")
    visit.drag((100, 120), (100, 140))  # points down
    visit.expect(loss).to_be_visible()
    assert visit.value(160, 120, "car loss")[0] > 2 and visit.value(160, 60, "car loss")[0] == 0
    assert page.evaluate("cars") == [{"x": 100, "y": 120, "degrees": 90}]
    visit.drag((101, 120), (101, 60))
    assert visit.value(160, 120, "car loss")[0] == 0
    page.click("#undo")
    assert visit.value(160, 120, "car loss")[0] > 2
    visit.click(100, 120)  # turns it
    visit.answered()
    assert page.evaluate("cars") == [{"x": 100, "y": 120, "degrees": 120}]
    assert np.load(visit.download("car_loss", "npy", tmp_path / "loss.npy")).max() > 2
    page.mouse.dblclick(*visit.at(100, 120))
    visit.expect(loss).to_be_hidden()
    visit.click(41, 121)
    visit.answered("transmitter 40,120: is inside a car")
    page.click("[data-tool=erase]")
    visit.click(45, 125)
    visit.answered()
    page.click("#cars")
    visit.expect(loss).to_be_visible()
    assert page.evaluate("cars.length") > 50
    page.click("#clear-cars")
    visit.expect(loss).to_be_hidden()


def test_uploads(visit, tmp_path):
    """A large city in its own coordinates; one in black on white; what is no city."""
    page = visit.page
    visit.upload(TOWN, "town.geojson", "256 m × 256 m of it are in view")
    visit.answered("Click in the city to place a transmitter")
    box = page.locator("#overview").bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + 2)  # the north-western corner
    visit.click(5, 5)
    visit.answered()
    page.mouse.move(*visit.at(0, 0))
    assert page.inner_text("#readout").startswith("(9.999855, 50.000094) transmitter 1: model")
    tif = Image.open(visit.download("model", "tif", tmp_path / "a.tif"))
    assert tif.tag_v2[33922][3:5] == pytest.approx((9.999848, 50.000099), abs=1e-6)
    visit.upload(bytes(MAX_UPLOAD + 1), "huge.geojson", "at most 8 MiB can be sent")
    visit.upload(BLACK, "black.png", "Mostly built: are buildings black on white?")
    page.click("#invert")
    visit.expect(page.locator("#invert")).to_be_hidden()
    visit.click(200, 200)
    visit.answered()
    visit.upload(b"nothing", "no.png", "no.png: is neither a PNG")


@pytest.mark.parametrize("visit", [PHONE], indirect=True)
def test_a_tap_gives_the_value(visit):
    page = visit.page
    page.click("#clear")
    page.touchscreen.tap(*visit.at(128, 128))
    visit.answered()
    page.locator("#map-model").scroll_into_view_if_needed()
    page.touchscreen.tap(*visit.at(168, 128, "map-model"))
    assert page.inner_text("#readout").startswith("(168, 128) transmitter 1: model -")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
