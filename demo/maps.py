"""The maps of what is in view, and files of them."""

import io
import threading
import time
from typing import BinaryIO

import numpy as np
from flask import Flask, abort, jsonify, request, send_file
from PIL import Image

from data import DataError
from data.conditions import simulated_gains
from data.crop import SIDE
from data.geometry.georeference import Georeference
from data.gis.geotiff import write_geotiff
from data.units import GAIN_SPAN_DB, db_to_gain, gain_to_db, gain_to_uint8
from denoising_diffusion_pytorch.predictor import Prediction, Predictor

from .messages import MAX_POINTS, decode, encode, read_place, read_scenes, rows_of, unpack, whole_number

MAX_DRAWS = 8
MAX_WAITING = 4  # requests for maps that may wait for the one that is being predicted
COLUMNS = {  # what can be saved, and the name of its values in a CSV file
    "model": "gain_db",
    "simulator": "gain_db",
    "measured": "gain_db",
    "difference": "difference_db",
    "std": "std_db",
    "car_loss": "car_loss_db",
    "best_server": "best_server",
    "coverage": "covered",
}
KINDS = ("png", "npy", "csv", "tif")


def add_maps(app: Flask, predictor: Predictor) -> None:
    """/predict and /file/<kind>."""
    one_at_a_time = threading.Lock()  # a prediction uses all cores
    places = app.extensions["places"] = threading.BoundedSemaphore(1 + MAX_WAITING)

    @app.post("/predict")
    def predict():
        body = request.get_json()
        scenes = read_scenes(body)
        if any(scene.measurements is not None for scene in scenes) and not predictor.sees_measurements:
            raise DataError("this model has no channel that shows measured points")
        if scenes[0].cars is not None and not predictor.sees_cars:
            raise DataError("this model has no channel that shows cars")
        draws = whole_number(body.get("draws", 1), "draws", 1, MAX_DRAWS)
        if not places.acquire(blocking=False):
            abort(503, f"{MAX_WAITING} others are waiting for their maps; try again in a moment")
        try:
            with one_at_a_time:
                times = [time.perf_counter()]
                simulated = [simulated_gains(scene) for scene in scenes]  # before the model, which is shown the same
                times.append(time.perf_counter())
                predictions = list(predictor.predict(scenes, num_samples=draws))
                times.append(time.perf_counter())
        finally:
            places.release()
        maps = [layers_of(*each) for each in zip(predictions, simulated, strict=True)]
        return jsonify(maps=maps, simulator_seconds=times[1] - times[0], model_seconds=times[2] - times[1])

    @app.post("/file/<kind>")
    def file(kind: str):
        body, content = request.get_json(), io.BytesIO()
        if not isinstance(body, dict) or kind not in KINDS or body.get("layer") not in COLUMNS:
            layers = ", ".join(COLUMNS)
            raise DataError(f"request one of {', '.join(KINDS)}, and send `layer` ({layers}) and its values")
        write_layer(content, kind, body)
        content.seek(0)
        return send_file(content, as_attachment=True, download_name=f"radio_map_{body['layer']}.{kind}")


def layers_of(prediction: Prediction, gains: tuple[np.ndarray, np.ndarray]) -> dict[str, str | None]:
    """The maps of a transmitter, in dB; `gains` are the simulator's without cars and with them."""
    without, gain = (gain_to_db(np.where(prediction.scene.buildings, 0, each)) for each in gains)
    return {
        "model": encode(gain_to_db(prediction.gain)),
        "simulator": encode(gain),
        "std": None if prediction.std is None else encode(prediction.std * GAIN_SPAN_DB),
        "car_loss": None if prediction.scene.cars is None else encode(without - gain),
    }


def write_layer(content: BinaryIO, kind: str, body: dict) -> None:
    """A map as PNG in RadioMapSeer's levels, or as it is in .npy, GeoTIFF and CSV, without buildings; or measured points.

    `body` holds `values` and `buildings` of what is in view and its first column and row in the city, `left` and `top`; or `points`,
    a list of [column, row, dB]; and with both the `place` of the city.
    """
    place, column = read_place(body.get("place")), COLUMNS[body["layer"]]
    if "points" in body:
        if kind != "csv":
            raise DataError("measured values are saved as CSV only")
        return write_csv(content, rows_of(body["points"], MAX_POINTS, "points"), place, column)
    values = decode(body.get("values"), "<f4", SIDE * SIDE, "values").reshape(SIDE, SIDE)
    buildings = unpack(body.get("buildings"))
    left, top = (whole_number(body.get(edge, 0), edge, -(10**9), 10**9) for edge in ("left", "top"))
    if kind == "png":
        if column != "gain_db":
            raise DataError("a PNG holds path gains; take another kind of file for this map")
        levels = gain_to_uint8(np.where(buildings, 0, db_to_gain(values)))
        return Image.fromarray(levels).save(content, "PNG")
    if kind == "npy":
        return np.save(content, values)
    if kind == "tif":
        corner = place or Georeference(0.0, 0.0, 1.0, 1.0, degrees=False)  # a picture's pixels, counted upwards
        return write_geotiff(content, values, corner.crop(top, left))
    rows, columns = np.nonzero(~buildings & ~np.isnan(values))
    points = np.column_stack([columns + left, rows + top, values[rows, columns]])
    return write_csv(content, points, place, column)


def write_csv(content: BinaryIO, points: np.ndarray, place: Georeference | None, column: str) -> None:
    """Points (N, 3) of column, row and value in the coordinates of the city's file: what `--measurements` reads."""
    x, y, values = points.T
    names, form = "x,y", "%.10g"
    if place is not None:
        x, y = place.x + x * place.dx, place.y - y * place.dy
        names, form = ("lon,lat", "%.7f") if place.degrees else (names, "%.2f")
    rows = np.column_stack([x, y, values])
    np.savetxt(content, rows, fmt=[form, form, "%.2f"], delimiter=",", header=f"{names},{column}", comments="")
