"""The commands that simulate: a whole data set, and one given city."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from data import DataError, RadioMapSeer
from data.geometry.cars import picture_of_cars
from data.geometry.registration import outlines_as_file
from data.simulator import Simulator
from data.trees.png import read_grey
from data.trees.writer import Recipe, open_folder, write_city
from tests.commands import done, refused
from tests.conftest import save_json
from tests.processes import ROOT, environment

MAKE, SIMULATE = "scripts/make_dataset.py", "scripts/simulate.py"
COMMON = ("--tx", 2, "--seed", 5, "--size", 64)


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.suffix in (".png", ".json")}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three cities of two transmitters, made by one process."""
    root = tmp_path_factory.mktemp("made") / "tree"
    done(MAKE, "--out", root, "--maps", 3, "--workers", 1, *COMMON)
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
    dataset = RadioMapSeer(tree)
    for index, scene in enumerate(map(dataset.scene, range(len(dataset)))):
        assert scene.truth == "simulated" and not scene.gain[ndimage.binary_erosion(dataset.picture(index))].any()
        assert np.argwhere(read_grey(tree / f"png/antennas/{scene.name}.png")).tolist() == [list(scene.tx[::-1])]
    found = done("scripts/check_dataset.py", tree)
    assert "nothing odd" in found and "0.00% inside what is certain" in found and "warning" not in found


def test_new_transmitters_in_the_layouts_of_a_tree(tree, tmp_path):
    made, layouts = tmp_path / "more", ("--layouts", tree, "--tx", 1)
    how = ("--out", made, "--maps", 4, "--seed", 9, *layouts)
    done(MAKE, *how, "--split", "all", "--size", 64, "--workers", 1)
    old, new = RadioMapSeer(tree), RadioMapSeer(made)
    for number, source in enumerate((0, 2, 4, 0)):  # the fourth city has the first one's layout again
        assert np.array_equal(new.scene(number).buildings, old.scene(source).buildings)
    assert new.scene(0).tx != new.scene(3).tx
    refused(MAKE, *how, "--size", 64, words=["split"])
    refused(MAKE, "--out", tmp_path / "c", "--maps", 1, *layouts, words=["maps of 256 px are wanted; the layouts of"])


def test_maps_without_and_with_cars(tree, tmp_path, monkeypatch):
    root, how = tmp_path / "cars", ("--workers", 1, "--cars", *COMMON)
    done(MAKE, "--out", root, "--maps", 3, *how)
    made, plain = files(root), files(tree)
    assert made.items() >= {name: content for name, content in plain.items() if name.name != "dataset.json"}.items()
    added = {f"gain/carsDPM/{m}_{t}.png" for m in range(3) for t in range(2)}
    added |= {f"{kind}/cars/{m}.{suffix}" for kind, suffix in (("png", "png"), ("polygon", "json")) for m in range(3)}
    assert {str(name) for name in made.keys() - plain.keys()} == added
    for lost in ("gain/carsDPM/0_1.png", "png/cars/1.png", "polygon/cars/2.json"):
        (root / lost).unlink()
    assert "1 of them new\nall 3 cities" in done(MAKE, "--out", root, "--maps", 3, *how) and files(root) == made
    for folder, options in ((tree, how), (root, ("--workers", 1, *COMMON))):  # a tree has cars or none
        refused(MAKE, "--out", folder, "--maps", 3, *options, words=["was made with cars="])
    bare, outlined = RadioMapSeer(root), RadioMapSeer(root, "carsDPM")
    drawn = [outlined.scene(number).cars for number in range(6)]
    assert all(cars.outlines for cars in drawn) and all(
        (bare.scene(n).gain >= outlined.scene(n).gain).all() for n in range(6)
    )
    for number, cars in enumerate(drawn):
        assert np.array_equal(picture_of_cars(cars), read_grey(root / f"png/cars/{number // 2}.png") > 0)
    shutil.rmtree(root / "polygon" / "cars")
    for number, cars in enumerate(drawn):
        assert np.array_equal(RadioMapSeer(root, "carsDPM").scene(number).cars.inside, cars.inside)
    assert "nothing odd" in done("scripts/check_dataset.py", root, "--simulation_type", "carsDPM")

    searches, search = [], Simulator.loss
    monkeypatch.setattr(Simulator, "loss", lambda *given, **how: searches.append(how) or search(*given, **how))
    assert write_city(tmp_path / "one", 0, Recipe(2, 5, 64, cars=True)) == 4 and len(searches) == 4


def test_the_cars_of_a_tree_stay_but_where_a_transmitter_stands(tree, tmp_path):
    for cars, said in ((None, "0 of 3 layouts"), ([[6, 4], [10, 4], [10, 6], [6, 6], [6, 4]], "1 of 3 layouts")):
        source, made = tmp_path / f"from{said[0]}", tmp_path / f"made{said[0]}"
        shutil.copytree(tree, source)
        if cars:
            save_json(source / "polygon" / "cars" / "1.json", [cars])
        how = ("--layouts", source, "--split", "all", "--tx", 1, "--size", 64, "--workers", 1, "--cars")
        assert said in done(MAKE, "--out", made, "--maps", 2, *how)
        found = RadioMapSeer(made, "carsDPM").scene(1)
        assert (outlines_as_file(found.cars) == [cars]) == bool(cars) and len(RadioMapSeer(made, "carsDPM")) == 2
    recipe, city = Recipe(1, 0, 64, str(source), "all", cars=True), found.layout
    assert (
        len(recipe.cars_on(1, city, [(40, 40)]).outlines) == 1
        and not recipe.cars_on(1, city, [(40, 40), (6, 59)]).outlines
    )


def test_resumed_extended_and_parallel_runs_make_the_same_files(tree, tmp_path):
    root = tmp_path / "b"
    done(MAKE, "--out", root, "--maps", 1, "--workers", 2, *COMMON)
    kept = root / "gain" / "DPM" / "0_0.png"
    before = kept.stat().st_mtime_ns
    for lost in ("gain/DPM/0_1.png", "antenna/0.json"):
        (root / lost).unlink()
        done(MAKE, "--out", root, "--maps", 3, "--workers", 2, *COMMON)
    assert files(root) == files(tree) and kept.stat().st_mtime_ns == before
    assert " 0 of them new" in done(MAKE, "--out", root, "--maps", 2, "--workers", 1, *COMMON)
    assert files(root) == files(tree)


def test_parts_in_any_order_make_what_one_process_makes(tree, tmp_path):
    def make(part):
        return done(MAKE, "--out", tmp_path, "--maps", 3, "--workers", 1, "--part", part, *COMMON)

    assert "part 3 of 3: 2 maps of 1 cities are there, 2 of them new\n2 of the 3 cities are not" in make("3/3")
    assert "part 2 of 2: 2 maps of 1 cities are there, 2 of them new" in make("2/2")
    assert "part 3 of 3: 2 maps of 1 cities are there, 0 of them new" in make("3/3")
    assert "2 of them new\nall 3 cities are complete" in make("1/2") and files(tmp_path) == files(tree)
    assert "part 4 of 4: 0 maps of 0 cities" in make("4/4")
    for part in ("3/2", "0/2", "a/b", "1", "1/2/3"):
        refused(MAKE, "--out", tmp_path, "--maps", 3, "--part", part, *COMMON, words=["--part", part])


def test_tasks_of_an_array_at_once_beside_a_larger_one_that_is_killed(tree, tmp_path):
    def start(task, maps):
        variables = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_CPUS_PER_TASK": "2"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables |= {"PATH": path, "NUMBA_CACHE_DIR": ""}  # the code that this process has compiled
        line = ["bash", "scripts/slurm/make_dataset.sbatch", "--out", tmp_path, *COMMON, "--maps", maps]
        where = {"cwd": ROOT, "env": environment() | variables}
        return subprocess.Popen(list(map(str, line)), **where, stdout=subprocess.PIPE, text=True)

    larger, *tasks = start("1", 10**5), start("1", 3), start("2", 3)
    for number, task in enumerate(tasks, 1):
        assert f"part {number} of 2: " in task.communicate(timeout=120)[0] and task.returncode == 0
    larger.kill()
    larger.communicate(timeout=30)  # ends when no worker holds the pipe any more
    assert files(tree).items() <= files(tmp_path).items()


@pytest.mark.parametrize("links", [True, False])
def test_of_different_settings_at_the_same_moment_one_is_kept(tmp_path, monkeypatch, links):
    def start(seed):
        everyone.wait()
        try:
            open_folder(root, Recipe(2, seed, 64))
        except DataError as error:
            return str(error)

    def none(*names):
        raise PermissionError("this file system has no links")

    if not links:
        monkeypatch.setattr(os, "link", none)
    seeds = [1, 1, 2, 2]
    for number in range(30):
        root, everyone = tmp_path / str(number), threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(start, seeds))
        kept = json.loads((root / "dataset.json").read_text())["settings"]["seed"]
        begun = [seed for seed, refusal in zip(seeds, said, strict=True) if refusal is None]
        assert begun == [kept, kept] or (begun == [kept] and not links)  # a manifest in the making is no manifest
        assert not links or sum(f"was made with seed={kept}" in str(refusal) for refusal in said) == 2
        assert [p.name for p in root.iterdir()] == ["dataset.json"]


def test_a_full_disk_is_one_line_and_loses_nothing(tree, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = files(tree)
    monkeypatch.setattr(os, "fsync", full)
    refused(MAKE, "--out", tree, "--maps", 4, "--workers", 1, *COMMON, words=["No space left", "free some space"])
    assert files(tree) == before


def test_other_settings_and_other_people_s_folders_are_refused(tree, tmp_path):
    before = files(tree)
    refused(MAKE, "--out", tree, "--maps", 3, "--tx", 2, "--seed", 6, "--size", 64, words=["seed=5"])
    assert files(tree) == before
    mine, old = tmp_path / "mine", tmp_path / "old"
    mine.mkdir()
    old.mkdir()
    (mine / "thesis.txt").write_text("precious")
    refused(MAKE, "--out", mine, "--maps", 1, *COMMON, words=["is not a simulated tree"])
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]
    settings = json.loads((tree / "dataset.json").read_text())["settings"]
    for content, word in (
        ({"settings": settings | {"version": 0}}, "version 0"),
        ({"settings": settings | {"engine": "rays"}}, "engine=rays"),  # of an earlier version, which had several
        ([], "dataset.json"),
    ):
        (old / "dataset.json").write_text(json.dumps(content))
        refused(MAKE, "--out", old, "--maps", 1, *COMMON, words=[word])
    for name, value in (("size", 100), ("size", 48), ("maps", 0), ("tx", 0), ("workers", 0)):
        given = {"maps": 1, "tx": 1, "seed": 0, "size": 64, "workers": 1} | {name: value}
        options = [part for key, number in given.items() for part in (f"--{key}", number)]
        refused(MAKE, "--out", tmp_path / "c", *options, words=[f"--{name}"])
    assert not (tmp_path / "c").exists()


def test_simulate_one_city(tmp_path):
    city, out = ("--buildings", tmp_path / "city.png"), ("--out", tmp_path / "map.png")
    pixels = np.zeros((48, 64), np.uint8)
    pixels[24:40, 28:36] = 1  # any value but zero is a building
    pixels[5, 25] = 1
    Image.fromarray(pixels).save(city[1])
    done(SIMULATE, *city, "--tx", "10,12", *out)
    levels = np.array(Image.open(out[1]))
    assert levels.shape == (48, 64) and levels[12, 10] == 255 and (levels[pixels > 0] == 0).all()
    assert levels[12, 40] == round(255 * (1 - 25 * np.log10(30) / 99.16))
    refused(SIMULATE, *city, "--tx", "10,12", *out, words=["--force"])
    for tx, message in (("24.5,5", "inside a building"), ("99,9", "outside"), ("nine", "X,Y")):  # halves round up
        refused(SIMULATE, *city, "--tx", tx, "--out", tmp_path / "x.png", words=[message])
    assert not (tmp_path / "x.png").exists()
    cars = ("--cars", tmp_path / "cars.png")
    Image.fromarray(np.pad(np.full((4, 2), 255, np.uint8), ((10, 34), (14, 48)))).save(cars[1])
    done(SIMULATE, *city, "--tx", "10,12", *out, *cars, "--force")
    shaded = np.array(Image.open(out[1]))
    assert (shaded <= levels).all() and shaded[12, 20] < levels[12, 20] and shaded[12, 8] == levels[12, 8]
    refused(SIMULATE, *city, "--tx", "15,12", *out, *cars, "--force", words=["inside a car"])
    assert (np.array(Image.open(out[1])) == shaded).all()
    done(SIMULATE, *city, "--tx", "20,12", *out, "--force")
    assert np.array(Image.open(out[1]))[12, 20] == 255
