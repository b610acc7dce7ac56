"""The commands that simulate: a whole data set, and one given city."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from data import RadioMapSeer
from tests.commands import script

ROOT = Path(__file__).resolve().parents[1]
COMMON = ("--tx", 2, "--seed", 5, "--size", 64)


def command(name, *arguments):
    """Run a command as a user does."""
    line = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def refused(done, message):
    """A mistake of the user's: one line on stderr, exit code 2."""
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    return True


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.suffix in (".png", ".json")}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three cities of two transmitters, made by one process."""
    root = tmp_path_factory.mktemp("made") / "tree"
    done = command("make_dataset.py", "--out", root, "--maps", 3, "--workers", 1, *COMMON)
    assert done.returncode == 0, done.stderr
    return root


def test_the_tree_is_radiomapseer_s(tree):
    names = {str(path) for path in files(tree)}
    scenes = [f"{m}_{t}" for m in range(3) for t in range(2)]
    expected = {f"{folder}/{scene}.png" for folder in ("gain/DPM", "png/antennas") for scene in scenes}
    expected |= {f"png/buildings_complete/{m}.png" for m in range(3)} | {f"antenna/{m}.json" for m in range(3)}
    expected |= {f"polygon/buildings_complete/{m}.json" for m in range(3)}
    assert names == expected | {"dataset.json"}
    for name in expected:
        if name.endswith(".png"):
            with Image.open(tree / name) as picture:
                assert picture.mode == "L" and picture.size == (64, 64)
    buildings = np.array(Image.open(tree / "png/buildings_complete/1.png"))
    assert set(np.unique(buildings)) == {0, 255}
    for tx, (x, y) in enumerate(json.loads((tree / "antenna/1.json").read_text())):
        y = 63 - y  # upwards in the list
        antenna = np.array(Image.open(tree / f"png/antennas/1_{tx}.png"))
        gain = np.array(Image.open(tree / f"gain/DPM/1_{tx}.png"))
        assert antenna[y, x] == 255 and antenna.sum() == 255
        assert gain[y, x] == 255 and (gain[ndimage.binary_erosion(buildings)] == 0).all()
    scene = RadioMapSeer(tree).scene(0)
    assert scene.truth == "simulated"
    assert scene.gain.shape == (64, 64) and (scene.gain[scene.buildings] == 0).all()


def test_new_transmitters_in_the_layouts_of_a_tree(tree, tmp_path):
    made = tmp_path / "more"
    how = ("--layouts", tree, "--split", "all", "--size", 64, "--tx", 1, "--workers", 1)
    done = script("make_dataset.py", "--out", made, "--maps", 4, "--seed", 9, *how)
    assert done.returncode == 0, done.stderr
    old, new = RadioMapSeer(tree), RadioMapSeer(made)
    for number, source in enumerate((0, 2, 4, 0)):  # the fourth city has the first one's layout again
        assert np.array_equal(new.scene(number).buildings, old.scene(source).buildings)
    assert new.scene(0).tx != new.scene(3).tx
    assert refused(script("make_dataset.py", "--out", made, "--maps", 4, "--seed", 9, *how[:2], *how[4:]), "split")
    wrong = script("make_dataset.py", "--out", tmp_path / "c", "--maps", 1, "--layouts", tree, "--tx", 1)
    assert refused(wrong, "maps of 256 px are wanted; the layouts of")


def test_resumed_extended_and_parallel_runs_make_the_same_files(tree, tmp_path):
    root = tmp_path / "b"
    assert script("make_dataset.py", "--out", root, "--maps", 1, "--workers", 2, *COMMON).returncode == 0
    lost = root / "gain" / "DPM" / "0_1.png"
    kept = root / "gain" / "DPM" / "0_0.png"
    lost.unlink()
    before = kept.stat().st_mtime_ns
    assert script("make_dataset.py", "--out", root, "--maps", 3, "--workers", 2, *COMMON).returncode == 0
    assert files(root) == files(tree) and kept.stat().st_mtime_ns == before
    again = script("make_dataset.py", "--out", root, "--maps", 2, "--workers", 1, *COMMON)
    assert again.returncode == 0 and " 0 of them new" in again.stdout
    assert json.loads((root / "dataset.json").read_text())["settings"]["maps"] == 3
    assert files(root) == files(tree)


def test_other_settings_and_other_people_s_folders_are_refused(tree, tmp_path):
    before = files(tree)
    assert refused(
        script("make_dataset.py", "--out", tree, "--maps", 3, "--tx", 2, "--seed", 6, "--size", 64), "seed=5"
    )
    assert files(tree) == before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    assert refused(script("make_dataset.py", "--out", mine, "--maps", 1, *COMMON), "is not a simulated tree")
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]
    old = tmp_path / "old"
    old.mkdir()
    manifest = json.loads((tree / "dataset.json").read_text())
    (old / "dataset.json").write_text(json.dumps({"settings": manifest["settings"] | {"version": 0}}))
    assert refused(script("make_dataset.py", "--out", old, "--maps", 1, *COMMON), "version 0")
    traced = manifest["settings"] | {"engine": "rays"}  # of an earlier version, which had several
    (old / "dataset.json").write_text(json.dumps({"settings": traced}))
    assert refused(script("make_dataset.py", "--out", old, "--maps", 1, *COMMON), "engine=rays")
    (old / "dataset.json").write_text("[]")
    assert refused(script("make_dataset.py", "--out", old, "--maps", 1, *COMMON), "dataset.json")


@pytest.mark.parametrize(("name", "value"), [("size", 100), ("size", 48), ("maps", 0), ("tx", 0), ("workers", 0)])
def test_arguments_are_checked(tmp_path, name, value):
    given = {"maps": 1, "tx": 1, "seed": 0, "size": 64, "workers": 1} | {name: value}
    options = [part for key, number in given.items() for part in (f"--{key}", number)]
    assert refused(script("make_dataset.py", "--out", tmp_path / "c", *options), f"--{name}")
    assert not (tmp_path / "c").exists()


def test_simulate_one_city(tmp_path):
    city, out = tmp_path / "city.png", tmp_path / "map.png"
    pixels = np.zeros((48, 64), np.uint8)
    pixels[24:40, 28:36] = 1  # any value but zero is a building
    pixels[5, 25] = 1
    Image.fromarray(pixels).save(city)
    done = command("simulate.py", "--buildings", city, "--tx", "10,12", "--out", out)
    assert done.returncode == 0, done.stderr
    levels = np.array(Image.open(out))
    assert levels.shape == (48, 64) and levels[12, 10] == 255 and (levels[pixels > 0] == 0).all()
    assert levels[12, 40] == round(255 * (1 - 25 * np.log10(30) / 99.16))
    for arguments, message in (
        (("--buildings", city, "--tx", "10,12", "--out", out), "--force"),
        (("--buildings", city, "--tx", "30,30", "--out", tmp_path / "x.png"), "inside a building"),
        (
            ("--buildings", city, "--tx", "24.5,5", "--out", tmp_path / "x.png"),
            "inside a building",
        ),  # halves round up
        (("--buildings", city, "--tx", "99,9", "--out", tmp_path / "x.png"), "outside"),
        (("--buildings", city, "--tx", "nine", "--out", tmp_path / "x.png"), "X,Y"),
        (("--buildings", tmp_path / "no.png", "--tx", "1,1", "--out", tmp_path / "x.png"), "no.png"),
    ):
        assert refused(script("simulate.py", *arguments), message)
    assert not (tmp_path / "x.png").exists()
    other = script("simulate.py", "--buildings", city, "--tx", "20,12", "--out", out, "--force")
    assert other.returncode == 0 and np.array(Image.open(out))[12, 20] == 255
