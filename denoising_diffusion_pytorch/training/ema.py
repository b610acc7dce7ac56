"""Exponential moving average of a model's weights."""

import copy

import torch
from torch import nn


class EMAModel:
    """shadow <- beta * shadow + (1 - beta) * weights, every `update_interval` steps from `start_step` on.

    Until `start_step` the shadow is a plain copy, so that it never lags behind a young model. Frozen parameters are
    shared with the model: its current `requires_grad` flags say which ones. `shadow` is the averaged model, in eval mode.
    """

    def __init__(self, model: nn.Module, beta: float = 0.999, start_step: int = 10000, update_interval: int = 10):
        self.model, self.beta = model, beta
        self.start_step, self.update_interval = start_step, update_interval
        self.trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        # deepcopy's memo: tensors that are not copied, or copied already
        memo: dict[int, torch.Tensor] = {
            id(p): nn.Parameter(p.detach().clone()) if p.requires_grad else p for p in model.parameters()
        }
        memo |= {id(buffer): buffer.clone() for buffer in model.buffers()}
        self.shadow = copy.deepcopy(model, memo).eval().requires_grad_(False)

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """Copy the model's buffers (scale factor, Fourier frequencies), which are not averaged."""
        # not kept in a list: where accelerate wraps a model for several processes, its buffers become other tensors
        for ours, theirs in zip(self.shadow.buffers(), self.model.buffers(), strict=True):
            ours.copy_(theirs)

    @torch.no_grad()
    def update(self, *, beta: float | None = None) -> None:
        """One averaging step; `beta` None: the one given at construction, 0: a copy."""
        ours, theirs = (dict(m.named_parameters()) for m in (self.shadow, self.model))
        targets: list[torch.Tensor] = [ours[name] for name in self.trainable]
        values = [theirs[name].detach() for name in self.trainable]
        torch._foreach_lerp_(targets, values, 1 - (self.beta if beta is None else beta))
        self.copy_buffers()

    def update_after_step(self, step: int) -> None:
        """To be called after optimizer step `step` (1, 2, ...): copies, averages or waits as the settings say."""
        if step <= self.start_step:
            self.update(beta=0.0)
        elif step % self.update_interval == 0:
            self.update()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged parameters and the buffers by name (frozen parameters are the model's own)."""
        frozen = dict(self.shadow.named_parameters()).keys() - set(self.trainable)
        return {name: value for name, value in self.shadow.state_dict().items() if name not in frozen}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `state_dict` gave; raises KeyError on a name that is missing."""
        with torch.no_grad():
            for name, value in self.state_dict().items():
                value.copy_(state[name])
