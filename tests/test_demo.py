"""The server of the web page: what it refuses and what it answers."""

import base64
import io
import json

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
from tests.processes import ROOT

CITY = np.zeros((256, 256), np.uint8)
CITY[100:140, 60:120] = 1
TWO = {"buildings": encode(CITY), "tx": [[30, 120], [200, 40]]}
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
def predictor():
    return Predictor()


@pytest.fixture(scope="module")
def app(predictor):
    return create_app(predictor)


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
    assert predict(client, tx=[[30, 120]], num_samples=4)[0]["std"][CITY == 0].mean() > 0.1
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
        ("predict", "num_samples", [1000, 0, 2.0, "many", [1]], "num_samples: must be within 1 .. 8"),
        ("predict", "cars", [3, [[1, 2, 3]] * 501, [[1, 2]] * 2, [[1, 2, np.inf]], [[9, 256, 0]]], "cars: at most 500"),
        ("predict", "cars", [[[31, 121, 45]]], "inside a car"),
        ("predict", "points", [[[1, 2]], [[10**400, 2, -80, 0]], [[1, 300, -80, 0]], [[1, 2, -80, 0]] * 2001], "points: at most"),
        ("predict", "points", [[[1, 2, 80, 0]]], "80 is not a path gain"),
        ("file/model/exe", "num_samples", [1], "maps are saved as"),
        ("file/difference/png", "num_samples", [1], "path gains also as png"),
        ("file/secret/png", "num_samples", [1], "there is no secret map"),
        ("file/std/npy", "num_samples", [1], "choose several samples"),
        ("file/model/tif", "georeference", [METRES | {"x": "far"}, METRES | {"dy": 10**400}, {"z": 1}, None], "georeference: must be"),
        ("file/model/tif", "georeference", [METRES | {"epsg": code} for code in (900913, 2.0, True)], "georeference: must be"),
        ("file/model/tif", "georeference", [METRES | {"dx": 0}, METRES | {"x": float("nan")}], "georeference: must be"),
    ],
)  # fmt: skip
def test_requests_are_refused(client, path, key, values, words):
    whole = TWO | {"tx": [[30, 120]], "georeference": METRES}
    for value in values:
        assert refused(client.post(f"/{path}", json=whole | {key: value}), words), value


def test_cars_along_streets(client):
    streets = client.post("/cars?seed=3", json=TWO).json
    drawn = random_cars(Layout.traced(CITY > 0), np.random.default_rng(3)).outlines
    again = [car_outline((x, y), degrees) for x, y, degrees in streets]
    assert len(drawn) > 50 and [{*map(tuple, car)} for car in again] == [{*map(tuple, car)} for car in drawn]


def test_measured_values_correct_the_map_of_their_transmitter(client, predictor, monkeypatch):
    points = {"points": [[40, 130, -85, 0], [150, 30.2, -94, 0]]}
    without, told = ([each["model"] for each in predict(client, **more)] for more in ({}, points))
    for (column, row), level in (((40, 130), -85), ((150, 30), -94)):
        assert abs(told[0][row, column] - level) < 4 < abs(without[0][row, column] - level)
    assert np.abs(told[0] - without[0])[200:, 200:].max() < 0.5  # out of their reach
    assert np.allclose(told[1], without[1], atol=1e-2)  # the other one's map
    for what, shown in {"measurements": points, "cars": {"cars": [[9, 9, 0]]}}.items():
        monkeypatch.setattr(predictor, f"sees_{what}", False)
        assert refused(client.post("/predict", json=TWO | shown), "no channel")
        assert not client.get("/settings").json[what]


def test_cities_are_answered_whole(client):
    first, again, other = (client.get(f"/city?seed={seed}").json for seed in (3, 3, 4))
    assert first == again != other and (first["width"], first["height"]) == (256, 256)
    large = np.zeros((401, 603), np.uint8)
    large[72:328, 172:428] = CITY * 200
    city = upload(client, png(large)).json
    assert (built(city) == (large > 0)).all() and city["georeference"] is None and not city["inverted"]
    assert upload(client, BLACK).json["inverted"]
    assert (built(upload(client, BLACK, more="&invert=1").json) == CITY).all()
    town = json.loads((ROOT / "examples" / "town.geojson").read_text())
    car = {"type": "Polygon", "coordinates": [[[10.0, 50.0], [10.0, 50.00003], [10.00003, 50.00003]]]}
    town["features"].append({"type": "Feature", "properties": {"class": "car"}, "geometry": car})
    city = upload(client, json.dumps(town).encode()).json
    assert city["georeference"]["epsg"] == 4326 and city["height"] > 256 and len(city["cars"]) == 1


def test_files(client):
    body = TWO | {"georeference": METRES}
    model = predict(client, tx=[[30, 120]])[0]["model"]

    def file(kind, layer="model"):
        return client.post(f"/file/{layer}/{kind}", json=body)

    picture = np.asarray(Image.open(io.BytesIO(file("png").data)))
    assert (picture == np.where(CITY, 0, gain_to_uint8(db_to_gain(model)))).all()
    assert (np.load(io.BytesIO(file("npy").data)) == model).all()
    tif = Image.open(io.BytesIO(file("tif").data))
    assert tif.tag_v2[33922][3:5] == (4999.5, 8000.5) and (np.asarray(tif) == model).all()
    assert (np.load(io.BytesIO(file("npy", "difference").data)) != model).any()


def test_what_would_harm_the_server_is_refused(client, predictor):
    bomb = png(np.zeros((6000, 6000), np.uint8))
    assert refused(upload(client, bomb), "city.png: not a usable picture")
    assert refused(upload(client, bytes(MAX_UPLOAD + 1)), "capacity", 413)
    assert refused(client.post("/predict", data="[" * 100_000, content_type="application/json"), "nested too deeply")
    assert refused(client.get("/settings", headers={"Host": "evil.example:7860"}), "localhost", 403)
    for host in ("127.0.0.1:7860", "localhost", "[::1]:7860"):
        answer = client.get("/settings", headers={"Host": host})
        assert answer.status_code == 200 and "default-src 'self'" in answer.headers["Content-Security-Policy"]
    anywhere = create_app(predictor, hosts=None).test_client()
    assert anywhere.get("/settings", headers={"Host": "lab.example"}).status_code == 200


def test_a_crowd_is_told_to_wait(app, client):
    places = app.extensions["places"]
    taken = [places.acquire(blocking=False) for _ in range(1 + MAX_WAITING)]
    assert all(taken) and refused(client.post("/predict", json=TWO), "others are waiting", 503)
    places.release(len(taken))
    left = {"waitress.client_disconnected": lambda: True}
    assert refused(client.post("/predict", json=TWO, environ_overrides=left), "nobody waits", 503)
    assert client.post("/predict", json=TWO).status_code == 200
