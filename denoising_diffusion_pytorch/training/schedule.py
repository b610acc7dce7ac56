"""The learning rate: one curve for both stages."""


def learning_rate(
    step: int, lr: float, min_lr: float, total_steps: int, power: float = 0.96, warmup_steps: int = 0
) -> float:
    """LR(t) = max(min_lr, (1 - t / T)^power * lr), with a linear warm-up that does not go below min_lr either.

    The document calls this curve cosine; it is a power law. `min_lr` is an absolute rate, not a factor.

    Args:
        step: t, optimizer steps already taken; beyond T the rate stays at `min_lr`.
        total_steps: T.
        warmup_steps: the first steps, over which the rate grows linearly to the curve.
    """
    remaining = max(0.0, 1 - step / total_steps)
    warmed_up = min(1.0, (step + 1) / (warmup_steps + 1))
    return max(min_lr, warmed_up * remaining**power * lr)
