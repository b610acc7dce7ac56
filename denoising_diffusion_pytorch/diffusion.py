"""The mathematics of diffusion: three forward processes behind one interface, `Diffusion`, and their objectives."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .processes import PROCESSES

T_MIN = 1e-4  # smallest t that processes in continuous time are trained on


def beta_schedule(name: str, timesteps: int) -> Tensor:
    """Variances beta_t of the forward steps, (T,) float64. `linear`: DDPM's, `scaled_linear`: LDM's, both rescaled from their
    1000 steps to `timesteps`; `cosine`: Nichol & Dhariwal (2021), whose last step leaves practically no signal.
    """
    scale = 1000 / timesteps
    if name == "linear":
        betas = torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64)
    elif name == "scaled_linear":
        betas = torch.linspace((0.00085 * scale) ** 0.5, (0.012 * scale) ** 0.5, timesteps, dtype=torch.float64) ** 2
    elif name == "cosine":
        s = 0.008
        u = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
        betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    else:
        raise ConfigError(f"beta schedule {name!r} is not linear, scaled_linear or cosine")
    return betas.clamp(max=0.999)


class Diffusion(nn.Module, ABC):
    """A forward process x_t = signal(t) x_start + sigma(t) noise, and the meaning of the network's output F.

    With v = signal^2 + sigma^2, the variance of x_t if x_start has unit variance,

        x_start = signal / v x_t - sigma / sqrt(v)  F
        noise   = sigma / v  x_t + signal / sqrt(v) F

    The first terms are the best linear guesses from x_t; the rest, F = (signal noise - sigma x_start) / sqrt(v), has
    unit variance at every t and is not correlated with x_t (preconditioning, after Karras et al., 2022). Nothing is
    divided by the signal, which is almost zero at the noisy end: if the network predicted the noise itself, its error
    would be multiplied by sigma / signal. The objective, one of `PROCESSES[model_type].objectives` (None: the first), is
    the quantity whose squared error is the loss.
    """

    model_type: str  # its name in `PROCESSES`
    heads = 1  # model outputs per latent channel
    timesteps = 1  # the noisiest t; T for a process with discrete steps

    def __init__(self, objective: str | None = None):
        super().__init__()
        known = PROCESSES[self.model_type].objectives
        self.objective = objective or known[0]
        if self.objective not in known:
            raise ConfigError(
                f"objective {self.objective!r} does not fit {self.model_type}; choose {' or '.join(known)}"
            )

    @abstractmethod
    def amplitudes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and sigma at t, of t's shape."""

    @abstractmethod
    def sample_t(self, u: Tensor, final_step: Tensor) -> Tensor:
        """u (B,) in [0, 1) -> t (B,), uniform; the noisiest t where `final_step` (B,) bool is set."""

    @abstractmethod
    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The true value of the objective's quantity, (B, heads Z, h, w)."""

    @abstractmethod
    def schedule(self, steps: int, device: torch.device | str = "cpu") -> Tensor:
        """Descending times of `steps` sampling steps and the clean end, (steps + 1,)."""

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and sigma at t (B,), (B, 1, 1, 1) each for a 4-D `like`, in its precision."""
        signal, sigma = (a.to(like.dtype).view(-1, *[1] * (like.ndim - 1)) for a in self.amplitudes(t))
        return signal, sigma

    def time_input(self, t: Tensor) -> Tensor:
        """t (B,) -> the network's time input, in [0, 1000]."""
        return t.float() * (1000 / self.timesteps)

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = signal x_start + sigma noise, all of x_start's shape (B, Z, h, w)."""
        signal, sigma = self.coefficients(t, x_start)
        return signal * x_start + sigma * noise

    def predictions(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Model output (B, heads Z, h, w) -> (x_start, noise), (B, Z, h, w) each, consistent with x_t; here for one head F."""
        signal, sigma = self.coefficients(t, x_t)
        variance = signal.square() + sigma.square()
        x_start = signal / variance * x_t - sigma / variance.sqrt() * model_output
        return x_start, sigma / variance * x_t + signal / variance.sqrt() * model_output

    def estimate(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Model output -> the objective's quantity, (B, heads Z, h, w)."""
        x_start, noise = self.predictions(model_output, x_t, t)
        return self.target(x_start, t, noise)

    def loss(self, model_output: Tensor, x_start: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The mean squared error of the objective's quantity, summed over the heads, a scalar."""
        error = self.estimate(model_output, x_t, t) - self.target(x_start, t, noise)
        return self.heads * error.square().mean()


class GaussianDiffusion(Diffusion):
    """q(x_t | x_start) = N(sqrt(alpha_bar_t) x_start, (1 - alpha_bar_t) I) (Ho et al., 2020), t in 0 .. T - 1; -1 is the clean
    x_start. signal^2 + sigma^2 = 1, so F is v of Salimans & Ho (2022).
    """

    model_type = "ddpm"

    def __init__(self, timesteps: int = 1000, schedule: str = "scaled_linear", objective: str | None = None):
        super().__init__(objective)
        self.timesteps = timesteps
        betas = nn.functional.pad(beta_schedule(schedule, timesteps), (1, 0))  # of t = -1, 0, ..., T - 1
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        # float32: some accelerators have no float64
        self.sqrt_alpha_bar = nn.Buffer(alpha_bar.sqrt().float(), persistent=False)
        self.sqrt_one_minus_alpha_bar = nn.Buffer((1 - alpha_bar).sqrt().float(), persistent=False)

    def amplitudes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.sqrt_alpha_bar[t.long() + 1], self.sqrt_one_minus_alpha_bar[t.long() + 1]

    def sample_t(self, u: Tensor, final_step: Tensor) -> Tensor:
        t = (u * self.timesteps).long().clamp(max=self.timesteps - 1)
        return torch.where(final_step, self.timesteps - 1, t)

    def predictions(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Diffusion`; with `pred_x0` the output is x_start itself."""
        if self.objective != "pred_x0":
            return super().predictions(model_output, x_t, t)
        signal, sigma = self.coefficients(t, x_t)
        return model_output, (x_t - signal * model_output) / sigma

    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The noise, x_start, or v = signal noise - sigma x_start, (B, Z, h, w)."""
        signal, sigma = self.coefficients(t, x_start)
        return {"pred_noise": noise, "pred_x0": x_start}.get(self.objective, signal * noise - sigma * x_start)

    def schedule(self, steps: int, device: torch.device | str = "cpu") -> Tensor:
        """int64, from T - 1 down to -1 ("trailing", Lin et al., 2024), so that the first call sees pure noise."""
        if not 1 <= steps <= self.timesteps:
            raise ConfigError(f"steps must lie in 1..{self.timesteps}, not {steps}")
        times = torch.linspace(self.timesteps, 0, steps + 1, dtype=torch.float64, device="cpu")
        return (times.round().long() - 1).to(device)


class _Continuous(Diffusion):
    """What the processes with t in (0, 1] have in common: x_t = (1 - t) x_start + sigma(t) noise."""

    def sample_t(self, u: Tensor, final_step: Tensor) -> Tensor:
        t = T_MIN + u * (1 - T_MIN)
        return torch.where(final_step, torch.ones_like(t), t)

    def schedule(self, steps: int, device: torch.device | str = "cpu") -> Tensor:
        if steps < 1:
            raise ConfigError(f"steps must be at least 1, not {steps}")
        return torch.linspace(1, 0, steps + 1, device=device)


class DecoupledDiffusion(_Continuous):
    """x_t = x_start + C t + sqrt(t) noise with C = -x_start, t in (0, 1]: RadioDiff's `const_sde` (Huang et al., "Decoupled
    Diffusion Models", 2023).

    Two heads F1 and F2 predict C and noise. As C = -x_start, both estimate the same F: C is -x_start from F1, noise is the
    noise from F2. The loss compares C and noise separately and so weighs the squared errors of F1 and F2 by

        w1 = t / v,  w2 = (1 - t)^2 / v,  v = (1 - t)^2 + t,  w1 + w2 = 1

    Sampling needs one F, and a head's error falls as its weight in the loss rises. With error variances proportional to
    1 / w1 and 1 / w2 the best sum is F = w1 F1 + w2 F2, whose squared error is never above the loss (Jensen), whatever
    the errors are. At t = 1, where nothing trains F2, it is F1. RadioDiff's own x_start = x_t - C t - sqrt(t) noise is
    F = t F1 + (1 - t) F2, which is nearly the same, as the heads share all layers but the last.
    """

    model_type = "const_sde"
    heads = 2

    def amplitudes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t.sqrt()

    def predictions(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Diffusion`, from both heads together."""
        f1, f2 = model_output.chunk(2, dim=1)
        signal, sigma = self.coefficients(t, x_t)
        w1, w2 = sigma.square(), signal.square()  # times v
        return super().predictions((w1 * f1 + w2 * f2) / (w1 + w2), x_t, t)

    def estimate(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Model output (B, 2 Z, h, w) -> (C, noise) along the channels, each from its own head."""
        f1, f2 = model_output.chunk(2, dim=1)
        return self.target(super().predictions(f1, x_t, t)[0], t, super().predictions(f2, x_t, t)[1])

    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The true (C, noise) along the channels, (B, 2 Z, h, w)."""
        return torch.cat([-x_start, noise], dim=1)


class FlowMatching(_Continuous):
    """x_t = (1 - t) x_start + t noise, t in (0, 1]: straight paths of constant velocity noise - x_start.

    Flow matching (Lipman et al., 2023) with the paths of rectified flow (Liu et al., 2023), as RadioFlow (Jia et al.,
    2025) uses it for radio maps; t runs as in the other processes, from x_start to noise. With v = (1 - t)^2 + t^2,
    velocity = (2 t - 1) / v x_t + F / sqrt(v): the loss weighs F by 1 / v, 1 to 2.
    """

    model_type = "flow"

    def amplitudes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The true velocity dx_t / dt, of x_start's shape."""
        return noise - x_start
