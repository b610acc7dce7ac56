"""The settings of a run, one model per section; defaults are the values of the design document.

Fields that are None are derived from the rest of the file when it is read (derive.py), so that an architecture is
written once; writing it twice is allowed if both agree.
"""

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..processes import PROCESSES

if TYPE_CHECKING:
    ModelType = str
    Objective = str
    Sampler = str
else:  # the names of the one table
    ModelType = Literal[tuple(PROCESSES)]
    Objective = Literal[tuple(name for process in PROCESSES.values() for name in process.objectives)]
    Sampler = Literal[tuple(name for process in PROCESSES.values() for name in process.samplers)]


def number(value: Any) -> Any:
    """5e-5, which PyYAML reads as text, as a number."""
    written = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
    return float(value) if written else value


Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Number = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
BelowOne = Annotated[Number, Field(ge=0, lt=1)]
Levels = Annotated[list[Count], Field(min_length=1, max_length=12)]  # 2^11 halvings are beyond any image
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f]*$")]


class Section(BaseModel):
    """A section: no unknown keys, and no guessing of types (an integer is a number, the text "4" is not)."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @property
    def params(self) -> "Section":
        """Itself: the design document writes `config.data.params.data_root`, as CompVis' files nest."""
        return self


class DDConfig(Section):
    """Architecture of the autoencoder (CompVis' `ddconfig`)."""

    double_z: Literal[True] = True  # the encoder predicts mean and log-variance
    resolution: Count = 320  # side of the square image that the networks see, px
    in_channels: Count = 1
    out_ch: Count = 1
    ch: Count = 128  # channels of the first level
    ch_mult: Levels = [1, 2, 4]  # len - 1 halvings
    num_res_blocks: Count = 2
    attn_resolutions: list[Count] = []  # feature map sides that get self-attention
    dropout: BelowOne = 0.0
    z_channels: Count | None = None  # derived: embed_dim
    patch_size: Count = 1  # space-to-depth of the image before the first convolution (1: none, as in CompVis)
    mid_attention: bool = True  # self-attention at the lowest resolution
    decoder_cond: bool = False  # the decoder sees the condition too (needs a full-resolution condition)
    decoder_residual: bool = False  # and predicts the difference from its channel `simulated`


class LossConfig(Section):
    """Weights of the first stage's loss; see losses.py for each term's normalisation."""

    l1_weight: NotNegative = 1.0
    l2_weight: NotNegative = 1.0
    kl_weight: NotNegative = 1e-6
    discr_weight: NotNegative = 0.5  # multiplies the adaptive weight
    discr_start: Natural = 50001  # optimizer step from which the discriminator takes part
    discr_layers: Count = 3
    discr_channels: Annotated[int, Field(gt=0, multiple_of=8)] = 64
    perceptual_weight: NotNegative = 0.0
    lpips_weights: Text | None = None  # a VGG16 state dict; None: the user's torch cache


class FirstStageConfig(Section):
    """The autoencoder."""

    embed_dim: Count = 3
    ckpt_path: Text | None = None  # a RadioDiff checkpoint folder, a .safetensors file, or an original model-N.pt
    trainable: bool = False  # stage 2 only: joint training of VAE and U-Net
    ddconfig: DDConfig = DDConfig()
    lossconfig: LossConfig = LossConfig()


class CondStageConfig(Section):
    """The Swin condition encoder."""

    in_channels: Count | None = None  # derived: len(data.cond_channels)
    size: Count | None = None  # derived: data.cond_size
    depths: Levels | None = None  # Swin blocks per level; derived: two at each of the U-Net's levels
    num_heads: Count = 4
    window_size: Count = 8
    fourier_scale: NotNegative = 16.0


class UnetConfig(Section):
    """The denoising network."""

    image_size: Count | None = None  # derived: resolution / downsampling factor of the autoencoder
    in_channels: Count | None = None  # derived: embed_dim
    out_channels: Count | None = None  # derived: embed_dim
    model_channels: Annotated[int, Field(gt=0, multiple_of=2)] = 128
    channel_mult: Levels = [1, 2, 4, 4]
    num_res_blocks: Count = 2
    attention_resolutions: list[Count] = [4, 2]  # downsampling factors with Swin attention
    num_heads: Count = 4
    use_spatial_transformer: bool = True  # cross-attention to the condition
    transformer_depth: Count = 1
    context_dim: Count = 128  # channels of the condition encoder's first level
    use_checkpoint: bool = True
    window_size: Count = 8
    fourier_scale: NotNegative = 16.0
    dropout: BelowOne = 0.0


class EndToEndConfig(Section):
    """A last phase of stage 2: U-Net and decoder together on the decoded map, by lossconfig's reconstruction terms."""

    # optimizer step at which the phase begins; None: never, the whole autoencoder stays frozen
    start_step: Natural | None = None
    latent_weight: NotNegative = 0.05  # of the denoising loss, which is added


class DiffusionConfig(Section):
    """Forward process, objective and the default sampler."""

    # T discrete steps, RadioDiff's decoupled diffusion, or flow matching
    model_type: ModelType = "ddpm"
    # ddpm: pred_noise, pred_x0, pred_v; const_sde: pred_KC; flow: pred_velocity
    objective: Objective = "pred_noise"
    timesteps: Count = 1000
    # of LDM, DDPM, and improved DDPM
    beta_schedule: Literal["scaled_linear", "linear", "cosine"] = "scaled_linear"
    loss_type: Literal["l2", "l1", "l1_l2"] = "l2"
    final_step_share: Share = 0.0  # share of training samples at t = T, for one-step samplers
    scale_factor: Positive | None = None  # None: 1 / std of the latents, measured at the start of stage 2
    sampler: Sampler | None = None  # see processes.py; derived: ddim, decoupled for const_sde, euler for flow
    sampling_timesteps: Count = 4  # network calls; more of them cost accuracy (docs/accuracy.md)
    noise_scale: Positive = 1.0  # of samplers; above 1 draws differ more, for a model whose draws are too sure
    pixel_noise: NotNegative = 0.0  # dB, on every pixel of several draws: what the decoder and enlarging leave out
    ddim_eta: Share = 0.0
    end_to_end: EndToEndConfig = EndToEndConfig()


class BaselineConfig(Section):
    """The regression network that scripts/train_baseline.py trains, for comparison."""

    architecture: Literal["radiounet", "pmnet"] = "radiounet"  # sides of multiples of 64 px, of 8 px
    width: Positive = 1.0  # fraction of the published channels in every layer
    variance: bool = False  # predict the variance of every pixel too, by its likelihood in place of lossconfig's terms


class SourceConfig(Section):
    """Where scenes come from: a RadioMapSeer tree or an images/ conditions/ masks/ tree."""

    data_root: Text | None = None
    simulation_type: Text = "DPM"  # DPM, IRT2, IRT4, carsDPM, carsIRT2, carsIRT4
    split: Text | None = None  # derived: train for data.train, val for data.validation
    missing_buildings: Annotated[int, Field(ge=0, le=4)] = 0  # number of buildings left out of the condition
    max_samples: Count | None = None  # use only the first samples of the split


class AugmentConfig(Section):
    """One draw for image, condition and mask together. Flips and quarter turns are exact symmetries."""

    p: Share = 1.0  # share of samples that are augmented
    flip: bool = True
    rot90: bool = True
    rotation: Annotated[Number, Field(ge=0, le=180)] = 0.0  # largest free rotation, degrees
    translation: BelowOne = 0.0  # largest shift as a fraction of the side
    color_jitter: BelowOne = 0.0  # largest relative change of the image's brightness and contrast


class IncompleteConfig(Section):
    """What the condition does not know, or knows from measured points alone; see data/incomplete.py. All but the points
    are drawn once per scene, the points anew each time.
    """

    points: Natural = 0  # most measured points; needs the channels measured_gain and measured
    points_noise: NotNegative = 0.0  # dB
    points_jitter: NotNegative = 0.0  # m
    missing_buildings: Natural = 0  # most buildings left out of the condition
    outline_error: NotNegative = 0.0  # m, of each building's place
    transmitter_error: NotNegative = 0.0  # m
    transmitter_unknown: Share = 0.0  # share of the scenes whose condition does not tell the transmitter


class DataConfig(Section):
    """Scenes, and how they are presented to the networks."""

    train: SourceConfig = SourceConfig()
    validation: SourceConfig = SourceConfig()
    image_size: Count | None = None  # derived: ddconfig.resolution
    cond_size: Count | None = None  # derived: the latent's side (80 by default), or image_size for decoder_cond
    cond_channels: Annotated[list[Text], Field(min_length=1)] | None = None  # derived: buildings, transmitter, cars
    augmentation: AugmentConfig = AugmentConfig()
    incomplete: IncompleteConfig = IncompleteConfig()
    cache: bool = False  # keep every prepared sample, in memory or in cache_folder
    cache_latents: bool = False  # stage 2: encode every map only once, in all its symmetries
    cache_folder: Text | None = None  # of both, for later runs; null: memory, but the results folder for latents
    num_workers: Natural = 4

    @property
    def data_root(self) -> str | None:
        """Of the training source, as are simulation_type and split."""
        return self.train.data_root

    @property
    def simulation_type(self) -> str:
        """See data_root."""
        return self.train.simulation_type

    @property
    def split(self) -> str | None:
        """See data_root."""
        return self.train.split


class EMAConfig(Section):
    """Exponential moving average of the weights, counted in optimizer steps."""

    start_step: Natural = 10000  # until then the average is a copy
    update_interval: Count = 10
    beta: BelowOne = 0.999


class OptimizerConfig(Section):
    """AdamW (Loshchilov & Hutter, 2019)."""

    type: Literal["adamw"] = "adamw"
    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: Positive = 1e-8
    weight_decay: NotNegative = 1e-4


class LRConfig(Section):
    """LR(t) = max(min_lr, (1 - t / T)^power * lr); the design document calls this power law cosine."""

    type: Literal["cosine"] = "cosine"
    power: NotNegative = 0.96
    min_lr_ratio: Share | None = None  # alternative to min_learning_rate
    warmup_steps: Natural = 0


class TrainerConfig(Section):
    """The loop. A step is an optimizer step: batch_size x gradient_accumulation samples per process."""

    batch_size: Count = 16
    gradient_accumulation: Count = 8  # like larger batches, except for one adversarial weight per micro-batch
    learning_rate: Positive = 5e-5
    min_learning_rate: NotNegative | None = None  # derived: min_lr_ratio * learning_rate, or a tenth of it
    training_steps: Count = 50000
    save_interval: Count = 200
    sample_interval: Count | None = None  # derived: save_interval
    log_interval: Count = 100
    num_samples: Natural = 8  # maps in the figure made every sample_interval steps
    validate_every: Natural = 1000  # steps between scores on the validation split; 0: never
    validation_samples: Count = 64  # maps scored each time, spread over the split; always the same ones
    keep_last: Count = 5  # newest checkpoints kept; older ones are deleted, except the best by validation
    keep_every: Natural = 0  # checkpoints at multiples of this step are never deleted; 0: none
    gradient_clip: Positive = 1.0
    mixed_precision: Literal["no", "fp16", "bf16", "auto"] = "no"  # auto: bf16 if the processor supports it natively
    tf32: bool = False  # full-precision products and convolutions in TF32, on GPUs that support it
    channels_last: bool = True  # memory layout of the convolutions
    compile: bool = False  # torch.compile; takes minutes at the start, for long runs
    ema: EMAConfig = EMAConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lr_scheduler: LRConfig = LRConfig()
    results_folder: Text | None = None  # derived: ./radiodiff_results_VAE or ./radiodiff_results_LDM
    init_from: Text | None = None  # checkpoint or results folder of the same stage, with a new run's first weights
    enable_resume: bool = True
    resume_milestone: Natural | Literal["latest"] = "latest"  # 0 also means latest
    seed: Natural = 0


class SampleConfig(Section):
    """Settings of sample.py."""

    ckpt: Text | None = None  # a checkpoint folder, or a results folder (its newest checkpoint)
    source: SourceConfig = SourceConfig(split="test")
    output_folder: Text = "./radiodiff_samples"
    batch_size: Count = 8
    steps: Count | None = None  # derived: the checkpoint's diffusion_config.sampling_timesteps
    sampler: Sampler | None = None  # derived: the checkpoint's
    noise_scale: Positive | None = None  # derived: the checkpoint's
    pixel_noise: NotNegative | None = None  # derived: the checkpoint's
    num_samples: Count = 1  # draws per map; more than one give their mean and standard deviation
    use_ema: bool = True
    seed: Natural = 0


class Config(Section):
    """A whole configuration file."""

    first_stage_config: FirstStageConfig = FirstStageConfig()
    cond_stage_config: CondStageConfig = CondStageConfig()
    unet_config: UnetConfig = UnetConfig()
    diffusion_config: DiffusionConfig = DiffusionConfig()
    baseline_config: BaselineConfig = BaselineConfig()
    data: DataConfig = DataConfig()
    trainer: TrainerConfig = TrainerConfig()
    sample: SampleConfig = SampleConfig()

    @property
    def model(self) -> SimpleNamespace:
        """Its `params` are the arguments of `LatentDiffusion`, as the design document writes it."""
        names = ("first_stage_config", "cond_stage_config", "unet_config", "diffusion_config")
        return SimpleNamespace(params={name: getattr(self, name) for name in names})
