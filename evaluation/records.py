"""What was found out about maps, in files that grow map by map: an interrupted command continues from them."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.files import lock

COLUMNS = (  # of a CSV
    *("predictor", "name", "nmse", "rmse", "ssim", "psnr", "detail"),
    *("rmse_db", "nmse_los", "nmse_nlos", "nmse_near", "nmse_far"),
)


class Records:
    """Lines of JSON: the settings, then one record per map. A line that was cut in half is dropped.

    Args:
        path: of the file; None: nothing is kept.
        settings: that the records depend on, in JSON types.

    Attributes:
        known: numbers of the maps that have one.

    Raises:
        DataError: the file holds records of other settings, or something else, or another process writes it.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]):
        self.known: set[int] = set()
        self._file: Any = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        head = _line({"settings": settings})
        self._file = path.open("a+b")
        try:
            lock(self._file)
        except BlockingIOError as error:
            raise DataError(
                f"{path}: another process is writing it; wait for its end, or name another place"
            ) from error
        self._file.seek(0)
        content = self._file.read()
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
            self.known = {record["number"] for record in lines}
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}: does not hold scores as this command keeps them; name another place") from error
        for key in settings | theirs:
            if json.dumps(settings.get(key)) != json.dumps(theirs.get(key)):
                said = f"was written with {key} {theirs.get(key)}, not {settings.get(key)}"
                raise DataError(f"{path}: {said}; name another place, or delete it to start again")

    def add(self, number: int, record: dict[str, Any]) -> None:
        """Keep a map's record."""
        self.known.add(number)
        self._write(_line({"number": number} | record))

    def earlier(self) -> Iterator[dict[str, Any]]:
        """The records that the file held when it was opened or that were added since, in the order of the file."""
        if self._file is not None:  # to close another handle of it would end the lock
            self._file.seek(0)
            next(self._file)
            yield from map(json.loads, self._file)

    def _write(self, line: bytes) -> None:
        if self._file:
            self._file.write(line)
            self._file.flush()


class GrowingCsv:
    """One line per map and predictor, for spreadsheets.

    Args:
        path: None: no file.
        records: that are in it, or shall be.

    Raises:
        DataError: the file holds something else.
    """

    def __init__(self, path: Path | None, records: Iterable[Mapping[str, Any]]):
        self._file = None
        if path is None:
            return
        expected = b"".join([_csv([dict(zip(COLUMNS, COLUMNS, strict=True))]), *map(_rows, records)])
        content = path.read_bytes() if path.exists() else b""
        if not expected.startswith(content):
            raise DataError(f"{path}: holds something else than its records say; name another file, or move it away")
        self._file = path.open("ab")
        self._write(expected[len(content) :])

    def add(self, record: Mapping[str, Any]) -> None:
        """A map's record; see `evaluation.scoring.record_of`."""
        self._write(_rows(record))

    def _write(self, lines: bytes) -> None:
        if self._file:
            self._file.write(lines)
            self._file.flush()


def _line(content: Any) -> bytes:
    return (json.dumps(content) + "\n").encode()  # NaN as Python's reader takes it


def _rows(record: Mapping[str, Any]) -> bytes:
    return _csv([{"predictor": name} | scores["row"] for name, scores in record["scores"].items()])


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    for row in rows:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    return text.getvalue().encode()
