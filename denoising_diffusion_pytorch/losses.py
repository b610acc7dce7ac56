"""Losses of the first stage: reconstruction, KL, hinge GAN with a PatchGAN discriminator, LPIPS.

All terms are means over pixels, and KL is divided by the number of pixels too, so that `kl_weight` weighs nats
against pixel errors as in the latent diffusion code, which sums both, at any image size.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoint import load_tensors
from .config.schema import LossConfig
from .errors import CheckpointError
from .networks.autoencoder import DiagonalGaussianDistribution

PIXEL_SCALE = 2.0**14  # scale of a loss while its gradient passes through half-precision networks to the pixels
LAYER_SCALE = 2.0**12  # scaled sum of the pixels' gradients; times an activation it must stay below 65504

Terms = tuple[Tensor, dict[str, Tensor]]  # a loss, a scalar, and {term: detached scalar}


def hinge_gan_loss(fake_pred: Tensor, real_pred: Tensor) -> tuple[Tensor, Tensor]:
    """Hinge losses of generator and discriminator (Lim & Ye, 2017), scalars; logits of any shape and precision.

    generator: -E[D(fake)]; discriminator: E[relu(1 - D(real))] + E[relu(1 + D(fake))].
    """
    fake_pred, real_pred = fake_pred.float(), real_pred.float()
    return -fake_pred.mean(), F.relu(1 - real_pred).mean() + F.relu(1 + fake_pred).mean()


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., 2017): one logit per overlapping patch. The first of `num_layers` strided layers has `channels`,
    doubled by each further layer, up to eightfold.
    """

    def __init__(self, in_channels: int = 1, channels: int = 64, num_layers: int = 3):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        widths = [channels * min(2**index, 8) for index in range(num_layers + 1)]
        for index in range(1, num_layers + 1):
            stride = 2 if index < num_layers else 1
            conv = nn.Conv2d(widths[index - 1], widths[index], 4, stride=stride, padding=1)
            # GroupNorm in place of BatchNorm: no statistics that differ between processes or batch sizes
            layers += [conv, nn.GroupNorm(8, widths[index]), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> logits (B, 1, about H/8, about W/8)."""
        return self.layers(x)


class LPIPSLoss(nn.Module):
    """Learned perceptual distance with VGG16 features (Zhang et al., 2018), frozen and always in eval mode.

    The linear layers come with the `lpips` package; VGG16's own weights are read from a torchvision state dict, None for
    `TORCH_HOME/hub/checkpoints/vgg16-397923af.pth`. Nothing is downloaded; without them there is a CheckpointError.
    """

    def __init__(self, weights: str | None = None):
        super().__init__()
        import lpips  # imports torchvision's model zoo, which only this loss needs

        path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / "vgg16-397923af.pth"
        if not path.is_file():
            get = "download vgg16-397923af.pth from pytorch.org there, set first_stage_config.lossconfig.lpips_weights to a copy"
            raise CheckpointError(f"{path}: VGG16 weights for LPIPS not found; {get}, or set perceptual_weight to 0")
        state = load_tensors(path)
        self.lpips = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        # lpips cuts VGG16's `features` into five slices and keeps torchvision's layer numbers inside them
        ours = self.lpips.net.state_dict()
        try:
            self.lpips.net.load_state_dict({key: state[f"features.{key.split('.', 1)[1]}"] for key in ours})
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path}: not a torchvision VGG16 state dict ({type(error).__name__})") from error
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "LPIPSLoss":
        """Stay in eval mode: its dropout must never be switched on."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (B, 1 or 3, H, W) in [-1, 1] -> mean distance, a scalar."""
        return self.lpips(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)).mean()


class AutoencoderLoss(nn.Module):
    """The generator's loss: l1 |e| + l2 e^2 + kl KL + discr * adaptive * hinge + perceptual LPIPS."""

    def __init__(self, weights: LossConfig):
        super().__init__()
        self.weights = weights
        self.lpips = LPIPSLoss(weights.lpips_weights) if weights.perceptual_weight else None

    def reconstruction(self, image: Tensor, reconstruction: Tensor) -> Terms:
        """l1 |e| + l2 e^2 + perceptual LPIPS of two (B, C, H, W), the latter after `apply_mask`."""
        error = reconstruction.float() - image.float()
        l1, l2 = error.abs().mean(), error.square().mean()
        loss = self.weights.l1_weight * l1 + self.weights.l2_weight * l2
        logs = {"l1": l1.detach(), "l2": l2.detach()}
        if self.lpips is not None:
            perceptual = self.lpips(reconstruction.float(), image.float())
            loss = loss + self.weights.perceptual_weight * perceptual
            logs["perceptual"] = perceptual.detach()
        return loss, logs | {"reconstruction": loss.detach()}

    def forward(
        self,
        image: Tensor,
        reconstruction: Tensor,
        posterior: DiagonalGaussianDistribution,
        *,
        fake_pred: Tensor | None = None,
        last_weight: Tensor | None = None,
    ) -> Terms:
        """The total loss, and its terms for the log.

        Args:
            image, reconstruction: (B, C, H, W) float32 in about [-1, 1], the latter after `apply_mask`.
            fake_pred: the discriminator's logits of `reconstruction`; None before it takes part.
            last_weight: decoder weight at which the adaptive weight is taken; needed with `fake_pred`.
        """
        nll, logs = self.reconstruction(image, reconstruction)
        kl = posterior.kl().mean() / image[0].numel()
        loss = nll + self.weights.kl_weight * kl
        logs["kl"] = kl.detach()
        if fake_pred is not None:
            generator = -fake_pred.float().mean()
            adaptive = adaptive_weight(nll, generator, reconstruction, last_weight)
            loss = loss + self.weights.discr_weight * adaptive * generator
            logs |= {"generator": generator.detach(), "adaptive_weight": adaptive}
        return loss, logs


def adaptive_weight(nll: Tensor, generator: Tensor, reconstruction: Tensor, last_weight: Tensor) -> Tensor:
    """|grad nll| / (|grad generator| + 1e-4) at the decoder's last layer, in [0, 1e4] (Esser et al., 2021, eq. 7).

    Taken over the micro-batch of all processes; accumulated micro-batches have separate weights. The two losses are
    functions of `reconstruction` (float32), which depends on `last_weight` through one layer of any precision.
    """
    norms = []
    for loss in (nll, generator):
        # scaled at every stage: gradients of a mean over pixels vanish in fp16 (below 6e-8)
        (pixels,) = torch.autograd.grad(PIXEL_SCALE * loss, reconstruction, retain_graph=True)
        scale = LAYER_SCALE / pixels.abs().sum().clamp(min=1e-30)  # also bounds the sum over all pixels
        (grad,) = torch.autograd.grad(reconstruction, last_weight, scale * pixels, retain_graph=True)
        grad = grad.float() / (scale * PIXEL_SCALE)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # gradient of the global batch: N processes must give the same weight as one
            torch.distributed.all_reduce(grad.div_(torch.distributed.get_world_size()))
        norms.append(grad.norm())
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
