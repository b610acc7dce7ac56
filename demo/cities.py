"""The cities that the page can show: random ones, the examples, and files that people upload."""

import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
from flask import Flask, jsonify, request
from PIL import Image, UnidentifiedImageError

from data import DataError
from data.geometry.layout import Layout
from data.gis.city import LARGEST, SUFFIXES, City, city_of, read_city
from data.scene import parse_position
from data.simulator import random_cars
from data.simulator.scenes import random_scenes

from .messages import pack, placed, unpack, whole_number

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MAX_SEED = 2**31


def examples() -> dict[str, Path]:
    """The shipped cities by name."""
    return {path.name: path for path in sorted(EXAMPLES.iterdir()) if path.suffix in (".png", *SUFFIXES)}


def check_picture(content: bytes, name: str) -> None:
    """Raise DataError for a PNG that is too large, before it is unpacked."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            width, height = picture.size
    except UnidentifiedImageError:
        return  # no PNG: the reader says what it may be
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: is no PNG that can be read") from error
    if not (1 <= width <= LARGEST and 1 <= height <= LARGEST):
        raise DataError(f"{name}: is {width}x{height} px; at most {LARGEST} per side are accepted")


def whole_city(name: str, city: City) -> dict:
    """All of a city, of which the page shows a part."""
    height, width = city.layout.shape
    return {
        "buildings": pack(city.layout.inside),
        "width": width,
        "height": height,
        "place": None if city.place is None else asdict(city.place),
        "tx": [],
        "cars": [] if city.cars is None else placed(city.cars),
        "note": f"{name}: {'; '.join(city.notes)}" if city.notes else name,
        "inverted": city.seems_inverted,
    }


def add_cities(app: Flask) -> None:
    """/city, /example and /upload, which answer a whole city each, and /cars in the streets of what is in view."""

    @app.get("/city")
    def city():
        seed = whole_number(request.args.get("seed"), "seed", 0, MAX_SEED)
        scene = random_scenes(seed)[0]
        return jsonify(whole_city(f"random city {seed}", City(scene.layout, None)) | {"tx": [scene.tx]})

    @app.post("/cars")
    def cars():
        seed = whole_number(request.form.get("seed"), "seed", 0, MAX_SEED)
        layout = Layout.traced(unpack(request.form.get("buildings")))
        return jsonify(placed(random_cars(layout, np.random.default_rng(seed))))

    @app.get("/example")
    def example():
        chosen = examples().get(request.args.get("name", ""))
        if chosen is None:
            raise DataError("there is no such city")
        return jsonify(whole_city(chosen.name, read_city(chosen)))

    @app.post("/upload")
    def upload():
        file = request.files.get("file")
        if file is None:
            raise DataError("no file was sent")
        name, content = file.filename or "the file", file.read()
        check_picture(content, name)
        around = [parse_position(text) for text in (request.form.get("around"),) if text]  # of large footprints
        return jsonify(whole_city(name, city_of(content, name, around, bool(request.form.get("invert")))))
