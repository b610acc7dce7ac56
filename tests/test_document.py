"""The design document's calls."""

import pytest
import torch

from denoising_diffusion_pytorch import LatentDiffusion
from denoising_diffusion_pytorch.build import build_model
from tests.tiny import TINY, tiny_batch, tiny_config


def test_configuration_as_plain_dicts_in_the_documents_spelling():
    with torch.device("meta"):
        model = LatentDiffusion(
            first_stage_config={
                "target": "ldm.models.autoencoder.AutoencoderKL",
                "params": {
                    "embed_dim": 3,
                    "ckpt_path": "None",
                    "ddconfig": {"double_z": True, "channels": 1, "resolution": 320},
                },
            },
            unet_config={
                "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
                "params": {"model_channels": 128},
            },
        )
        assert model.encode_first_stage(torch.zeros(1, 1, 320, 320)).mode().shape == (1, 3, 80, 80)
        noisy = model.q_sample(torch.zeros(1, 3, 80, 80), torch.zeros(1, dtype=torch.long))
        assert model.denoise(noisy, torch.zeros(1), torch.zeros(1, 3, 80, 80)).shape == (1, 3, 80, 80)
        assert LatentDiffusion().unet.conv_out.out_channels == 3


def test_sections_may_be_dicts_of_the_tiny_file():
    sections = {
        key: TINY[key] for key in ("first_stage_config", "cond_stage_config", "unet_config", "diffusion_config")
    }
    model = LatentDiffusion(**sections)
    assert model.eval().sample(tiny_batch(0)["conditions"]).shape == (2, 1, 16, 16)


def test_the_documents_call_with_a_configuration():
    config = tiny_config(
        diffusion_config={"sampling_timesteps": 7}, data={"cond_channels": ["buildings", "transmitter"]}
    )
    model, built = LatentDiffusion(**config.model.params), build_model(config, "ldm")
    assert model.sampling.steps == 7
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}


def test_sections_are_refused_beside_modules_and_unknown_ones():
    parts = build_model(tiny_config(), "ldm")
    modules = parts.first_stage_model, parts.cond_stage_model, parts.unet, parts.diffusion
    assert LatentDiffusion(*modules).state_dict().keys() == parts.state_dict().keys()
    with pytest.raises(TypeError, match="unet_config"):
        LatentDiffusion(*modules, unet_config={})
    with pytest.raises(TypeError, match="unet_confg"):
        LatentDiffusion(unet_confg={})


def test_a_condition_of_four_unnamed_channels():
    sections = {key: TINY[key] for key in ("first_stage_config", "unet_config", "diffusion_config")}
    model = LatentDiffusion(cond_stage_config=TINY["cond_stage_config"] | {"in_channels": 4}, **sections)
    assert model.encode_condition(torch.zeros(1, 4, 8, 8))[0].shape == (1, 8, 8, 8)
