"""Small trees that tests read."""

import json
import os

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from data.geometry.layout import Layout
from data.geometry.registration import antennas_as_file, outlines_as_file, picture_of, snap

torch.set_num_threads(1)  # here and in the commands that tests start: the same bits in all, even side by side
os.environ["OMP_NUM_THREADS"] = "1"
if "TEST_ON_GPU" not in os.environ:  # set for test_gpu.py; all other tests are the same on every machine
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def clean_state():
    """What a run leaves in this process: accelerate's state."""
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def save_grey(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def make_scene_files(root, city_id, tx, size=32, simulation="DPM"):
    """One scene of random rectangles in RadioMapSeer's registration; returns its layout, grey levels and transmitter."""
    random = np.random.default_rng(city_id)
    rings = []
    for left in (3, 13, 23):  # apart: an outline inside another would be a courtyard
        y, x = random.integers(2, size - 8), left + random.integers(0, 3)
        rings.append(snap(np.array([[x, y], [x + 5, y + 2], [x + 4, y + 7], [x, y + 6]], float)))
    layout = Layout(rings, (size, size))
    rows, columns = np.nonzero(~layout.inside)
    pick = np.random.default_rng((city_id, tx)).integers(len(rows))
    position = int(columns[pick]), int(rows[pick])
    y, x = np.indices((size, size))
    distance = np.maximum(np.hypot(x - position[0], y - position[1]), 1)
    gain = np.where(layout.inside, 0, np.round(255 * (1 - 25 * np.log10(distance) / 99.16)))
    antenna = np.zeros((size, size))
    antenna[position[1], position[0]] = 255
    save_grey(root / "gain" / simulation / f"{city_id}_{tx}.png", gain)
    save_grey(root / "png" / "buildings_complete" / f"{city_id}.png", picture_of(layout) * 255)
    save_grey(root / "png" / "antennas" / f"{city_id}_{tx}.png", antenna)
    save_json(root / "polygon" / "buildings_complete" / f"{city_id}.json", outlines_as_file(layout))
    return layout, gain.astype(np.uint8), position


def make_tree(root):
    """A simulated tree of 10 cities with 2 transmitters each, 32 px (split 8 / 1 / 1)."""
    for city_id in range(10):
        positions = [make_scene_files(root, city_id, tx)[2] for tx in range(2)]
        save_json(root / "antenna" / f"{city_id}.json", antennas_as_file(positions, 32))
    save_json(root / "dataset.json", {"settings": {}})
    return root


def save_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A tree `data` of 10 cities of 32 px, of which one map is black, `tiny.yaml`, and both stages after two steps."""
    from tests.processes import set_up, train_here  # which import all that trains

    root = tmp_path_factory.mktemp("trained")
    data = {"cond_channels": ["buildings", "transmitter", "measured_gain", "measured"], "incomplete": {"points": 5}}
    config = set_up(root, {"trainer": {"validate_every": 0, "training_steps": 2}, "data": data})
    save_grey(root / "data" / "gain" / "DPM" / "9_1.png", np.zeros((32, 32)))
    train_here("vae", config, root / "vae")
    train_here("ldm", config, root / "ldm", f"first_stage_config.ckpt_path={root / 'vae'}")
    return root


@pytest.fixture
def radiomapseer(tmp_path):
    """The tree of `make_tree`."""
    return make_tree(tmp_path / "tree")


@pytest.fixture
def flat_tree(tmp_path):
    """images/, conditions/ and masks/ of 4 samples; the last one has no mask."""
    root = tmp_path / "flat"
    random = np.random.default_rng(0)
    for index in range(4):
        save_grey(root / "images" / f"s{index}.png", random.integers(0, 256, (40, 40)))
        (root / "conditions").mkdir(exist_ok=True)
        np.save(root / "conditions" / f"s{index}.npy", random.uniform(-1, 1, (3, 80, 80)).astype(np.float32))
        if index < 3:
            save_grey(root / "masks" / f"s{index}.png", random.integers(0, 2, (40, 40)) * 255)
    return root
