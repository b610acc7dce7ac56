"""The cities that the page can show: random ones, the examples, and files that people upload."""

import io
import re
import tempfile
from dataclasses import asdict
from pathlib import Path

from flask import Flask, jsonify, request
from PIL import Image, UnidentifiedImageError

from data import DataError
from data.geojson import SUFFIXES, read_city
from data.geotiff import Georeference
from data.layout import Layout
from data.simulated import random_scenes

from .messages import pack, whole_number

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MAX_SIDE = 4096  # px and m of an uploaded city
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
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise DataError(f"{name}: is {width}x{height} px; at most {MAX_SIDE} per side are accepted")


def read_upload(content: bytes, name: str) -> tuple[Layout, Georeference | None]:
    """The city of an uploaded PNG or GeoJSON file, and where it lies; raises DataError for anything else."""
    check_picture(content, name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("upload" + re.sub(r"[^.\w]", "", Path(name).suffix.lower())[:12])
        path.write_bytes(content)
        try:
            layout, place = read_city(path)
        except DataError as error:
            raise DataError(str(error).replace(str(path), name)) from error
    if max(layout.shape) > MAX_SIDE:
        raise DataError(f"{name}: spans {layout.shape[1]} m x {layout.shape[0]} m; at most {MAX_SIDE} m per side")
    return layout, place


def whole_city(name: str, layout: Layout, place: Georeference | None) -> dict:
    """All of a city, of which the page shows a part.

    `inverted`: a picture that is mostly built, as when buildings are black on white.
    """
    height, width = layout.shape
    built = float(layout.inside.mean())
    return {
        "buildings": pack(layout.inside),
        "width": width,
        "height": height,
        "place": None if place is None else asdict(place),
        "tx": [],
        "note": f"{name}: {width} m × {height} m, {built:.0%} built",
        "inverted": place is None and built > 0.5,
    }


def add_cities(app: Flask) -> None:
    """/city, /example and /upload: each answers a whole city."""

    @app.get("/city")
    def city():
        scene = random_scenes(whole_number(request.args.get("seed"), "seed", 0, MAX_SEED))[0]
        return jsonify(whole_city(scene.name, scene.layout, None) | {"tx": [scene.tx], "inverted": False})

    @app.get("/example")
    def example():
        chosen = examples().get(request.args.get("name", ""))
        if chosen is None:
            raise DataError("there is no such city")
        return jsonify(whole_city(chosen.name, *read_city(chosen)))

    @app.post("/upload")
    def upload():
        file = request.files.get("file")
        if file is None:
            raise DataError("no file was sent")
        name = file.filename or "the file"
        return jsonify(whole_city(name, *read_upload(file.read(), name)))
