"""Settings -> networks: the last place that sees a configuration, and knows which setting becomes which argument."""

from typing import Any

from .config.derive import BASE_CHANNEL
from .config.schema import BaselineConfig, CondStageConfig, Config, DiffusionConfig, FirstStageConfig, UnetConfig
from .diffusion import DecoupledDiffusion, Diffusion, FlowMatching, GaussianDiffusion
from .latent_diffusion import LatentDiffusion
from .losses import AutoencoderLoss, PatchDiscriminator
from .networks.autoencoder import AutoencoderKL, Layers
from .networks.baselines import PMNet, RadioUNet, Regression
from .networks.swin import SwinConditionEncoder
from .networks.unet import Attention, Unet
from .samplers import Sampling


def build_autoencoder(config: Config) -> AutoencoderKL:
    """The first stage."""
    dd = config.first_stage_config.ddconfig
    return AutoencoderKL(
        config.first_stage_config.embed_dim,
        [dd.in_channels, *(dd.ch * mult for mult in dd.ch_mult)],
        Layers(dd.num_res_blocks, dd.mid_attention, dd.dropout, dd.patch_size),
        cond_channels=config.cond_stage_config.in_channels if dd.decoder_cond else 0,
        base_channel=config.data.cond_channels.index(BASE_CHANNEL) if dd.decoder_residual else None,
    )


def build_loss(config: FirstStageConfig) -> AutoencoderLoss:
    """The generator's loss of the first stage."""
    names = ("l1_weight", "l2_weight", "kl_weight", "discr_weight", "perceptual_weight", "lpips_weights")
    return AutoencoderLoss(**{name: getattr(config.lossconfig, name) for name in names})


def build_discriminator(config: FirstStageConfig) -> PatchDiscriminator:
    """The discriminator of the first stage."""
    loss = config.lossconfig
    return PatchDiscriminator(config.ddconfig.out_ch, loss.discr_channels, loss.discr_layers)


def build_cond_stage(config: CondStageConfig, unet: UnetConfig) -> SwinConditionEncoder:
    """The condition encoder, with the U-Net's widths."""
    return SwinConditionEncoder(
        in_channels=config.in_channels,
        dim=unet.context_dim,
        dim_mults=unet.channel_mult,
        depths=config.depths,
        patch_size=config.size // unet.image_size,
        num_heads=config.num_heads,
        window_size=config.window_size,
        use_checkpoint=unet.use_checkpoint,
    )


def build_unet(config: UnetConfig, heads: int = 1) -> Unet:
    """The denoising network for an objective with `heads` outputs per latent channel."""
    return Unet(
        dim=config.model_channels,
        channels=config.in_channels,
        dim_mults=config.channel_mult,
        out_channels=heads * config.out_channels,
        context_channels=[config.context_dim * mult for mult in config.channel_mult],
        num_res_blocks=config.num_res_blocks,
        attention=Attention(config.attention_resolutions, config.num_heads, config.window_size),
        dropout=config.dropout,
        use_checkpoint=config.use_checkpoint,
    )


def build_baseline(config: BaselineConfig, cond_channels: int) -> Regression:
    """The chosen regression network."""
    network = {"radiounet": RadioUNet, "pmnet": PMNet}[config.architecture]
    return network(cond_channels, config.width, variance=config.variance)


def build_diffusion(config: DiffusionConfig) -> Diffusion:
    """The forward process and its objective."""
    if config.model_type == "ddpm":
        return GaussianDiffusion(config.timesteps, config.beta_schedule, config.objective)
    return DecoupledDiffusion() if config.model_type == "const_sde" else FlowMatching()


def latent_diffusion_parts(config: Config) -> dict[str, Any]:
    """The arguments of `LatentDiffusion` from a resolved configuration; what stage 2 does not train is frozen."""
    first, settings = config.first_stage_config, config.diffusion_config
    autoencoder = build_autoencoder(config)
    autoencoder.requires_grad_(first.trainable)
    if settings.end_to_end.start_step is not None:
        autoencoder.decoder.requires_grad_(True)
        autoencoder.post_quant_conv.requires_grad_(True)
    diffusion = build_diffusion(settings)
    return {
        "first_stage_model": autoencoder,
        "cond_stage_model": build_cond_stage(config.cond_stage_config, config.unet_config),
        "unet": build_unet(config.unet_config, diffusion.heads),
        "diffusion": diffusion,
        "sampling": Sampling(
            settings.sampler, settings.sampling_timesteps, settings.noise_scale, settings.ddim_eta or 0.0
        ),
        "final_step_share": settings.final_step_share,
        "scale_factor": settings.scale_factor or 1.0,
    }


def build_model(config: Config, stage: str) -> Any:
    """The network of a stage from its resolved configuration: AutoencoderKL (`vae`), LatentDiffusion (`ldm`) or a
    Regression (`baseline`).
    """
    if stage == "baseline":
        return build_baseline(config.baseline_config, config.cond_stage_config.in_channels)
    if stage == "vae":
        return build_autoencoder(config)
    return LatentDiffusion(**latent_diffusion_parts(config))
