"""What the check of a tree finds."""

from dataclasses import replace

import numpy as np

from data import Scene
from data.geometry.layout import Layout
from scripts.check_dataset import oddities
from tests.commands import done, refused, script
from tests.conftest import save_grey, save_json

CHECK = "scripts/check_dataset.py"


def scene(tx=(4.0, 5.0), gain=None):
    """A building of 10 x 10 px, 0.4 in the open, the strongest value at the transmitter; `gain` changes some of it."""
    buildings = np.pad(np.ones((10, 10), bool), ((10, 12), (10, 12)))
    values = np.where(buildings, 0, 0.4).astype(np.float32)
    values[5, 4] = 1.0
    for place, value in (gain or {}).items():
        values[place] = value
    return Scene("1_0", Layout.traced(buildings), tx, values)


def test_oddities():
    assert not list(oddities(scene()))
    for odd, what in (
        (scene((9.5, 12.0)), "inside a building"),  # halves round up
        (scene(gain={...: 0}), "black everywhere"),
        (scene(gain={...: 0.3}), "inside buildings have a gain"),
        (scene(gain={(25, 25): 1.0, (5, 4): 0.5}), "not at the transmitter"),
        (replace(scene(), layout=Layout([], (32, 32))), "buildings cover 0%"),
    ):
        assert what in "; ".join(oddities(odd))


def test_a_flat_tree(flat_tree):
    out = done(CHECK, flat_tree)
    assert "(3, 80, 80)" in out and "warning" not in out
    assert "splits (by a hash of the name, about 80 / 10 / 10 %): train" in out
    np.save(flat_tree / "conditions" / "s1.npy", np.full((3, 80, 80), -40.0))
    out = done(CHECK, flat_tree)
    assert "from -40 to" in out and "warning: conditions leave [-1, 1]" in out
    np.save(flat_tree / "conditions" / "s1.npy", np.zeros((3, 80, 60)))
    (flat_tree / "splits").mkdir()
    (flat_tree / "splits" / "val.txt").write_text("s0\ns1.png\n")
    found = script(CHECK, flat_tree)
    assert found.returncode == 1 and "splits (splits/val.txt; by a hash" in found.stdout and "val 2" in found.stdout
    assert "s1.npy: has shape (3, 80, 60); conditions are square arrays" in found.stdout


def test_a_radiomapseer_tree(radiomapseer, tmp_path):
    out = done(CHECK, radiomapseer)
    assert "20 scenes of 10 maps" in out and "nothing odd" in out and "warning" not in out
    assert "splits (maps in order, 80 / 10 / 10 %): train 16, val 2, test 2" in out
    victim = radiomapseer / "gain" / "DPM" / "1_0.png"
    victim.write_bytes(victim.read_bytes()[:100])
    save_grey(radiomapseer / "gain" / "DPM" / "0_0.png", np.ones((32, 24)))
    save_json(
        radiomapseer / "polygon" / "buildings_complete" / "2.json", [[[1, 1], [31, 1], [31, 31], [1, 31], [1, 1]]]
    )
    found = script(CHECK, radiomapseer)
    assert found.returncode == 1 and str(victim) in found.stdout and "do not lie over the maps" in found.stdout
    assert "0_0.png: is 24x32 px; maps must be square" in found.stdout
    refused(CHECK, tmp_path / "nothing", words=["no such folder"])
    refused(CHECK, tmp_path, words=[f"did you mean {radiomapseer}?"])
