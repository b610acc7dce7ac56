"""Samplers: free functions `(diffusion, model, x_t, steps, randn)` from pure noise x_t (B, Z, h, w) to x_start.

`model` is any callable (x_t, t) -> model output, `randn` any callable that returns fresh standard normal noise of its
argument's shape. N steps are N calls of the model. `PROCESSES` says which processes a sampler accepts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from .diffusion import DecoupledDiffusion, Diffusion, FlowMatching, GaussianDiffusion
from .errors import ConfigError
from .processes import MAX_NOISE_SCALE, PROCESSES

Model = Callable[[Tensor, Tensor], Tensor]
Randn = Callable[[Tensor], Tensor]


def sample_ddim(
    diffusion: GaussianDiffusion, model: Model, x_t: Tensor, steps: int, randn: Randn, eta: float = 0.0
) -> Tensor:
    """DDIM (Song et al., 2021, eq. 12 and 16); eta = 0 is deterministic, 1 is ancestral."""
    for now, then in pairwise(diffusion.schedule(steps, x_t.device)):
        t, s = now.expand(x_t.shape[0]), then.expand(x_t.shape[0])
        x_start, noise = diffusion.predictions(model(x_t, t), x_t, t)
        (signal_t, sigma_t), (signal_s, sigma_s) = diffusion.coefficients(t, x_t), diffusion.coefficients(s, x_t)
        beta = sigma_t.square() - (signal_t / signal_s * sigma_s).square()  # 1 - alpha_t / alpha_s, to more digits
        std = eta * (sigma_s / sigma_t) * beta.clamp(min=0).sqrt()
        x_t = signal_s * x_start + (sigma_s.square() - std.square()).clamp(min=0).sqrt() * noise
        if eta > 0 and then >= 0:
            x_t = x_t + std * randn(x_t)
    return x_t


def sample_ddpm(diffusion: GaussianDiffusion, model: Model, x_t: Tensor, steps: int, randn: Randn) -> Tensor:
    """Ancestral sampling (Ho et al., 2020, algorithm 2) on a subset of the steps."""
    return sample_ddim(diffusion, model, x_t, steps, randn, eta=1.0)


def sample_decoupled(diffusion: DecoupledDiffusion, model: Model, x_t: Tensor, steps: int, randn: Randn) -> Tensor:
    """The reverse process: a step from t to t - s has mean x_t - s C - (s / sqrt(t)) noise and variance s (t - s) / t."""
    for now, then in pairwise(diffusion.schedule(steps, x_t.device)):
        t = now.expand(x_t.shape[0])
        x_start, noise = diffusion.predictions(model(x_t, t), x_t, t)
        s = now - then
        x_t = x_t + s * x_start - s / now.sqrt() * noise  # C = -x_start
        if then > 0:
            x_t = x_t + (s * then / now).sqrt() * randn(x_t)
    return x_t


def sample_euler(diffusion: FlowMatching, model: Model, x_t: Tensor, steps: int, randn: Randn | None = None) -> Tensor:
    """Euler's method for dx_t / dt = velocity, deterministic (`randn` is not used); on straight paths it is DDIM."""
    for now, then in pairwise(diffusion.schedule(steps, x_t.device)):
        t = now.expand(x_t.shape[0])
        x_start, noise = diffusion.predictions(model(x_t, t), x_t, t)
        x_t = x_t + (then - now) * (noise - x_start)
    return x_t


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": sample_ddim,
    "ddpm": sample_ddpm,
    "decoupled": sample_decoupled,
    "euler": sample_euler,
}


@dataclass(frozen=True)
class Sampling:
    """How to sample."""

    sampler: str | None = None  # a name that `PROCESSES` has for the process; None: its first one
    steps: int = 4  # number of sampling steps, each of which calls the network once
    noise_scale: float = 1.0  # standard deviation of all noise, up to MAX_NOISE_SCALE; above 1 samples differ more

    def changed(self, diffusion: Diffusion, **changes: Any) -> "Sampling":
        """A copy with the given fields (None: unchanged) and the sampler's name filled in. ConfigError for what does not fit
        the process.
        """
        result = replace(self, **{name: value for name, value in changes.items() if value is not None})
        fitting = PROCESSES[diffusion.model_type].samplers
        sampler = result.sampler or fitting[0]
        diffusion.schedule(result.steps)  # raises
        if sampler not in fitting:
            raise ConfigError(f"sampler {sampler!r} does not fit this model; choose from {', '.join(fitting)}")
        if not 0 < result.noise_scale <= MAX_NOISE_SCALE:
            raise ConfigError(f"noise_scale is {result.noise_scale:g}; it must lie above 0, up to {MAX_NOISE_SCALE:g}")
        return replace(result, sampler=sampler)

    def run(self, diffusion: Diffusion, model: Model, noise: Tensor, randn: Randn) -> Tensor:
        """x_start (B, Z, h, w) from standard normal noise of its shape; only after `changed`, which checks the settings."""
        scale, sample = self.noise_scale, SAMPLERS[str(self.sampler)]
        return sample(diffusion, model, scale * noise, self.steps, lambda x: scale * randn(x))
