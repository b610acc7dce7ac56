"""The server of the web page. It keeps no state: the page holds the whole city and sends what is in view."""

import io
import threading
import time
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from flask import Flask, Response, abort, jsonify, request, send_file
from matplotlib import colormaps
from PIL import Image
from werkzeug.exceptions import HTTPException

from data import DataError, Scene
from data.crop import SIDE
from data.gis.city import MAX_SIDE, City, city_of
from data.simulator import random_cars
from data.simulator.scenes import random_scenes
from data.units import GAIN_MAX_DB, GAIN_MIN_DB
from denoising_diffusion_pytorch.predictor import Predictor

from . import messages

HERE = Path(__file__).parent
MAX_UPLOAD = 8 * 2**20  # bytes
MAX_SAMPLES = 8
MAX_WAITING = 4  # requests for maps that may wait for the one that is being predicted
EIRP_DBM = 23.0  # RadioMapSeer's
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'"


def create_app(predictor: Predictor, hosts: Collection[str] | None = LOCAL_HOSTS) -> Flask:
    """The page and the requests that it makes.

    Only requests to one of `hosts` (None: any) are answered, so that no other web page can reach it by DNS rebinding.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_UPLOAD
    Image.MAX_IMAGE_PIXELS = MAX_SIDE**2 // 2  # Pillow refuses pictures with more than twice as many
    guard(app, hosts)
    add_cities(app)
    add_maps(app, predictor)

    @app.get("/")
    @app.get("/page.js")
    def page():
        return send_file(HERE / ("page.js" if request.path == "/page.js" else "page.html"))

    @app.get("/settings")
    def settings():
        colours = {
            name: (colormaps[name](np.arange(256))[:, :3] * 255).round().astype(int).tolist()
            for name in ("viridis", "RdBu_r", "magma", "OrRd")
        }
        return jsonify(
            colours=colours,
            side=SIDE,
            limits=[GAIN_MIN_DB, GAIN_MAX_DB],
            eirp=EIRP_DBM,
            max_upload=MAX_UPLOAD,
            cars=predictor.sees_cars,
            measurements=predictor.sees_measurements,
            model=f"{predictor.checkpoint.path.name}, step {predictor.checkpoint.step:,}",
        )

    return app


def add_cities(app: Flask) -> None:
    """/city and /upload, which each return a whole city, and /cars, which returns cars along the streets in view."""

    def seed() -> int:
        return abs(request.args.get("seed", 0, type=int))

    @app.get("/city")
    def city():
        scene = random_scenes(seed())[0]
        return jsonify(messages.whole_city(f"random city {seed()}", City(scene.layout, None)) | {"tx": scene.tx})

    @app.post("/upload")
    def upload():
        name = request.args.get("name", "the file")
        return jsonify(messages.whole_city(name, city_of(request.get_data(), name, invert="invert" in request.args)))

    @app.post("/cars")
    def cars():
        layout = messages.buildings_of(request.get_json())
        return jsonify(messages.placed(random_cars(layout, np.random.default_rng(seed()))))


def add_maps(app: Flask, predictor: Predictor) -> None:
    """/predict, the maps of all transmitters in view, and /file/<layer>/<kind>, one map of the first one."""
    one_at_a_time = threading.Lock()  # a prediction uses all cores
    places = app.extensions["places"] = threading.BoundedSemaphore(1 + MAX_WAITING)

    def maps_of(scenes: list[Scene], num_samples: int) -> list[dict[str, np.ndarray]]:
        if any(scene.measurements is not None for scene in scenes) and not predictor.sees_measurements:
            raise DataError("this model has no channel that shows measured points")
        if scenes[0].cars is not None and not predictor.sees_cars:
            raise DataError("this model has no channel that shows cars")
        if not isinstance(num_samples, int) or num_samples not in range(1, 1 + MAX_SAMPLES):
            raise DataError(f"num_samples: must be within 1 .. {MAX_SAMPLES}")
        if not places.acquire(blocking=False):
            abort(503, f"{MAX_WAITING} others are waiting for their maps; try again in a moment")
        try:
            with one_at_a_time:
                has_left = request.environ.get("waitress.client_disconnected")
                if has_left and has_left():
                    abort(503, "nobody waits for these maps any more")
                return [messages.layers_of(each) for each in predictor.predict(scenes, num_samples=num_samples)]
        finally:
            places.release()

    @app.post("/predict")
    def predict():
        body, start = request.get_json(), time.perf_counter()
        maps = maps_of(messages.scenes_of(body), body.get("num_samples", 1))
        answer = [{name: messages.encode(layer) for name, layer in each.items()} for each in maps]
        return jsonify(maps=answer, seconds=time.perf_counter() - start)

    @app.post("/file/<layer>/<kind>")
    def file(layer: str, kind: str):
        body, content = request.get_json(), io.BytesIO()
        scene = messages.scenes_of(body)[0]
        maps = maps_of([scene], body.get("num_samples", 1))[0]
        if layer not in maps:
            raise DataError(f"there is no {layer} map here: place a car, or choose several samples")
        messages.write_layer(content, kind, layer, maps[layer], scene.buildings, body)
        content.seek(0)
        return send_file(content, as_attachment=True, download_name=f"radio_map_{layer}.{kind}")


def guard(app: Flask, hosts: Collection[str] | None) -> None:
    """Refuse other hosts, protect the page, and return every error as a sentence in JSON."""

    @app.before_request
    def check_host():
        if hosts is not None and urlsplit(f"//{request.host}").hostname not in hosts:
            abort(403, f"this server only accepts requests for {', '.join(sorted(hosts))}")

    @app.after_request
    def protect(response: Response):
        response.headers.update({"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"})
        return response

    @app.errorhandler(DataError)
    def refused(error: DataError):
        return jsonify(error=str(error)), 400

    @app.errorhandler(RecursionError)
    def nested(error: RecursionError):
        return jsonify(error="the request is nested too deeply"), 400

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException):
        return jsonify(error=error.description), error.code
