"""The design document's training loop, as a script that runs as it stands.

    python examples/document_loop.py --cfg configs/radio_train_m.yaml data.train.data_root=path/to/data \
        first_stage_config.ckpt_path=./radiodiff_results_VAE [key=value ...]

It trains the U-Net and its condition encoder in one process, from the start. train_cond_ldm.py does the same with validation,
resuming, several GPUs, and a guard against values that are not finite.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from accelerate import Accelerator
from torchvision.utils import save_image

from data import create_dataloader
from denoising_diffusion_pytorch import EMAModel, LatentDiffusion, load_config
from denoising_diffusion_pytorch.cli import run


def train(config) -> None:
    """Train to the end; TensorBoard's log, pictures and the state at every `save_interval` go to `results_folder`."""
    settings, results = config.trainer, Path(config.trainer.results_folder)
    dataloader = create_dataloader(config)
    accelerator = Accelerator(
        gradient_accumulation_steps=settings.gradient_accumulation,
        mixed_precision="no",  # full precision for stability
        log_with="tensorboard",
        project_dir=results,
    )
    if accelerator.num_processes > 1:
        raise SystemExit("this loop is for one process: all would see the same batches; use train_cond_ldm.py")
    accelerator.init_trackers("logs")
    (results / "samples").mkdir(parents=True, exist_ok=True)

    model = LatentDiffusion(**config.model.params).to(accelerator.device)
    if not config.first_stage_config.ckpt_path:
        accelerator.print("first_stage_config.ckpt_path: names no weights; this autoencoder is untrained, and stays so")
    model.set_scale(model.posterior(next(dataloader)["image"].to(accelerator.device)) for _ in range(8))
    ema_model = EMAModel(model, settings.ema.beta, settings.ema.start_step, settings.ema.update_interval)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        betas=tuple(settings.optimizer.betas),
        eps=settings.optimizer.eps,
        weight_decay=settings.optimizer.weight_decay,
    )
    lowest, power = settings.min_learning_rate / settings.learning_rate, settings.lr_scheduler.power
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lr_lambda=lambda step: max(lowest, (1 - step / settings.training_steps) ** power)
    )
    prepared, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)

    step = 0
    while step < settings.training_steps:
        batch = next(dataloader)
        images, conditions = batch["image"].to(accelerator.device), batch["cond"].to(accelerator.device)
        with accelerator.accumulate(prepared):
            loss = prepared(images, conditions)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), settings.gradient_clip)
            optimizer.step()  # accelerate skips these three while gradients are accumulated
            scheduler.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue
        step += 1  # an optimizer step
        ema_model.update_after_step(step)
        if step % settings.log_interval == 0:
            accelerator.log({"loss": loss.item()}, step)
        if step % settings.save_interval == 0:
            samples = ema_model.ema_model.sample(conditions)
            save_image(samples, results / "samples" / f"sample_{step}.png")
            accelerator.save_state(results / "checkpoints" / f"ckpt_{step}")
    accelerator.end_training()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, help="YAML file of stage 2")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    given = parser.parse_args(arguments)
    train(load_config(given.cfg, given.overrides))


if __name__ == "__main__":
    run(main)
