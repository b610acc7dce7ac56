"""The web page that predicts while you draw: the server behind it.

The server keeps no state: every request carries its whole city, so that several people can use it at once.
"""

import base64
import contextlib
import io
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from flask import Flask, Response, abort, jsonify, request, send_file
from matplotlib import colormaps
from PIL import Image, UnidentifiedImageError
from werkzeug.exceptions import HTTPException

from data import DataError, Scene
from data.conditions import simulated_gain
from data.crop import SIDE, Window, window
from data.geometry.layout import Layout
from data.gis.geojson import SUFFIXES, read_geojson
from data.gis.geotiff import Georeference, write_geotiff
from data.measurements import check_measurements
from data.scene import read_grey, scene_at
from data.simulator.scenes import random_scenes
from data.units import GAIN_MAX_DB, GAIN_MIN_DB, GAIN_SPAN_DB, db_to_gain, gain_to_db, gain_to_uint8
from denoising_diffusion_pytorch.predictor import Predictor

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("page.html")
CITIES = ROOT / "examples"
MAX_UPLOAD = 4 * 2**20  # bytes
MAX_SIDE = 4096  # px of an uploaded picture
MAX_TRANSMITTERS = 8
MAX_DRAWS = 8
MAX_POINTS = 2000
MAX_SEED = 2**31
MAX_WAITING = 4  # requests for maps that may wait for the one that is being predicted
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@contextlib.contextmanager
def releasing(places: threading.Semaphore) -> Iterator[None]:
    """Give an acquired place back at the end."""
    try:
        yield
    finally:
        places.release()


def encode(array: np.ndarray) -> str:
    """Little-endian bytes in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def decode(text: object, dtype: str, count: int, what: str) -> np.ndarray:
    """The inverse of `encode`; raises DataError for anything but `count` numbers."""
    try:
        array = np.frombuffer(base64.b64decode(str(text), validate=True), dtype)
    except ValueError as error:
        raise DataError(f"{what}: is not base64 of {dtype} numbers") from error
    if array.size != count:
        raise DataError(f"{what}: holds {array.size} numbers, not {count}")
    return array


def pack(buildings: np.ndarray) -> str:
    """(256, 256) bool as bits, row by row."""
    return encode(np.packbits(buildings))


def unpack(text: object) -> np.ndarray:
    """The inverse of `pack`."""
    return np.unpackbits(decode(text, "u1", SIDE * SIDE // 8, "buildings")).astype(bool).reshape(SIDE, SIDE)


def centre_of(name: str, layout: Layout) -> tuple[Window, str]:
    """The central 256 m x 256 m of a city of any size, and a note on what was done."""
    height, width = layout.shape
    view = window(Scene(name, layout, ((width - 1) / 2, (height - 1) / 2)))
    return view, view.note.replace("around the transmitter", "in its middle")


def read_upload(content: bytes, name: str) -> tuple[Layout, Georeference | None]:
    """The city of an uploaded PNG or GeoJSON file, and where it lies; raises DataError for anything else, before it is unpacked."""
    if Path(name).suffix.lower() in SUFFIXES:
        return read_geojson(content, name)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            width, height = picture.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: is no PNG") from error
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise DataError(f"{name}: is {width}x{height} px; at most {MAX_SIDE} per side are accepted")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload.png"
        path.write_bytes(content)
        try:
            return Layout.traced(read_grey(path) > 0), None
        except DataError as error:
            raise DataError(str(error).replace(str(path), name)) from error


def whole_number(value: object, what: str, low: int, high: int) -> int:
    """A number from a request; raises DataError."""
    try:
        number = int(str(value))
    except ValueError as error:
        raise DataError(f"{what}: {value!r:.40} is not a whole number") from error
    if not low <= number <= high:
        raise DataError(f"{what}: {number} is not within {low} .. {high}")
    return number


def read_points(points: object, shape: tuple[int, int]) -> np.ndarray:
    """Measured points of a request, a list of [x, y, dB]; raises DataError."""
    if not isinstance(points, list) or len(points) > MAX_POINTS:
        raise DataError(f"points: must be a list of at most {MAX_POINTS} [x, y, dB]")
    return check_measurements([("points", point) for point in points], shape)


def read_place(place: object) -> Georeference:
    """Where a request's map lies, as `/upload` answered it; metres from its first pixel for none; raises DataError."""
    if place is None:
        return Georeference(0.0, 0.0, 1.0, 1.0, degrees=False)
    try:
        x, y, dx, dy = (float(place[key]) for key in ("x", "y", "dx", "dy"))  # type: ignore[index]
        degrees = bool(place["degrees"])  # type: ignore[index]
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise DataError("place: must be what /upload answered") from error
    if not (np.isfinite([x, y, dx, dy]).all() and dx > 0 and dy > 0):
        raise DataError("place: holds numbers that are not finite or not positive")
    return Georeference(x, y, dx, dy, degrees)


def read_scenes(body: object) -> list[Scene]:
    """City and transmitters of a request; raises DataError."""
    if not isinstance(body, dict) or not isinstance(body.get("tx"), list):
        raise DataError("a request needs `buildings` and `tx`")
    if not 1 <= len(body["tx"]) <= MAX_TRANSMITTERS:
        raise DataError(f"place 1 to {MAX_TRANSMITTERS} transmitters, not {len(body['tx'])}")
    layout = Layout.traced(unpack(body.get("buildings")))
    try:
        positions = [f"{float(x)},{float(y)}" for x, y in body["tx"]]
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("tx: must be a list of [x, y]") from error
    scenes = [scene_at("city", layout, position) for position in positions]
    points = body.get("points") or []
    if points:
        if len(scenes) > 1:
            raise DataError("measured values belong to one transmitter; remove the others")
        scenes[0].measurements = read_points(points, layout.shape)
    return scenes


def create_app(predictor: Predictor, hosts: Collection[str] | None = LOCAL_HOSTS) -> Flask:
    """The page and the requests that it makes.

    Args:
        predictor: of a latent diffusion.
        hosts: names by which the server may be addressed, so that no other web page can reach it through a name of its
            own (DNS rebinding); None for any.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_UPLOAD
    one_at_a_time = threading.Lock()  # a prediction uses all cores
    places = app.extensions["places"] = threading.BoundedSemaphore(1 + MAX_WAITING)

    @app.before_request
    def check_host():
        if hosts is not None and urlsplit(f"//{request.host}").hostname not in hosts:
            abort(403, f"this server answers to {', '.join(sorted(hosts))} only")

    @app.after_request
    def protect(response: Response):
        response.headers["Content-Security-Policy"] = (
            "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.errorhandler(DataError)
    def refused(error: DataError):
        return jsonify(error=str(error)), 400

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException):
        text = f"larger than {MAX_UPLOAD // 2**20} MiB" if error.code == 413 else error.description
        return jsonify(error=text), error.code

    @app.errorhandler(RecursionError)
    def too_deep(error: RecursionError):
        return jsonify(error="the request is nested too deeply"), 400

    @app.get("/")
    def page():
        return Response(PAGE.read_text(encoding="utf-8"), mimetype="text/html")

    @app.get("/settings")
    def settings():
        colours = {
            name: (colormaps[name](np.arange(256))[:, :3] * 255).round().astype(int).tolist()
            for name in ("viridis", "RdBu_r", "magma")
        }
        return jsonify(
            colours=colours,
            side=SIDE,
            limits=[GAIN_MIN_DB, GAIN_MAX_DB],
            cities=sorted(path.stem for path in CITIES.glob("*.png")),
            max_transmitters=MAX_TRANSMITTERS,
            measurements=predictor.sees_measurements,
            model=f"{predictor.checkpoint.path.name}, step {predictor.checkpoint.step:,}",
        )

    @app.get("/city")
    def city():
        scene = random_scenes(whole_number(request.args.get("seed"), "seed", 0, MAX_SEED))[0]
        return jsonify(buildings=pack(scene.buildings), tx=[scene.tx], note=scene.name)

    @app.get("/example")
    def example():
        chosen = {path.stem: path for path in CITIES.glob("*.png")}.get(request.args.get("name"))
        if chosen is None:
            raise DataError("there is no such city")
        view, note = centre_of(chosen.stem, Layout.traced(read_grey(chosen) > 0))
        return jsonify(buildings=pack(view.scene.buildings), tx=[], note=note or chosen.stem)

    @app.post("/upload")
    def upload():
        file = request.files.get("file")
        if file is None:
            raise DataError("no file was sent")
        name = file.filename or "the file"
        layout, place = read_upload(file.read(), name)
        view, note = centre_of(name, layout)
        where = None if place is None else asdict(place.window(view.row, view.column))
        note = f"{name}: {note or 'as it is'}"
        return jsonify(buildings=pack(view.scene.buildings), tx=[], note=note, place=where)

    @app.post("/predict")
    def predict():
        body = request.get_json()
        scenes = read_scenes(body)
        if scenes[0].measurements is not None and not predictor.sees_measurements:
            raise DataError("this model has no channel that shows measured points")
        draws = whole_number(body.get("draws", 1), "draws", 1, MAX_DRAWS)
        if not places.acquire(blocking=False):
            abort(503, f"{MAX_WAITING} others are waiting for their maps; try again in a moment")
        with releasing(places), one_at_a_time:
            started = time.perf_counter()
            predictions = list(predictor.predict(scenes, num_samples=draws))
            model_seconds = time.perf_counter() - started
            started = time.perf_counter()
            simulated = [np.where(scene.buildings, 0, simulated_gain(scene)) for scene in scenes]
            simulator_seconds = time.perf_counter() - started
        maps = [
            {
                "tx": prediction.scene.tx,
                "model": encode(gain_to_db(prediction.gain).astype("<f4")),
                "simulator": encode(gain_to_db(gain).astype("<f4")),
                "std": None if prediction.std is None else encode((prediction.std * GAIN_SPAN_DB).astype("<f4")),
            }
            for prediction, gain in zip(predictions, simulated, strict=True)
        ]
        return jsonify(maps=maps, model_seconds=model_seconds, simulator_seconds=simulator_seconds)

    @app.post("/file/<kind>")
    def file(kind: str):
        """The displayed map: PNG in RadioMapSeer's levels, dB in .npy and GeoTIFF, or CSV of x, y, dB without buildings."""
        body = request.get_json()
        if not isinstance(body, dict) or kind not in ("png", "npy", "csv", "tif"):
            raise DataError("request png, npy, csv or tif, and send `values` and `buildings`")
        values = decode(body.get("values"), "<f4", SIDE * SIDE, "values").reshape(SIDE, SIDE)
        buildings = unpack(body.get("buildings"))
        content = io.BytesIO()
        if kind == "png":
            Image.fromarray(gain_to_uint8(np.where(buildings, 0, db_to_gain(values)))).save(content, "PNG")
        elif kind == "npy":
            np.save(content, values)
        elif kind == "tif":
            write_geotiff(content, values, read_place(body.get("place")))
        else:
            rows, columns = np.nonzero(~buildings)
            table = np.column_stack([columns, rows, values[rows, columns]])
            np.savetxt(content, table, fmt=["%d", "%d", "%.2f"], delimiter=",", header="x,y,path_gain_db", comments="")
        content.seek(0)
        return send_file(content, as_attachment=True, download_name=f"radio_map.{kind}")

    return app
