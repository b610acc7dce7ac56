"""Grey pictures, and what they show."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DataError
from ..files import read_bytes


def read_grey(path: Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """`decode_grey` of a file, which must have this shape, that of its gain map; a DataError names it otherwise."""
    pixels = decode_grey(read_bytes(path), path)
    if shape is not None and pixels.shape != shape:
        raise DataError(f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} px, its map {shape[1]}x{shape[0]}")
    return pixels


def read_map(path: Path) -> np.ndarray:
    """`read_grey` of a gain map, which must be square."""
    pixels = read_grey(path)
    if pixels.shape[0] != pixels.shape[1]:
        raise DataError(f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} px; maps must be square, cut or pad them")
    return pixels


def decode_grey(content: bytes, path: Path | str) -> np.ndarray:
    """The content of an 8-bit PNG as (H, W) uint8 (colour pictures are converted to grey).

    Raises:
        DataError: names a file that is damaged, transparent, animated or not 8 bits per channel.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as file:  # readers of other formats may start programs
            file.verify()  # the checksums, which reading the pixels leaves out
        with Image.open(io.BytesIO(content), formats=("PNG",)) as file:
            picture: Image.Image = file
            frames = getattr(file, "n_frames", 1)
            if frames > 1:
                raise DataError(f"{path}: is animated; save one of its {frames} frames as a PNG")
            if "A" in picture.mode or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                if picture.getchannel("A").getextrema() != (255, 255):
                    remedy = "save it without transparency, buildings white on black"
                    raise DataError(f"{path}: is partly transparent; {remedy}")
            if picture.mode in ("1", "P", "RGB", "RGBA", "LA"):
                picture = picture.convert("L")
            if picture.mode != "L":
                raise DataError(f"{path}: has mode {picture.mode}; an 8-bit grey PNG is needed")
            return np.array(picture)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: is no PNG; convert it to one (a JPEG blurs the walls)") from error
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable picture ({error}); download or make it again") from error


def transmitter_position(antenna: np.ndarray, path: Path) -> tuple[float, float]:
    """(x, y) of the brightest pixel of an antenna picture; the centre if several are equally bright.

    Raises:
        DataError: the picture is black.
    """
    brightest = antenna.max(initial=0)
    if brightest == 0:
        raise DataError(f"{path}: shows no transmitter (all pixels are black)")
    rows, columns = np.nonzero(antenna == brightest)
    return float(columns.mean()), float(rows.mean())
