"""A frozen encoder's posteriors of a training set, computed once in all the symmetries that augmentation draws from."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data import DataError
from data.hashing import digest
from data.samples.augment import symmetry
from data.samples.cache import SampleCache
from data.samples.dataset import RadioMapDataset

from ..networks.autoencoder import AutoencoderKL

SHARDS = 64  # files of a store; a process writes whole ones


class CachedLatents(Dataset):
    """The samples of a dataset, each with `moments` (2 Z, h, w): mean and log-variance of the posterior of its image, float32.

    Stored in half precision: a relative error of at most 5e-4.

    Args:
        dataset: augmented by symmetries alone.
        store: filled, see `encode_dataset`.
    """

    def __init__(self, dataset: RadioMapDataset, store: SampleCache):
        self.dataset, self.store = dataset, store
        self.report = dataset.report
        self.slots = {index: slot for slot, index in enumerate(_symmetries(dataset))}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        index, key = item
        augmentation = self.dataset.augmentation
        slot = self.slots[augmentation.symmetry_of(key) if augmentation is not None else 0]
        return self.dataset[item] | {"moments": self.store.read(index * len(self.slots) + slot, "moments")}


def _symmetries(dataset: RadioMapDataset) -> list[int]:
    return dataset.augmentation.symmetries if dataset.augmentation is not None else [0]


def _encoder_digest(autoencoder: AutoencoderKL) -> str:
    """Hash of the weights that turn images into moments."""
    parts = {"encoder": autoencoder.encoder, "quant_conv": autoencoder.quant_conv}
    tensors = [(f"{part}.{k}", v) for part, module in parts.items() for k, v in module.state_dict().items()]
    return digest(*(piece for name, value in tensors for piece in (name, value.cpu().contiguous().numpy().tobytes())))


@torch.no_grad()
def encode_dataset(
    dataset: RadioMapDataset,
    autoencoder: AutoencoderKL,
    folder: Path,
    accelerator: Accelerator,
    *,
    batch_size: int = 16,
    num_workers: int = 0,
) -> CachedLatents:
    """Encode what has not been encoded yet, each process its share, in full precision.

    Args:
        dataset: augmented by symmetries alone.
        autoencoder: trained; its encoder stays as it is from now on.
        folder: the store is made below it, one for each encoder and data set; all processes must see it.
        batch_size: images at a time.
        num_workers: of reading.

    Raises:
        data.DataError: too little space on the disk, or a map that cannot be read.
    """
    autoencoder = autoencoder.to(accelerator.device).eval()
    symmetries = _symmetries(dataset)
    side = dataset.image_size // autoencoder.downsampling_factor
    identity = dataset.identity(cond=False) | {"encoder": _encoder_digest(autoencoder), "symmetries": symmetries}
    shape = (2 * autoencoder.embed_dim, side, side)
    rows = -(-len(dataset) // SHARDS) * len(symmetries)  # all symmetries of a map lie in one shard
    store = SampleCache("latents", len(dataset) * len(symmetries), {"moments": shape}, folder, identity, rows)
    rank, processes = accelerator.process_index, accelerator.num_processes
    missing = sorted({row // len(symmetries) for row in store.missing().tolist()})
    mine = [index for index in missing if store.shard(index * len(symmetries)) % processes == rank]
    size = max(1, batch_size // len(symmetries))
    loader = DataLoader(dataset, size, sampler=mine, num_workers=num_workers if mine else 0)
    with tqdm(total=len(mine), desc="encoding", unit="map", disable=not accelerator.is_main_process) as bar:
        indices = iter(mine)
        for batch in loader:
            images = batch["image"].to(accelerator.device)
            turned = torch.stack([symmetry(images, s) for s in symmetries], dim=1).flatten(0, 1)  # map by map
            posterior = autoencoder.encode(turned)
            moments = torch.cat([posterior.mean, posterior.logvar], dim=1).cpu()
            for own in moments.split(len(symmetries)):
                index = next(indices)
                for slot, value in enumerate(own):
                    store.write(index * len(symmetries) + slot, {"moments": value})
                bar.update()
    store.flush()
    accelerator.wait_for_everyone()
    store.open()
    missing_here = len(store.missing())
    if missing_here:
        raise DataError(
            f"{store.path}: {missing_here} latents are not here; data.cache_folder must be one folder that all processes see"
        )
    return CachedLatents(dataset, store)
