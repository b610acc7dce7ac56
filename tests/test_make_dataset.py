"""The commands that simulate a dataset or one given city, and the one that checks a dataset."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from data import FlatTree, RadioMapSeer, Scene
from data.geometry.layout import Layout
from data.geometry.registration import outlines_as_file
from data.trees import writer
from data.trees.png import read_grey
from data.trees.writer import Recipe, tree_layouts
from scripts.check_dataset import oddities
from tests.commands import done, refused, script
from tests.conftest import save_grey, save_json
from tests.processes import ROOT, environment

MAKE, SIMULATE, CHECK = "scripts/make_dataset.py", "scripts/simulate.py", "scripts/check_dataset.py"
COMMON = ("--tx", 2, "--seed", 5, "--size", 64)


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.suffix in (".png", ".json")}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three cities of two transmitters, made by one process."""
    root = tmp_path_factory.mktemp("made") / "tree"
    done(MAKE, "--out", root, "--cities", 3, "--workers", 1, *COMMON)
    return root


def test_the_tree_is_radiomapseer_s(tree):
    scenes = [f"{m}_{t}" for m in range(3) for t in range(2)]
    expected = {f"{folder}/{scene}.png" for folder in ("gain/DPM", "png/antennas") for scene in scenes}
    expected |= {f"png/buildings_complete/{m}.png" for m in range(3)} | {f"antenna/{m}.json" for m in range(3)}
    expected |= {f"polygon/buildings_complete/{m}.json" for m in range(3)}
    assert {str(path) for path in files(tree)} == expected | {"dataset.json"}
    dataset = RadioMapSeer(tree)
    for scene in map(dataset.scene, range(len(dataset))):
        assert scene.truth == "simulated" and scene.gain.shape == (64, 64)
        picture = read_grey(tree / f"png/buildings_complete/{scene.name[0]}.png") > 0
        assert not scene.gain[ndimage.binary_erosion(picture)].any()
        assert np.argwhere(read_grey(tree / f"png/antennas/{scene.name}.png")).tolist() == [list(scene.tx[::-1])]
    found = done(CHECK, tree)
    assert "no problems found" in found and "0.00% of the maps' energy" in found and "warning" not in found


def test_new_transmitters_in_the_layouts_of_a_tree(tree, tmp_path):
    made, layouts = tmp_path / "more", ("--layouts", tree, "--tx", 1)
    how = ("--out", made, "--cities", 3, "--seed", 9, *layouts)
    done(MAKE, *how, "--split", "all", "--size", 64, "--workers", 1)
    old, new = RadioMapSeer(tree), RadioMapSeer(made)
    for number in range(3):
        ours, theirs = new.scene(number), old.scene(2 * number)
        assert np.array_equal(ours.buildings, theirs.buildings) and ours.tx != theirs.tx
    same = [f"{argument}/." if argument == tree else argument for argument in how]  # another spelling
    done(MAKE, *same, "--split", "all", "--size", 64, "--workers", 1)
    other = ("--out", tmp_path / "b", "--cities", 4, "--split", "all", "--size", 64)
    refused(MAKE, *other, *layouts, words=["has 3 cities"])
    refused(MAKE, *how, "--size", 64, "--cities", 2, words=["split"])
    shutil.copytree(tree, tmp_path / "another")
    outlines = tmp_path / "another" / "polygon/buildings_complete/1.json"
    outlines.write_text(outlines.with_name("0.json").read_text())
    elsewhere = [tmp_path / "another" if argument == tree else argument for argument in how]
    refused(MAKE, *elsewhere, "--split", "all", "--size", 64, words=["was made with layouts="])
    outlines = tree / "polygon/buildings_complete/1.json"
    before = outlines.read_text()
    outlines.write_text(outlines.with_name("0.json").read_text())  # city 1 would be another one
    tree_layouts.cache_clear()
    refused(MAKE, *how, "--split", "all", "--size", 64, words=["was made with outlines="])
    outlines.write_text(before)
    refused(MAKE, "--out", tmp_path / "c", "--cities", 1, *layouts, words=["maps of 256 px requested; the layouts of"])


def test_maps_without_and_with_cars(tree, tmp_path):
    root, how = tmp_path / "cars", ("--workers", 1, "--cars", *COMMON)
    done(MAKE, "--out", root, "--cities", 3, *how)
    made, plain = files(root), files(tree)
    assert made.items() >= {name: content for name, content in plain.items() if name.name != "dataset.json"}.items()
    added = {f"gain/carsDPM/{m}_{t}.png" for m in range(3) for t in range(2)}
    added |= {f"{kind}/cars/{m}.{suffix}" for kind, suffix in (("png", "png"), ("polygon", "json")) for m in range(3)}
    assert {str(name) for name in made.keys() - plain.keys()} == added
    for lost in ("gain/carsDPM/0_1.png", "png/cars/1.png", "polygon/cars/2.json"):
        (root / lost).unlink()
    assert "1 of them new\nall 3 cities" in done(MAKE, "--out", root, "--cities", 3, *how) and files(root) == made
    refused(MAKE, "--out", tree, "--cities", 3, *how, words=["was made with cars="])  # a tree has cars or none
    scenes = [(RadioMapSeer(root).scene(n), RadioMapSeer(root, "carsDPM").scene(n)) for n in range(6)]
    assert all(cars.cars.outlines and (bare.gain >= cars.gain).all() for bare, cars in scenes)


def test_the_cars_of_a_tree_stay_but_where_a_transmitter_stands(tree, tmp_path, monkeypatch):
    source, made, car = tmp_path / "from", tmp_path / "made", [[6, 4], [10, 4], [10, 6], [6, 6], [6, 4]]
    shutil.copytree(tree, source)
    save_json(source / "polygon" / "cars" / "1.json", [car])
    how = ("--layouts", source, "--split", "all", "--tx", 1, "--size", 64, "--workers", 1, "--cars")
    assert "1 of 3 layouts" in done(MAKE, "--out", made, "--cities", 2, *how)
    other, found = map(RadioMapSeer(made, "carsDPM").scene, range(2))
    assert outlines_as_file(found.cars) == [car] and other.cars.outlines
    monkeypatch.setattr(writer, "random_transmitter", lambda city, rng: (6, 59))
    assert not Recipe(1, 0, 64, str(source), "all", cars=True).city(1)[2].outlines


def test_resumed_extended_and_parallel_runs_make_the_same_files(tree, tmp_path):
    how = ("--out", tmp_path, "--workers", 2, *COMMON)
    done(MAKE, *how, "--maps", 1)
    kept = tmp_path / "gain" / "DPM" / "0_0.png"
    before = kept.stat().st_mtime_ns
    for lost in ("gain/DPM/0_1.png", "antenna/0.json"):
        (tmp_path / lost).unlink()
        done(MAKE, *how, "--cities", 3)
    assert " 0 of them new" in done(MAKE, *how, "--cities", 2)
    assert files(tmp_path) == files(tree) and kept.stat().st_mtime_ns == before
    (tmp_path / "gain").rename(tmp_path / "elsewhere")
    (tmp_path / "gain").symlink_to(tmp_path / "elsewhere")
    assert " 0 of them new\nall 3 cities" in done(MAKE, *how, "--cities", 3)


def test_tasks_of_an_array_at_once_beside_a_larger_one_that_is_killed(tree, tmp_path):
    def start(task, count):
        variables = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_CPUS_PER_TASK": "2"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables |= {"PATH": path, "NUMBA_CACHE_DIR": ""}  # the code that this process has compiled
        line = ["bash", "scripts/slurm/make_dataset.sbatch", "--out", tmp_path, *COMMON, "--cities", count]
        where = {"cwd": ROOT, "env": environment() | variables}
        return subprocess.Popen(list(map(str, line)), **where, stdout=subprocess.PIPE, text=True)

    larger, *tasks = start("1", 10**5), start("1", 3), start("2", 3)
    for number, task in enumerate(tasks, 1):
        assert f"part {number} of 2: " in task.communicate(timeout=120)[0] and task.returncode == 0
    larger.kill()
    larger.communicate(timeout=30)  # ends when no worker holds the pipe any more
    assert files(tree).items() <= files(tmp_path).items()


def test_other_settings_and_other_people_s_folders_are_refused(tree, tmp_path):
    mine, old, before = tmp_path / "mine", tmp_path / "old", files(tree)
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    settings = json.loads((tree / "dataset.json").read_text())["settings"]
    save_json(old / "dataset.json", {"settings": settings | {"version": 0}})
    save_json(tmp_path / "list" / "dataset.json", [])
    for given, word in (
        ({"out": tree, "seed": 6}, "seed=5"),
        ({"out": mine}, "is not a simulated tree"),
        ({"out": old}, "version=0"),
        ({"out": tmp_path / "list"}, "dataset.json"),
        *(({name: value}, f"--{name}") for name, value in (("size", 100), ("size", 48), ("maps", 0), ("part", "3/2"))),
    ):
        options = {"out": tmp_path / "new", "maps": 1, "tx": 2, "seed": 5, "size": 64} | given
        refused(MAKE, *(part for key, value in options.items() for part in (f"--{key}", value)), words=[word])
    assert files(tree) == before and [p.name for p in mine.iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "new").exists()


def test_simulate_one_city(tmp_path):
    city, out = ("--buildings", tmp_path / "city.png"), ("--out", tmp_path / "map.png")
    pixels = np.zeros((48, 64), np.uint8)
    pixels[24:40, 28:36] = pixels[5, 25] = 1  # any value but zero is a building
    Image.fromarray(pixels).save(city[1])
    done(SIMULATE, *city, "--tx", "10,12", *out)
    levels = read_grey(out[1])
    assert levels.shape == (48, 64) and levels[12, 10] == 255 and (levels[pixels > 0] == 0).all()
    assert levels[12, 40] == round(255 * (1 - 25 * np.log10(30) / 99.16))
    refused(SIMULATE, *city, "--tx", "10,12", *out, words=["--force"])
    refused(SIMULATE, *city, "--tx", "10,12", "--out", city[1], "--force", words=["is an input, too"])
    for tx, message in (("24.5,5", "inside a building"), ("99,9", "outside"), ("nine", "X,Y")):  # halves round up
        refused(SIMULATE, *city, "--tx", tx, "--out", tmp_path / "x.png", words=[message])
    assert not (tmp_path / "x.png").exists()
    cars = ("--cars", tmp_path / "cars.png")
    Image.fromarray(np.pad(np.full((4, 2), 255, np.uint8), ((10, 34), (14, 48)))).save(cars[1])
    refused(SIMULATE, *city, "--tx", "15,12", *out, *cars, "--force", words=["inside a car"])
    done(SIMULATE, *city, "--tx", "10,12", *out, *cars, "--force")
    shaded = read_grey(out[1])
    assert (shaded <= levels).all() and shaded[12, 20] < levels[12, 20] and shaded[12, 8] == levels[12, 8]


def scene(tx=(4.0, 5.0), gain=None):
    """A building of 10 x 10 px, 0.4 in the open, the strongest value at the transmitter; `gain` changes some of it."""
    buildings = np.pad(np.ones((10, 10), bool), ((10, 12), (10, 12)))
    values = np.where(buildings, 0, 0.4).astype(np.float32)
    values[5, 4] = 1.0
    for place, value in (gain or {}).items():
        values[place] = value
    return Scene("1_0", Layout.traced(buildings), tx, values)


def test_oddities():
    assert not list(oddities(scene(), scene().gain))
    for odd, what in (
        (scene((9.5, 12.0)), "inside a building"),  # halves round up
        (scene(gain={...: 0}), "black everywhere"),
        (scene(gain={...: 0.3}), "inside buildings have a gain"),
        (scene(gain={(25, 25): 1.0, (5, 4): 0.5}), "not at the transmitter"),
        (replace(scene(), layout=Layout([], (32, 32))), "buildings cover 0%"),
    ):
        assert what in "; ".join(oddities(odd, odd.gain))


def test_a_flat_tree(flat_tree):
    wrong = script(CHECK, flat_tree)  # its masks are random
    assert wrong.returncode == 1 and "s0: 100% of the pixels inside buildings have a gain" in wrong.stdout
    assert "the maps' energy lies inside" in wrong.stdout and "masks/ from another dataset?" in wrong.stdout
    for path in (flat_tree / "masks").iterdir():
        mask, image = read_grey(path), flat_tree / "images" / path.name
        save_grey(image, np.where(mask, 0, read_grey(image)))
        save_grey(path, mask // 255)  # 0 and 1, as some programs write masks
    out = done(CHECK, flat_tree)
    assert "(3, 80, 80)" in out and "warning" not in out
    assert FlatTree(flat_tree).scene(0).buildings.mean() == pytest.approx(0.5, abs=0.05)
    assert "splits (by a hash of the name, about 80 / 10 / 10 %): train" in out
    np.save(flat_tree / "conditions" / "s1.npy", np.full((3, 80, 80), -40.0))
    out = done(CHECK, flat_tree)
    assert "from -40 to" in out and "warning: conditions exceed [-1, 1]" in out
    for wrong, message in ((np.zeros((3, 0, 0)), "(3, 0, 0)"), (np.zeros((3, 8, 8), bool), "not an array of")):
        np.save(flat_tree / "conditions" / "s1.npy", wrong)
        assert f"s1.npy: {message}" in script(CHECK, flat_tree).stdout.replace("has shape ", "")
    np.save(flat_tree / "conditions" / "s1.npy", np.zeros((3, 80, 60)))
    (flat_tree / "splits").mkdir()
    (flat_tree / "splits" / "val.txt").write_text("s0\ns1.png\n")
    found = script(CHECK, flat_tree)
    assert found.returncode == 1 and "splits (splits/val.txt; by a hash" in found.stdout and "val 2" in found.stdout
    assert "s1.npy: has shape (3, 80, 60); conditions are square arrays" in found.stdout
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(flat_tree / "images" / "s2.png")
    (flat_tree / "masks" / "s2.png").unlink()
    assert "odd: maps have several sizes" in script(CHECK, flat_tree).stdout


def test_a_radiomapseer_tree(radiomapseer, tmp_path):
    out = done(CHECK, radiomapseer)
    assert "20 scenes of 10 cities" in out and "no problems found" in out and "warning" not in out
    assert "splits (cities in order, 80 / 10 / 10 %): train 16, val 2, test 2\n" in out
    for split, entry in (("train", "1"), ("test", "1_0"), ("val", "77")):
        (radiomapseer / "splits").mkdir(exist_ok=True)
        (radiomapseer / "splits" / f"{split}.txt").write_text(entry)
    out = script(CHECK, radiomapseer).stdout
    assert "odd: train and test share 1 cities" in out and "odd: splits/val.txt lists no scene" in out
    assert "; 18 scenes in none of train, val, test" in out
    shutil.rmtree(radiomapseer / "splits")
    victim = radiomapseer / "gain" / "DPM" / "1_0.png"
    victim.write_bytes(victim.read_bytes()[:100])
    outlines = radiomapseer / "polygon" / "buildings_complete" / "2.json"
    save_json(outlines, [[[1, 1], [31, 1], [31, 31], [1, 31], [1, 1]]])
    found = script(CHECK, radiomapseer)
    assert found.returncode == 1 and str(victim) in found.stdout and "are not aligned with the maps" in found.stdout
    refused(CHECK, tmp_path, words=[f"did you mean {radiomapseer}?"])
