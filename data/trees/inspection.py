"""What is in a tree's scenes, and what is odd about them, found before hours are spent on it."""

from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from ..errors import DataError
from ..geometry.pixels import pixel_of
from ..scene import Scene
from .folder import FlatTree
from .radiomapseer import RadioMapSeer

NO_ENERGY = 1e-3  # a larger fraction of the maps' energy where they should be zero gives a warning


def oddities(scene: Scene) -> Iterator[str]:
    """Whatever does not look like a radio map, in a few words each."""
    inside, built = scene.gain[scene.ori_mask], scene.buildings.mean()
    if not scene.gain.any():
        yield "the map is black everywhere"
    elif inside.size and (inside > 0).mean() > 0.01:
        yield f"{(inside > 0).mean():.0%} of the pixels inside buildings have a gain; they are zero in RadioMapSeer"
    elif scene.tx is not None and scene.gain[pixel_of(scene.tx)] < scene.gain.max() - 0.05:
        yield "the strongest level is not at the transmitter"
    if scene.tx is not None and scene.buildings[pixel_of(scene.tx)]:
        yield "the transmitter is inside a building"
    if built > 0.9 or (built == 0 and scene.cond is None):
        yield f"buildings cover {built:.0%}"


def inspect(source: RadioMapSeer | FlatTree, indices: Sequence[int]) -> tuple[list[str], list[str]]:
    """Open scenes; returns lines of statistics and warnings, and one line per oddity."""
    problems: list[str] = []
    sides, shapes = set(), set()
    low, high, energy, inside, levels = 0.0, 0.0, 0.0, 0.0, np.zeros(256, int)
    for index in tqdm(indices, "opening", unit="scene"):
        try:
            scene = source.scene(index)
        except DataError as error:
            problems.append(str(error))
            continue
        problems += [f"{scene.name}: {text}" for text in oddities(scene)]
        sides.add(len(scene.gain))
        levels += np.bincount(np.round(255 * scene.gain[~scene.buildings]).astype(int), minlength=256)
        power = scene.gain.astype(np.float64) ** 2
        energy, inside = energy + power.sum(), inside + power[scene.ori_mask].sum()
        if scene.cond is not None:
            shapes.add(scene.cond.shape)
            low, high = min(low, scene.cond.min()), max(high, scene.cond.max())
    lines = [f"sizes: {', '.join(f'{side}x{side}' for side in sorted(sides))} px"]
    if shapes:
        lines.append(f"conditions: {', '.join(map(str, sorted(shapes)))}, from {low:.4g} to {high:.4g}")
    if max(-low, high) > 1:
        lines.append("warning: conditions leave [-1, 1]; training uses them unchanged; order 1 is best")
    if len(shapes) > 1:
        problems.append("conditions have several shapes; all must be of data.cond_channels and data.cond_size")
    lines.append(f"registration: {inside / max(energy, 1e-12):.2%} of the maps' energy lies inside the buildings")
    if inside > NO_ENERGY * energy:
        lines.append("warning: the buildings do not lie over the maps; are polygon/ or png/ of another data set?")
    below = np.cumsum(levels) / max(levels.sum(), 1)
    five, half, most = (np.searchsorted(below, part) / 255 for part in (0.05, 0.5, 0.95))
    lines.append(f"levels of open pixels: median {half:.2f}, 5 to 95 % {five:.2f} to {most:.2f}")
    return lines, problems
