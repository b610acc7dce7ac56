"""Files that are whole or not there, and JSON that every reader accepts."""

import json

import numpy as np
import pytest

from data.files import write_atomically, write_json


def test_a_file_is_whole_or_as_it_was(tmp_path):
    def interrupted(aside):
        aside.write_text("half")
        raise KeyboardInterrupt

    path = tmp_path / "new" / "a.json"
    write_json(path, {"nmse": float("nan"), "levels": [np.float32(0.5), float("inf"), (1, "x")], "count": np.int64(3)})
    before = path.read_text()
    assert json.loads(before) == {"nmse": None, "levels": [0.5, None, [1, "x"]], "count": 3} and "NaN" not in before
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == before and [p.name for p in path.parent.iterdir()] == ["a.json"]
