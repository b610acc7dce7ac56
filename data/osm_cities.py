"""Real cities as layouts: building footprints from the OpenStreetMap models in the `sionna-rt` package.

Only its files are read; nothing is imported from it. © OpenStreetMap contributors, Open Database License: data made
from them must carry the notice in `ATTRIBUTION`.
"""

import importlib.metadata
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .errors import DataError
from .layout import Layout
from .registration import snap

CITIES = ("munich", "florence", "etoile", "san_francisco")
ATTRIBUTION = (
    "Building footprints: (c) OpenStreetMap contributors, available under the Open Database License 1.0 "
    "(https://opendatacommons.org/licenses/odbl/1-0/), by way of the city models of the sionna-rt package. "
    "A database of maps made from them is to be shared under the same licence, with this notice.\n"
)
MIN_HEIGHT = 3.0  # m above the ground (2 % quantile of heights); lower triangles are not buildings
LARGEST_BUILDING = 400.0  # m; wider meshes are ground or water
BUILT = (0.08, 0.55)  # share of built pixels in an accepted window
TRIES = 200


def scene_folder(name: str) -> Path:
    """The folder of a city model; raises DataError if the package or the city is missing."""
    if name not in CITIES:
        raise DataError(f"--layouts: {name!r} is unknown; choose from {', '.join(CITIES)}")
    try:
        package = importlib.metadata.distribution("sionna-rt")
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(
            "--layouts needs the city models of sionna-rt: pip install -r requirements-sionna.txt"
        ) from error
    folder = Path(str(package.locate_file("sionna/rt/scenes"))) / name / "meshes"
    if not folder.is_dir():
        raise DataError(f"{folder}: this version of sionna-rt has no such city")
    return folder


@cache
def footprints(name: str) -> np.ndarray:
    """All buildings of a city, (H, W) bool, one pixel per metre, north up.

    Raises:
        DataError: the package, the city or a reader for its files is missing.
    """
    folder = scene_folder(name)
    try:
        from plyfile import PlyData
    except ImportError as error:
        raise DataError("--layouts needs plyfile: pip install -r requirements-sionna.txt") from error
    triangles = []
    for path in sorted(folder.glob("*.ply")):
        mesh = PlyData.read(path)
        points = np.stack([np.asarray(mesh["vertex"][axis], np.float64) for axis in "xyz"], axis=1)
        if len(points) == 0 or np.ptp(points[:, :2], axis=0).max() > LARGEST_BUILDING:
            continue
        faces = np.stack(mesh["face"].data["vertex_indices"])
        triangles.append(points[faces])
    every = np.concatenate(triangles)  # (N, 3, 3)
    every = every[every[..., 2].max(axis=1) >= np.quantile(every[..., 2].min(axis=1), 0.02) + MIN_HEIGHT]
    low, high = every[..., :2].min(axis=(0, 1)), every[..., :2].max(axis=(0, 1))
    width, height = (int(np.ceil(extent)) + 1 for extent in high - low)
    picture = Image.new("1", (width, height))
    draw = ImageDraw.Draw(picture)
    for corners in every[..., :2]:
        draw.polygon([(x - low[0], high[1] - y) for x, y in corners], fill=1)
    return np.array(picture, bool)


def real_city(names: tuple[str, ...], rng: np.random.Generator, size: int) -> Layout:
    """A window of one of the cities at a random place and in a random symmetry, with outlines traced from its pixels.

    Raises:
        DataError: no window of that size has enough buildings.
    """
    for _ in range(TRIES):
        whole = footprints(names[rng.integers(len(names))])
        if min(whole.shape) < size:
            continue
        row, column = (int(rng.integers(length - size + 1)) for length in whole.shape)
        window = whole[row : row + size, column : column + size]
        if BUILT[0] <= window.mean() <= BUILT[1]:
            traced = Layout.traced(window).symmetry(int(rng.integers(8)))
            # walls lie between pixels, so that all outlines move by the same half pixel
            rings = [snap(ring + 0.5) for ring in traced.outlines]
            return Layout([ring for ring in rings if len(ring) >= 3], window.shape)
    raise DataError(f"--layouts {','.join(names)}: no window of {size} m is {BUILT[0]:.0%} to {BUILT[1]:.0%} built")
