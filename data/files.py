"""Reading and writing small files: whole or not at all, and JSON that every reader accepts."""

import io
import json
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO

from pydantic_core import to_json

from .errors import DataError

try:
    import fcntl
except ImportError:  # Windows: two processes that write one file go unnoticed there
    fcntl = None

log = logging.getLogger("radiodiff")


def lock(file: IO[Any]) -> bool:
    """Lock an open file for this process until it ends or closes the file; False if another process holds it. Children do
    not inherit it. A file system without locks gives a warning.
    """
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("%s: the file system has no locks (%s); use this folder for one run at a time", file.name, error)
    return True


def decoded(content: bytes) -> str:
    """The text in UTF-8 or UTF-16, with or without a byte order mark; anything else is read as Windows' Latin."""
    try:
        return content.decode(json.detect_encoding(content)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def write_atomically(path: Path, save: Callable[[BinaryIO], object]) -> None:
    """Call `save` with a file in memory and store its content: `path` is never incomplete, even after a crash or on a full disk.
    numpy and Pillow do not always notice that the last block of a file is missing.
    """
    save(content := io.BytesIO())
    path = Path(os.path.realpath(path))  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")  # process ids repeat on other machines
    try:
        with aside.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say which file it is
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text atomically; the folder is made."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON atomically; NaN and infinities, which JSON does not have, become null."""
    text = to_json(content, indent=indent, inf_nan_mode="null", fallback=lambda number: number.item())  # numpy's
    write_text(path, text.decode() + "\n")


def read_bytes(path: Path) -> bytes:
    """The content of a file; raises DataError that names it if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {str(error.strerror).lower()}") from error


def read_json(path: Path) -> Any:
    """The content of a file; raises DataError that names it if it is missing or not JSON."""
    content = read_bytes(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable JSON ({error}); download or make it again") from error
