"""Reading configurations: spellings, types, derivations, errors, and no input that crashes."""

import copy
from pathlib import Path

import hypothesis
import pytest
import yaml
from hypothesis import strategies

from denoising_diffusion_pytorch.config import (
    differences,
    load_config,
    parse_config,
    placeholders,
    resolve,
    schema,
    section,
    to_dict,
    to_yaml,
)
from denoising_diffusion_pytorch.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))

FIRST_STAGE = """
first_stage_config:
  target: ldm.models.autoencoder.AutoencoderKL
  params:
    embed_dim: 3           # Latent space dimensions
    ckpt_path: None        # No pretrained weights
    ddconfig:
      double_z: true       # Use double latent space
      channels: 1          # Input channels
      resolution: 320      # Input resolution
      in_channels: 1       # Input channels
      out_ch: 1            # Output channels
      ch: 128              # Base channels
      ch_mult: [1,2,4]     # Channel multipliers
      num_res_blocks: 2    # Residual blocks
      attn_resolutions: [] # No attention in VAE
      dropout: 0.0         # Dropout rate
"""

UNET = """
unet_config:
  target: ldm.modules.diffusionmodules.openaimodel.UNetModel
  params:
    image_size: 80        # Latent space size
    in_channels: 3         # Latent channels
    out_channels: 3        # Output channels
    model_channels: 128    # Base channels
    attention_resolutions: [4, 2]  # Attention at these resolutions
    num_res_blocks: 2      # Residual blocks
    channel_mult: [1, 2, 4, 4]    # Channel multipliers
    num_heads: 4           # Attention heads
    use_spatial_transformer: true   # Use spatial transformer
    transformer_depth: 1     # Transformer depth
    context_dim: 128        # Conditioning dimension
    use_checkpoint: true    # Gradient checkpointing
    use_spatial_transformer: true
"""

TRAINER = """
trainer:
  batch_size: 16
  learning_rate: 5e-5
  min_learning_rate: 5e-6
  training_steps: 50000
  gradient_accumulation: 8
  save_interval: 200
  log_interval: 100
  ema:
    start_step: 10000
    update_interval: 10
    beta: 0.999
  optimizer:
    type: adamw
    betas: [0.9, 0.999]
    eps: 1e-8
    weight_decay: 1e-4
  lr_scheduler:
    type: cosine
    power: 0.96
    min_lr_ratio: 0.1
"""

OPTIMIZATION = """
optimization:
  lr: 5e-5
  min_lr: 5e-6
  lr_scheduler: cosine
  lr_decay_power: 0.96
  optimizer: adamw
  weight_decay: 1e-4
  gradient_accumulation: 8
  gradient_clip: 1.0
  mixed_precision: false
  ema:
    beta: 0.999
    start_step: 10000
    update_interval: 10
"""

DATA = """
data:
  target: main.DataModuleFromConfig
  params:
    batch_size: 16
    num_workers: 4
    wrap: false
    train:
      target: ldm.data.radio.RadioUNet_c
      params:
        data_root: path/to/RadioMapSeer
        simulation_type: specific_type
        additional_params: {}
    validation:
      target: ldm.data.radio.RadioUNet_c
      params:
        data_root: path/to/RadioMapSeer
        simulation_type: specific_type
        additional_params: {}
"""

BLOCKS = {"first_stage": FIRST_STAGE, "unet": UNET, "trainer": TRAINER, "optimization": OPTIMIZATION, "data": DATA}


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

    def check(text, *parts, overrides=(), stage="ldm"):
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides, stage=stage)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'run.yaml'}: ")
        assert "\n" not in message
        for part in parts:
            assert part in message
        return message

    return check


def changed(config, reference=None):
    """{dotted key: what happened} against the document's values."""
    reference = reference or resolve(schema.Config(), "ldm")
    return dict(line.split(": ", 1) for line in differences(reference, config))


# ---- the document's blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCKS)
def test_each_block_of_the_document_means_the_defaults(load, name):
    difference = changed(load(BLOCKS[name]))
    expected = {}
    if name == "data":
        for source in ("data.train", "data.validation"):
            expected[f"{source}.data_root"] = "None -> 'path/to/RadioMapSeer'"
            expected[f"{source}.simulation_type"] = "'DPM' -> 'specific_type'"
    assert difference == expected


@pytest.mark.parametrize("name", BLOCKS)
def test_every_value_of_a_block_is_read(load, name):
    """Each number of a block, changed in the text, changes the configuration (or contradicts another spelling)."""
    lines = BLOCKS[name].splitlines()
    reference = to_dict(load(BLOCKS[name]))
    tried = 0
    for index, line in enumerate(lines):
        key, _, value = line.partition(":")
        value = value.partition("#")[0].strip()
        if not value.replace(".", "").replace("e-", "").isdigit():
            continue
        other = (
            "0.5" if value == "0.0" else str(float(value) / 2) if "." in value or "e" in value else str(int(value) * 2)
        )
        text = "\n".join([*lines[:index], f"{key}: {other}", *lines[index + 1 :]])
        try:
            assert to_dict(load(text)) != reference, line
        except ConfigError as error:
            assert key.strip() in str(error), line
        tried += 1
    assert tried >= 2


def test_all_blocks_together(load):
    config = load("".join(BLOCKS.values()))
    assert config.trainer.learning_rate == 5e-5 and config.trainer.min_learning_rate == 5e-6
    assert config.trainer.mixed_precision == "no"
    assert config.first_stage_config.ckpt_path is None
    assert config.unet_config.image_size == config.data.cond_size == 80
    assert placeholders(config) == [
        "data.train.data_root",
        "data.train.simulation_type",
        "data.validation.data_root",
        "data.validation.simulation_type",
    ]


def test_model_wrapper_merges_into_the_file(load):
    indented = "".join("    " + line + "\n" for text in (FIRST_STAGE, UNET) for line in text.strip().splitlines())
    text = f"model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n{indented}"
    assert changed(load(text)) == {}
    assert load(text, "model.params.unet_config.params.model_channels=64").unet_config.model_channels == 64


def test_flat_data_section_names_both_sources(load):
    config = load("data:\n  params:\n    data_root: /maps\n    simulation_type: IRT2\n    batch_size: 4\n")
    assert config.data.train.data_root == config.data.validation.data_root == "/maps"
    assert config.data.train.simulation_type == config.data.validation.simulation_type == "IRT2"
    assert config.trainer.batch_size == 4


def test_additional_params_are_further_fields(load):
    config = load("data: {train: {params: {data_root: a, additional_params: {missing_buildings: 2, max_samples: 5}}}}")
    assert config.data.train.missing_buildings == 2 and config.data.train.max_samples == 5
    assert config.data.validation.missing_buildings == 2, "validation is like training unless it says otherwise"
    assert config.data.validation.max_samples is None


@pytest.mark.parametrize(
    "text, ours",
    [
        ("model: {first_stage: {embed_dim: 3}}", "model.first_stage_config"),
        ("trainer: {train_num_steps: 5}", "trainer.training_steps"),
        ("trainer: {gradient_accumulate_every: 8}", "trainer.gradient_accumulation"),
        ("model: {model_type: flow}", "diffusion_config.model_type"),
    ],
)
def test_spellings_of_the_original_radiodiff_name_ours(refuse, text, ours):
    refuse(text, f"did you mean {ours}?")


@pytest.mark.parametrize("word, precision", [("true", "fp16"), ("false", "no"), ("no", "no"), ("bf16", "bf16")])
def test_mixed_precision(load, word, precision):
    assert load(f"optimization: {{mixed_precision: {word}}}").trainer.mixed_precision == precision


def test_targets_are_looked_up_never_imported(refuse, load, tmp_path):
    refuse("unet_config: {target: os.system, params: {}}", "unet_config.target", "'os.system'", "UNetModel, Unet")
    refuse("first_stage_config: {target: 5}", "first_stage_config.target", "AutoencoderKL")
    refuse("trainer: {target: a.B, params: {}}", "trainer.target", "takes none")
    assert load("unet_config: {target: Unet, params: {model_channels: 32}}").unet_config.model_channels == 32
    assert load("cond_stage_config: {target: a.SwinConditionEncoder}").cond_stage_config.size == 80


def test_two_spellings_must_agree(refuse, load):
    assert load("trainer: {batch_size: 4}\ndata: {params: {batch_size: 4}}").trainer.batch_size == 4
    message = refuse("trainer: {batch_size: 4}\ndata: {params: {batch_size: 16}}", "trainer.batch_size is 4")
    assert "data.params.batch_size is 16" in message
    refuse("first_stage_config: {ddconfig: {channels: 3, in_channels: 1}}", "ddconfig.channels is 3")
    refuse("trainer: {lr: 1e-4}\noptimization: {lr: 2e-4}", "trainer.lr is '1e-4'", "optimization.lr is '2e-4'")


def test_wrap_must_be_false(refuse, load):
    assert load("data: {wrap: false}").data.num_workers == 4
    refuse("data: {params: {wrap: true}}", "data.params.wrap must be false")


# ---- YAML --------------------------------------------------------------------------------------------------------


def test_an_empty_file_means_the_document(load):
    assert changed(load("")) == {} and changed(load("# nothing\n")) == {} and changed(load("trainer:\n")) == {}


@pytest.mark.parametrize("text", ["5e-5", "5E-5", "5.0e-5", ".00005", "+5e-05"])
def test_floats_of_yaml_1_2(load, text):
    assert load(f"trainer: {{lr: {text}}}").trainer.learning_rate == 5e-5


def test_none_is_null(load):
    assert load("first_stage_config: {ckpt_path: None}").first_stage_config.ckpt_path is None
    assert load("first_stage_config: {ckpt_path: }").first_stage_config.ckpt_path is None


def test_anchors_aliases_and_merge_keys(load):
    config = load(
        "data:\n  train: &source {data_root: /a, simulation_type: IRT2}\n"
        "  validation:\n    <<: *source\n    data_root: /b\n"
    )
    assert config.data.validation.data_root == "/b" and config.data.validation.simulation_type == "IRT2"


@pytest.mark.parametrize(
    "text, part",
    [
        ("- a\n- b\n", "must be a mapping"),
        ("just text", "must be a mapping"),
        ("a: [1, 2\nb: 3\n", "line 2"),
        ("a: 1\n\tb: 2\n", "line 2"),
        ("a: 1\n---\nb: 2\n", "line 2"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: !!int x\n", "not valid YAML"),
        ("? [a, b]\n: 1\n", "unhashable"),
        ("a: \x01\n", "not valid YAML"),
        (b"a: \xff\xfe\n", "cannot be read"),
        ("params: &a {model: *a}\n", "params.model.model is not a known key"),
        ("a: " + "[" * 5000 + "]" * 5000, "not valid YAML"),
    ],
)
def test_bad_yaml(refuse, text, part):
    refuse(text, part)


def test_a_bomb_does_not_go_off(refuse):
    """Ten lists of ten of the one before, and a message of one line."""
    bomb = "".join(f"  a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" if i else "  a0: &a0 [1]\n" for i in range(10))
    refuse("x:\n" + bomb, "x is not a known key")
    refuse("trainer:\n  optimizer:\n    betas: &a0 [1]\n", "trainer.optimizer.betas")


def test_files_that_are_none(tmp_path):
    for path in (tmp_path / "missing.yaml", tmp_path, "\0run.yaml", "a" * 5000):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path)


# ---- keys and values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        ("trainer: {batchsize: 4}", "trainer.batchsize is not a known key; did you mean trainer.batch_size?"),
        ("trainer: {ema: {betta: 4}}", "trainer.ema.betta is not a known key; did you mean trainer.ema.beta?"),
        ("trianer: {}", "trianer is not a known key; did you mean trainer?"),
        ("learning_rate: 1", "learning_rate is not a known key; did you mean trainer.learning_rate?"),
        ("data: {params: {trian: {}}}", "data.params.trian is not a known key; did you mean data.params.train?"),
        ("trainer: {zzzzzz: 4}", "trainer.zzzzzz is not a known key; known here: batch_size, "),
        ("? 'a\\nb'\n: 4", "is not a known key"),
        ("null: 4", "None is not a known key"),
        ("params: {params: {}}", "params.params is not a known key"),
        ("embed_dim: 3", "embed_dim is not a known key; did you mean first_stage_config.embed_dim?"),
        ("trainer: 4", "trainer must be a mapping (key: value lines), not 4"),
        ("data: {train: [a]}", "data.train must be a mapping"),
        ("trainer: {batch_size: 16.5}", "trainer.batch_size: Input should be a valid integer, not 16.5"),
        ("trainer: {batch_size: true}", "trainer.batch_size: Input should be a valid integer, not True"),
        ("trainer: {batch_size: '16'}", "trainer.batch_size: Input should be a valid integer, not '16'"),
        ("trainer: {batch_size: 0}", "trainer.batch_size: Input should be greater than or equal to 1, not 0"),
        ("trainer: {lr: true}", "trainer.lr: Input should be a valid number, not True"),
        ("trainer: {lr: .inf}", "trainer.lr: Input should be a finite number, not inf"),
        ("trainer: {lr: 0}", "trainer.lr: Input should be greater than 0, not 0"),
        ('trainer: {results_folder: "a\\u0007"}', "trainer.results_folder: String should match"),
        ("trainer: {optimizer: {betas: [0.9]}}", "trainer.optimizer.betas: List should have at least 2 items"),
        ("trainer: {optimizer: sgd}", "trainer.optimizer.type: Input should be 'adamw', not 'sgd'"),
        ("trainer: {mixed_precision: fp8}", "trainer.mixed_precision: Input should be 'no', 'fp16', 'bf16' or 'auto'"),
        ("trainer: {resume_milestone: -1}", "trainer.resume_milestone: Input should be greater than or equal to 0"),
        ("unet_config: {channel_mult: [1, 2.5]}", "unet_config.channel_mult: Input should be a valid integer, not 2.5"),
        (
            "first_stage_config: {ddconfig: {double_z: false}}",
            "first_stage_config.ddconfig.double_z: Input should be True",
        ),
        ("data: {cond_channels: []}", "data.cond_channels: List should have at least 1 item"),
        ("diffusion_config: {model_type: edm}", "model_type: Input should be 'ddpm', 'const_sde' or 'flow', not 'edm'"),
        (
            "sample: {sampler: rk4}",
            "sample.sampler: Input should be 'ddim', 'ddpm', 'decoupled', 'euler'",
        ),
    ],
)
def test_bad_keys_and_values(refuse, text, message):
    refuse(text, message)


def test_whole_numbers_are_numbers(load):
    config = load("trainer: {gradient_clip: 2, lr_scheduler: {power: 1}}")
    assert type(config.trainer.gradient_clip) is float and config.trainer.gradient_clip == 2.0


# ---- derivations -------------------------------------------------------------------------------------------------


def test_architecture_is_derived(load):
    config = load("first_stage_config: {embed_dim: 4, ddconfig: {resolution: 128, patch_size: 2, ch_mult: [1, 2]}}")
    unet, cond = config.unet_config, config.cond_stage_config
    assert (unet.image_size, unet.in_channels, unet.out_channels) == (32, 4, 4)
    assert config.first_stage_config.ddconfig.z_channels == 4
    assert (config.data.image_size, config.data.cond_size) == (128, 32)
    assert (cond.in_channels, cond.size, cond.depths) == (3, 32, [2, 2, 2, 2])
    assert config.sample.source.split == "test"
    assert (config.data.train.split, config.data.validation.split) == ("train", "val")
    assert config.trainer.sample_interval == config.trainer.save_interval


def test_a_decoder_that_sees_the_condition_gets_it_whole(load, refuse):
    text = "first_stage_config: {ddconfig: {decoder_cond: true}}"
    assert load(text).data.cond_size == 320
    refuse(text, "data.cond_size is 80", "decoder_cond", "set data.cond_size: 320", overrides=["data.cond_size=80"])


def test_a_residual_decoder_must_see_the_condition(load, refuse):
    channels = "data: {cond_channels: [buildings, simulated]}\nfirst_stage_config: {ddconfig: {%s}}"
    refuse(channels % "decoder_residual: true", "decoder_residual needs decoder_cond: true")
    refuse("first_stage_config: {ddconfig: {decoder_cond: true, decoder_residual: true}}", "simulated among")
    assert load(channels % "decoder_cond: true, decoder_residual: true").first_stage_config.ddconfig.decoder_residual


@pytest.mark.parametrize(
    "override, parts",
    [
        ("first_stage_config.ddconfig.resolution=322", ("ddconfig.resolution is 322", "multiple of 4")),
        ("first_stage_config.ddconfig.resolution=16", ("ddconfig.resolution, is 4", "multiple of 8")),
        ("first_stage_config.ddconfig.z_channels=4", ("z_channels is 4", "first_stage_config.embed_dim")),
        ("first_stage_config.ddconfig.in_channels=3", ("in_channels is 3", "1 channel")),
        ("first_stage_config.ddconfig.attn_resolutions=[16]", ("attn_resolutions names 16", "320, 160, 80")),
        ("unet_config.image_size=64", ("unet_config.image_size is 64", "ddconfig.resolution", "80")),
        ("unet_config.in_channels=4", ("unet_config.in_channels is 4", "first_stage_config.embed_dim")),
        ("unet_config.out_channels=4", ("unet_config.out_channels is 4", "first_stage_config.embed_dim")),
        ("unet_config.attention_resolutions=[40]", ("attention_resolutions names 40", "1, 2, 4, 8")),
        ("unet_config.num_heads=3", ("unet_config.model_channels is 128", "num_heads 3")),
        ("cond_stage_config.num_heads=3", ("unet_config.context_dim is 128", "num_heads 3")),
        ("data.image_size=256", ("data.image_size is 256", "ddconfig.resolution", "320")),
        ("data.cond_size=100", ("data.cond_size is 100", "80")),
        ("cond_stage_config.in_channels=4", ("cond_stage_config.in_channels is 4", "data.cond_channels")),
        ("cond_stage_config={size: 160, depths: [1]}", ("cond_stage_config.depths has 1", "channel_mult 4")),
        ("diffusion_config.objective=pred_KC", ("objective is pred_KC", "model_type ddpm", "pred_noise")),
        ("diffusion_config.model_type=const_sde", ("objective is pred_noise", "choose pred_KC")),
        ("diffusion_config.model_type=flow", ("objective is pred_noise", "choose pred_velocity")),
        (
            "diffusion_config={model_type: flow, objective: pred_velocity, sampler: ddim}",
            ("sampler is ddim", "model_type flow", "euler or heun"),
        ),
        ("diffusion_config.sampler=decoupled", ("sampler is decoupled", "ddim or ddpm")),
        ("diffusion_config.timesteps=3", ("sampling_timesteps is 4", "timesteps 3")),
        ("trainer.lr_scheduler={min_lr_ratio: 0.2, power: 1}", ()),
    ],
)
def test_sections_must_fit_together(refuse, load, override, parts):
    if parts:
        refuse("", *parts, overrides=[override])
    else:
        assert load("", override).trainer.min_learning_rate == pytest.approx(1e-5)


def test_flow_matching(load):
    flow = "diffusion_config: {model_type: flow, objective: pred_velocity}"
    assert load(flow).diffusion_config.sampler == "euler"
    assert load(flow, "diffusion_config.sampler=heun").diffusion_config.sampler == "heun"


def test_cond_stage_size_and_cond_size_agree(load, refuse):
    assert load("cond_stage_config: {size: 160}").data.cond_size == 160
    refuse("cond_stage_config: {size: 160}\ndata: {cond_size: 320}", "cond_stage_config.size is 160", "data.cond_size")


def test_stage_1_does_not_judge_the_networks_of_stage_2(load):
    config = load("first_stage_config: {ddconfig: {resolution: 40}}", stage="vae")
    assert config.unet_config.image_size == 10 and config.trainer.results_folder == "./radiodiff_results_VAE"
    assert load("").trainer.results_folder == "./radiodiff_results_LDM"
    with pytest.raises(ConfigError, match="stage must be one of vae, ldm"):
        resolve(schema.Config(), "both")


def test_the_document_reads_the_data_sets_path_through_params(load):
    config = load(DATA)
    assert config.data.params.data_root == "path/to/RadioMapSeer"
    assert config.data.params.simulation_type == "specific_type"


def test_stage_2_takes_the_autoencoder_from_its_checkpoint(tmp_path):
    """Where the file does not say what it looks like; what the file does say stays."""
    path = tmp_path / "ldm.yaml"
    path.write_text(
        "first_stage_config: {ckpt_path: somewhere, ddconfig: {ch: 8}}\nunet_config: {attention_resolutions: [2]}"
    )
    theirs = resolve(
        parse_config({"first_stage_config": {"embed_dim": 4, "ddconfig": {"ch_mult": [1, 2], "ch": 16}}}), "vae"
    )
    asked = []
    config = load_config(path, trained=lambda place: asked.append(place) or theirs.first_stage_config)
    first = config.first_stage_config
    assert (first.embed_dim, first.ddconfig.ch_mult, first.ddconfig.ch) == (4, [1, 2], 8)
    assert asked == ["./radiodiff_results_LDM"]
    assert config.unet_config.in_channels == 4 and config.unet_config.image_size == 160
    assert load_config(path, trained=lambda place: None).first_stage_config.embed_dim == 3
    own = {
        "./radiodiff_results_LDM": theirs.first_stage_config
    }  # a run that goes on needs the first stage's folder no more
    assert load_config(path, trained=own.get).first_stage_config.embed_dim == 4
    assert load_config(path, ["trainer.enable_resume=false"], trained=own.get).first_stage_config.embed_dim == 3
    assert load_config(path, stage="vae", trained=lambda place: 1 / 0).first_stage_config.embed_dim == 3


def test_floor_of_the_learning_rate(load, refuse):
    def floor(text, *overrides):
        return load(text, *overrides).trainer.min_learning_rate

    assert floor("") == 5e-6
    assert floor("trainer: {lr: 1e-3}") == 1e-4
    assert floor("trainer: {lr: 1e-3, min_lr: 1e-5}") == 1e-5
    assert floor("trainer: {min_lr: 0}") == 0
    both = "trainer: {lr: 5e-5, min_lr: 5e-6, lr_scheduler: {min_lr_ratio: 0.1}}"
    assert floor(both, "trainer.learning_rate=1e-4") == 1e-5
    assert floor(both, "optimization.min_lr=1e-6") == 1e-6
    assert floor(both, "trainer.lr_scheduler.min_lr_ratio=0.5") == 2.5e-5
    saved = to_yaml(load("trainer: {lr: 1e-3, min_lr: 1e-5}"))
    assert floor(saved, "trainer.learning_rate=2e-3") == 1e-5
    third = "trainer: {lr: 1e-4, min_lr: 3.3333333333333335e-06, lr_scheduler: {min_lr_ratio: 0.033333333333333333}}"
    assert floor(third) == pytest.approx(1e-5 / 3)
    refuse("trainer: {min_lr: 1e-6, lr_scheduler: {min_lr_ratio: 0.1}}", "trainer.min_learning_rate", "min_lr_ratio")
    refuse("trainer: {min_lr: 1e-3}", "trainer.min_learning_rate is 0.001", "learning_rate")


def test_resolve_leaves_its_argument_alone_and_checks_it():
    config = schema.Config()
    before = copy.deepcopy(config)
    once = resolve(config, "ldm")
    assert config == before and once != before
    assert resolve(once, "ldm") == once
    config.trainer.batch_size = 0
    with pytest.raises(ConfigError, match=r"trainer\.batch_size: Input should be greater than or equal to 1"):
        resolve(config, "ldm")


# ---- command line ------------------------------------------------------------------------------------------------


def test_overrides_win_over_every_spelling(load):
    text = TRAINER + DATA + OPTIMIZATION
    assert load(text, "trainer.batch_size=4").trainer.batch_size == 4
    assert load(text, "data.params.batch_size=4").trainer.batch_size == 4
    assert load(text, "optimization.lr_decay_power=2").trainer.lr_scheduler.power == 2
    assert load(text, "trainer.seed=1", "trainer.seed=2").trainer.seed == 2
    assert load(text, "trainer.ema={beta: 0.5}").trainer.ema == schema.EMAConfig(beta=0.5)
    assert load(text, "first_stage_config.ckpt_path=a=b").first_stage_config.ckpt_path == "a=b"


def test_a_changed_training_source_changes_the_validation_source_that_was_the_same(load):
    data = load(DATA, "data.train.data_root=/maps", "data.train.simulation_type=IRT2").data
    assert (data.validation.data_root, data.validation.simulation_type) == ("/maps", "IRT2")
    other = DATA.replace("path/to/RadioMapSeer", "/elsewhere", 1)
    assert load(other, "data.train.data_root=/maps").data.validation.data_root == "path/to/RadioMapSeer"
    both = load(DATA, "data.train.data_root=/maps", "data.validation.data_root=/other").data
    assert (both.train.data_root, both.validation.data_root) == ("/maps", "/other")


@pytest.mark.parametrize(
    "override, part",
    [
        ("trainer.batchsize=4", "trainer.batchsize is not a known key; did you mean trainer.batch_size?"),
        ("trainer=4", "trainer must be a mapping"),
        ("trainer.batch_size", "not key=value"),
        ("=4", "not key=value"),
        ("trainer..batch_size=4", "not key=value"),
        ("trainer.batch_size.x=4", "trainer.batch_size: Input should be a valid integer, not {'x': 4}"),
        ("trainer.batch_size=[", "quote the value"),
        ("trainer.batch_size=", "has no value; write trainer.batch_size=null"),
        (".".join("a" * 5000) + "=1", "not key=value"),
    ],
)
def test_bad_overrides(refuse, override, part):
    refuse("", part, overrides=[override])


# ---- Python ------------------------------------------------------------------------------------------------------


def test_section_takes_any_form():
    raw = yaml.safe_load(FIRST_STAGE)["first_stage_config"]
    first = section("first_stage_config", raw)
    assert first == section("first_stage_config") == section("first_stage_config", schema.FirstStageConfig())
    assert section("first_stage_config", {"ddconfig": schema.DDConfig(ch=64)}).ddconfig.ch == 64
    assert section("trainer.ema", {"beta": 0.5}).beta == 0.5
    assert section("trainer", yaml.safe_load(OPTIMIZATION)["optimization"]).learning_rate == 5e-5
    assert section("unet_config", {"channel_mult": (1, 2)}).channel_mult == [1, 2]
    assert section("first_stage_config", {"ckpt_path": Path("a/b")}).ckpt_path == "a/b"
    copied = section("first_stage_config", first)
    assert copied == first and copied is not first


def test_section_errors():
    with pytest.raises(
        ConfigError, match=r"^first_stage_config\.embd_dim is not .* mean first_stage_config\.embed_dim\?"
    ):
        section("first_stage_config", {"embd_dim": 3})
    with pytest.raises(ConfigError, match=r"^unet_config\.use_checkpoint: Input should be a valid boolean, not 1"):
        section("unet_config", {"use_checkpoint": 1})
    with pytest.raises(ConfigError, match="'first_stage' is no section"):
        section("first_stage")
    with pytest.raises(ConfigError, match="another section"):
        section("data", {"batch_size": 4})
    with pytest.raises(ConfigError, match="must be a mapping"):
        section("data", 4)
    cyclic = {}
    cyclic["params"] = cyclic
    with pytest.raises(ConfigError, match="data.params.params is not a known key"):
        section("data", cyclic)


def test_parse_config_reads_what_safe_load_reads():
    everything = yaml.safe_load("".join(BLOCKS.values()))
    assert everything["trainer"]["learning_rate"] == "5e-5", "PyYAML leaves it a text"
    config = parse_config(everything, ["trainer.seed=3"])
    assert config.trainer.learning_rate == 5e-5 and config.trainer.seed == 3
    assert config.unet_config.image_size == 80 and config.data.image_size is None, "given, and not derived yet"


def test_differences_and_dict():
    a, b = schema.Config(), schema.Config()
    b.trainer.seed, b.unet_config.channel_mult = 1, [1, 2]
    assert differences(a, a) == []
    assert differences(a, b) == ["unet_config.channel_mult: [1, 2, 4, 4] -> [1, 2]", "trainer.seed: 0 -> 1"]
    assert parse_config(to_dict(b)) == b


@pytest.mark.parametrize("stage", ["vae", "ldm"])
def test_round_trip(load, stage):
    text = (
        "".join(BLOCKS.values())
        + "sample: {ckpt: 1e5x, source: {data_root: '1e5', split: 'no'}, output_folder: 'né: #'}"
    )
    config = load(text, "data.train.data_root='5'", "trainer.seed=7", "trainer.lr=3.3e-5", stage=stage)
    written = to_yaml(config)
    again = load(written, stage=stage)
    assert again == config and differences(config, again) == []
    assert parse_config(yaml.safe_load(written)) == config, "plain YAML readers see the same"
    assert resolve(parse_config(to_dict(config)), stage) == config


def test_placeholders():
    config = parse_config({"data": {"train": {"data_root": "/my/path/to/x"}, "validation": {"data_root": "/data"}}})
    assert placeholders(config) == ["data.train.data_root"]
    assert placeholders(schema.Config()) == []


# ---- the files in configs/ ---------------------------------------------------------------------------------------


def test_configs_are_all_there():
    names = {path.stem for path in CONFIGS}
    assert names >= {"radio_train_m", "first_radio_m", "radio_sample_m", "radio_train_256", "first_radio_256"}
    assert names >= {"tiny_vae", "tiny_ldm", "tiny_sample"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_file(path, load):
    stage = "vae" if "vae" in path.stem or path.stem.startswith("first_") else "ldm"
    stage = "baseline" if "baseline" in path.stem else stage
    config = load_config(path, stage=stage)
    assert load(to_yaml(config), stage=stage) == config
    text = path.read_text(encoding="utf-8")
    head = text.partition("\n\n")[0]
    assert f"configs/{path.name}" in head and "hardware" in head and "duration" in head
    assert resolve(parse_config(yaml.safe_load(text)), stage) == config

    def texts(value):
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [value] if isinstance(value, str) else [text for child in children for text in texts(child)]

    assert not [text for text in texts(yaml.safe_load(text)) if text[:1].isdigit()], (
        "numbers that plain YAML leaves texts"
    )


def test_radio_train_m_is_the_document():
    config = load_config(ROOT / "configs/radio_train_m.yaml")
    expected = {"data.train.data_root", "data.validation.data_root"}
    assert set(changed(config)) == set(placeholders(config)) == expected
    moved = load_config(ROOT / "configs/radio_train_m.yaml", ["data.train.data_root=/maps"])
    assert placeholders(moved) == []


def test_stage_2_continues_stage_1():
    for first, second in (
        ("first_radio_m", "radio_train_m"),
        ("first_radio_256", "radio_train_256"),
        ("tiny_vae", "tiny_ldm"),
    ):
        vae = load_config(ROOT / f"configs/{first}.yaml", stage="vae")
        ldm = load_config(ROOT / f"configs/{second}.yaml", stage="ldm")
        assert vae.first_stage_config.ddconfig == ldm.first_stage_config.ddconfig
        assert vae.first_stage_config.embed_dim == ldm.first_stage_config.embed_dim
        assert vae.data.cond_channels == ldm.data.cond_channels and vae.data.cond_size == ldm.data.cond_size
        assert ldm.first_stage_config.ckpt_path in (None, vae.trainer.results_folder)


# ---- nothing crashes ---------------------------------------------------------------------------------------------

BOUNDED = hypothesis.settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
WORDS = """
first_stage_config unet_config data trainer optimization model params target train validation additional_params wrap
ddconfig lossconfig ema optimizer lr_scheduler batch_size lr betas channels ch_mult resolution <<
"""
KEYS = strategies.sampled_from(WORDS.split()) | strategies.text(max_size=5)
SCALARS = (
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(max_size=5)
)
TREES = strategies.recursive(
    SCALARS,
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


def config_or_error(make):
    """What `make` returns is a Config; what it raises a ConfigError of one line."""
    try:
        assert isinstance(make(), schema.Config)
    except ConfigError as error:
        assert "\n" not in str(error)


@BOUNDED
@hypothesis.given(strategies.dictionaries(KEYS, TREES, max_size=5))
def test_any_mapping(tree):
    config_or_error(lambda: resolve(parse_config(tree), "ldm"))


@BOUNDED
@hypothesis.given(strategies.sampled_from(sorted(BLOCKS)), strategies.data())
def test_damaged_blocks(load, name, data):
    text = BLOCKS[name]
    start = data.draw(strategies.integers(0, len(text)))
    stop = data.draw(strategies.integers(start, min(len(text), start + 10)))
    config_or_error(lambda: load(text[:start] + data.draw(strategies.text(max_size=4)) + text[stop:]))


def test_initial_weights_and_a_first_stage_exclude_each_other(load):
    with pytest.raises(ConfigError, match="init_from and first_stage_config.ckpt_path exclude each other"):
        load("trainer: {init_from: a}\nfirst_stage_config: {ckpt_path: b}")


def test_measured_points_need_their_channels(load, refuse):
    both = "[buildings, transmitter, measured_gain, measured]"
    text = "data: {incomplete: {points: 9}, cond_channels: %s}"
    assert load(text % both).data.incomplete.points == 9
    refuse(text % "[buildings, transmitter]", "incomplete.points is 9", "no measured points")
    assert load(text % "[buildings, simulated]").data.incomplete.points == 9
    refuse(text % "[buildings, measured]", "has measured; measured points need a number and both")
    refuse(f"data: {{cond_channels: {both}}}", "incomplete.points is 0", "measured_gain and measured")
