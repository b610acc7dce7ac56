"""What the check of a tree finds."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data import Scene
from data.geometry.layout import Layout
from data.trees.inspection import Registration, oddities

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "check_dataset.py"


def good():
    buildings = np.zeros((32, 32), bool)
    buildings[10:20, 10:20] = True
    gain = np.where(buildings, 0, 0.4).astype(np.float32)
    gain[5, 4] = 1.0
    return Scene("1_0", Layout.traced(buildings), (4.0, 5.0), gain)


def spoil(what):
    scene = good()
    if what == "inside a building":
        scene.tx = (12.0, 12.0)
    elif what == "black everywhere":
        scene.gain[:] = 0
    elif what == "inside buildings have a gain":
        scene.gain[scene.buildings] = 0.3
    elif what == "not at the transmitter":
        scene.gain[25, 25] = 1.0
        scene.gain[5, 4] = 0.5
    elif what == "buildings cover 0%":
        scene.layout = Layout([], (32, 32))
    else:
        scene.layout, scene.gain = Layout.traced(scene.buildings[:20]), scene.gain[:20]
    return scene


def test_a_flat_tree_is_told_its_range(flat_tree):
    def check():
        return subprocess.run([sys.executable, SCRIPT, flat_tree], capture_output=True, text=True)

    done = check()
    assert done.returncode == 0 and "(3, 80, 80)" in done.stdout and "warning" not in done.stdout
    np.save(flat_tree / "conditions" / "s1.npy", np.full((3, 80, 80), -40.0))
    done = check()
    assert done.returncode == 0 and "from -40 to" in done.stdout and "warning: 1 conditions" in done.stdout
    np.save(flat_tree / "conditions" / "s2.npy", np.full((3, 8, 80), np.nan))
    done = check()
    assert done.returncode == 1 and "s2.npy" in done.stdout and "not finite" in done.stdout


def test_a_good_scene_is_not_odd():
    assert not list(oddities(good()))


@pytest.mark.parametrize(
    "what",
    [
        "inside a building",
        "black everywhere",
        "inside buildings have a gain",
        "not at the transmitter",
        "buildings cover 0%",
        "no square",
    ],
)
def test_oddities(what):
    assert what in "; ".join(oddities(spoil(what)))


def check(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_command(tmp_path):
    make = SCRIPT.with_name("make_dataset.py")
    tree = tmp_path / "tree"
    done = subprocess.run([sys.executable, make, "--out", tree, "--maps", "3", "--tx", "2", "--seed", "5"], timeout=300)
    assert done.returncode == 0
    found = check(tree, "--sheet", tmp_path / "sheet.png")
    assert found.returncode == 0, found.stderr + found.stdout
    assert "6 complete scenes of 3 maps" in found.stdout and "nothing odd" in found.stdout
    assert "0.00% inside what is certain" in found.stdout and "warning" not in found.stdout
    assert "train 4" in found.stdout and (tmp_path / "sheet.png").stat().st_size > 10_000
    victim = tree / "gain" / "DPM" / "1_0.png"
    victim.write_bytes(victim.read_bytes()[:100])
    (tree / "antenna" / "2.json").unlink()
    (tree / "png" / "antennas" / "2_1.png").unlink()
    found = check(tree)
    assert found.returncode == 1
    assert (
        str(victim) in found.stdout
        and "1 lack antenna/ nor png/antennas/" in found.stdout
        and "1 oddities" in found.stderr
    )
    nothing = check(tmp_path / "nothing")
    assert nothing.returncode == 2 and "no such folder" in nothing.stderr


def test_buildings_aside_of_the_maps_are_told():
    def lines(aside):
        registration, scene = Registration(), good()
        registration.add(scene, None)
        scene.layout = Layout.traced(np.roll(scene.buildings, aside, axis=1))
        registration.add(scene, scene.buildings)
        return " ".join(registration.lines())

    assert "warning" not in lines(0) and "0.00% inside png" in lines(0)
    assert "a pixel or less aside" in lines(1) and "not even a pixel aside" in lines(4)
