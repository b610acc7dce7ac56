"""A trained model applied to scenes: condition -> network -> radio map at the scene's own resolution."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data import Scene
from data.conditions import CAR_CHANNELS
from data.crop import SIDE
from data.hashing import digest, random_key
from data.measurements import POINT_CHANNELS, SIMULATED
from data.prepare import SAMPLES_VERSION, prepare, to_native
from data.units import GAIN_SPAN_DB

from .errors import CheckpointError, ConfigError
from .latent_diffusion import LatentDiffusion
from .networks.autoencoder import AutoencoderKL
from .networks.baselines import Regression
from .processes import PROCESSES
from .samplers import Sampling
from .weights import load_model

RELEASED = Path(__file__).resolve().parents[1] / "released"  # weights that come with the repository; see its README.md
ENSEMBLE_STEPS = 4
Sample = dict[str, np.ndarray]  # as `data.prepare.prepare` gives it


@dataclass
class Prediction:
    """A model's prediction for one scene, as grey levels in [0, 1], float32, (H, W) at the scene's own resolution."""

    scene: Scene
    gain: np.ndarray  # (H, W)
    std: np.ndarray | None = None  # (H, W), standard deviation of several samples; `gain` is their mean
    samples: np.ndarray | None = None  # (K, H, W), if there are several
    reconstruction: np.ndarray | None = None  # (H, W), the true map, encoded and decoded, if requested


class Predictor:
    """Radio maps from a stage-2 checkpoint, or a baseline's.

    Args:
        path: checkpoint folder or results folder; None for the released model.
        use_ema: the averaged weights.
        pixel_noise: standard deviation in dB of independent noise on every pixel of several samples, for what the decoder
            and upsampling leave out; None: as configured. The mean is that of the samples without this noise.
        seed: with a scene's name, determines the noise, independently of batch size and order.
        device: None for the GPU if there is one.
        sampling: fields of `Sampling`; None: as configured.

    Attributes:
        title: name of the model in tables.
        sees_simulation: whether the embedded simulator's map is part of the condition; scores on that simulator's own maps
            then say nothing.
        sees_cars, sees_measurements: whether cars and measured points change the condition.

    Raises CheckpointError for a checkpoint of an autoencoder, or none at all, and ConfigError for a sampler or a number of
    steps that does not fit the model.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        use_ema: bool = True,
        pixel_noise: float | None = None,
        seed: int = 0,
        device: str | None = None,
        **sampling: Any,
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.backends.cudnn.allow_tf32 = False  # torch would let convolutions use it unasked
        model, self.config, self.checkpoint = load_model(path or RELEASED, use_ema=use_ema, device=self.device)
        if isinstance(model, AutoencoderKL):
            raise CheckpointError(f"{self.checkpoint.path}: is an autoencoder; use a checkpoint of train_cond_ldm.py")
        self.model: LatentDiffusion | Regression = model
        self.seed, self.use_ema, self.pixel_noise = seed, use_ema, pixel_noise or 0.0
        self.sampling: Sampling | None = None
        given = {name: value for name, value in sampling.items() if value is not None}
        self._is_chosen = bool({"sampler", "steps"} & given.keys())
        if isinstance(model, LatentDiffusion):
            self.sampling = model.sampling.changed(model.diffusion, **given)
            if pixel_noise is None:
                self.pixel_noise = self.config.diffusion_config.pixel_noise
        elif given or pixel_noise is not None:
            raise ConfigError(f"{self.checkpoint.path}: is a regression baseline; steps and noise are for samplers")
        if not 0 <= self.pixel_noise <= GAIN_SPAN_DB:
            raise ConfigError(f"pixel_noise is {self.pixel_noise:g}; it must lie within 0 .. {GAIN_SPAN_DB:g} dB")
        self.title = "latent diffusion" if isinstance(model, LatentDiffusion) else model.title
        channels = set(self.config.data.cond_channels)
        self.sees_simulation = SIMULATED in channels
        self.sees_cars, self.sees_measurements = bool(channels & CAR_CHANNELS), bool(channels & POINT_CHANNELS)

    @property
    def side(self) -> int:
        """Side of the model's training maps in metres; maps of another size are resized."""
        return self.config.data.map_size or SIDE

    def score_notes(self, scene: Scene) -> list[str]:
        """What the scores on maps like this scene's do not say."""
        notes, side = [], scene.layout.shape[0]
        if scene.truth == "simulated" and self.sees_simulation:
            notes.append("note: the true map is the simulator's, which this model sees, too: these scores mean nothing")
        if side != self.side:
            notes.append(f"note: the maps are {side} m wide; the model was trained on {self.side} m")
        return notes

    def sampling_of(self, num_samples: int) -> Sampling | None:
        """The `Sampling` for `num_samples` maps per scene; None for a baseline, which has one map. ConfigError for other numbers.

        With one step, several samples would be nearly the same map. If that is configured, they take
        ENSEMBLE_STEPS of the process's `ensemble` sampler instead, unless the constructor was given `sampler` or `steps`.
        """
        model, sampling = self.model, self.sampling
        if num_samples < 1:
            raise ConfigError(f"num_samples is {num_samples}; it must be at least 1")
        if num_samples == 1:
            return sampling
        if not isinstance(model, LatentDiffusion):
            message = f"has one map per scene, not {num_samples} (num_samples)"
            raise ConfigError(f"{self.checkpoint.path}: a regression baseline {message}")
        if self._is_chosen or sampling.steps > 1:
            return sampling
        sampler = PROCESSES[model.diffusion.model_type].ensemble
        return sampling.changed(model.diffusion, sampler=sampler, steps=ENSEMBLE_STEPS)

    def facts(self, num_samples: int) -> dict[str, Any]:
        """What maps are predicted with: checkpoint and step, sampler, steps, noise_scale, pixel_noise, num_samples."""
        sampling = self.sampling_of(num_samples)
        of_sampling = {name: getattr(sampling, name, None) for name in ("sampler", "steps", "noise_scale")}
        facts = {"checkpoint": str(self.checkpoint.path), "step": self.checkpoint.step}
        return facts | of_sampling | {"pixel_noise": self.pixel_noise, "num_samples": num_samples}

    def identity(self, num_samples: int) -> dict[str, Any]:
        """All that determines a scene's maps, in JSON types; with a digest of the weights in place of their path."""
        meta = self.checkpoint.meta
        own = {"weights": digest(meta.get("sha256"), meta["config"], self.use_ema), "seed": self.seed}
        own |= {"samples_version": SAMPLES_VERSION}
        return self.facts(num_samples) | own | {"checkpoint": self.title, "device": self.device.type}

    def prepared(self) -> Callable[[Scene], Sample]:
        """`data.prepare.prepare` with the sizes and channels that the model expects; can be sent to another process."""
        data = self.config.data
        return partial(prepare, image_size=data.image_size, cond_size=data.cond_size, channels=data.cond_channels)

    def predict(
        self, scenes: Iterable[Scene], batch_size: int = 16, *, num_samples: int = 1, reconstruct: bool = False
    ) -> Iterator[Prediction]:
        """One prediction per scene, in order, the mean of `num_samples`; scenes are read when they are needed, `batch_size` for
        each call of the networks. `reconstruct` as in `predict_prepared`.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        scenes, prepared = iter(scenes), self.prepared()
        while batch := list(islice(scenes, batch_size)):
            yield from self.predict_batch(batch, list(map(prepared, batch)), num_samples, reconstruct)

    def predict_batch(
        self, scenes: Sequence[Scene], prepared: Sequence[Sample], num_samples: int = 1, reconstruct: bool = False
    ) -> list[Prediction]:
        """Predictions for one batch of scenes, each with what `prepared` made of it; arguments as of `predict`."""
        sampling = self.sampling_of(num_samples)
        options: dict[str, Any] = {"num_samples": num_samples, "seed": self.seed, "pixel_noise": self.pixel_noise}
        options |= asdict(sampling) if sampling else {}
        return predict_prepared(self.model, scenes, prepared, self.device, reconstruct=reconstruct, **options)


@torch.no_grad()
def predict_prepared(
    model: LatentDiffusion | Regression | AutoencoderKL,
    scenes: Sequence[Scene],
    prepared: Sequence[Sample],
    device: torch.device,
    *,
    seed: int = 0,
    reconstruct: bool = False,
    pixel_noise: float = 0.0,
    **options,
) -> list[Prediction]:
    """Predictions for several scenes, at their own resolution and `prepared`, in one batch.

    Args:
        model: its `predict(batch, **options)` gives the samples. An AutoencoderKL reconstructs the truth.
        seed, pixel_noise: as for `Predictor`.
        reconstruct: also pass the truth, if known, through a LatentDiffusion's encoder and decoder.
        options: `num_samples`, and for a LatentDiffusion fields of `Sampling`.
    """
    keys = [random_key(seed, scene.name) for scene in scenes]
    known = [sample for sample in prepared if "image" in sample]

    def collated(samples: Sequence[Sample]) -> dict[str, Any]:
        names = [name for name in ("image", "cond", "ori_mask") if all(name in sample for sample in samples)]
        return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])).to(device) for name in names}

    batch = collated(prepared) | {"keys": keys}
    samples = [gain[:, 0].cpu().numpy() for gain in model.predict(batch, **options)]  # each (B, h, w)
    mean = np.mean(samples, axis=0)
    reconstructions: Iterator[np.ndarray] = iter(())
    if reconstruct and known and isinstance(model, LatentDiffusion):
        reconstructions = iter(model.first_stage_model.predict(collated(known))[0][:, 0].cpu().numpy())
    predictions = []
    for index, scene in enumerate(scenes):
        prediction = Prediction(scene, to_native(mean[index], scene))
        if len(samples) > 1:
            natives = np.stack([to_native(gain[index], scene) for gain in samples])
            if pixel_noise:  # dB, where something is received
                noise = np.random.default_rng(keys[index]).standard_normal(natives.shape, np.float32)
                noise *= np.float32(pixel_noise / GAIN_SPAN_DB)
                natives = np.where(natives > 0, (natives + noise).clip(0, 1), 0)
            prediction.std, prediction.samples = natives.std(0, ddof=1), natives
        if "image" in prepared[index] and (truth := next(reconstructions, None)) is not None:
            prediction.reconstruction = to_native(truth, scene)
        predictions.append(prediction)
    return predictions
