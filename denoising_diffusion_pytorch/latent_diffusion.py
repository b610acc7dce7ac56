"""The second stage: diffusion in the autoencoder's latent space, conditioned on the city (Rombach et al., 2022).

This module alone knows the latent scale factor: x_start = scale_factor * z has unit standard deviation.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .autoencoder import AutoencoderKL, DiagonalGaussianDistribution
from .build import build_autoencoder, build_cond_stage, build_diffusion, build_unet
from .config import resolve, section
from .config.schema import SAMPLERS, Config, DataConfig
from .diffusion import sample_ddim, sample_ddpm, sample_decoupled, sample_dpm_solver
from .losses import apply_mask
from .randomness import GlobalRandom, KeyedRandom

Random = GlobalRandom | KeyedRandom
KEY_STRIDE = 0x1E3779B97F4A7C15  # between the keys of two draws of one map: odd, and nothing that keys are apart by


class LatentDiffusion(nn.Module):
    """Autoencoder, condition encoder, U-Net and forward process in one module.

    Args:
        first_stage_config, cond_stage_config, unet_config, diffusion_config: the sections of a configuration, as the
            dataclasses of config/schema.py or as plain dicts in any spelling that a YAML file may use; None for the
            document's values.
        cond_size: side of the condition image in pixels (None: the latent's side).

    Attributes:
        scale_factor: buffer, NaN until `set_scale` or a checkpoint gives it.
    """

    def __init__(
        self,
        first_stage_config=None,
        cond_stage_config=None,
        unet_config=None,
        diffusion_config=None,
        *,
        cond_size=None,
    ):
        super().__init__()
        config = Config(
            first_stage_config=section("first_stage_config", first_stage_config),
            cond_stage_config=section("cond_stage_config", cond_stage_config),
            unet_config=section("unet_config", unet_config),
            diffusion_config=section("diffusion_config", diffusion_config),
        )
        cond_channels = config.cond_stage_config.in_channels
        size = cond_size or config.cond_stage_config.size
        config.data = DataConfig(cond_size=size)
        if cond_channels is not None:
            config.data.cond_channels = [f"channel_{index}" for index in range(cond_channels)]
        config = resolve(config, stage="ldm")
        self.diffusion_config = config.diffusion_config
        self.train_first_stage = config.first_stage_config.trainable
        self.scale_factor: Tensor
        self.diffusion = build_diffusion(config.diffusion_config)
        self.first_stage_model: AutoencoderKL = build_autoencoder(
            config.first_stage_config, config.cond_stage_config.in_channels
        )
        self.cond_stage_model = build_cond_stage(config.cond_stage_config, config.unet_config)
        self.unet = build_unet(config.unet_config, self.diffusion.heads)
        self.latent_shape = (
            config.first_stage_config.embed_dim,
            config.unet_config.image_size,
            config.unet_config.image_size,
        )
        self.register_buffer("scale_factor", torch.tensor(config.diffusion_config.scale_factor or float("nan")))
        self._scale_known = False
        self.first_stage_model.requires_grad_(self.train_first_stage)
        if config.diffusion_config.end_to_end.start_step is not None:
            self.first_stage_model.decoder.requires_grad_(True)
            self.first_stage_model.post_quant_conv.requires_grad_(True)

    def train(self, mode: bool = True) -> "LatentDiffusion":
        """As usual, except that a frozen first stage stays in eval mode."""
        super().train(mode)
        self.first_stage_model.train(mode and self.train_first_stage)
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
        """Measure 1 / std of z and keep it; E[z^2] = mean^2 + var needs no draw.

        Args:
            posteriors: of batches of images.
            reduce: sums a (3,) float64 tensor over all processes.

        Returns:
            the scale factor.
        """
        total = torch.zeros(3, dtype=torch.float64)  # count, sum, sum of squares; not all devices have doubles
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
        """cond (B, C, s, s) in [-1, 1] -> features, one map a level; once a scene, not once a denoising step."""
        return self.cond_stage_model(cond)

    def model_output(self, x_t: Tensor, t: Tensor, features: Sequence[Tensor]) -> Tensor:
        """The U-Net's output for x_t (B, Z, h, w) at t (B,), as `diffusion` takes it; float32."""
        return self.unet(x_t, self.diffusion.time_input(t), features).float()

    def denoise(self, x_t: Tensor, t: Tensor, cond: Tensor | Sequence[Tensor]) -> Tensor:
        """What the objective names: the predicted noise, x_start, v, or (C, noise) along the channels.

        Args:
            x_t: (B, Z, h, w).
            t: (B,).
            cond: condition image (B, C, s, s), or what `encode_condition` makes of it.
        """
        features = self.encode_condition(cond) if isinstance(cond, Tensor) else cond
        return self.diffusion.estimate(self.model_output(x_t, t, features), x_t, t)

    def latent_loss(self, x_start: Tensor, cond: Tensor, random: Random) -> tuple[Tensor, Tensor]:
        """The denoising loss at random times, a scalar, and the prediction of x_start (B, Z, h, w) behind it.

        Args:
            x_start: (B, Z, h, w), unit standard deviation.
            cond: (B, C, s, s) in [-1, 1].
            random: where time and noise come from.
        """
        u, final = random.rand(), random.rand() < self.diffusion_config.final_step_share
        t = self.diffusion.draw_t(u, final)
        noise = random.randn_like(x_start)
        x_t = self.q_sample(x_start, t, noise)
        output = self.model_output(x_t, t, self.encode_condition(cond))
        return self.diffusion.loss(output, x_start, x_t, t, noise), self.diffusion.predictions(output, x_t, t)[0]

    def random_for(self, batch_size: int, keys: Tensor | Sequence[int] | None) -> Random:
        """Keyed randomness where keys are given, else torch's global generator."""
        device = self.scale_factor.device
        return GlobalRandom(batch_size, device) if keys is None else KeyedRandom(keys, device)

    def forward(self, images: Tensor, conditions: Tensor, keys: Tensor | Sequence[int] | None = None) -> Tensor:
        """The second stage's training loss, a scalar; no gradient reaches the autoencoder. Arguments as `denoising`."""
        return self.denoising(images, conditions, keys)[0]

    def denoising(
        self,
        images: Tensor,
        conditions: Tensor,
        keys: Tensor | Sequence[int] | None = None,
        moments: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`latent_loss` of images.

        Args:
            images: (B, 1, H, W) in [-1, 1].
            conditions: (B, C, s, s) in [-1, 1].
            keys: one integer a sample for reproducible randomness.
            moments: as `posterior`.
        """
        self.require_scale()
        random = self.random_for(images.shape[0], keys)
        posterior = self.posterior(images, moments)
        x_start = self.latent(posterior, random.randn_like(posterior.mean))
        return self.latent_loss(x_start, conditions, random)

    def require_scale(self) -> None:
        """Raises RuntimeError while the scale factor is unknown."""
        if not self._scale_known:  # asked once: a GPU would have to finish all its work before it can answer
            if not torch.isfinite(self.scale_factor):
                raise RuntimeError("the latent scale factor is not known yet: call set_scale, or load a checkpoint")
            self._scale_known = True

    # ---- sampling --------------------------------------------------------------------------------------------

    def sampling(self, sampler: str | None = None, steps: int | None = None) -> tuple[str, int]:
        """The sampler and the number of steps to use, the configured ones where None is given.

        Raises:
            ValueError: the sampler does not fit the process, or it has not that many steps.
        """
        settings = self.diffusion_config
        sampler = sampler or settings.sampler
        steps = settings.sampling_timesteps if steps is None else steps
        allowed = SAMPLERS[settings.model_type]
        if sampler not in allowed:
            raise ValueError(
                f"sampler {sampler!r} does not fit {settings.model_type}; choose from {', '.join(allowed)}"
            )
        self.diffusion.schedule(steps)
        return sampler, steps

    @torch.no_grad()
    def sample_latent(
        self,
        features: Sequence[Tensor],
        *,
        steps: int | None = None,
        sampler: str | None = None,
        keys: Tensor | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """x_start (B, Z, h, w) from noise and `encode_condition`'s features; other arguments as `sample`."""
        sampler, steps = self.sampling(sampler, steps)
        batch, device = features[0].shape[0], features[0].device
        random = GlobalRandom(batch, device, generator) if keys is None else KeyedRandom(keys, device)

        def model(x_t: Tensor, t: Tensor) -> Tensor:
            return self.model_output(x_t, t, features)

        samplers: dict[str, Callable[..., Tensor]] = {
            "ddpm": sample_ddpm,
            "ddim": partial(sample_ddim, eta=self.diffusion_config.ddim_eta),
            "decoupled": sample_decoupled,
            "dpm_solver": sample_dpm_solver,
        }
        return samplers[sampler](self.diffusion, model, random.randn(*self.latent_shape), steps, random.randn_like)

    @torch.no_grad()
    def sample(self, conditions: Tensor, ori_mask: Tensor | None = None, **how) -> Tensor:
        """Draw one radio map a condition.

        Args:
            conditions: (B, C, s, s) in [-1, 1].
            ori_mask: (B, 1, H, W), 1 where the map is zero beyond doubt, else 0; None leaves all.
            steps: network calls (None: `sampling_timesteps`).
            sampler: ddim, ddpm or dpm_solver; decoupled or dpm_solver for const_sde (None: the configured one).
            keys: one integer a map: the same map whatever batch it is in.
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
        keys: Tensor | Sequence[int] | None = None,
        **how,
    ) -> Iterator[Tensor]:
        """`count` independent draws of `sample`, one after the other; the condition is encoded once. The first one is what
        `sample` gives.
        """
        self.require_scale()
        features = self.encode_condition(conditions)
        for number in range(count):
            own = None if keys is None else [(int(key) + number * KEY_STRIDE) % 2**63 for key in keys]
            x_start = self.sample_latent(features, keys=own, **how)
            yield to_gain(self.decode_first_stage(x_start / self.scale_factor, conditions), ori_mask)


def to_gain(x: Tensor, ori_mask: Tensor | None) -> Tensor:
    """Network range -> grey levels: zero where the mask is 1, then one clamp to [0, 1]."""
    return ((apply_mask(x.float(), ori_mask) + 1) / 2).clamp(0, 1)


@torch.no_grad()
def reconstruct(
    autoencoder: AutoencoderKL, images: Tensor, conditions: Tensor, ori_mask: Tensor | None = None
) -> Tensor:
    """The autoencoder's ceiling: images through the posterior's mean and back.

    Args:
        autoencoder: either stage's.
        images: (B, 1, H, W) in [-1, 1].
        conditions: (B, C, s, s), for a decoder that sees it.
        ori_mask: as `LatentDiffusion.sample`.

    Returns:
        grey levels (B, 1, H, W) in [0, 1].
    """
    return to_gain(autoencoder.decode(autoencoder.encode(images).mode(), conditions), ori_mask)
