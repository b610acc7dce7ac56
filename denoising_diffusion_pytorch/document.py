"""The design document's calls where they differ from ours. Nothing else knows them."""

from typing import Any

from . import latent_diffusion
from .build import latent_diffusion_parts


class LatentDiffusion(latent_diffusion.LatentDiffusion):
    """`LatentDiffusion(first_stage_config=..., cond_stage_config=..., unet_config=..., diffusion_config=...)`: from sections
    of a configuration, see `build.latent_diffusion_parts`; or from modules, as its base class.
    """

    def __init__(self, *modules: Any, **arguments: Any):
        if not modules and "unet" not in arguments:
            arguments = latent_diffusion_parts(**arguments)
        super().__init__(*modules, **arguments)
