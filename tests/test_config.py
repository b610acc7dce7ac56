"""Reading configurations: spellings, types, derivations, errors."""

import re
from pathlib import Path

import pytest
import yaml

from denoising_diffusion_pytorch.config import differences, load_config, parse_config, resolve, schema, to_yaml
from denoising_diffusion_pytorch.config.reader import settings_table
from denoising_diffusion_pytorch.errors import ConfigError
from tests.commands import done
from tests.processes import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
TEXTS = (ROOT / "tests/document_blocks.yaml").read_text(encoding="utf-8").split("---\n")[1:]
BLOCKS = dict(zip(("first_stage", "unet", "trainer", "optimization", "data"), TEXTS, strict=True))


@pytest.fixture
def load(tmp_path):
    """load(text, *overrides, stage=...) -> Config, through a file."""

    def from_text(text, *overrides, stage="ldm"):
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, list(overrides), stage=stage)

    return from_text


@pytest.fixture
def refuse(load, tmp_path):
    """refuse(text, *parts, overrides=...): the error is one line that begins with the file and holds the parts."""

    def check(text, *parts, overrides=()):
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'run.yaml'}: ") and "\n" not in message
        assert [part for part in parts if part not in message] == [], message

    return check


def changed(config):
    """Dotted keys that differ from the document's values."""
    return sorted(line.split(": ", 1)[0] for line in differences(resolve(schema.Config(), "ldm"), config))


def test_each_block_of_the_document_means_the_defaults(load):
    config, roots = load("".join(BLOCKS.values())), ["data.train.data_root", "data.validation.data_root"]
    assert config.data.params.data_root == "path/to/RadioMapSeer"
    assert changed(load_config(ROOT / "configs/radio_train_m.yaml")) == roots
    types = ["data.train.simulation_type", "data.validation.simulation_type"]
    assert changed(config) == changed(load(BLOCKS["data"])) == sorted(roots + types)
    assert all(changed(load(BLOCKS[name])) == [] for name in BLOCKS if name != "data")


def test_wrappers_and_two_spellings(load):
    indented = "".join(f"    {line}\n" for name in ("first_stage", "unet") for line in BLOCKS[name].splitlines())
    text = f"model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n{indented}"
    assert changed(load(text)) == []
    assert load(text, "model.params.unet_config.params.model_channels=64").unet_config.model_channels == 64
    assert load("trainer: {batch_size: 4}\ndata: {params: {batch_size: 4}}").trainer.batch_size == 4
    source = "data: {train: {params: {additional_params: {missing_buildings: 2, max_samples: 5}}}, wrap: false}"
    data = load(source).data
    assert (data.train.missing_buildings, data.train.max_samples) == (2, 5)
    assert (data.validation.missing_buildings, data.validation.max_samples) == (2, None), "like training, but all of it"


def test_what_yaml_files_may_hold(load):
    for empty in ("", "# nothing\n", "trainer:\n"):
        assert changed(load(empty)) == []
    for text in ("5e-5", "5E-5", "5.0e-5", ".00005", "+5e-05"):
        assert load(f"trainer: {{lr: {text}}}").trainer.learning_rate == 5e-5
    for word, precision in (("true", "fp16"), ("false", "no"), ("no", "no"), ("bf16", "bf16")):
        assert load(f"optimization: {{mixed_precision: {word}}}").trainer.mixed_precision == precision
    assert load("first_stage_config: {ckpt_path: None}").first_stage_config.ckpt_path is None
    assert type(load("trainer: {gradient_clip: 2}").trainer.gradient_clip) is float
    assert load("trainer: {results_folder: ~/a}").trainer.results_folder == str(Path.home() / "a")
    merged = "data:\n  train: &source {data_root: /a, split: all}\n  validation: {<<: *source, data_root: /b}\n"
    assert (load(merged).data.validation.data_root, load(merged).data.validation.split) == ("/b", "all")


def test_overrides_win_over_every_spelling(load):
    text = BLOCKS["trainer"] + BLOCKS["data"] + BLOCKS["optimization"]
    assert load(text, "trainer.batch_size=4").trainer.batch_size == 4
    assert load(text, "data.params.batch_size=4").trainer.batch_size == 4
    assert load(text, "optimization.lr_decay_power=2").trainer.lr_scheduler.power == 2
    assert load(text, "trainer.seed=1", "trainer.seed=2").trainer.seed == 2
    assert load(text, "trainer.ema={beta: 0.5}").trainer.ema == schema.EMAConfig(beta=0.5, start_step=10000)
    assert load(text, "first_stage_config.ckpt_path=a=b").first_stage_config.ckpt_path == "a=b"


@pytest.mark.parametrize(
    "text, part",
    [
        ("a: [1, 2\nb: 3\n", "line 2"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("trainer: {seed: 1}\ndata: {}\ntrainer: {batch_size: 2}\n", "trainer is given twice; keep one"),
        ("diffusion_config: {noise_scale: .nan}", "diffusion_config.noise_scale: "),
        (b"a: \xff\xfe\n", "cannot be read"),
        ("trainer: {batchsize: 4}", "trainer.batchsize is not a known key; did you mean trainer.batch_size?"),
        ("data: {params: {trian: {}}}", "data.trian is not a known key; did you mean data.train?"),
        ("trainer: {train_num_steps: 5}", "did you mean trainer.training_steps?"),
        ("trainer: {zzzzzz: 4}", "trainer.zzzzzz is not a known key; --help_config lists all"),
        ("? 'a\\nb'\n: 4", "is not a known key"),
        ("data: {wrap: true}", "data.wrap is not a known key"),
        ("unet_config: {target: os.system, params: {}}", "unet_config.target: 'os.system' is not a known class"),
        ("trainer: {batch_size: 4}\ndata: {batch_size: 16}", "trainer.batch_size is given twice, as 4 and as 16"),
        ("first_stage_config: {ddconfig: {channels: 3, in_channels: 1}}", "ddconfig.in_channels is given twice"),
        ("trainer: {seed: !!bool maybe}", "is not valid YAML ('maybe')"),
        ("trainer: 4", "trainer must be a mapping (key: value lines), not 4"),
        ('trainer: {results_folder: "a\\u0007"}', "trainer.results_folder: "),
        ("diffusion_config: {model_type: edm}", "ddpm|const_sde|flow"),
    ],
)
def test_bad_files(refuse, text, part):
    refuse(text, part)


REFUSED = """
=4 | not key=value
trainer.batch_size= | is not key=value, e.g. trainer.batch_size=4
first_stage_config.ddconfig.resolution=322 | ddconfig.resolution is 322 | multiple of 4
first_stage_config.ddconfig.z_channels=4 | z_channels is 4 | first_stage_config.embed_dim
unet_config.attention_resolutions=[40] | attention_resolutions has 40 | 1, 2, 4, 8
unet_config.num_heads=3 | unet_config.model_channels is 128 | num_heads 3
data.image_size=256 | data.image_size is 256 | ddconfig.resolution makes it 320
data.cond_size=100 | data.cond_size is 100 | multiple of 80
data.cond_size=80 first_stage_config.ddconfig.decoder_cond=true | data.cond_size is 80 | decoder_cond makes it 320
cond_stage_config.in_channels=4 | cond_stage_config.in_channels is 4 | data.cond_channels
cond_stage_config.size=160 cond_stage_config.depths=[1] | cond_stage_config.depths has 1 | channel_mult 4
first_stage_config.ddconfig.decoder_residual=true data.cond_channels=[buildings,simulated] | decoder_residual needs decoder_cond
first_stage_config.ddconfig.decoder_residual=true first_stage_config.ddconfig.decoder_cond=true | simulated among data.cond_channels
data.incomplete.points=9 | incomplete.points is 9 | no measured points
data.incomplete.points=9 data.cond_channels=[buildings,measured] | has measured; give points above 0, and simulated or both
diffusion_config.noise_scale=101 | diffusion_config.noise_scale: Input should be less than or equal to 100
sample.pixel_noise=100 | sample.pixel_noise: Input should be less than or equal to 99.16
first_stage_config.trainable=true first_stage_config.lossconfig.discr_layers=7 | discr_layers is 7, too many | of 320
diffusion_config.objective=pred_KC | objective is pred_KC | model_type ddpm; choose pred_noise
diffusion_config.model_type=flow diffusion_config.sampler=ddim | sampler is ddim | model_type flow; choose euler
diffusion_config.timesteps=3 | sampling_timesteps is 4 | timesteps 3
diffusion_config.model_type=flow diffusion_config.timesteps=1000 | timesteps and beta_schedule are only for model_type ddpm
trainer.init_from=a first_stage_config.ckpt_path=b | trainer.init_from and first_stage_config.ckpt_path exclude
first_stage_config.trainable=true diffusion_config.end_to_end.start_step=1 | start_step and first_stage_config.trainable
first_stage_config.trainable=true data.cache_latents=true | data.cache_latents needs first_stage_config.trainable: false
data.augmentation.rotation=5 data.cache_latents=true | data.cache_latents needs | no rotation
trainer.min_lr=1e-3 | trainer.min_learning_rate is 0.001 | learning_rate
trainer.min_lr=1e-6 trainer.lr_scheduler.min_lr_ratio=0.1 | trainer.min_learning_rate is 1e-06 | min_lr_ratio makes it 5e-06
"""


def test_texts_on_the_command_line_are_taken_as_they_are():
    """A path may hold what is a comment or a mapping in YAML, a name be a number."""
    given = ["trainer.results_folder=runs #1", "trainer.init_from=a: b", "data.params.train.params.split=12"]
    config = parse_config({}, [*given, 'sample.ckpt="a b"', "first_stage_config.ckpt_path=null", "trainer.seed=4"])
    taken = [config.trainer.results_folder, config.trainer.init_from, config.data.train.split]
    assert taken == ["runs #1", "a: b", "12"]
    assert parse_config({}, ["optimization.init_from=a #1"]).trainer.init_from == "a #1"
    assert all(parse_config({}, [f"sample.ckpt={word}"]).sample.ckpt is None for word in ("None", "NULL"))
    assert (config.sample.ckpt, config.first_stage_config.ckpt_path, config.trainer.seed) == ("a b", None, 4)


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_what_contradicts_is_refused(refuse, line):
    overrides, *parts = line.split(" | ")
    refuse("", *parts, overrides=overrides.split())


FOLLOWS = """
data.train.data_root=/maps | data.validation.data_root=/maps data.train.split=train data.validation.split=val
data.train.data_root=/maps data.validation.data_root=/other | data.train.data_root=/maps data.validation.data_root=/other
data.train.simulation_type=IRT2 | data.validation.simulation_type=IRT2
first_stage_config.embed_dim=4 | unet_config.in_channels=4 unet_config.out_channels=4 first_stage_config.ddconfig.z_channels=4
first_stage_config.ddconfig.patch_size=2 | unet_config.image_size=40 data.cond_size=40 cond_stage_config.size=40
first_stage_config.ddconfig.resolution=128 | data.image_size=128 unet_config.image_size=32 cond_stage_config.in_channels=3
unet_config.channel_mult=[1,2] unet_config.attention_resolutions=[2] | cond_stage_config.depths=[2,2]
diffusion_config.model_type=ddpm | diffusion_config.objective=pred_noise diffusion_config.sampler=ddim diffusion_config.timesteps=1000
diffusion_config.model_type=flow | diffusion_config.objective=pred_velocity diffusion_config.sampler=euler
diffusion_config.model_type=const_sde | diffusion_config.objective=pred_KC diffusion_config.timesteps=null
trainer.lr=1e-3 trainer.min_lr=1e-5 | trainer.min_learning_rate=1e-5
trainer.lr_scheduler.min_lr_ratio=0.2 | trainer.min_learning_rate=1e-5 trainer.lr_scheduler.min_lr_ratio=null
"""


@pytest.mark.parametrize("line", FOLLOWS.strip().splitlines())
def test_what_follows_from_what(load, line):
    given, expected = line.split(" | ")
    config = load(BLOCKS["data"], *re.split(r" (?=\w+\.)", given))
    for key, value in (pair.split("=") for pair in expected.split()):
        assert schema.get(config, key) == schema.number(yaml.safe_load(value)), key


def test_a_stage_is_judged_by_its_own_networks_and_a_resolved_file_by_its_own_floor(load):
    vae = load("first_stage_config: {ddconfig: {resolution: 40}}", stage="vae")
    assert vae.unet_config.image_size == 10 and vae.trainer.results_folder == "./radiodiff_results_VAE"
    written = to_yaml(load("trainer: {lr: 1e-3, min_lr: 1e-5}"))
    assert load(written, "trainer.learning_rate=2e-3").trainer.min_learning_rate == 1e-5


def test_round_trip(load):
    odd = "sample: {ckpt: 1e5x, source: {data_root: '1e5', split: 'no'}, output_folder: 'né: #'}"
    config = load("".join(BLOCKS.values()) + odd, "data.train.data_root='5'", "trainer.seed=3")
    written = to_yaml(config)
    assert differences(config, load(written)) == []
    assert resolve(parse_config(config.model_dump()), "ldm") == parse_config(yaml.safe_load(written)) == config


def test_help_config_names_every_setting():
    lines = settings_table().splitlines()
    assert [line.partition("=")[0] for line in lines if line[0] != "#"] == [*schema.DEFAULTS]
    assert "# data.validation: unset settings follow data.train, except split and max_samples" in lines
    assert "trainer.batch_size=16  # samples per micro-batch and process (whole number >= 1)" in lines
    assert done("train_vae.py", "--help_config", "lr_scheduler").strip() == settings_table("lr_scheduler") != ""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_file(path, load):
    stage = "vae" if "vae" in path.stem or path.stem.startswith("first_") else "ldm"
    stage = "baseline" if "baseline" in path.stem else stage
    assert load(to_yaml(load_config(path, stage=stage)), stage=stage) == load_config(path, stage=stage)
    head = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert f"configs/{path.name}" in head and "hardware" in head and "duration" in head


@pytest.mark.parametrize(
    "first, second",
    [("first_radio_m", "radio_train_m"), ("first_radio_256", "radio_train_256"), ("tiny_vae", "tiny_ldm")],
)
def test_stage_2_continues_stage_1(first, second):
    vae = load_config(ROOT / f"configs/{first}.yaml", stage="vae")
    ldm = load_config(ROOT / f"configs/{second}.yaml", stage="ldm")
    assert vae.first_stage_config.ddconfig == ldm.first_stage_config.ddconfig
    assert vae.data.cond_channels == ldm.data.cond_channels and vae.data.cond_size == ldm.data.cond_size
    assert ldm.first_stage_config.ckpt_path in (None, vae.trainer.results_folder)
