"""Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon): momentum whose singular values are set to 1."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from .speed import has_bfloat16

MOMENTUM = 0.95
MIN_SIDE = 16  # side of a matrix; smaller ones, as in the last layer of a network, are left to AdamW


def orthogonalize(matrices: Tensor) -> Tensor:
    """About U V^T of the singular value decompositions U S V^T of matrices (B, m, n), m <= n. In bfloat16 where that is native,
    else in float32.

    All but very small singular values become .7 to 1.2, by five steps of the iteration of Newton and Schulz with Jordan's
    polynomial a x + b x^3 + c x^5.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if has_bfloat16(matrices.device) else matrices.float()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value is above 1 now
    for _ in range(5):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        x = polynomial @ x
    return x


class Muon(torch.optim.AdamW):
    """Muon for matrices and for the kernels of convolutions, which are matrices (outputs, inputs); AdamW for all else.

    An update has about the root mean square of AdamW's, .16 to .2 (Liu et al., 2025, arXiv 2502.16982), so that both share a
    learning rate.
    """

    def __init__(self, parameters: list[nn.Parameter], **options):
        super().__init__(parameters, **options)
        self._step_supports_amp_scaling = False  # a gradient scaler must not call `step` where a gradient overflowed

    @torch.no_grad()
    def step(self, closure=None):
        """As AdamW's."""
        gradients = [pair for group in self.param_groups for pair in self._step_matrices(group)]
        for parameter, _ in gradients:
            parameter.grad = None  # nothing is left for AdamW to do
        loss = super().step(closure)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> list[tuple[nn.Parameter, Tensor]]:
        """Update the matrices of a group, those of one shape together; returns them with their gradients."""
        done: list[tuple[nn.Parameter, Tensor]] = []
        alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None or gradient.ndim < 2 or min(len(gradient), gradient[0].numel()) < MIN_SIDE:
                continue
            state = self.state[parameter]
            if not state:  # AdamW expects a step in every state
                state.update(step=torch.tensor(0.0), momentum=torch.zeros_like(parameter))
            momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
            update = gradient.lerp(momentum, MOMENTUM).movedim(1, -1)  # as convolutions lie in memory
            alike[len(update), update[0].numel()].append((parameter, update))
            done.append((parameter, gradient))
        for (outputs, inputs), pairs in alike.items():
            stacked, tall = torch.stack([update.flatten(1) for _, update in pairs]), outputs > inputs
            level = orthogonalize(stacked.mT if tall else stacked)
            scale = 0.2 * max(outputs, inputs) ** 0.5
            for (parameter, update), direction in zip(pairs, level.mT if tall else level, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction.reshape(update.shape).movedim(-1, 1), alpha=-scale * group["lr"])
        return done
