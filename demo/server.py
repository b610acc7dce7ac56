"""The server of the web page.

It keeps no state: the page holds the whole city and sends what is in view, so that several people can use it at once.
"""

from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from flask import Flask, Response, abort, jsonify, request
from matplotlib import colormaps
from werkzeug.exceptions import HTTPException

from data import DataError
from data.crop import SIDE
from data.gis.city import LARGEST, MOST_VERTICES, SUFFIXES
from data.units import COVERAGE_DB, GAIN_MAX_DB, GAIN_MIN_DB, GAIN_SPAN_DB
from denoising_diffusion_pytorch.predictor import Predictor

from .cities import add_cities, examples
from .maps import add_maps
from .messages import MAX_CARS, MAX_POINTS, MAX_TRANSMITTERS, car_shapes

HERE = Path(__file__).parent
MAX_UPLOAD = 8 * 2**20  # bytes
EIRP_DBM = 23.0  # RadioMapSeer's
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def create_app(predictor: Predictor, hosts: Collection[str] | None = LOCAL_HOSTS) -> Flask:
    """The page and the requests that it makes.

    Args:
        predictor: of a latent diffusion.
        hosts: names by which the server may be addressed, so that no other web page can reach it through a name of its
            own (DNS rebinding); None for any.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_UPLOAD
    guard(app, hosts)
    add_cities(app)
    add_maps(app, predictor)

    @app.get("/")
    def page():
        return Response((HERE / "page.html").read_text(encoding="utf-8"), mimetype="text/html")

    @app.get("/page.js")
    def script():
        return Response((HERE / "page.js").read_text(encoding="utf-8"), mimetype="text/javascript")

    @app.get("/settings")
    def settings():
        colours = {
            name: (colormaps[name](np.arange(colormaps[name].N))[:, :3] * 255).round().astype(int).tolist()
            for name in ("viridis", "RdBu_r", "magma", "OrRd", "tab10")
        }
        return jsonify(
            colours=colours,
            side=SIDE,
            limits=[GAIN_MIN_DB, GAIN_MAX_DB],
            measurable=[GAIN_MIN_DB - GAIN_SPAN_DB, GAIN_MAX_DB],
            threshold=COVERAGE_DB,
            eirp=EIRP_DBM,
            cities=list(examples()),
            suffixes=SUFFIXES,
            max_upload=MAX_UPLOAD,
            max_side=LARGEST,
            max_vertices=MOST_VERTICES,
            max_transmitters=MAX_TRANSMITTERS,
            max_points=MAX_POINTS,
            max_cars=MAX_CARS,
            cars=car_shapes() if predictor.sees_cars else None,
            measurements=predictor.sees_measurements,
            model=f"{predictor.checkpoint.path.name}, step {predictor.checkpoint.step:,}",
        )

    return app


def guard(app: Flask, hosts: Collection[str] | None) -> None:
    """Refuse other hosts, protect the page, and answer every error as a sentence in JSON."""

    @app.before_request
    def check_host():
        if hosts is not None and urlsplit(f"//{request.host}").hostname not in hosts:
            abort(403, f"this server answers to {', '.join(sorted(hosts))} only")

    @app.after_request
    def protect(response: Response):
        response.headers["Content-Security-Policy"] = (
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.errorhandler(DataError)
    def refused(error: DataError):
        return jsonify(error=str(error)), 400

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException):
        too_large = f"the file or the request is larger than {MAX_UPLOAD // 2**20} MiB"
        return jsonify(error=too_large if error.code == 413 else error.description), error.code

    @app.errorhandler(RecursionError)
    def too_deep(error: RecursionError):
        return jsonify(error="the request is nested too deeply"), 400
