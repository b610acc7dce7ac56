"""Muon: what its steps are, against the singular value decomposition, and in a run."""

import pytest
import torch
from torch import nn

from denoising_diffusion_pytorch.errors import CheckpointError
from denoising_diffusion_pytorch.training import muon
from denoising_diffusion_pytorch.training.muon import MOMENTUM, Muon, orthogonalize
from tests.training import make_trainer


@pytest.mark.parametrize("native, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_orthogonalize_levels_the_singular_values(monkeypatch, native, dtype):
    monkeypatch.setattr(muon, "has_bfloat16", lambda device: native)
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    matrices[1] *= 1e-4  # of any size
    done = orthogonalize(matrices)
    assert done.dtype == dtype
    done = done.float()
    assert ((torch.linalg.svdvals(done) - 0.95).abs() < 0.3).all()
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    assert all(torch.cosine_similarity(done.flatten(1), (u @ v).flatten(1)) > 0.98)


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (32, 8, 3, 3)])
def test_a_step_moves_all_directions_by_the_same_length(shape):
    """Two matrices of one shape are done at once, each by its own gradient; vectors and small matrices as by AdamW."""
    torch.manual_seed(0)
    shapes = [shape, shape, (7,), (8, 40)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    ours_optimizer = Muon(ours, lr=0.1, weight_decay=0.5)
    adamw = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.5)
    average = [torch.zeros(shape) for shape in shapes]
    for _ in range(2):
        start = [p.detach().clone() for p in ours]
        for mine, other, mean in zip(ours, theirs, average, strict=True):
            mine.grad = torch.randn(mine.shape)
            other.grad = mine.grad.clone()
            mean.lerp_(mine.grad, 1 - MOMENTUM)
        gradients = [p.grad.clone() for p in theirs]
        ours_optimizer.step()
        adamw.step()
    for number in (0, 1):
        u, _, v = torch.linalg.svd((gradients[number].lerp(average[number], MOMENTUM)).flatten(1), full_matrices=False)
        scale = 0.2 * max(len(start[number]), start[number][0].numel()) ** 0.5
        step = (ours[number] - start[number] * (1 - 0.1 * 0.5)).detach().flatten(1) / -(0.1 * scale)
        assert torch.cosine_similarity(step.flatten(), (u @ v).flatten(), dim=0) > 0.98
        assert ((torch.linalg.svdvals(step) - 0.95).abs() < 0.35).all()
    for number in (2, 3):
        assert torch.allclose(ours[number], theirs[number], atol=1e-6)


def test_runs_with_muon_resume_and_do_not_change_optimizers(tmp_path):
    settings = {"optimizer": {"type": "muon"}}
    whole = make_trainer(tmp_path, trainer=settings)
    whole.train()
    states = whole.optimizations[0].optimizer.state.values()
    assert any("momentum" in state for state in states) and any("exp_avg" in state for state in states)
    resumed = make_trainer(tmp_path, trainer=settings | {"resume_milestone": 2})
    resumed.train()
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="trainer.optimizer.type: 'muon' -> 'adamw'"):
        make_trainer(tmp_path, trainer={"training_steps": 5}).train()
