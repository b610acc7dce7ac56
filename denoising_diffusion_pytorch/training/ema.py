"""Exponential moving average of a model's weights."""

import copy

import torch
from torch import nn


class EMAModel:
    """shadow <- beta * shadow + (1 - beta) * weights, every `update_interval` steps from `start_step` on.

    Until `start_step` the shadow is a plain copy, so that it never lags behind a young model. Frozen parameters are
    shared with the model instead of being averaged and stored twice.

    Args:
        model: the model to follow; its current `requires_grad` flags say what is averaged.
        beta: decay.
        start_step, update_interval: optimizer steps, see `update_after_step`.
    """

    def __init__(self, model: nn.Module, beta: float = 0.999, start_step: int = 10000, update_interval: int = 10):
        self.model = model
        self.beta = beta
        self.start_step = start_step
        self.update_interval = update_interval
        self.trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        frozen = {id(p): p for p in model.parameters() if not p.requires_grad}  # deepcopy's memo: not copied
        self.shadow = copy.deepcopy(model, frozen).eval()
        for parameter in self.shadow.parameters():
            parameter.requires_grad_(False)

    @property
    def ema_model(self) -> nn.Module:
        """The averaged model, in eval mode."""
        return self.shadow

    @torch.no_grad()
    def _blend(self, model: nn.Module, beta: float) -> None:
        source, shadow = dict(model.named_parameters()), dict(self.shadow.named_parameters())
        targets: list[torch.Tensor] = [shadow[name] for name in self.trainable]
        values = [source[name].detach() for name in self.trainable]
        if beta:
            torch._foreach_lerp_(targets, values, 1 - beta)
        else:
            torch._foreach_copy_(targets, values)
        self.copy_buffers(model)

    @torch.no_grad()
    def copy_buffers(self, model: nn.Module | None = None) -> None:
        """Take over the model's buffers (scale factor, Fourier frequencies): facts, not averages."""
        source = model if model is not None else self.model
        for ours, theirs in zip(self.shadow.buffers(), source.buffers(), strict=True):
            ours.copy_(theirs)

    def update(self, model: nn.Module | None = None) -> None:
        """One averaging step towards `model` (None: the model given at construction)."""
        self._blend(model if model is not None else self.model, self.beta)

    def copy(self) -> None:
        """Make the shadow equal to the model."""
        self._blend(self.model, 0.0)

    def update_after_step(self, step: int) -> None:
        """To be called after optimizer step `step` (1, 2, ...): copies, averages or waits as the settings say."""
        if step <= self.start_step:
            self.copy()
        elif step % self.update_interval == 0:
            self.update()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged parameters and the buffers by name (frozen parameters are the model's own)."""
        parameters, buffers = dict(self.shadow.named_parameters()), set(dict(self.shadow.named_buffers()))
        keep = {name: parameters[name].detach() for name in self.trainable}
        return keep | {name: value for name, value in self.shadow.state_dict().items() if name in buffers}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `state_dict` gave; raises KeyError on a name that is missing or not ours."""
        expected = self.state_dict()
        if state.keys() != expected.keys():
            raise KeyError(f"averaged weights differ in {sorted(state.keys() ^ expected.keys())[:5]}")
        with torch.no_grad():
            for name, value in expected.items():
                value.copy_(state[name])
