"""Results per map, in a file that grows map by map, so that an interrupted command can continue from it."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.files import lock

COLUMNS = ("predictor", "name", "nmse", "rmse", "ssim", "psnr", "rmse_db", "nmse_los", "nmse_nlos")  # of a CSV


class Records:
    """Lines of JSON: the settings, then one record per map. A line that was cut in half is dropped.

    `known` are the records by number of the map. `settings`, in JSON types, is all that they depend on; without a `path`
    nothing is written. Raises DataError if the file holds something else, or another process writes it.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]):
        self.known: dict[int, dict[str, Any]] = {}
        self._file: Any = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        if not lock(self._file):
            raise DataError(f"{path}: another process is writing it; wait for its end, or choose another file")
        self._file.seek(0)
        content, head = self._file.read(), _line({"settings": settings})
        whole = content[: content.rfind(b"\n") + 1]
        if whole or not head.startswith(content):
            self._read(path, whole, json.loads(head)["settings"])
        self._file.truncate(len(whole))
        if not whole:
            self._write(head)

    def _read(self, path: Path, content: bytes, settings: dict[str, Any]) -> None:
        try:
            lines = map(json.loads, content.splitlines())
            theirs = next(lines, None)["settings"]
            self.known = {int(record.pop("number")): record for record in lines}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path}: does not hold scores as this command keeps them; choose another file") from error
        for key in settings | theirs:
            if json.dumps(settings.get(key)) != json.dumps(theirs.get(key)):
                message = f"was written with {key} {theirs.get(key)}, not {settings.get(key)}"
                remedy = "choose another file or folder, or delete what was written to start again"
                raise DataError(f"{path}: {message}; {remedy}")

    def add(self, number: int, record: dict[str, Any]) -> None:
        """Keep a map's record."""
        self.known[number] = record
        self._write(_line({"number": number} | record))

    def _write(self, line: bytes) -> None:
        if self._file:
            self._file.write(line)
            self._file.flush()


def _line(content: Any) -> bytes:
    return (json.dumps(content) + "\n").encode()  # NaN as Python's reader takes it


def csv_of(records: Iterable[Mapping[str, Any]]) -> str:
    """A table for spreadsheets, one line per map and predictor; records as of `evaluation.scoring.Evaluation`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in records:
        for name, row in record.items():
            if row is not None:
                known = {key: "" if isinstance(v, float) and math.isnan(v) else v for key, v in row.items()}
                writer.writerow(known | {"predictor": name})
    return text.getvalue()
