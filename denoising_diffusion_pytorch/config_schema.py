"""The settings of a run, one dataclass a section; defaults are the values of the RadioDiff document.

`config.py` reads YAML into these. Fields that are None are derived from the rest of the file when it is
read (`config.resolve`), so that a geometry is written once; writing it twice is allowed when the two agree.
"""

from dataclasses import dataclass, field

# what goes with each diffusion_config.model_type; the first one is the default
OBJECTIVES = {"ddpm": ("pred_noise", "pred_x0", "pred_v"), "const_sde": ("pred_KC",)}
SAMPLERS = {"ddpm": ("ddim", "ddpm", "dpm_solver"), "const_sde": ("decoupled", "dpm_solver")}


@dataclass
class DDConfig:
    """Geometry of the autoencoder (CompVis' `ddconfig`)."""

    double_z: bool = True  # the encoder predicts mean and log-variance
    resolution: int = 320  # side of the square image the networks see, px
    in_channels: int = 1
    out_ch: int = 1
    ch: int = 128  # channels of the first level
    ch_mult: list[int] = field(default_factory=lambda: [1, 2, 4])  # len - 1 halvings
    num_res_blocks: int = 2
    attn_resolutions: list[int] = field(default_factory=list)  # feature map sides that get self-attention
    dropout: float = 0.0
    z_channels: int | None = None  # derived: embed_dim
    patch_size: int = 1  # space-to-depth of the image before the first convolution (1: none, as CompVis)
    mid_attention: bool = True  # self-attention at the lowest resolution
    decoder_cond: bool = False  # the decoder sees the condition too (needs a full-resolution condition)


@dataclass
class LossConfig:
    """Weights of the first stage's loss; see losses.py for each term's normalisation."""

    l1_weight: float = 1.0
    l2_weight: float = 1.0
    kl_weight: float = 1e-6
    discr_weight: float = 0.5  # multiplies the adaptive weight
    discr_start: int = 50001  # optimizer step from which the discriminator takes part
    discr_layers: int = 3
    discr_channels: int = 64
    perceptual_weight: float = 0.0
    lpips_weights: str | None = None  # a VGG16 state dict; None: the user's torch cache


@dataclass
class FirstStageConfig:
    """The autoencoder."""

    embed_dim: int = 3
    ckpt_path: str | None = None  # a RadioDiff checkpoint folder, a .safetensors file, or an original model-N.pt
    trainable: bool = False  # stage 2 only: joint training of VAE and U-Net
    ddconfig: DDConfig = field(default_factory=DDConfig)
    lossconfig: LossConfig = field(default_factory=LossConfig)


@dataclass
class CondStageConfig:
    """The Swin condition encoder."""

    in_channels: int | None = None  # derived: len(data.cond_channels)
    size: int | None = None  # derived: data.cond_size
    depths: list[int] | None = None  # Swin blocks a level; derived: two at each of the U-Net's levels
    num_heads: int = 4
    window_size: int = 8
    fourier_scale: float = 16.0


@dataclass
class UnetConfig:
    """The denoising network."""

    image_size: int | None = None  # derived: resolution / downsampling factor of the autoencoder
    in_channels: int | None = None  # derived: embed_dim
    out_channels: int | None = None  # derived: embed_dim
    model_channels: int = 128
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 4, 4])
    num_res_blocks: int = 2
    attention_resolutions: list[int] = field(default_factory=lambda: [4, 2])  # downsampling factors with Swin attention
    num_heads: int = 4
    use_spatial_transformer: bool = True  # cross-attention to the condition
    transformer_depth: int = 1
    context_dim: int = 128  # channels of the condition encoder's first level
    use_checkpoint: bool = True
    window_size: int = 8
    fourier_scale: float = 16.0
    dropout: float = 0.0


@dataclass
class EndToEndConfig:
    """A last phase of stage 2: U-Net and decoder together on the decoded map, by lossconfig's reconstruction terms."""

    start_step: int | None = None  # the optimizer step from which on; None: never, the whole autoencoder stays frozen
    latent_weight: float = 0.05  # of the denoising loss, which stays beside it


@dataclass
class DiffusionConfig:
    """Forward process, objective and the default sampler."""

    model_type: str = "ddpm"  # ddpm: T discrete steps; const_sde: RadioDiff's decoupled diffusion
    objective: str = "pred_noise"  # ddpm: pred_noise, pred_x0, pred_v; const_sde: pred_KC
    timesteps: int = 1000
    beta_schedule: str = "scaled_linear"  # scaled_linear (LDM), linear (DDPM), cosine (improved DDPM)
    loss_type: str = "l2"  # l2, l1 or l1_l2
    final_step_share: float = 0.0  # share of training samples put at t = T (one-step samplers)
    scale_factor: float | None = None  # None: 1 / std of the latents, measured when stage 2 starts
    sampler: str | None = None  # see SAMPLERS; derived: ddim, or decoupled for const_sde
    sampling_timesteps: int = 50
    ddim_eta: float = 0.0
    end_to_end: EndToEndConfig = field(default_factory=EndToEndConfig)


@dataclass
class BaselineConfig:
    """The regression U-Net that scripts/train_baseline.py trains, for comparison."""

    model_channels: int = 32
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    num_res_blocks: int = 1


@dataclass
class SourceConfig:
    """Where scenes come from: a RadioMapSeer tree or an images/ conditions/ masks/ tree."""

    data_root: str | None = None
    simulation_type: str = "DPM"  # DPM, IRT2, IRT4, carsDPM, carsIRT2, carsIRT4
    split: str | None = None  # derived: train for data.train, val for data.validation
    missing_buildings: int = 0  # 0: complete maps; 1..4: that many buildings left out of the condition
    max_samples: int | None = None  # the first samples of the split only


@dataclass
class AugmentConfig:
    """One draw for image, condition and mask together. Flips and quarter turns are exact symmetries."""

    p: float = 1.0  # share of samples that are augmented
    flip: bool = True
    rot90: bool = True
    rotation: float = 0.0  # free rotation, degrees; changes what a pixel means: off
    translation: float = 0.0  # fraction of the side; off
    color_jitter: float = 0.0  # brightness and contrast of the image only; off


@dataclass
class DataConfig:
    """Scenes and the way they are presented."""

    train: SourceConfig = field(default_factory=SourceConfig)
    validation: SourceConfig = field(default_factory=SourceConfig)
    image_size: int | None = None  # derived: ddconfig.resolution
    cond_size: int | None = None  # derived: the latent's side (the document's 80), or image_size for decoder_cond
    cond_channels: list[str] = field(default_factory=lambda: ["buildings", "transmitter", "cars"])
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    cache: bool = False  # keep every prepared sample, in memory or in cache_folder
    cache_latents: bool = False  # stage 2: encode every map once, in all its symmetries, and never again
    cache_folder: str | None = (
        None  # where both are kept for later runs; null: in memory, and for latents the results folder
    )
    num_workers: int = 4


@dataclass
class EMAConfig:
    """Exponential moving average of the weights, counted in optimizer steps."""

    start_step: int = 10000  # until then the average is a copy
    update_interval: int = 10
    beta: float = 0.999


@dataclass
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter, 2019)."""

    type: str = "adamw"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 1e-4


@dataclass
class LRConfig:
    """LR(t) = max(min_lr, (1 - t / T)^power * lr); named cosine in the document, a power law in fact."""

    type: str = "cosine"
    power: float = 0.96
    min_lr_ratio: float | None = None  # derived: min_learning_rate / learning_rate, or 0.1 where neither is given
    warmup_steps: int = 0


@dataclass
class TrainerConfig:
    """The loop. A step is an optimizer step: batch_size x gradient_accumulation samples a process."""

    batch_size: int = 16
    gradient_accumulation: int = (
        8  # the same as larger batches, but that each micro-batch has its own adversarial weight
    )
    learning_rate: float = 5e-5
    min_learning_rate: float | None = None  # derived: min_lr_ratio * learning_rate
    training_steps: int = 50000
    save_interval: int = 200
    sample_interval: int | None = None  # derived: save_interval
    log_interval: int = 100
    num_samples: int = 8  # maps in the picture that is made every sample_interval steps
    validate_every: int = 1000  # steps between scores on the validation split; 0: never
    validation_samples: int = 64  # maps scored then, spread over the split; always the same ones
    keep_last: int = 5  # newest checkpoints kept; older ones are deleted, except the best by validation
    keep_every: int = 0  # multiples of it are kept for good; 0: none
    max_bad_samples: int = 0  # unreadable samples that are replaced by their neighbours before the run stops
    gradient_clip: float = 1.0
    mixed_precision: str = "no"  # no, fp16, bf16, or auto: bf16 where the processor computes it natively
    tf32: bool = False  # products and convolutions of full precision in TF32, on GPUs that have it
    channels_last: bool = True  # memory layout of the convolutions
    compile: bool = False  # torch.compile; minutes at the start, for a long run
    ema: EMAConfig = field(default_factory=EMAConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_scheduler: LRConfig = field(default_factory=LRConfig)
    results_folder: str | None = None  # derived: ./radiodiff_results_VAE or ./radiodiff_results_LDM
    init_from: str | None = None  # a checkpoint or results folder of the same stage: weights that a new run starts from
    enable_resume: bool = True
    resume_milestone: int | str = "latest"  # a step, or 0 / latest
    seed: int = 0


@dataclass
class SampleConfig:
    """sample.py."""

    ckpt: str | None = None  # a checkpoint folder, or a results folder (its newest checkpoint)
    source: SourceConfig = field(default_factory=lambda: SourceConfig(split="test"))
    output_folder: str = "./radiodiff_samples"
    batch_size: int = 8
    steps: int | None = None  # derived: the checkpoint's diffusion_config.sampling_timesteps
    sampler: str | None = None  # derived: the checkpoint's
    num_samples: int = 1  # draws a map; more than one give their mean and standard deviation
    use_ema: bool = True
    seed: int = 0


@dataclass
class Config:
    """A whole file."""

    first_stage_config: FirstStageConfig = field(default_factory=FirstStageConfig)
    cond_stage_config: CondStageConfig = field(default_factory=CondStageConfig)
    unet_config: UnetConfig = field(default_factory=UnetConfig)
    diffusion_config: DiffusionConfig = field(default_factory=DiffusionConfig)
    baseline_config: BaselineConfig = field(default_factory=BaselineConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
