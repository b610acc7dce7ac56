"""Shared by every command: a user's mistake ends in one line and exit code 2, never in a traceback."""

import argparse
import errno
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from data.errors import DataError

from .errors import CheckpointError, ConfigError, TrainingError

USER_ERRORS = (ConfigError, CheckpointError, TrainingError, DataError)
UNWRITABLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
}
FATAL_ERRORS = (*USER_ERRORS, OSError)  # errors that end all processes of a command


def natural(text: str, least: int = 0) -> int:
    """An argparse type: a whole number, at least `least`."""
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def positive(text: str) -> int:
    """An argparse type: a whole number, at least 1."""
    return natural(text, 1)


def finite(text: str) -> float:
    """An argparse type: a number, neither NaN nor infinite."""
    if not math.isfinite(value := float(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line.

    argparse alone would take the value in `--tx -80.0003,43.0` for another option, and refuse settings after an option.
    """
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    return parser.parse_intermixed_args()


def new_file(text: str) -> Path:
    """An argparse type: a file that can be written at the end of the work; its folder need not exist yet."""
    path = Path(text)
    above = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if path.is_dir() or not (above.is_dir() or above == path.absolute()) or not os.access(above, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} is a folder, or cannot be written there; choose another")
    return path


def new_figure(text: str, suffixes: Sequence[str] = (".png", ".pdf", ".svg", ".jpg")) -> Path:
    """`new_file` with the suffix of a picture format."""
    if Path(text).suffix.lower() not in suffixes:
        raise argparse.ArgumentTypeError(f"{text} is not a picture; end its name with {' or '.join(suffixes)}")
    return new_file(text)


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its code (None: 0), 2 after a user's mistake, 130 after Ctrl-C."""
    try:
        sys.exit(main() or 0)
    except USER_ERRORS as error:
        # an error from a data loading worker carries the worker's traceback before its one line
        message = str(error).splitlines()[-1].removeprefix("data.errors.DataError: ")
    except OSError as error:
        message = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        if error.errno in UNWRITABLE:
            message += "; check permissions and free space, or choose another folder"
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which not every command imports
            raise
        remedy = "use smaller batches: trainer.batch_size with more gradient_accumulation, sample.batch_size, or --batch_size"
        message = f"out of GPU memory; {remedy} ({' '.join(str(error).split())})"
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
