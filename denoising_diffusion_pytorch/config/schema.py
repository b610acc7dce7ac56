"""Every setting of a run with its type, range, default and meaning; defaults are the values of the design document.

What is None follows from the rest of the file when it is read (derive.py), so that an architecture is written once;
writing it twice is allowed if both agree.
"""

import os
import re
from collections.abc import Collection
from operator import attrgetter
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from data.units import GAIN_SPAN_DB

from ..processes import MAX_NOISE_SCALE, PROCESSES


def number(value: Any) -> Any:
    """5e-5, which PyYAML reads as text, as a number."""
    written = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
    return float(value) if written else value


def one_of(names: Collection[str]) -> Any:
    """Restricts a text to names."""
    return Field(pattern=f"^({'|'.join(names)})$", json_schema_extra={"enum": [*names]})


Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(number)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(number)]
NoiseScale = Annotated[Positive, Field(le=MAX_NOISE_SCALE)]
PixelNoise = Annotated[NotNegative, Field(le=GAIN_SPAN_DB)]
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(number)]
BelowOne = Annotated[float, Field(ge=0, lt=1), BeforeValidator(number)]
Levels = Annotated[list[Count], Field(min_length=1, max_length=12)]  # 2^11 halvings are beyond any image
ModelType = Annotated[str, one_of(PROCESSES)]
Objective = Annotated[str, one_of([name for process in PROCESSES.values() for name in process.objectives])]
Sampler = Annotated[str, one_of([name for process in PROCESSES.values() for name in process.samplers])]
Schedule = Literal["scaled_linear", "linear", "cosine"]
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f]*$")]
PathText = Annotated[Text, AfterValidator(os.path.expanduser)]  # a file or folder
Channels = Annotated[list[Text], Field(min_length=1)]


def setting(default: Any, meaning: str) -> Any:
    """A field; `meaning` is what `--help_config` prints."""
    return Field(default, description=meaning)


class Section(BaseModel):
    """A section: no unknown keys, and no guessing of types (an integer is a number, the text "4" is not)."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    params = property(lambda self: self, doc="Itself: the document writes `config.data.params.data_root`.")


class DDConfig(Section):
    double_z: Literal[True] = setting(True, "the encoder predicts mean and log-variance")
    resolution: Count = setting(320, "side of the square image that the networks see, px")
    in_channels: Literal[1] = setting(1, "channels of the image")
    out_ch: Literal[1] = setting(1, "channels of the reconstruction")
    ch: Count = setting(128, "channels of the first level")
    ch_mult: Levels = setting([1, 2, 4], "channels of each level as multiples of ch; one halving between two levels")
    num_res_blocks: Count = setting(2, "residual blocks per level")
    attn_resolutions: Annotated[list[Count], Field(max_length=0)] = setting([], "none; see mid_attention")
    dropout: BelowOne = setting(0.0, "probability of dropout in the residual blocks")
    z_channels: Count | None = setting(None, "channels of the latent; follows from embed_dim")
    patch_size: Count = setting(1, "space-to-depth of the image before the first convolution; 1: none")
    mid_attention: bool = setting(True, "self-attention at the lowest resolution")
    decoder_cond: bool = setting(False, "the decoder sees the condition too, at full resolution")
    decoder_residual: bool = setting(False, "the decoder predicts the difference from the channel `simulated`")


class LossConfig(Section):
    l1_weight: NotNegative = setting(1.0, "weight of the absolute error")
    l2_weight: NotNegative = setting(1.0, "weight of the squared error")
    kl_weight: NotNegative = setting(1e-6, "weight of the Kullback-Leibler divergence")
    discr_weight: NotNegative = setting(0.5, "weight of the adversarial term, times the adaptive weight; 0: none")
    discr_start: Natural = setting(50001, "optimizer step from which the discriminator takes part")
    discr_layers: Count = setting(3, "strided layers of the discriminator")
    discr_channels: Annotated[int, Field(gt=0, multiple_of=8)] = setting(64, "the discriminator's first-layer channels")
    perceptual_weight: NotNegative = setting(0.0, "weight of LPIPS, which needs VGG16 weights; 0: no such term")
    lpips_weights: PathText | None = setting(None, "a VGG16 state dict; null: the one in torch's cache")


class FirstStageConfig(Section):
    embed_dim: Count = setting(3, "channels of the latent")
    ckpt_path: PathText | None = setting(None, "trained weights: checkpoints, .safetensors, or RadioDiff's model-N.pt")
    trainable: bool = setting(False, "stage 2: train autoencoder and U-Net together")
    ddconfig: DDConfig = setting(DDConfig(), "architecture")
    lossconfig: LossConfig = setting(LossConfig(), "weights of the autoencoder's loss, see losses.py")


class CondStageConfig(Section):
    in_channels: Count | None = setting(None, "follows from data.cond_channels")
    size: Count | None = setting(None, "follows from data.cond_size")
    depths: Levels | None = setting(None, "Swin blocks per level; null: two at each level of the U-Net")
    num_heads: Count = setting(4, "attention heads")
    window_size: Count = setting(8, "side of the attention windows, pixels of the level")


class UnetConfig(Section):
    image_size: Count | None = setting(None, "side of the latent, px; follows from the autoencoder")
    in_channels: Count | None = setting(None, "follows from first_stage_config.embed_dim")
    out_channels: Count | None = setting(None, "follows from first_stage_config.embed_dim")
    model_channels: Annotated[int, Field(gt=0, multiple_of=2)] = setting(128, "channels of the first level")
    channel_mult: Levels = setting([1, 2, 4, 4], "channels of each level as multiples of model_channels")
    num_res_blocks: Count = setting(2, "residual blocks per level, on the way down and on the way up")
    attention_resolutions: list[Count] = setting([4, 2], "downsampling factors whose levels get Swin self-attention")
    num_heads: Count = setting(4, "attention heads")
    use_spatial_transformer: Literal[True] = setting(True, "cross-attention to the condition")
    transformer_depth: Literal[1] = setting(1, "transformer blocks per level with self-attention")
    context_dim: Count = setting(128, "channels of the condition encoder's first level")
    use_checkpoint: bool = setting(True, "recompute activations in the backward pass: less memory, more time")
    window_size: Count = setting(8, "side of the attention windows, pixels of the level")
    dropout: BelowOne = setting(0.0, "probability of dropout in the residual blocks")


class EndToEndConfig(Section):
    start_step: Natural | None = setting(None, "optimizer step at which the phase begins; null: never")
    latent_weight: NotNegative = setting(0.05, "weight of the denoising loss, which is added")


class DiffusionConfig(Section):
    model_type: ModelType = setting("ddpm", "T discrete steps, RadioDiff's decoupled diffusion, or flow matching")
    objective: Objective | None = setting(None, "quantity whose error is the loss; null: the first of model_type")
    timesteps: Count | None = setting(None, "T of ddpm; null: 1000")
    beta_schedule: Schedule | None = setting(None, "of ddpm: LDM's (null), DDPM's, improved DDPM's variances")
    final_step_fraction: Fraction = setting(0.0, "fraction of the training samples at t = T, for one-step samplers")
    scale_factor: Positive | None = setting(None, "factor of the latents; null: 1 / std, measured as stage 2 starts")
    sampler: Sampler | None = setting(None, "one that fits model_type; null: ddim, decoupled or euler")
    sampling_timesteps: Count = setting(4, "number of sampling steps; with pred_x0, more steps lower the accuracy")
    noise_scale: NoiseScale = setting(1.0, "standard deviation of the samplers' noise; above 1: samples differ more")
    pixel_noise: PixelNoise = setting(
        0.0, "noise added to every pixel if num_samples > 1, dB; stands for detail that the decoder loses"
    )
    end_to_end: EndToEndConfig = setting(EndToEndConfig(), "last phase of stage 2, trained on the decoded map's error")


class BaselineConfig(Section):
    architecture: Literal["radiounet", "pmnet"] = setting("radiounet", "for sides divisible by 64, or for pmnet by 8")
    width: Positive = setting(1.0, "fraction of the published channels in every layer")


class SourceConfig(Section):
    data_root: PathText | None = setting(None, "the tree's folder")
    simulation_type: Text = setting("DPM", "DPM, IRT2, IRT4, carsDPM, carsIRT2 or carsIRT4, where the tree has several")
    split: Text | None = setting(None, "null: train, val and test for data.train, data.validation and sample.source")
    missing_buildings: Annotated[int, Field(ge=0, le=4)] = setting(0, "number left out, in RadioMapSeer's variants")
    max_samples: Count | None = setting(None, "use only this many samples, the first of the split; null: all")


class AugmentConfig(Section):
    p: Fraction = setting(1.0, "fraction of the samples that are augmented")
    flip: bool = setting(True, "mirror images, an exact symmetry")
    rot90: bool = setting(True, "quarter turns, an exact symmetry")
    rotation: Annotated[float, Field(ge=0, le=180)] = setting(0.0, "largest free rotation, degrees")
    translation: BelowOne = setting(0.0, "largest shift, fraction of the side")
    color_jitter: BelowOne = setting(0.0, "largest relative change of the image's brightness and contrast")


class IncompleteConfig(Section):
    points: Natural = setting(0, "maximum number of points; needs channels measured_gain and measured, or simulated")
    points_noise: NotNegative = setting(0.0, "standard deviation of a measured value's error, dB")
    points_jitter: NotNegative = setting(0.0, "standard deviation of a point's position in each direction, m")
    missing_buildings: Natural = setting(0, "maximum number of buildings left out of the condition")
    outline_error: NotNegative = setting(0.0, "standard deviation of each building's shift in each direction, m")
    transmitter_error: NotNegative = setting(0.0, "standard deviation of the transmitter's shift in each direction, m")
    transmitter_unknown: Fraction = setting(0.0, "fraction of the scenes whose condition lacks the transmitter")
    cars_unknown: Fraction = setting(0.0, "fraction of the scenes whose condition lacks the cars")


class DataConfig(Section):
    train: SourceConfig = setting(SourceConfig(), "a RadioMapSeer tree, or images/ conditions/ masks/")
    validation: SourceConfig = setting(SourceConfig(), "unset settings follow data.train, except split and max_samples")
    image_size: Count | None = setting(None, "px; follows from ddconfig.resolution")
    map_size: Count | None = setting(None, "side of the maps in m; null: that of the first training map")
    cond_size: Count | None = setting(None, "px; null: the latent's side, or image_size for decoder_cond")
    cond_channels: Channels | None = setting(None, "see data/conditions.py; null: buildings, transmitter, cars")
    augmentation: AugmentConfig = setting(AugmentConfig(), "the same for image, condition and mask")
    incomplete: IncompleteConfig = setting(IncompleteConfig(), "what the condition lacks, and measured points")
    cache: bool = setting(False, "keep every prepared sample, in memory or in cache_folder")
    cache_latents: bool = setting(False, "stage 2: encode every map only once, in all its symmetries")
    cache_folder: PathText | None = setting(None, "for both caches; null: samples in memory, latents in results_folder")
    num_workers: Natural = setting(4, "processes that prepare batches; 0: the training process itself")

    data_root = property(lambda self: self.train.data_root, doc="Of the training source.")
    simulation_type = property(lambda self: self.train.simulation_type, doc="Of the training source.")


class EMAConfig(Section):
    start_step: Natural = setting(10000, "until this step the average is a copy of the weights")
    update_interval: Count = setting(10, "steps between two updates")
    beta: BelowOne = setting(0.999, "weight of the old average at an update")


class OptimizerConfig(Section):
    type: Literal["adamw", "muon"] = setting("adamw", "muon: for matrices and kernels, AdamW for the rest")
    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)] = setting([0.9, 0.999], "decay of both moments")
    eps: Positive = setting(1e-8, "added to the root of the second moment")
    weight_decay: NotNegative = setting(1e-4, "decoupled weight decay")


class LRConfig(Section):
    type: Literal["cosine"] = setting("cosine", "the only choice")
    power: NotNegative = setting(0.96, "exponent")
    min_lr_ratio: Fraction | None = setting(None, "min_learning_rate as a fraction of learning_rate")
    warmup_steps: Natural = setting(0, "first steps, over which the rate grows linearly")


class TrainerConfig(Section):
    batch_size: Count = setting(16, "samples per micro-batch and process")
    gradient_accumulation: Count = setting(8, "micro-batches per step, each with its own adaptive adversarial weight")
    learning_rate: Positive = setting(5e-5, "rate at the start")
    min_learning_rate: NotNegative | None = setting(None, "rate at the end; null: a tenth of learning_rate")
    training_steps: Count = setting(50000, "number of optimizer steps")
    save_interval: Count = setting(200, "steps between two checkpoints")
    sample_interval: Count | None = setting(None, "steps between two pictures; null: save_interval")
    log_interval: Count = setting(100, "steps between two lines of the log")
    log_with: list[Text] = setting(["tensorboard"], "accelerate's trackers, added to train.log: wandb, mlflow, ...")
    num_samples: Natural = setting(8, "maps in a picture, of those that are scored; 0: no pictures")
    validate_every: Natural = setting(1000, "steps between two scores on the validation split; 0: no scores")
    validation_samples: Count = setting(64, "maps scored each time, spread over the split; always the same ones")
    keep_last: Count = setting(5, "newest checkpoints kept; older ones are deleted, except the best by validation")
    keep_every: Natural = setting(0, "checkpoints at multiples of this step are never deleted; 0: none")
    gradient_clip: Positive = setting(1.0, "largest norm of the gradient")
    mixed_precision: Literal["no", "fp16", "bf16", "auto"] = setting("no", "auto: bf16 where the processor supports it")
    tf32: bool = setting(False, "full-precision products and convolutions in TF32, on GPUs that support it")
    channels_last: bool = setting(True, "memory layout of the convolutions")
    compile: bool = setting(False, "torch.compile: takes minutes at the start; for long runs")
    ema: EMAConfig = setting(EMAConfig(), "exponential moving average of the weights")
    optimizer: OptimizerConfig = setting(OptimizerConfig(), "AdamW (Loshchilov & Hutter, 2019), or Muon for matrices")
    lr_scheduler: LRConfig = setting(LRConfig(), "max(min_lr, (1 - step / training_steps)^power * lr); called cosine")
    results_folder: PathText | None = setting(None, "null: ./radiodiff_results_VAE, _LDM or _baseline")
    init_from: PathText | None = setting(
        None, "checkpoint or results folder of the same stage: a new run's first weights"
    )
    enable_resume: bool = setting(True, "the same command continues where it stopped")
    resume_milestone: Natural | Literal["latest"] = setting("latest", "checkpoint step to continue from; 0: latest")
    seed: Seed = setting(0, "seed of weights, order, noise and augmentation")


class SampleConfig(Section):
    ckpt: PathText | None = setting(None, "a checkpoint, or a results folder (its newest); null: the released model")
    source: SourceConfig = setting(SourceConfig(), "scenes to sample")
    output_folder: PathText = setting("./radiodiff_samples", "where maps and pictures go")
    batch_size: Count = setting(8, "scenes at a time")
    steps: Count | None = setting(None, "number of sampling steps; null: the checkpoint's")
    sampler: Sampler | None = setting(None, "one that fits the model; null: the checkpoint's")
    noise_scale: NoiseScale | None = setting(None, "standard deviation of the sampler's noise; null: the checkpoint's")
    pixel_noise: PixelNoise | None = setting(
        None, "noise added to every pixel of several samples, dB; null: the checkpoint's"
    )
    num_samples: Count = setting(1, "samples per scene; more than one give their mean and standard deviation")
    use_ema: bool = setting(True, "averaged weights")
    seed: Natural = setting(0, "seed of the noise")
    figures: Natural = setting(20, "number of pictures in addition to the maps, spread over the scenes")


class Config(Section):
    """A whole configuration file."""

    first_stage_config: FirstStageConfig = setting(FirstStageConfig(), "the autoencoder")
    cond_stage_config: CondStageConfig = setting(CondStageConfig(), "the Swin condition encoder")
    unet_config: UnetConfig = setting(UnetConfig(), "the denoising network")
    diffusion_config: DiffusionConfig = setting(DiffusionConfig(), "forward process, objective and default sampling")
    baseline_config: BaselineConfig = setting(BaselineConfig(), "the network of scripts/train_baseline.py")
    data: DataConfig = setting(DataConfig(), "scenes, and how they are prepared for the networks")
    trainer: TrainerConfig = setting(TrainerConfig(), "the loop; all steps are optimizer steps")
    sample: SampleConfig = setting(SampleConfig(), "settings of sample.py")

    @property
    def model(self) -> SimpleNamespace:
        """Its `params` are the arguments of `LatentDiffusion`, as the document writes it."""
        names = ("first_stage_config", "cond_stage_config", "unet_config", "diffusion_config")
        return SimpleNamespace(params={name: getattr(self, name) for name in names})


def get(config: Config, key: str) -> Any:
    """A setting by its dotted key."""
    return attrgetter(key)(config)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    parts = [_flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v} for k, v in tree.items()]
    return {key: value for part in parts for key, value in part.items()}


DEFAULTS = _flat(Config().model_dump())  # of every setting, by its dotted key
