"""The parts of a model: their parameters, which of them are trained, and what a training step calls."""

from torch import nn


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(all, trained) parameters."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _rows(name: str, module: nn.Module, depth: int) -> list[tuple[str, nn.Module]]:
    rows = [(name, module)]
    if depth:
        for child, part in module.named_children():
            rows += _rows(f"{name}.{child}", part, depth - 1)
    return rows


def model_report(modules: dict[str, nn.Module], depth: int = 2) -> str:
    """A table of parts down to `depth` levels, parameters in millions, and whether they are frozen."""
    lines = [f"{'part':<48} {'parameters':>14} {'trained':>14}  state"]
    for name, module in modules.items():
        for part, child in _rows(name, module, depth):
            total, trained = count_parameters(child)
            if total:
                state = "trained" if trained == total else "frozen" if trained == 0 else "partly frozen"
                lines.append(f"{part:<48} {total:>14,} {trained:>14,}  {state}")
    return "\n".join(lines) + "\n"


def step_networks(model: nn.Module) -> dict[str, nn.Module]:
    """The networks that a training step calls, by name: what torch.compile takes whole, and what can be timed apart."""
    parts = ("unet", "cond_stage_model", "first_stage_model.encoder", "first_stage_model.decoder", "encoder", "decoder")
    modules = dict(model.named_modules())
    return {name: modules[name] for name in parts if name in modules} or {"model": model}
