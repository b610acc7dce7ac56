"""Grey pictures."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DataError
from ..files import read_bytes, write_atomically


def read_grey(path: Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """`decode_grey` of a file, which must have this shape, that of its gain map; a DataError names it otherwise."""
    pixels = decode_grey(read_bytes(path), path)
    if shape is not None and pixels.shape != shape:
        raise DataError(f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} px instead of {shape[1]}x{shape[0]}")
    return pixels


def read_map(path: Path) -> np.ndarray:
    """The grey levels (H, H) float32 in [0, 1] of a gain map, which must be square, and grey."""
    pixels = decode_grey(read_bytes(path), path, colours=False)
    if pixels.shape[0] != pixels.shape[1]:
        raise DataError(f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} px; maps must be square, cut or pad them")
    return (pixels / 255).astype(np.float32)


def write_grey(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) uint8 as a PNG, whole or not at all."""
    write_atomically(path, lambda file: Image.fromarray(pixels).save(file, "PNG"))


def decode_grey(content: bytes, path: Path | str, colours: bool = True) -> np.ndarray:
    """An 8-bit PNG as (H, W) uint8; a DataError names one that is damaged, transparent or of another depth. `colours` become
    grey, or are errors.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as file:  # readers of other formats may start programs
            file.verify()  # the checksums, which reading the pixels leaves out
        with Image.open(io.BytesIO(content), formats=("PNG",)) as file:
            picture: Image.Image = file
            if "A" in picture.mode or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                if picture.getchannel("A").getextrema() != (255, 255):
                    raise ValueError("partly transparent; save it without transparency, buildings white on black")
            if picture.mode in ("1", "P", "RGB", "RGBA", "LA"):
                red, green, blue = picture.convert("RGB").split()
                if not colours and not red.tobytes() == green.tobytes() == blue.tobytes():
                    raise ValueError(
                        "in colours; a map's grey levels are its path gain, 0 to 255 for -147 to -47.84 dB"
                    )
                picture = picture.convert("L")
            if picture.mode != "L":
                raise ValueError(f"of mode {picture.mode}; an 8-bit grey PNG is needed")
            return np.array(picture)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: is not a PNG; convert it to one (a JPEG blurs the walls)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a usable picture ({error}); download or make it again") from error
