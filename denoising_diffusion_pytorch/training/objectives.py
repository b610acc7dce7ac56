"""What each optimizer minimises. An objective is the module that is wrapped for distributed training, so that every
forward pass goes through the wrapper, which averages the gradients over the processes.

Every `forward(batch, step, carry)` -> (loss, logs, carry): `batch` as `to_device` gives it, `step` the optimizer
step, `carry` a dict that an objective leaves for the next one (reconstructions for the discriminator). An objective
acts from optimizer step `start_step` on.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..config.schema import Config, EndToEndConfig, TrainerConfig
from ..latent_diffusion import LatentDiffusion
from ..losses import AutoencoderLoss, PatchDiscriminator, hinge_gan_loss
from ..networks.autoencoder import AutoencoderKL
from ..networks.baselines import Regression
from ..networks.blocks import apply_mask
from ..randomness import KeyedRandom
from .muon import Muon

Batch = dict[str, Any]
Output = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


class AutoencoderObjective(nn.Module):
    """The first stage: reconstruction, KL, and the adversarial term from the first step of the `adversary` on, a
    `DiscriminatorObjective` that scores the reconstructions and is not trained here.
    """

    name, start_step = "autoencoder", 0

    def __init__(self, autoencoder: AutoencoderKL, loss: AutoencoderLoss, adversary: Any = None):
        super().__init__()
        self.autoencoder, self.loss = autoencoder, loss
        self.adversary = [adversary]  # in a list: its weights belong to another objective

    def pixel_loss(self, batch: Batch, posterior, noise: Tensor, step: int) -> Output:
        """The loss of decoding a sample of the posterior."""
        image = batch["image"]  # -1, zero gain, where the mask is 1
        decoded = self.autoencoder.decode(posterior.sample(noise), batch["cond"])
        reconstruction = apply_mask(decoded.float(), batch["ori_mask"])
        fake_pred, adversary = None, self.adversary[0]
        if adversary is not None and step >= adversary.start_step:
            adversary.requires_grad_(False)  # the graph must reach the image only
            fake_pred = adversary.discriminator(reconstruction)
            adversary.requires_grad_(True)
        last_weight = self.autoencoder.decoder.last_layer.weight
        loss, logs = self.loss(image, reconstruction, posterior, fake_pred=fake_pred, last_weight=last_weight)
        return loss, logs, {"real": image, "fake": reconstruction.detach()}

    def forward(self, batch: Batch, step: int, carry: dict[str, Tensor]) -> Output:
        posterior = self.autoencoder.encode(batch["image"])
        noise = KeyedRandom(batch["keys"], batch["image"].device).randn_like(posterior.mean)
        return self.pixel_loss(batch, posterior, noise, step)


class DiscriminatorObjective(nn.Module):
    """The hinge loss of the discriminator, on the reconstructions that the autoencoder's objective left."""

    name = "discriminator"

    def __init__(self, discriminator: PatchDiscriminator, start_step: int):
        super().__init__()
        self.discriminator, self.start_step = discriminator, start_step

    def forward(self, batch: Batch, step: int, carry: dict[str, Tensor]) -> Output:
        real_pred, fake_pred = self.discriminator(carry["real"]), self.discriminator(carry["fake"])
        _, loss = hinge_gan_loss(fake_pred, real_pred)
        logs = {"discriminator": loss.detach(), "real": real_pred.detach().mean(), "fake": fake_pred.detach().mean()}
        return loss, logs, carry


class LatentObjective(nn.Module):
    """The second stage on a frozen encoder: the denoising loss. Where `end_to_end` says so, a phase follows in which U-Net and
    decoder are trained together on the map that the predicted x_start decodes to, by the reconstruction terms of `loss`.
    """

    name, start_step = "diffusion", 0

    def __init__(self, model: LatentDiffusion, loss: AutoencoderLoss | None, end_to_end: EndToEndConfig):
        super().__init__()
        self.model, self.loss, self.end_to_end = model, loss, end_to_end

    def forward(self, batch: Batch, step: int, carry: dict[str, Tensor]) -> Output:
        random = KeyedRandom(batch["keys"], batch["image"].device)
        posterior = self.model.posterior(batch["image"], batch.get("moments"))
        x_start = self.model.latent(posterior, random.randn_like(posterior.mean))
        latent, x_start = self.model.latent_loss(x_start, batch["cond"], random)
        logs, start = {"latent": latent.detach()}, self.end_to_end.start_step
        if self.loss is None or start is None or step < start:
            return latent, logs, carry
        decoded = self.model.decode_first_stage(x_start / self.model.scale_factor, batch["cond"])
        pixel, terms = self.loss.reconstruction(batch["image"], apply_mask(decoded, batch["ori_mask"]))
        return pixel + self.end_to_end.latent_weight * latent, logs | terms, carry


class RegressionObjective(nn.Module):
    """A baseline: the sum over its outputs of lossconfig's reconstruction terms. The logged terms are the prediction's."""

    name, start_step = "regression", 0

    def __init__(self, model: Regression, loss: AutoencoderLoss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch, step: int, carry: dict[str, Tensor]) -> Output:
        images, masks = batch["image"], batch["ori_mask"]
        losses: list[Tensor] = []
        for output in self.model(batch["cond"]):  # masked pixels contribute nothing to the loss
            loss, logs = self.loss.reconstruction(images, apply_mask(output, masks))
            losses.append(loss)
        return torch.stack(losses).sum(), logs, carry


class JointObjective(nn.Module):
    """Both stages at once: the pixel terms train the autoencoder, the latent term trains the U-Net.

    The latent is detached, so that the autoencoder cannot flatten its latent space to please the denoiser. `pixel` is the
    objective of the model's first stage.
    """

    name, start_step = "joint", 0

    def __init__(self, model: LatentDiffusion, pixel: AutoencoderObjective):
        super().__init__()
        self.model, self.pixel = model, pixel

    def forward(self, batch: Batch, step: int, carry: dict[str, Tensor]) -> Output:
        random = KeyedRandom(batch["keys"], batch["image"].device)
        posterior = self.model.encode_first_stage(batch["image"])
        noise = random.randn_like(posterior.mean)
        pixel, logs, carry = self.pixel.pixel_loss(batch, posterior, noise, step)
        latent, _ = self.model.latent_loss(self.model.latent(posterior, noise), batch["cond"], random)
        return pixel + latent, logs | {"latent": latent.detach()}, carry


def make_objectives(config: Config, stage: str, model: Any) -> list[nn.Module]:
    """The objectives of a run for the model that `build_model` builds, in the order in which they see a batch."""
    first_stage, end_to_end = config.first_stage_config, config.diffusion_config.end_to_end
    if stage == "baseline":
        return [RegressionObjective(model, AutoencoderLoss(first_stage.lossconfig))]
    if stage == "ldm" and not first_stage.trainable:
        # only where it is used: LPIPS may need weights
        loss = AutoencoderLoss(first_stage.lossconfig) if end_to_end.start_step is not None else None
        return [LatentObjective(model, loss, end_to_end)]
    losses, adversary = first_stage.lossconfig, None
    if losses.discr_weight:
        discriminator = PatchDiscriminator(first_stage.ddconfig.out_ch, losses.discr_channels, losses.discr_layers)
        adversary = DiscriminatorObjective(discriminator, losses.discr_start)
    autoencoder = model if stage == "vae" else model.first_stage_model
    pixel = AutoencoderObjective(autoencoder, AutoencoderLoss(first_stage.lossconfig), adversary)
    first = pixel if stage == "vae" else JointObjective(model, pixel)
    return [first] if adversary is None else [first, adversary]


class Optimization:
    """An objective with its optimizer; `prepared`, which a step calls, is wrapped for distributed training."""

    def __init__(self, objective: Any, accelerator: Accelerator, settings: TrainerConfig):
        self.objective, self.name = objective, objective.name
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        options: dict[str, Any] = settings.optimizer.model_dump(exclude={"type"})
        # not prepared by accelerate, whose wrapper updates the gradient scaler once per optimizer
        optimizer = {"adamw": torch.optim.AdamW, "muon": Muon}[settings.optimizer.type]
        self.optimizer = optimizer(self.parameters, lr=settings.learning_rate, fused=True, **options)
        self.prepared = accelerator.prepare(objective)
