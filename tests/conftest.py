"""Small trees that tests read."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)


def save_grey(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def make_scene_files(root, map_id, tx, size=32, simulation="DPM"):
    """One scene of random rectangles; returns its building mask and grey levels."""
    random = np.random.default_rng(map_id)
    buildings = np.zeros((size, size), bool)
    for _ in range(3):
        y, x = random.integers(0, size - 8, 2)
        buildings[y : y + 5, x : x + 6] = True
    rows, columns = np.nonzero(~buildings)
    pick = np.random.default_rng((map_id, tx)).integers(len(rows))
    position = int(columns[pick]), int(rows[pick])
    y, x = np.indices((size, size))
    distance = np.maximum(np.hypot(x - position[0], y - position[1]), 1)
    gain = np.where(buildings, 0, np.round(255 * (1 - 25 * np.log10(distance) / 99.16)))
    antenna = np.zeros((size, size))
    antenna[position[1], position[0]] = 255
    save_grey(root / "gain" / simulation / f"{map_id}_{tx}.png", gain)
    save_grey(root / "png" / "buildings_complete" / f"{map_id}.png", buildings * 255)
    save_grey(root / "png" / "antennas" / f"{map_id}_{tx}.png", antenna)
    return buildings, gain.astype(np.uint8), position


@pytest.fixture
def radiomapseer(tmp_path):
    """A tree of 10 maps with 2 transmitters each, 32 px, of the simulated kind (split 8 / 1 / 1)."""
    root = tmp_path / "tree"
    for map_id in range(10):
        for tx in range(2):
            make_scene_files(root, map_id, tx)
    (root / "dataset.json").write_text(json.dumps({"settings": {}}))
    return root


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
