"""The web page: what it refuses, what it answers, and the whole of it in a browser."""

import base64
import csv
import io
import json
import re
import shutil
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("flask", reason="the web page needs: pip install -r requirements-demo.txt")

from data.units import db_to_gain, gain_to_uint8
from demo.server import MAX_WAITING, create_app, encode, pack
from denoising_diffusion_pytorch.predictor import Predictor

OPEN = np.zeros((256, 256), bool)
CITY = OPEN.copy()
CITY[100:140, 60:120] = True


def png(array):
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    return content.getvalue()


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(256, 256)


@pytest.fixture(scope="module")
def app():
    return create_app(Predictor())


@pytest.fixture
def client(app):
    return app.test_client()


def test_prediction(client):
    body = {"buildings": pack(CITY), "tx": [[30, 120], [200, 40]]}
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200
    first, second = answer.json["maps"]
    model, simulator = floats(first["model"]), floats(first["simulator"])
    assert (model[CITY] == -147).all() and (simulator[CITY] == -147).all() and first["std"] is None
    assert np.abs(model - simulator)[~CITY].mean() < 3  # dB
    assert np.unravel_index(floats(second["model"]).argmax(), (256, 256)) == pytest.approx((40, 200), abs=2)
    spread = client.post("/predict", json=body | {"tx": [[30, 120]], "draws": 4}).json["maps"][0]
    assert floats(spread["std"])[~CITY].mean() > 0.1
    again = client.post("/predict", json=body | {"tx": [[30, 120]]}).json["maps"][0]
    assert np.allclose(floats(again["model"]), model, atol=1e-2)  # nothing of the request before is left


@pytest.mark.parametrize(
    "body,words",
    [
        ({}, "buildings"),
        ({"buildings": "", "tx": [[1, 1]]}, "buildings: holds 0 numbers"),
        ({"buildings": "?", "tx": [[1, 1]]}, "buildings: is not base64"),
        ({"buildings": pack(CITY), "tx": []}, "place 1 to 8"),
        ({"buildings": pack(CITY), "tx": [[1, 1]] * 9}, "place 1 to 8"),
        ({"buildings": pack(CITY), "tx": ["here"]}, "tx: must be"),
        ({"buildings": pack(CITY), "tx": [[float("nan"), 1]]}, "is no position"),
        ({"buildings": pack(CITY), "tx": [[300, 1]]}, "outside"),
        ({"buildings": pack(CITY), "tx": [[80, 120]]}, "inside a building"),
        ({"buildings": pack(CITY), "tx": [[1, 1]], "draws": 1000}, "draws: 1000"),
        ({"buildings": pack(CITY), "tx": [[1, 1]], "draws": "many"}, "draws"),
    ],
)
def test_prediction_refuses(client, body, words):
    answer = client.post("/predict", json=body)
    assert answer.status_code == 400 and words in answer.json["error"]


def test_cities(client):
    first, again, other = (client.get(f"/city?seed={seed}").json for seed in (3, 3, 4))
    assert first == again != other
    assert client.get("/city?seed=x").status_code == 400 and client.get("/city").status_code == 400
    names = client.get("/settings").json["cities"]
    assert names and all(client.get(f"/example?name={name}").status_code == 200 for name in names)
    assert client.get("/example?name=../README").status_code == 400


def upload(client, content, name="city.png"):
    return client.post("/upload", data={"file": (io.BytesIO(content), name)})


def test_upload(client):
    same = upload(client, png(CITY.astype(np.uint8) * 255))
    assert same.json["buildings"] == pack(CITY) and "as it is" in same.json["note"]
    large = np.zeros((400, 600), np.uint8)
    large[72:328, 172:428] = CITY * 200
    assert upload(client, png(large)).json["buildings"] == pack(CITY)
    assert "open ground" in upload(client, png(np.zeros((50, 60), np.uint8))).json["note"]
    square = [[[0, 0], [100, 0], [100, 60], [0, 60], [0, 0]]]
    footprints = json.dumps({"type": "Polygon", "coordinates": square}).encode()
    city = np.unpackbits(
        np.frombuffer(base64.b64decode(upload(client, footprints, "a.geojson").json["buildings"]), "u1")
    )
    assert 5000 < city.sum() < 7000
    place = upload(client, footprints, "a.geojson").json["place"]
    assert place == {"x": -16, "y": 76, "dx": 1, "dy": 1, "degrees": False, "epsg": None} and same.json["place"] is None
    asked = {"values": encode(np.full((256, 256), -80, "<f4")), "buildings": pack(CITY)}
    for where, corner in ((place, (-16.5, 76.5)), (None, (-0.5, 0.5))):
        answer = client.post("/file/tif", json=asked | {"place": where})
        assert Image.open(io.BytesIO(answer.data)).tag_v2[33922][3:5] == corner
    for where in ("here", {"x": 1}, place | {"x": "far"}, place | {"dy": 10**400}, place | {"dx": 0}):
        answer = client.post("/file/tif", json=asked | {"place": where})
        assert answer.status_code == 400 and answer.json["error"].startswith("place: ")
    assert upload(client, b"{}", "a.geojson").status_code == 400
    for content, words in (
        (b"GIF89a", "is no PNG"),
        (png(CITY.astype(np.uint8))[:60], "city.png"),
        (png(np.zeros((1, 5000), np.uint8)), "5000x1"),
    ):
        answer = upload(client, content)
        assert answer.status_code == 400 and words in answer.json["error"]
    answer = upload(client, bytes(5 * 2**20))
    assert answer.status_code == 413 and "4 MiB" in answer.json["error"]
    assert client.post("/upload").status_code == 400


@pytest.mark.parametrize(
    "more,words",
    [
        ({"points": "here"}, "points: must be a list"),
        ({"points": [[1, 2]]}, "points: is no row of numbers"),
        ({"points": [[1, 2, 30]]}, "points: gain_db is 30"),
        ({"points": [[1, 300, -80]]}, "points: 1,300 is outside"),
        ({"points": [[10**400, 2, -80]]}, "points: is no row of numbers"),
        ({"points": [[1, 2, -80]] * 2001}, "at most 2000"),
        ({"points": [[1, 2, -80]], "tx": [[1, 1], [9, 9]]}, "belong to one transmitter"),
    ],
)
def test_measured_values_are_checked(client, more, words):
    answer = client.post("/predict", json={"buildings": pack(CITY), "tx": [[30, 120]]} | more)
    assert answer.status_code == 400 and words in answer.json["error"]


def test_measured_values_correct_the_map(client, monkeypatch):
    body = {"buildings": pack(CITY), "tx": [[30, 120]]}
    points = {"points": [[40, 130, -85], [150, 30.2, -94]]}
    assert client.get("/settings").json["measurements"] is True

    def predicted(body):
        return floats(client.post("/predict", json=body).json["maps"][0]["model"])

    without, told = predicted(body), predicted(body | points)
    for (column, row), level in (((40, 130), -85), ((150, 30), -94)):
        assert abs(told[row, column] - level) < 4 < abs(without[row, column] - level)
    assert np.abs(told - without)[200:, 200:].max() < 0.5  # out of their reach
    monkeypatch.setattr(Predictor, "sees_measurements", False)
    refused = client.post("/predict", json=body | points)
    assert refused.status_code == 400 and "no channel that shows measured points" in refused.json["error"]


def test_what_would_harm_the_server_is_refused(client, app):
    width = (60_000).to_bytes(4, "big")
    header = b"\x00\x00\x00\rIHDR" + width + width + b"\x08\x00\x00\x00\x00"
    bomb = b"\x89PNG\r\n\x1a\n" + header + zlib.crc32(header[4:]).to_bytes(4, "big")
    assert upload(client, bomb).status_code == 400
    deep = client.post("/predict", data="[" * 100_000, content_type="application/json")
    assert deep.status_code == 400 and deep.json["error"]
    other = client.get("/settings", headers={"Host": "evil.example:7860"})
    assert other.status_code == 403 and "localhost" in other.json["error"]
    for host in ("127.0.0.1:7860", "localhost", "[::1]:7860"):
        answer = client.get("/settings", headers={"Host": host})
        assert answer.status_code == 200 and "default-src 'self'" in answer.headers["Content-Security-Policy"]
    anywhere = create_app(Predictor(), hosts=None).test_client()
    assert anywhere.get("/settings", headers={"Host": "lab.example"}).status_code == 200


def test_a_crowd_is_told_to_wait(monkeypatch):
    predictor, entered, go = Predictor(), threading.Event(), threading.Event()
    app = create_app(predictor)

    def slow(scenes, predict=predictor.predict):
        entered.set()
        go.wait(60)
        return predict(scenes)

    monkeypatch.setattr(predictor, "predict", slow)
    body = {"buildings": pack(OPEN), "tx": [[5, 5]]}
    answers = []
    crowd = [
        threading.Thread(target=lambda: answers.append(app.test_client().post("/predict", json=body).status_code))
        for _ in range(1 + MAX_WAITING)
    ]
    crowd[0].start()
    assert entered.wait(30)
    for thread in crowd[1:]:
        thread.start()
    deadline = time.monotonic() + 30
    while app.extensions["places"]._value and time.monotonic() < deadline:  # until all of them wait
        time.sleep(0.01)
    late = app.test_client().post("/predict", json=body)
    go.set()
    for thread in crowd:
        thread.join(60)
    assert late.status_code == 503 and "try again" in late.json["error"] and answers == [200] * len(crowd)


def test_files(client):
    values = np.random.default_rng(0).uniform(-140, -50, (256, 256)).astype("<f4")
    body = {"values": encode(values), "buildings": pack(CITY)}
    picture = np.asarray(Image.open(io.BytesIO(client.post("/file/png", json=body).data)))
    assert (picture == np.where(CITY, 0, gain_to_uint8(db_to_gain(values)))).all()
    assert (np.load(io.BytesIO(client.post("/file/npy", json=body).data)) == values).all()
    rows = list(csv.reader(io.StringIO(client.post("/file/csv", json=body).text)))
    assert rows[0] == ["x", "y", "path_gain_db"] and len(rows) == 1 + (~CITY).sum()
    x, y, value = rows[1000]
    assert values[int(y), int(x)] == pytest.approx(float(value), abs=0.01)
    assert client.post("/file/exe", json=body).status_code == 400
    assert client.post("/file/png", json={"values": "AAAA"}).status_code == 400
    assert client.post("/file/png", data="no JSON").status_code in (400, 415)


@pytest.fixture
def page(app):
    """The page in a headless Chromium."""
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
            page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
            page.set_default_timeout(60_000)
            problems = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(f"http://127.0.0.1:{server.server_port}")
            yield page
            assert not problems
            browser.close()
    finally:
        server.shutdown()
        thread.join()


def test_draw_place_see_and_download(page, tmp_path):
    from playwright.sync_api import expect

    def answered():
        expect(page.locator("#status")).to_have_text(re.compile("^Model"))

    def at(x, y):
        box = page.locator("#city").bounding_box()
        return box["x"] + (x + 0.5) / 256 * box["width"], box["y"] + (y + 0.5) / 256 * box["height"]

    answered()  # a random city to begin with
    page.click("#clear")
    page.wait_for_selector("#figure-model", state="hidden")
    page.click("[data-tool=build]")
    page.mouse.move(*at(100, 60))
    page.mouse.down()
    page.mouse.move(*at(100, 180))
    page.mouse.up()
    page.click("[data-tool=place]")
    page.mouse.click(*at(100, 100))
    assert "outside of buildings" in page.inner_text("#status")
    page.mouse.click(*at(40, 120))
    answered()
    box = page.locator("#figure-model canvas").bounding_box()

    def value(x, y):
        page.mouse.move(box["x"] + (x + 0.5) / 256 * box["width"], box["y"] + (y + 0.5) / 256 * box["height"])
        return page.inner_text("#readout")

    assert "(100, 120) building" in value(100, 120)
    seen, shadow = (float(value(*place).split("model ")[1].split(" dB")[0]) for place in ((60, 120), (140, 120)))
    assert seen > shadow + 10
    with page.expect_download() as download:
        page.click("[data-file=npy]")
    path = tmp_path / "map.npy"
    download.value.save_as(path)
    array = np.load(path)
    assert array.shape == (256, 256) and array[120, 60] == pytest.approx(seen, abs=0.06)
    page.once("dialog", lambda dialog: dialog.accept(str(seen - 15)))
    page.click("[data-tool=measure]")
    page.mouse.click(*at(60, 120))
    expect(page.locator("#status")).to_contain_text("1 measured value")
    assert abs(float(value(60, 120).split("model ")[1].split(" dB")[0]) - seen + 15) < 4  # the map follows it
    page.keyboard.press("Control+z")
    answered()
    page.click("[data-tool=place]")
    page.mouse.click(*at(200, 200))
    expect(page.locator("#shown option")).to_have_count(3)
    assert "covered" in page.inner_text("#coverage")
    page.set_input_files("#upload", {"name": "no.png", "mimeType": "image/png", "buffer": b"nothing"})
    expect(page.locator("#status")).to_contain_text("is no PNG")


def test_undo_move_remove_and_share(page, tmp_path):
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_have_text(re.compile("^Model"))
    shown = page.locator("#shown option")

    def at(x, y):
        box = page.locator("#city").bounding_box()
        return box["x"] + (x + 0.5) / 256 * box["width"], box["y"] + (y + 0.5) / 256 * box["height"]

    page.click("#clear")
    page.mouse.click(*at(60, 60))
    expect(shown).to_have_text(["transmitter 1 at 60, 60"])
    page.mouse.move(*at(61, 60))
    page.mouse.down()
    page.mouse.move(*at(120, 90), steps=4)
    page.mouse.up()
    expect(shown).to_have_text(["transmitter 1 at 120, 90"])
    page.keyboard.press("Control+z")
    expect(shown).to_have_text(["transmitter 1 at 60, 60"])
    page.mouse.click(*at(200, 200))
    expect(shown).to_have_count(3)
    page.mouse.dblclick(*at(200, 200))
    expect(shown).to_have_text(["transmitter 1 at 60, 60"])
    canvas = page.locator("#figure-model canvas")
    canvas.hover(position={"x": 40, "y": 40})
    page.fill("#eirp", "30")
    canvas.hover(position={"x": 41, "y": 40})
    gain, received = map(float, re.search(r"model (\S+) dB.*received (\S+) dBm", page.inner_text("#readout")).groups())
    assert received == pytest.approx(gain + 30, abs=0.11)
    footprints = {"type": "Polygon", "coordinates": [[[0, 0], [90.5, 0], [90.5, 60], [0, 60], [0, 0]]]}
    file = {"name": "a.geojson", "mimeType": "application/json", "buffer": json.dumps(footprints).encode()}
    page.set_input_files("#upload", file)
    expect(page.locator("#note")).to_contain_text("a.geojson")
    page.mouse.click(*at(128, 20))
    expect(shown).to_have_text(["transmitter 1 at 128, 20"])
    page.select_option("#layer", "difference")
    page.click("[data-file=png]")
    expect(page.locator("#status")).to_contain_text("A PNG holds path gains")
    with page.expect_download() as download:
        page.click("[data-file=csv]")
    assert download.value.suggested_filename == "radio_map_difference.csv"
    with page.expect_download() as download:
        page.click("[data-file=tif]")
    download.value.save_as(tmp_path / "map.tif")
    assert Image.open(tmp_path / "map.tif").tag_v2[33922][3:5] == (-16.5, 76.5)  # where the footprints lie
    page.click("#link")
    expect(page.locator("#status")).to_contain_text("holds the whole scene")
    again = page.context.new_page()
    again.goto(page.url)
    expect(again.locator("#shown option")).to_have_text(["transmitter 1 at 128, 20"])
    again.goto(page.url.partition("#")[0] + "#nonsense")
    again.reload()
    expect(again.locator("#shown option")).to_have_count(1)
    again.close()
