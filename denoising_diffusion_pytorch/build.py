"""Settings -> networks."""

from typing import Any

from .config.derive import BASE_CHANNEL
from .config.schema import Config
from .diffusion import DecoupledDiffusion, Diffusion, FlowMatching, GaussianDiffusion
from .latent_diffusion import LatentDiffusion
from .networks.autoencoder import AutoencoderKL, Layers
from .networks.baselines import PMNet, RadioUNet
from .networks.swin import SwinConditionEncoder
from .networks.unet import Unet
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


def latent_diffusion_parts(config: Config) -> dict[str, Any]:
    """The arguments of `LatentDiffusion` from a resolved configuration; parts that stage 2 does not train are frozen."""
    cond, net, settings = config.cond_stage_config, config.unet_config, config.diffusion_config
    autoencoder = build_autoencoder(config)
    autoencoder.requires_grad_(config.first_stage_config.trainable)
    if settings.end_to_end.start_step is not None:
        autoencoder.decoder.requires_grad_(True)
        autoencoder.post_quant_conv.requires_grad_(True)
    cond_encoder = SwinConditionEncoder(
        in_channels=cond.in_channels,
        dim=net.context_dim,
        dim_mults=net.channel_mult,
        depths=cond.depths,
        patch_size=cond.size // net.image_size,
        num_heads=cond.num_heads,
        window_size=cond.window_size,
        use_checkpoint=net.use_checkpoint,
    )
    diffusion: Diffusion
    if settings.model_type == "ddpm":
        diffusion = GaussianDiffusion(settings.timesteps, settings.beta_schedule, settings.objective)
    else:
        diffusion = {"const_sde": DecoupledDiffusion, "flow": FlowMatching}[settings.model_type](settings.objective)
    unet = Unet(
        dim=net.model_channels,
        channels=net.in_channels,
        dim_mults=net.channel_mult,
        context_channels=cond_encoder.channels,
        out_channels=diffusion.heads * net.out_channels,
        num_res_blocks=net.num_res_blocks,
        attention_resolutions=net.attention_resolutions,
        num_heads=net.num_heads,
        window_size=net.window_size,
        dropout=net.dropout,
        use_checkpoint=net.use_checkpoint,
    )
    return {
        "first_stage_model": autoencoder,
        "cond_stage_model": cond_encoder,
        "unet": unet,
        "diffusion": diffusion,
        "sampling": Sampling(settings.sampler, settings.sampling_timesteps, settings.noise_scale),
        "final_step_fraction": settings.final_step_fraction,
        "scale_factor": settings.scale_factor or 1.0,
    }


def build_model(config: Config, stage: str) -> Any:
    """The network of a stage from its resolved configuration: AutoencoderKL (`vae`), LatentDiffusion (`ldm`) or a
    Regression (`baseline`).
    """
    if stage == "baseline":
        baseline = config.baseline_config
        network = {"radiounet": RadioUNet, "pmnet": PMNet}[baseline.architecture]
        return network(config.cond_stage_config.in_channels, baseline.width)
    return build_autoencoder(config) if stage == "vae" else LatentDiffusion(**latent_diffusion_parts(config))
