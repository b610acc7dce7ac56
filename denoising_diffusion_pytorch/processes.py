"""The one table of the forward processes, by `model_type`; it imports no torch, so that configurations can use it."""

from typing import NamedTuple

MAX_NOISE_SCALE = 100.0  # of a sampler's noise


class Process(NamedTuple):
    """What a forward process can be trained to predict, and its samplers.

    Attributes:
        objectives: quantities that the loss can compare, see the process in `diffusion.py`.
        samplers: functions `sample_...` of `samplers.py`; the first one is the default.
        ensemble: the sampler used for several samples if one network call would make them nearly the same.
        discrete: whether it has T steps and a schedule of variances; if not, t runs from 0 to 1.
    """

    objectives: tuple[str, ...]
    samplers: tuple[str, ...]
    ensemble: str
    discrete: bool = False


PROCESSES = {
    "ddpm": Process(("pred_noise", "pred_x0", "pred_v"), ("ddim", "ddpm"), "ddpm", discrete=True),
    "const_sde": Process(("pred_KC",), ("decoupled",), "decoupled"),
    "flow": Process(("pred_velocity",), ("euler",), "euler"),
}
