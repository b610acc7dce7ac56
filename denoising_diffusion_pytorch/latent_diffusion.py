"""The second stage: diffusion in the autoencoder's latent space, conditioned on the city (Rombach et al., 2022).

x_start = scale_factor * z has unit standard deviation.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .diffusion import Diffusion
from .networks.autoencoder import AutoencoderKL, DiagonalGaussianDistribution
from .networks.blocks import to_gain
from .randomness import KeyedRandom, sample_keys
from .samplers import Sampling

Keys = Tensor | Sequence[int]


class LatentDiffusion(nn.Module):
    """Autoencoder, condition encoder, U-Net and forward process in one module.

    Args:
        cond_stage_model: condition image (B, C, s, s) in [-1, 1] -> one map per level of the U-Net.
        unet: (x_t, time, maps) -> model output.
        sampling: defaults for the arguments of `sample`.
        final_step_fraction: fraction of the training samples that are put at t = T.
        scale_factor: factor of the latents, stored with the weights; 1 until a checkpoint or `set_scale` sets it.
    """

    def __init__(
        self,
        first_stage_model: AutoencoderKL,
        cond_stage_model: nn.Module,
        unet: nn.Module,
        diffusion: Diffusion,
        *,
        sampling: Sampling | None = None,
        final_step_fraction: float = 0.0,
        scale_factor: float = 1.0,
    ):
        super().__init__()
        self.first_stage_model, self.cond_stage_model = first_stage_model, cond_stage_model
        self.unet, self.diffusion = unet, diffusion
        self.sampling = (sampling or Sampling()).changed(diffusion)
        self.final_step_fraction = final_step_fraction
        self.scale_factor = nn.Buffer(torch.tensor(float(scale_factor)))

    def train(self, mode: bool = True) -> "LatentDiffusion":
        """As usual, except that the frozen parts of the first stage stay in eval mode."""
        super().train(mode)
        for part in (self.first_stage_model, *self.first_stage_model.children()):
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()
        return self

    def encode_first_stage(self, image: Tensor) -> DiagonalGaussianDistribution:
        """image (B, 1, H, W) in [-1, 1] -> posterior over z (B, Z, h, w), not scaled."""
        return self.first_stage_model.encode(image)

    def decode_first_stage(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """z (B, Z, h, w), not scaled; cond (B, C, H, W) for a decoder that sees it -> (B, 1, H, W), about [-1, 1]."""
        return self.first_stage_model.decode(z, cond)

    @torch.no_grad()
    def posterior(self, image: Tensor, moments: Tensor | None = None) -> DiagonalGaussianDistribution:
        """Posterior over z of image (B, 1, H, W) in [-1, 1], or from its `moments` (B, 2 Z, h, w) if they are known."""
        return self.encode_first_stage(image) if moments is None else DiagonalGaussianDistribution(moments)

    @torch.no_grad()
    def set_scale(self, posteriors: Iterable[DiagonalGaussianDistribution], reduce=lambda total: total) -> float:
        """Measure, store and return 1 / std of z; nothing is sampled, as E[z^2] = mean^2 + var. `reduce` sums a (3,) float64
        tensor over all processes.
        """
        total = torch.zeros(3, dtype=torch.float64)  # count, sum, sum of squares; on the CPU, which has float64
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

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The forward process: x_start (B, Z, h, w), t (B,) -> x_t."""
        return self.diffusion.q_sample(x_start, t, noise)

    def model_output(self, x_t: Tensor, t: Tensor, features: Sequence[Tensor]) -> Tensor:
        """The U-Net's output for x_t (B, Z, h, w) at t (B,), as `diffusion` expects it; float32."""
        return self.unet(x_t, self.diffusion.time_input(t), features).float()

    def denoise(self, x_t: Tensor, t: Tensor, cond: Tensor | Sequence[Tensor]) -> Tensor:
        """The objective's quantity for x_t (B, Z, h, w) at t (B,): the predicted noise, x_start, v, velocity, or (C, noise)
        along the channels; `cond` is an image (B, C, s, s), or the output of `cond_stage_model` for it.
        """
        features = self.cond_stage_model(cond) if isinstance(cond, Tensor) else cond
        return self.diffusion.estimate(self.model_output(x_t, t, features), x_t, t)

    def forward(self, image: Tensor, cond: Tensor, keys: Keys | None = None) -> Tensor:
        """The second stage's training loss, a scalar, of image (B, 1, H, W) and cond (B, C, s, s) in [-1, 1]; no gradient reaches
        the encoder. `keys`: one integer per sample for reproducible randomness; None: torch's global generator.
        """
        random = self._random(len(image), keys)
        posterior = self.posterior(image)
        x_start = self.latent(posterior, random.randn_like(posterior.mean))
        return self.latent_loss(x_start, cond, random)[0]

    def latent_loss(self, x_start: Tensor, cond: Tensor, random: KeyedRandom) -> tuple[Tensor, Tensor]:
        """The denoising loss at random times, a scalar, and the predicted x_start (B, Z, h, w)."""
        u, final = random.rand(), random.rand() < self.final_step_fraction
        t = self.diffusion.sample_t(u, final)
        noise = random.randn_like(x_start)
        x_t = self.q_sample(x_start, t, noise)
        output = self.model_output(x_t, t, self.cond_stage_model(cond))
        return self.diffusion.loss(output, x_start, x_t, t, noise), self.diffusion.predictions(output, x_t, t)[0]

    def sample(
        self, cond: Tensor, ori_mask: Tensor | None = None, *, keys: Keys | None = None, **sampling: Any
    ) -> Tensor:
        """One radio map per condition: grey levels (B, 1, H, W) in [0, 1], float32.

        Args:
            cond, ori_mask: (B, C, s, s) in [-1, 1], and (B, 1, H, W), 1 where the map is certainly zero; None: nowhere.
            keys: one integer per map, so that a map does not depend on its batch; None: torch's global generator.
            sampling: fields of `Sampling`; the model's where None or left out.
        """
        return next(self.predict({"cond": cond, "ori_mask": ori_mask, "keys": keys}, **sampling))

    @torch.no_grad()
    def predict(self, batch: dict[str, Any], num_samples: int = 1, **sampling: Any) -> Iterator[Tensor]:
        """`num_samples` results of `sample` for a batch that holds its arguments; the condition is encoded once."""
        cond, keys = batch["cond"], batch["keys"]
        settings, features = self.sampling.changed(self.diffusion, **sampling), self.cond_stage_model(cond)
        shape = (self.first_stage_model.embed_dim, *features[0].shape[-2:])  # level 0 has the latent's size
        model = partial(self.model_output, features=features)
        for number in range(num_samples):
            random = self._random(len(cond), None if keys is None else sample_keys(keys, number))
            x_start = settings.run(self.diffusion, model, random.randn(*shape), random.randn_like)
            yield to_gain(self.decode_first_stage(x_start / self.scale_factor, cond), batch["ori_mask"])

    def _random(self, batch_size: int, keys: Keys | None) -> KeyedRandom:
        keys = torch.randint(2**62, (batch_size,), device="cpu") if keys is None else keys
        return KeyedRandom(keys, self.scale_factor.device)
