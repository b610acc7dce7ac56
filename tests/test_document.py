"""The calls of the design document, as it prints them."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

import denoising_diffusion_pytorch
from data import DataError, RadioMapDataset, RadioUNet_c, RandomAugmentation, create_dataloader, process_batch
from denoising_diffusion_pytorch import EMAModel, LatentDiffusion, TransformerBlock, Unet
from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.errors import ConfigError
from denoising_diffusion_pytorch.losses import hinge_gan_loss
from tests.processes import ROOT
from tests.test_networks import weights
from tests.test_samples import marked
from tests.tiny import TINY, merged, tiny_batch, tiny_config
from tests.training import same


def documents_config(root, batch_size):
    params = SimpleNamespace(data_root=root, simulation_type="DPM")
    return SimpleNamespace(data=SimpleNamespace(params=params), trainer=SimpleNamespace(batch_size=batch_size))


def test_batches_of_the_flat_tree(flat_tree):
    batch = process_batch(next(iter(create_dataloader(documents_config(flat_tree, 3)))), "cpu")
    assert batch["images"].shape == batch["masks"].shape == (3, 1, 320, 320)
    assert batch["conditions"].shape == (3, 3, 80, 80) and len(batch["names"]) == 3
    assert process_batch({"image": torch.zeros(1), "cond": torch.zeros(1), "name": ["a"]}, "cpu")["masks"] is None
    with pytest.raises(DataError, match="fewer than one batch of 5"):
        create_dataloader(documents_config(flat_tree, 5))


def test_every_epoch_is_another_one(radiomapseer):
    loader = create_dataloader(documents_config(radiomapseer, 7))
    loader.dataset.image_size = loader.dataset.cond_size = 8
    epochs = [list(loader) for _ in range(4)]
    orders = [[name for batch in epoch for name in batch["name"]] for epoch in epochs]
    assert len(loader) == 2 and all(len(set(order)) == 14 for order in orders)  # six of 20 are left out each time
    assert len({tuple(order) for order in orders}) == 4 and len({name for order in orders for name in order}) == 20
    keys = torch.cat([batch["key"] for epoch in epochs for batch in epoch])
    assert len(keys.unique()) == 4 * 14  # every sample is augmented by another draw
    stream = [name for _ in range(20) for name in next(loader)["name"]]  # ten epochs
    assert len(set(stream[:14])) == len(set(stream[14:28])) == 14 and len(set(stream)) == 20


def test_augmentation_of_the_document():
    torch.manual_seed(0)
    augment, plain, moved = RandomAugmentation(p=1.0), marked(), 0
    for _ in range(30):
        sample = augment(marked())
        assert sample["name"] == "a" and (sample["image"][sample["ori_mask"] == 1] == -1).all()
        if torch.equal(sample["ori_mask"], plain["ori_mask"]):
            assert torch.equal(sample["cond"], plain["cond"])  # image alone, by up to a tenth
            assert 0 < (sample["image"] - plain["image"]).abs().max() < 0.2
        else:
            moved += 1
            assert torch.allclose(sample["image"], sample["cond"][:1], atol=1e-5)
    assert 15 < moved < 30
    x = plain["image"]
    assert RandomAugmentation(p=0.0)(x) is x and augment(x).shape == x.shape
    assert 150 < sum(RandomAugmentation()(x) is not x for _ in range(400)) < 250


def test_unet_takes_a_bare_condition_and_none():
    torch.manual_seed(0)
    unet, t = Unet(dim=16, channels=3, dim_mults=[1, 2]), torch.tensor([1.0, 900.0])
    x, cond = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    output = unet(x, t, cond)
    assert output.shape == x.shape
    assert not torch.allclose(output, unet(x, t)) and not torch.allclose(output, unet(x, t, cond.flip(-1)))
    assert torch.equal(output, unet(x, t, unet.cond_encoder(cond)))
    with pytest.raises(ValueError, match="sides of the latent"):
        unet(x, t, cond[..., :8])


@pytest.mark.parametrize("shape", [(2, 3, 80, 80), (2, 64, 5, 5), (2, 7, 64)])
def test_transformer_block_uses_its_condition(shape):
    torch.manual_seed(0)
    block = TransformerBlock(64, window_size=8)
    x, cond = torch.randn(2, 64, 10, 10), torch.randn(shape, requires_grad=True)
    output = block(x, cond)
    assert output.shape == x.shape and not torch.allclose(output, block(x))
    (gradient,) = torch.autograd.grad(output.square().mean(), cond)
    assert bool((gradient != 0).flatten(1).any(1).all())


def test_a_script_that_holds_loaders_ends(flat_tree):
    script = f"""
from types import SimpleNamespace
import data
params = SimpleNamespace(data_root={str(flat_tree)!r}, simulation_type="DPM")
loader = data.create_dataloader(SimpleNamespace(data=SimpleNamespace(params=params), trainer=SimpleNamespace(batch_size=2)))
held = [loader, iter(loader), iter(data.training_loader(loader.dataset, 2, num_workers=1))]
print([len(next(batches)["image"]) for batches in held])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[2, 2, 2]\n"), done.stderr


FOUR = {name: TINY[name] for name in ("first_stage_config", "cond_stage_config", "unet_config", "diffusion_config")}


def test_sections_in_the_documents_spelling():
    params = {"embed_dim": 3, "ckpt_path": "None", "ddconfig": {"double_z": True, "channels": 1}}
    unet = {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": {"model_channels": 128}}
    first = {"target": "ldm.models.autoencoder.AutoencoderKL", "params": params}
    with torch.device("meta"):
        model = LatentDiffusion(first_stage_config=first, unet_config=unet)
        assert weights(model) == weights(LatentDiffusion())
        assert model(torch.zeros(1, 1, 320, 320), torch.zeros(1, 3, 80, 80)).shape == ()


def test_sections_of_a_configuration():
    channels = {"cond_channels": ["buildings", "transmitter"]}
    config = tiny_config(diffusion_config={"sampling_timesteps": 7}, data=channels)
    model, built = LatentDiffusion(**config.model.params), build_model(config, "ldm")
    model.load_state_dict(built.state_dict())
    assert model.sampling.steps == 7
    four = LatentDiffusion(**merged(FOUR, {"cond_stage_config": {"in_channels": 4}}))  # without names
    assert four.cond_stage_model.in_channels == 4
    for wrong in ({"unet_confg": {}}, {"first_stage_config": built.first_stage_model}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            LatentDiffusion(**wrong)


def test_the_autoencoders_weights_are_read(tmp_path):
    before = LatentDiffusion(**FOUR).first_stage_model.state_dict()
    save_file(before, tmp_path / "vae.safetensors")
    four = merged(FOUR, {"first_stage_config": {"ckpt_path": str(tmp_path / "vae.safetensors")}})
    assert same(before, LatentDiffusion(**four).first_stage_model.state_dict())


def test_the_documents_loss_trains_every_part():
    """As printed, except that no gradient is cut off from the generator's hinge loss."""
    torch.manual_seed(0)
    changes = {"first_stage_config": {"trainable": True}, "diffusion_config": {"objective": "pred_noise"}}
    model, discriminator, batch = LatentDiffusion(**merged(FOUR, changes)), torch.nn.Conv2d(1, 1, 4), tiny_batch(0)
    images, conditions = batch["image"], batch["cond"]
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)  # several layers begin at zero
    posterior = model.encode_first_stage(images)
    z = posterior.sample()
    t = torch.randint(0, 1000, (images.shape[0],), device=images.device)
    noise = torch.randn_like(z)
    z_t = model.q_sample(z, t, noise)
    pred_noise = model.denoise(z_t, t, conditions)
    output = model.model_output(z_t, t, model.cond_stage_model(conditions))
    assert torch.equal(pred_noise, model.diffusion.predictions(output, z_t, t)[1])
    recon_loss = F.mse_loss(pred_noise, noise)
    kl_loss = torch.mean(posterior.kl())
    adv_loss, _ = hinge_gan_loss(discriminator(model.decode_first_stage(z)), discriminator(images))
    (recon_loss + 0.000001 * kl_loss + 0.5 * adv_loss).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model(images, conditions, keys=[1, 2]) == model(batch, keys=[1, 2])  # called with images or a batch


def test_the_documents_loop(flat_tree, tmp_path):
    """As printed, in small and counted in optimizer steps: 3 of 2 x 2 maps."""
    config = tiny_config(
        first_stage_config={"ddconfig": {"resolution": 40}},
        data={"train": {"data_root": str(flat_tree)}, "cond_size": 80},
        trainer={"training_steps": 3},
    )
    dataloader = create_dataloader(config)
    accelerator = Accelerator(gradient_accumulation_steps=2, log_with="tensorboard", project_dir=tmp_path, cpu=True)
    accelerator.init_trackers("logs")
    model = LatentDiffusion(**config.model.params)
    model.set_scale(model.posterior(next(dataloader)["image"]) for _ in range(8))
    ema_model = EMAModel(model, beta=0.999)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(5e-6 / 5e-5, (1 - step / 3) ** 0.96))
    prepared, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    for step in range(6):
        batch = next(dataloader)
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(batch["image"], batch["cond"]))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            ema_model.update_after_step(step // 2 + 1)
    accelerator.log({"loss": 1.0}, step)
    samples = ema_model.shadow.sample(batch["cond"])
    accelerator.save_state(tmp_path / "checkpoints" / "ckpt_3")
    state = load_file(tmp_path / "checkpoints" / "ckpt_3" / "model.safetensors")
    assert samples.shape == (2, 1, 40, 40) and state["scale_factor"] != 1 and state["unet.conv_out.weight"].any()
    assert list((tmp_path / "logs").glob("events*"))
    assert (ema_model.start_step, ema_model.update_interval) == (10000, 10)
    weight, before = model.unet.conv_out.weight, model.unet.conv_out.weight.detach().clone()
    weight.data += 1
    ema_model.update(model)
    assert torch.allclose(ema_model.ema_model.unet.conv_out.weight, before + 0.001, atol=1e-5)


def test_names_of_the_packages():
    for name in denoising_diffusion_pytorch.__all__:
        assert getattr(denoising_diffusion_pytorch, name).__name__ == name
    assert issubclass(RadioUNet_c, RadioMapDataset)
