"""Augmentation: one draw for image, condition and mask together, determined by a key."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Sample = dict[str, Any]
# what is transformed, with the value of pixels from outside: zero gain, an empty condition, a building; `native`, if
# present, is the map at its own resolution
FILL = {"image": -1.0, "cond": -1.0, "ori_mask": 1.0, "native": 0.0}


def symmetry(x: Tensor, index: int) -> Tensor:
    """One of the eight symmetries of the square, on the last two dimensions: bit 2 flips, bits 0-1 count quarter turns."""
    if index & 4:
        x = x.flip(-1)
    return torch.rot90(x, index & 3, (-2, -1))


def moved(sample: Sample, move: Callable[[Tensor, float], Tensor]) -> Sample:
    """The sample with `move(x, fill)` in place of everything that has pixels."""
    return sample | {key: move(sample[key], fill).contiguous() for key, fill in FILL.items() if key in sample}


@dataclass(frozen=True)
class Augmentation:
    """Random symmetries, and optionally free rotation, translation and colour jitter.

    Flips and quarter turns are exact symmetries of propagation. The others change what a pixel means, and are off by
    default. Whatever is drawn, the image stays -1 where the mask is 1.
    """

    p: float = 1.0  # probability that a sample is augmented
    flip: bool = True
    rot90: bool = True
    rotation: float = 0.0  # largest free rotation in degrees
    translation: float = 0.0  # largest shift as a fraction of the side
    color_jitter: float = 0.0  # largest relative change of the image's brightness and contrast

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Augment `image` (1, H, W), `cond` (C, h, w), `ori_mask` (1, H, W), all in their usual ranges."""
        random = np.random.default_rng(seed)
        index = self._draw_symmetry(random)
        if index is None:
            return sample
        angle = float(random.uniform(-self.rotation, self.rotation))
        shift = random.uniform(-self.translation, self.translation, 2)
        brightness, contrast = (float(f) for f in 1 + random.uniform(-self.color_jitter, self.color_jitter, 2))
        sample = moved(sample, lambda x, fill: symmetry(x, index))
        free = bool(angle or shift.any())
        if free:
            sample = moved(sample, lambda x, fill: _move(x, angle, shift, fill))
            sample["ori_mask"] = (sample["ori_mask"] > 1 - 1e-4).float()  # certain over the whole of a new pixel
        if self.color_jitter:
            gain = (sample["image"] + 1) / 2 * brightness
            gain = (gain - gain.mean()) * contrast + gain.mean()
            sample["image"] = gain.clamp(0, 1) * 2 - 1
        if free or self.color_jitter:
            sample["image"] = sample["image"].masked_fill(sample["ori_mask"] > 0.5, -1.0)
        return sample

    def symmetry_of(self, seed: int) -> int:
        return self._draw_symmetry(np.random.default_rng(seed)) or 0

    @property
    def symmetries(self) -> list[int]:
        """All values that `symmetry_of` can return, sorted; 0 leaves a sample as it is."""
        if self.p and self.rot90:
            return list(range(8 if self.flip else 4))
        return [0, 2, 4, 6] if self.p and self.flip else [0]  # both mirror images need the half turn

    def _draw_symmetry(self, random: np.random.Generator) -> int | None:
        """The index for `symmetry`; None for a sample that is not augmented."""
        return self.symmetries[random.integers(len(self.symmetries))] if random.random() < self.p else None


def _move(x: Tensor, angle: float, shift: np.ndarray, fill: float) -> Tensor:
    """Rotate by an angle in degrees and shift by fractions of the side, bilinearly."""
    import torchvision.transforms.v2.functional as TF  # takes two seconds to import, and few runs need it

    translate = [float(part) * x.shape[-1] for part in shift]
    options: dict[str, Any] = {"scale": 1.0, "shear": [0.0, 0.0], "interpolation": TF.InterpolationMode.BILINEAR}
    return TF.affine(x, angle=angle, translate=translate, fill=[fill] * x.shape[-3], **options)
