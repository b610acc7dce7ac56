"""The mathematics of diffusion: forward processes, objectives, and samplers for any callable.

Three processes with one interface (`draw_t`, `time_input`, `q_sample`, `predictions`, `estimate`, `target`, `loss`):

* `GaussianDiffusion`: T discrete, variance-preserving steps (Ho et al., 2020), objectives `pred_noise`, `pred_x0`,
  `pred_v` (Salimans & Ho, 2022).
* `DecoupledDiffusion`: RadioDiff's `const_sde` (Huang et al., "Decoupled Diffusion Models", 2023), objective
  `pred_KC`.
* `FlowMatching`: straight paths (Lipman et al., "Flow Matching for Generative Modeling", 2023), objective
  `pred_velocity`.

The network's output has unit variance at every t, and `predictions` turns it into x_start and noise for every
objective (preconditioning, after Karras et al., 2022). The objective is the quantity that the loss compares.

A sampler is a free function; its `model` is any callable (x_t, t) -> model_output, its `randn` any callable that
returns fresh standard normal noise of its argument's shape. N steps are N calls of the model.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

Model = Callable[[Tensor, Tensor], Tensor]
Randn = Callable[[Tensor], Tensor]

OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")


def beta_schedule(name: str, timesteps: int) -> Tensor:
    """Variances beta_t of the forward steps, (T,) float64.

    `linear`: DDPM's, `scaled_linear`: LDM's (linear in sqrt(beta)), both rescaled from their 1000 steps to
    `timesteps`; `cosine`: Nichol & Dhariwal (2021), whose last step leaves practically no signal.
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
        raise ValueError(f"unknown beta schedule {name!r}")
    return betas.clamp(max=0.999)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1) for a 4-D `like`, in its precision."""
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def elementwise_loss(prediction: Tensor, target: Tensor, loss_type: str) -> Tensor:
    """Mean over all elements of the squared error (`l2`), absolute error (`l1`), or half of their sum (`l1_l2`)."""
    error = prediction - target
    if loss_type == "l2":
        return error.square().mean()
    if loss_type == "l1":
        return error.abs().mean()
    if loss_type == "l1_l2":
        return 0.5 * (error.square().mean() + error.abs().mean())
    raise ValueError(f"unknown loss type {loss_type!r}")


class GaussianDiffusion(nn.Module):
    """q(x_t | x_start) = N(sqrt(alpha_bar_t) x_start, (1 - alpha_bar_t) I), t in 0 .. T - 1.

    With signal = sqrt(alpha_bar_t) and sigma = sqrt(1 - alpha_bar_t) the network's output F becomes

        pred_x0:             x_start = F
        pred_noise, pred_v:  x_start = signal x_t - sigma F,  noise = sigma x_t + signal F

    where F is v = signal noise - sigma x_start (Salimans & Ho, 2022). Nothing is divided by the signal, which is
    almost zero near t = T: if the network predicted the noise itself, its error would be multiplied by sigma / signal.

    Args:
        timesteps: T.
        schedule: see `beta_schedule`.
        objective: the quantity that the loss compares: noise, x_start, or v.
    """

    heads = 1  # model outputs per latent channel

    def __init__(
        self,
        timesteps: int = 1000,
        schedule: str = "scaled_linear",
        objective: str = "pred_noise",
        loss_type: str = "l2",
    ):
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(f"objective {objective!r} is none of {', '.join(OBJECTIVES)}")
        self.timesteps = timesteps
        self.objective = objective
        self.loss_type = loss_type
        alpha_bar = torch.cumprod(1 - beta_schedule(schedule, timesteps), dim=0)
        # float32: some accelerators have no float64
        self.sqrt_alpha_bar: Tensor
        self.sqrt_one_minus_alpha_bar: Tensor
        self.register_buffer("sqrt_alpha_bar", alpha_bar.sqrt().float(), persistent=False)
        self.register_buffer("sqrt_one_minus_alpha_bar", (1 - alpha_bar).sqrt().float(), persistent=False)

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise amplitudes at t (B,) int64, shaped for `like`; t = -1 stands for the clean x_start."""
        index = t.clamp(min=0).long()
        signal = torch.where(t < 0, 1.0, self.sqrt_alpha_bar[index])
        noise = torch.where(t < 0, 0.0, self.sqrt_one_minus_alpha_bar[index])
        return _per_sample(signal, like), _per_sample(noise, like)

    def draw_t(self, u: Tensor, final_step: Tensor) -> Tensor:
        """u (B,) in [0, 1) -> t (B,) int64, uniform over the steps; T - 1 where `final_step` (B,) bool is set."""
        t = (u * self.timesteps).long().clamp(max=self.timesteps - 1)
        return torch.where(final_step, self.timesteps - 1, t)

    def time_input(self, t: Tensor) -> Tensor:
        """t (B,) -> the network's time input, in [0, 1000)."""
        return t.float() * (1000 / self.timesteps)

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar_t) x_start + sqrt(1 - alpha_bar_t) noise."""
        signal, sigma = self.coefficients(t, x_start)
        return signal * x_start + sigma * noise

    def predictions(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Model output -> (x_start, noise), consistent with x_t = signal x_start + sigma noise."""
        signal, sigma = self.coefficients(t, x_t)
        if self.objective == "pred_x0":
            return model_output, (x_t - signal * model_output) / sigma
        return signal * x_t - sigma * model_output, sigma * x_t + signal * model_output

    def estimate(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Model output -> the objective's quantity, of x_t's shape."""
        return self.predictions(model_output, x_t, t)[1] if self.objective == "pred_noise" else model_output

    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The true value of the objective's quantity, of x_start's shape."""
        if self.objective == "pred_noise":
            return noise
        if self.objective == "pred_x0":
            return x_start
        signal, sigma = self.coefficients(t, x_start)
        return signal * noise - sigma * x_start

    def loss(self, model_output: Tensor, x_start: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The training loss, a scalar."""
        return elementwise_loss(self.estimate(model_output, x_t, t), self.target(x_start, t, noise), self.loss_type)

    def schedule(self, steps: int, device: torch.device | str = "cpu") -> Tensor:
        """Descending times of `steps` sampling steps and the final -1, (steps + 1,) int64.

        Spaced from T - 1 down ("trailing", Lin et al., 2024), so that the first call sees pure noise.
        """
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"steps must lie in 1..{self.timesteps}, not {steps}")
        t = torch.linspace(self.timesteps, 0, steps + 1, dtype=torch.float64).round().long() - 1
        return t.to(device)


class _StraightSignal(nn.Module, ABC):
    """What the processes with x_t = (1 - t) x_start + sigma(t) noise, t in (0, 1], have in common."""

    heads: int

    def __init__(self, loss_type: str, t_min: float):
        super().__init__()
        self.loss_type = loss_type
        self.t_min = t_min

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The noise amplitude at t, of t's shape."""

    @abstractmethod
    def predictions(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Model output (B, heads Z, h, w) -> (x_start, noise), (B, Z, h, w) each."""

    @abstractmethod
    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The true value of the objective's quantity, (B, heads Z, h, w)."""

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise amplitudes at t (B,) in [0, 1], shaped for `like`."""
        return _per_sample(1 - t, like), _per_sample(self.sigma(t), like)

    def draw_t(self, u: Tensor, final_step: Tensor) -> Tensor:
        """u (B,) in [0, 1) -> t (B,) in [t_min, 1); 1 where `final_step` (B,) bool is set."""
        t = self.t_min + u * (1 - self.t_min)
        return torch.where(final_step, torch.ones_like(t), t)

    def time_input(self, t: Tensor) -> Tensor:
        """t (B,) -> the network's time input, in (0, 1000]."""
        return t.float() * 1000

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = (1 - t) x_start + sigma(t) noise."""
        signal, sigma = self.coefficients(t, x_start)
        return signal * x_start + sigma * noise

    def estimate(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Model output -> the objective's quantity, (B, heads Z, h, w)."""
        x_start, noise = self.predictions(model_output, x_t, t)
        return self.target(x_start, t, noise)

    def loss(self, model_output: Tensor, x_start: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The training loss, summed over the heads, a scalar."""
        estimate, target = self.estimate(model_output, x_t, t), self.target(x_start, t, noise)
        return self.heads * elementwise_loss(estimate, target, self.loss_type)

    def schedule(self, steps: int, device: torch.device | str = "cpu") -> Tensor:
        """Descending times 1 .. 0 of `steps` sampling steps, (steps + 1,) float32."""
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        return torch.linspace(1, 0, steps + 1, device=device)


class DecoupledDiffusion(_StraightSignal):
    """x_t = x_start + C t + sqrt(t) noise with C = -x_start, t in (0, 1]: signal and noise are decoupled.

    The targets of the network's two heads F1 and F2 have unit variance at every t if x_start has. With
    v = (1 - t)^2 + t, the variance of x_t:

        C     = -(1 - t) / v  x_t + sqrt(t / v)    F1
        noise = sqrt(t)  / v  x_t + (1 - t) / sqrt(v) F2

    so that C tends to -x_t as t -> 0 and noise is x_t itself at t = 1. The loss compares C and noise, so each head is
    weighted by how much x_t leaves undetermined.
    """

    heads = 2
    objective = "pred_KC"

    def __init__(self, loss_type: str = "l1_l2", t_min: float = 1e-4):
        super().__init__(loss_type, t_min)

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(t)."""
        return t.sqrt()

    def predictions(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Model output (B, 2 Z, h, w) -> (x_start, noise), (B, Z, h, w) each."""
        f1, f2 = model_output.chunk(2, dim=1)
        t = _per_sample(t, x_t)
        variance = (1 - t).square() + t
        c = -(1 - t) / variance * x_t + (t / variance).sqrt() * f1
        noise = t.sqrt() / variance * x_t + (1 - t) / variance.sqrt() * f2
        return -c, noise

    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The true (C, noise) along the channels, (B, 2 Z, h, w)."""
        return torch.cat([-x_start, noise], dim=1)


class FlowMatching(_StraightSignal):
    """x_t = (1 - t) x_start + t noise, t in (0, 1]: straight paths of constant velocity noise - x_start.

    Flow matching (Lipman et al., 2023) with the paths of rectified flow (Liu et al., 2023), as RadioFlow (Jia et al.,
    2025) uses it for radio maps; t runs as in the other processes, from x_start to noise. With v = (1 - t)^2 + t^2, the
    variance of x_t if x_start has unit variance, the network's output F becomes

        velocity = (2 t - 1) / v x_t + F / sqrt(v)

    where the first term is the best linear guess from x_t, and F has unit variance at every t: it is the v of
    `GaussianDiffusion` for x_t / sqrt(v). The loss compares the velocity, so F is weighted by 1 / v, 1 to 2.
    """

    heads = 1
    objective = "pred_velocity"

    def __init__(self, loss_type: str = "l2", t_min: float = 1e-4):
        super().__init__(loss_type, t_min)

    def sigma(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def predictions(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Model output (B, Z, h, w) -> (x_start, noise), consistent with x_t = (1 - t) x_start + t noise."""
        signal, sigma = self.coefficients(t, x_t)
        variance = signal.square() + sigma.square()
        # x_t - t velocity and x_t + (1 - t) velocity, without the cancellation of x_t at either end
        x_start = signal / variance * x_t - sigma / variance.sqrt() * model_output
        noise = sigma / variance * x_t + signal / variance.sqrt() * model_output
        return x_start, noise

    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The true velocity dx_t / dt, of x_start's shape."""
        return noise - x_start


Diffusion = GaussianDiffusion | DecoupledDiffusion | FlowMatching


def sample_ddpm(diffusion: GaussianDiffusion, model: Model, x_t: Tensor, steps: int, randn: Randn) -> Tensor:
    """Ancestral sampling (Ho et al., 2020, algorithm 2) on a subset of the steps: x_T -> x_start of the same shape."""
    times = diffusion.schedule(steps, x_t.device)
    for now, then in zip(times[:-1], times[1:], strict=True):
        t, s = now.expand(x_t.shape[0]), then.expand(x_t.shape[0])
        x_start, _ = diffusion.predictions(model(x_t, t), x_t, t)
        (signal_t, sigma_t), (signal_s, sigma_s) = diffusion.coefficients(t, x_t), diffusion.coefficients(s, x_t)
        step = (signal_t / signal_s).square()  # alpha of the combined step s -> t
        beta = sigma_t.square() - step * sigma_s.square()  # 1 - step, without cancellation
        mean = signal_s * beta / sigma_t.square() * x_start + step.sqrt() * sigma_s.square() / sigma_t.square() * x_t
        std = (sigma_s.square() / sigma_t.square() * beta).sqrt()
        x_t = mean + std * randn(x_t) if then >= 0 else mean
    return x_t


def sample_ddim(
    diffusion: GaussianDiffusion, model: Model, x_t: Tensor, steps: int, randn: Randn, eta: float = 0.0
) -> Tensor:
    """DDIM (Song et al., 2021, eq. 12 and 16): x_T -> x_start; eta = 0 is deterministic, 1 is ancestral."""
    times = diffusion.schedule(steps, x_t.device)
    for now, then in zip(times[:-1], times[1:], strict=True):
        t, s = now.expand(x_t.shape[0]), then.expand(x_t.shape[0])
        x_start, noise = diffusion.predictions(model(x_t, t), x_t, t)
        (signal_t, sigma_t), (signal_s, sigma_s) = diffusion.coefficients(t, x_t), diffusion.coefficients(s, x_t)
        std = eta * (sigma_s / sigma_t) * (1 - (signal_t / signal_s).square()).clamp(min=0).sqrt()
        x_t = signal_s * x_start + (sigma_s.square() - std.square()).clamp(min=0).sqrt() * noise
        if eta > 0 and then >= 0:
            x_t = x_t + std * randn(x_t)
    return x_t


def sample_decoupled(diffusion: DecoupledDiffusion, model: Model, x_t: Tensor, steps: int, randn: Randn) -> Tensor:
    """The reverse process of the decoupled diffusion: x_1 -> x_start.

    A step from t to t - s has mean x_t - s C - (s / sqrt(t)) noise and variance s (t - s) / t.
    """
    times = diffusion.schedule(steps, x_t.device)
    for now, then in zip(times[:-1], times[1:], strict=True):
        t = now.expand(x_t.shape[0])
        x_start, noise = diffusion.predictions(model(x_t, t), x_t, t)
        s = now - then
        x_t = x_t + s * x_start - s / now.sqrt() * noise
        if then > 0:
            x_t = x_t + (s * then / now).sqrt() * randn(x_t)
    return x_t


def _velocity(diffusion: FlowMatching, model: Model, x_t: Tensor, now: Tensor) -> Tensor:
    """dx_t / dt at the time `now`, a scalar, of x_t's shape: one call of the model."""
    t = now.expand(x_t.shape[0])
    return diffusion.estimate(model(x_t, t), x_t, t)


def sample_euler(diffusion: FlowMatching, model: Model, x_t: Tensor, steps: int, randn: Randn | None = None) -> Tensor:
    """Euler's method for dx_t / dt = velocity: x_1 -> x_start, deterministic; on straight paths it is DDIM.

    Args:
        randn: not used; all samplers take the same arguments.
    """
    times = diffusion.schedule(steps, x_t.device)
    for now, then in pairwise(times):
        x_t = x_t + (then - now) * _velocity(diffusion, model, x_t, now)
    return x_t


def sample_heun(diffusion: FlowMatching, model: Model, x_t: Tensor, steps: int, randn: Randn | None = None) -> Tensor:
    """Heun's method for dx_t / dt = velocity: x_1 -> x_start, deterministic, of second order.

    A Heun step calls the model twice and is twice as long as one of Euler's. The last step is Euler's (as in Karras et
    al., 2022, algorithm 1): the other end of that step, t = 0, holds no noise to predict a velocity from. An even
    number of calls begins with a step of Euler's too, where paths are nearly straight. So 5 calls are Heun, Heun,
    Euler; 4 are Euler, Heun, Euler; 1 and 2 are `sample_euler`.

    Args:
        randn: not used; all samplers take the same arguments.
    """
    times = diffusion.schedule(steps, x_t.device)
    for start, end in pairwise([0, *range(1 + steps % 2, steps, 2), steps]):
        now, then = times[start], times[end]
        velocity = _velocity(diffusion, model, x_t, now)
        if end - start == 2:
            ahead = x_t + (then - now) * velocity
            velocity = (velocity + _velocity(diffusion, model, ahead, then)) / 2
        x_t = x_t + (then - now) * velocity
    return x_t
