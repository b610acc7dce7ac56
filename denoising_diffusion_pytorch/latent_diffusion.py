"""The second stage: diffusion in the autoencoder's latent space, conditioned on the city (Rombach et al., 2022).

This module alone knows the latent scale factor: x_start = scale_factor * z has unit standard deviation.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .diffusion import (
    DecoupledDiffusion,
    Diffusion,
    FlowMatching,
    GaussianDiffusion,
    sample_ddim,
    sample_ddpm,
    sample_decoupled,
    sample_euler,
    sample_heun,
)
from .networks.autoencoder import AutoencoderKL, DiagonalGaussianDistribution
from .radio_map import to_gain
from .randomness import GlobalRandom, KeyedRandom, draw_keys

Random = GlobalRandom | KeyedRandom
Keys = Tensor | Sequence[int]
SAMPLERS: dict[type, dict[str, Any]] = {  # the first one is the default
    GaussianDiffusion: {"ddim": sample_ddim, "ddpm": sample_ddpm},
    DecoupledDiffusion: {"decoupled": sample_decoupled},
    FlowMatching: {"euler": sample_euler, "heun": sample_heun},
}


class LatentDiffusion(nn.Module):
    """Autoencoder, condition encoder, U-Net and forward process in one module.

    `LatentDiffusion(first_stage_config=..., cond_stage_config=..., unet_config=..., diffusion_config=...)`, the design
    document's call, builds the modules from sections of a configuration (see `build.latent_diffusion_parts`).

    Args:
        first_stage_model: stays in eval mode unless its encoder is trainable.
        cond_stage_model: condition image (B, C, s, s) -> one map per level of the U-Net.
        unet: (x_t, time, maps) -> model output.
        diffusion: the forward process and its objective.
        sampler, sampling_timesteps, noise_scale, ddim_eta: defaults of `sample`.
        final_step_share: share of the training samples that are put at t = T.
        scale_factor: None: NaN until `set_scale` or a checkpoint gives it.
        sections: of a configuration, and optionally `cond_size`, in place of all of the above.
    """

    def __init__(
        self,
        first_stage_model: AutoencoderKL | None = None,
        cond_stage_model: nn.Module | None = None,
        unet: nn.Module | None = None,
        diffusion: Diffusion | None = None,
        *,
        sampler: str | None = None,
        sampling_timesteps: int = 4,
        noise_scale: float = 1.0,
        ddim_eta: float = 0.0,
        final_step_share: float = 0.0,
        scale_factor: float | None = None,
        **sections,
    ):
        if unet is None:
            from .build import latent_diffusion_parts  # build.py imports this module

            LatentDiffusion.__init__(self, **latent_diffusion_parts(**sections))
            return
        if sections:
            raise TypeError(
                f"LatentDiffusion takes modules or sections of a configuration, not both: {', '.join(sections)}"
            )
        super().__init__()
        self.first_stage_model, self.cond_stage_model = first_stage_model, cond_stage_model
        self.unet, self.diffusion = unet, diffusion
        self.samplers = SAMPLERS[type(diffusion)]
        self.sampler, self.sampling_timesteps = sampler or next(iter(self.samplers)), sampling_timesteps
        self.noise_scale, self.ddim_eta, self.final_step_share = noise_scale, ddim_eta, final_step_share
        self.scale_factor: Tensor
        self.register_buffer("scale_factor", torch.tensor(scale_factor or float("nan")))
        self._scale_known = False

    def train(self, mode: bool = True) -> "LatentDiffusion":
        """As usual, except that a frozen first stage stays in eval mode."""
        super().train(mode)
        trained = any(p.requires_grad for p in self.first_stage_model.encoder.parameters())
        self.first_stage_model.train(mode and trained)
        return self

    # ---- the first stage -------------------------------------------------------------------------------------

    def encode_first_stage(self, x: Tensor) -> DiagonalGaussianDistribution:
        """x (B, 1, H, W) in [-1, 1] -> posterior over z (B, Z, h, w), not scaled."""
        return self.first_stage_model.encode(x)

    def decode_first_stage(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """z (B, Z, h, w), not scaled; cond (B, C, H, W) for a decoder that sees it -> (B, 1, H, W), about [-1, 1]."""
        return self.first_stage_model.decode(z, cond)

    @torch.no_grad()
    def posterior(self, images: Tensor, moments: Tensor | None = None) -> DiagonalGaussianDistribution:
        """Over z, of images (B, 1, H, W) in [-1, 1]; from their moments (B, 2 Z, h, w) where they are known already (latents.py)."""
        return self.encode_first_stage(images) if moments is None else DiagonalGaussianDistribution(moments)

    @torch.no_grad()
    def set_scale(self, posteriors: Iterable[DiagonalGaussianDistribution], reduce=lambda total: total) -> float:
        """Measure 1 / std of z and keep it; nothing is sampled, as E[z^2] = mean^2 + var.

        Args:
            posteriors: of batches of images.
            reduce: sums a (3,) float64 tensor over all processes.

        Returns:
            the scale factor.
        """
        total = torch.zeros(
            3, dtype=torch.float64
        )  # count, sum, sum of squares; on the CPU: not every device has float64
        for posterior in posteriors:
            mean, second = posterior.mean.cpu().double(), posterior.std.cpu().double().square()
            total += torch.stack([torch.tensor(mean.numel()), mean.sum(), (mean.square() + second).sum()])
        count, first, second = reduce(total)
        variance = second / count - (first / count) ** 2
        self.scale_factor.fill_(float(variance.rsqrt()))
        return float(self.scale_factor)

    def latent(self, posterior: DiagonalGaussianDistribution, noise: Tensor | None = None) -> Tensor:
        """x_start = scale_factor * a sample of the posterior, (B, Z, h, w), detached from the encoder."""
        return posterior.sample(noise).detach() * self.scale_factor

    # ---- diffusion -------------------------------------------------------------------------------------------

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """The forward process: x_start (B, Z, h, w), t (B,) -> x_t."""
        return self.diffusion.q_sample(x_start, t, torch.randn_like(x_start) if noise is None else noise)

    def encode_condition(self, cond: Tensor) -> list[Tensor]:
        """cond (B, C, s, s) in [-1, 1] -> features, one map per level; once per scene, not once per denoising step."""
        return self.cond_stage_model(cond)

    def model_output(self, x_t: Tensor, t: Tensor, features: Sequence[Tensor]) -> Tensor:
        """The U-Net's output for x_t (B, Z, h, w) at t (B,), as `diffusion` takes it; float32."""
        return self.unet(x_t, self.diffusion.time_input(t), features).float()

    def denoise(self, x_t: Tensor, t: Tensor, cond: Tensor | Sequence[Tensor]) -> Tensor:
        """What the objective names: the predicted noise, x_start, v, velocity, or (C, noise) along the channels.

        Args:
            x_t: (B, Z, h, w).
            t: (B,).
            cond: condition image (B, C, s, s), or what `encode_condition` makes of it.
        """
        features = self.encode_condition(cond) if isinstance(cond, Tensor) else cond
        return self.diffusion.estimate(self.model_output(x_t, t, features), x_t, t)

    def latent_loss(self, x_start: Tensor, cond: Tensor, random: Random) -> tuple[Tensor, Tensor]:
        """The denoising loss at random times, a scalar, and the prediction of x_start (B, Z, h, w) that it came from.

        Args:
            x_start: (B, Z, h, w), unit standard deviation.
            cond: (B, C, s, s) in [-1, 1].
            random: where time and noise come from.
        """
        u, final = random.rand(), random.rand() < self.final_step_share
        t = self.diffusion.draw_t(u, final)
        noise = random.randn_like(x_start)
        x_t = self.q_sample(x_start, t, noise)
        output = self.model_output(x_t, t, self.encode_condition(cond))
        return self.diffusion.loss(output, x_start, x_t, t, noise), self.diffusion.predictions(output, x_t, t)[0]

    def random_for(self, batch_size: int, keys: Keys | None) -> Random:
        """Keyed randomness where keys are given, else torch's global generator."""
        device = self.scale_factor.device
        return GlobalRandom(batch_size, device) if keys is None else KeyedRandom(keys, device)

    def forward(self, images: Tensor, conditions: Tensor, keys: Keys | None = None) -> Tensor:
        """The second stage's training loss, a scalar; no gradient reaches the autoencoder. Arguments as `denoising`."""
        return self.denoising(images, conditions, keys)[0]

    def denoising(
        self,
        images: Tensor,
        conditions: Tensor,
        keys: Keys | None = None,
        moments: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`latent_loss` of images.

        Args:
            images: (B, 1, H, W) in [-1, 1].
            conditions: (B, C, s, s) in [-1, 1].
            keys: one integer per sample for reproducible randomness.
            moments: as `posterior`.
        """
        self.require_scale()
        random = self.random_for(images.shape[0], keys)
        posterior = self.posterior(images, moments)
        x_start = self.latent(posterior, random.randn_like(posterior.mean))
        return self.latent_loss(x_start, conditions, random)

    def require_scale(self) -> None:
        """Raises RuntimeError while the scale factor is unknown."""
        if not self._scale_known:  # read once: it waits for all work that is queued on a GPU
            if not torch.isfinite(self.scale_factor):
                raise RuntimeError("the latent scale factor is not known yet: call set_scale, or load a checkpoint")
            self._scale_known = True

    # ---- sampling --------------------------------------------------------------------------------------------

    def sampling(self, sampler: str | None = None, steps: int | None = None) -> tuple[str, int]:
        """The sampler and the number of steps to use, the configured ones where None is given.

        Raises:
            ValueError: the sampler does not fit the process, or it has not that many steps.
        """
        sampler = sampler or self.sampler
        steps = self.sampling_timesteps if steps is None else steps
        if sampler not in self.samplers:
            process = type(self.diffusion).__name__
            raise ValueError(f"sampler {sampler!r} does not fit {process}; choose from {', '.join(self.samplers)}")
        self.diffusion.schedule(steps)
        return sampler, steps

    @torch.no_grad()
    def sample_latent(
        self,
        features: Sequence[Tensor],
        *,
        steps: int | None = None,
        sampler: str | None = None,
        noise_scale: float | None = None,
        keys: Keys | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """x_start (B, Z, h, w) from noise and `encode_condition`'s features; other arguments as `sample`."""
        sampler, steps = self.sampling(sampler, steps)
        batch, device = features[0].shape[0], features[0].device
        random = GlobalRandom(batch, device, generator) if keys is None else KeyedRandom(keys, device)

        def model(x_t: Tensor, t: Tensor) -> Tensor:
            return self.model_output(x_t, t, features)

        scale = self.noise_scale if noise_scale is None else noise_scale
        draw = self.samplers[sampler]
        if sampler == "ddim":
            draw = partial(draw, eta=self.ddim_eta)
        shape = (self.first_stage_model.embed_dim, *features[0].shape[-2:])  # level 0 has the latent's size
        return draw(self.diffusion, model, scale * random.randn(*shape), steps, lambda x: scale * random.randn_like(x))

    @torch.no_grad()
    def sample(self, conditions: Tensor, ori_mask: Tensor | None = None, **how) -> Tensor:
        """Draw one radio map per condition.

        Args:
            conditions: (B, C, s, s) in [-1, 1].
            ori_mask: (B, 1, H, W), 1 where the map is zero beyond doubt, else 0; None leaves all.
            steps: network calls (None: `sampling_timesteps`).
            sampler: ddim or ddpm; decoupled for const_sde; euler or heun for flow (None: the configured one).
            noise_scale: standard deviation of all noise; above 1 draws differ more (None: the configured one).
            keys: one integer per map: the same map whatever batch it is in.
            generator: randomness without keys; on the conditions' device.

        Returns:
            grey levels (B, 1, H, W) in [0, 1], float32.
        """
        return next(self.draws(conditions, ori_mask, 1, **how))

    @torch.no_grad()
    def draws(
        self,
        conditions: Tensor,
        ori_mask: Tensor | None,
        count: int,
        *,
        keys: Keys | None = None,
        **how,
    ) -> Iterator[Tensor]:
        """`count` independent draws of `sample`, one after the other; the condition is encoded once. The first one is what
        `sample` gives.
        """
        self.require_scale()
        features = self.encode_condition(conditions)
        for number in range(count):
            own = None if keys is None else draw_keys(keys, number)
            x_start = self.sample_latent(features, keys=own, **how)
            yield to_gain(self.decode_first_stage(x_start / self.scale_factor, conditions), ori_mask)

    def predict(self, batch: dict[str, Any], num_samples: int = 1, **how) -> Iterator[Tensor]:
        """`draws` of a batch with `conditions`, `masks` and `keys`."""
        return self.draws(batch["conditions"], batch["masks"], num_samples, keys=batch["keys"], **how)

    def ceiling(self, batch: dict[str, Any]) -> Tensor:
        """The autoencoder's reconstruction of a batch's images: the best that the U-Net could do."""
        return self.first_stage_model.reconstruct(batch)
