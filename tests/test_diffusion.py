"""Forward processes and samplers: exact inverses, oracles, closed forms."""

import pytest
import torch

from denoising_diffusion_pytorch.diffusion import DecoupledDiffusion, FlowMatching, GaussianDiffusion, beta_schedule
from denoising_diffusion_pytorch.errors import ConfigError
from denoising_diffusion_pytorch.processes import PROCESSES
from denoising_diffusion_pytorch.samplers import SAMPLERS, Sampling, sample_euler

CLASSES = {"ddpm": GaussianDiffusion, "const_sde": DecoupledDiffusion, "flow": FlowMatching}


# every process, objective and, for the one with T steps, two schedules
VARIANTS = [(name, {"objective": objective}) for name, process in PROCESSES.items() for objective in process.objectives]
VARIANTS += [("ddpm", {"objective": objective, "schedule": "cosine"}) for objective in ("pred_x0", "pred_v")]
ALL = pytest.mark.parametrize("diffusion", [CLASSES[name](**options) for name, options in VARIANTS], ids=str)


def pair(seed=0, n=4):
    """x_start and noise, (n, 3, 4, 4) float64."""
    g = torch.Generator().manual_seed(seed)
    x_start, noise = torch.randn(2, n, 3, 4, 4, generator=g, dtype=torch.double)
    return x_start.clamp(-3, 3), noise


def some_times(diffusion):
    """Four of them, the noisiest one last."""
    u = torch.tensor([0.0, 0.2, 0.7, 0.0], dtype=torch.double)
    return diffusion.sample_t(u, torch.tensor([False, False, False, True]))


def randn(x):
    return torch.randn_like(x)


def right_output(diffusion, x_start, t, noise):
    """What a network that knows the answer puts out."""
    if (diffusion.model_type, diffusion.objective) == ("ddpm", "pred_x0"):
        return x_start
    signal, sigma = diffusion.coefficients(t, x_start)
    output = (signal * noise - sigma * x_start) / (signal**2 + sigma**2).sqrt()
    return torch.cat([output] * diffusion.heads, dim=1)


def oracle(diffusion, x_start):
    """A network that knows x_start and counts its calls."""

    def model(x_t, t):
        model.calls += 1
        signal, sigma = diffusion.coefficients(t, x_t)
        return right_output(diffusion, x_start, t, (x_t - signal * x_start) / sigma)

    model.calls = 0
    return model


M, S = 0.7, 0.4


def ideal(diffusion):
    """The best network for x_start ~ N(M, S^2), whose answer is known."""

    def model(x_t, t):
        signal, sigma = diffusion.coefficients(t, x_t)
        rest = (x_t - signal * M) / (signal**2 * S**2 + sigma**2)
        return right_output(diffusion, M + signal * S**2 * rest, t, sigma * rest)

    return model


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_schedules(schedule):
    betas = beta_schedule(schedule, 1000)
    assert betas.shape == (1000,) and (betas > 0).all() and (betas <= 0.999).all() and (betas.diff() >= 0).all()
    short = torch.cumprod(1 - beta_schedule(schedule, 100), 0)[-1]
    assert abs(short.sqrt() - torch.cumprod(1 - betas, 0)[-1].sqrt()) < 0.05  # the same noise at the end
    ends = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}
    assert schedule not in ends or torch.allclose(betas[[0, -1]], torch.tensor(ends[schedule], dtype=torch.double))


@ALL
def test_predictions_invert_the_forward_process(diffusion):
    x_start, noise = pair()
    t = some_times(diffusion)
    x_t, output = diffusion.q_sample(x_start, t, noise), right_output(diffusion, x_start, t, noise)
    got_x, got_noise = diffusion.predictions(output, x_t, t)
    assert torch.allclose(got_x, x_start, atol=1e-6) and torch.allclose(got_noise, noise, atol=1e-4)
    assert torch.allclose(diffusion.estimate(output, x_t, t), diffusion.target(x_start, t, noise), atol=1e-6)
    assert diffusion.loss(output, x_start, x_t, t, noise) < 1e-12
    # an output that is off by 1 everywhere: x_start is off by at most 1, whatever the signal's amplitude
    got_x, got_noise = diffusion.predictions(output + 1, x_t, t)
    assert (got_x - x_start).abs().max() < 1 + 1e-5
    # and x_start and noise agree
    assert torch.allclose(diffusion.q_sample(got_x, t, got_noise), x_t, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 50])
@ALL
def test_an_oracle_makes_every_sampler_return_x_start(diffusion, steps):
    x_start, noise = pair()
    for name in PROCESSES[diffusion.model_type].samplers:
        model = oracle(diffusion, x_start)
        result = Sampling(name, steps).run(diffusion, model, noise, randn)
        assert model.calls == steps and torch.allclose(result, x_start, atol=1e-5)


@pytest.mark.parametrize("model_type, sampler", [("ddpm", "ddpm"), ("const_sde", "decoupled")])
def test_a_stochastic_sampler_gives_a_gaussian_its_moments(model_type, sampler):
    torch.manual_seed(0)
    diffusion, noise = CLASSES[model_type](), torch.randn(4000, 1, 1, 1, dtype=torch.double)
    samples = SAMPLERS[sampler](diffusion, ideal(diffusion), noise, 200, randn)
    assert abs(samples.mean() - M) < 0.03 and abs(samples.std() - S) < 0.03


def test_a_flow_carries_noise_to_a_gaussian():
    """Noise z to M + S z."""
    diffusion, noise = FlowMatching(), torch.linspace(-3, 3, 101, dtype=torch.double).view(-1, 1, 1, 1)
    assert (sample_euler(diffusion, ideal(diffusion), noise, 200, randn) - (M + S * noise)).abs().max() < 0.03


def test_unknown_objectives_and_schedules_are_refused():
    for make, words in (
        (lambda: GaussianDiffusion(objective="pred_eps"), "pred_eps.*choose pred_noise or pred_x0 or pred_v"),
        (lambda: FlowMatching("pred_noise"), "pred_noise.*flow"),
        (lambda: GaussianDiffusion(schedule="scaled-linear"), "scaled-linear.*scaled_linear"),
    ):
        with pytest.raises(ConfigError, match=words):
            make()


def test_times_run_from_pure_noise_to_the_end():
    diffusion, u, final = GaussianDiffusion(), torch.tensor([0.0, 0.9999999, 0.0]), torch.tensor([0, 0, 1]) > 0
    assert diffusion.schedule(4).tolist() == [999, 749, 499, 249, -1]
    assert diffusion.schedule(1000).tolist() == list(range(999, -2, -1))
    assert diffusion.sample_t(u, final).tolist() == [0, 999, 999]
    assert diffusion.coefficients(torch.tensor([-1]), torch.zeros(1, 1)) == (1, 0)
    for process in (DecoupledDiffusion(), FlowMatching()):
        assert process.schedule(4).tolist() == [1, 0.75, 0.5, 0.25, 0]
        t = process.sample_t(u, final)
        assert torch.allclose(t, torch.tensor([1e-4, 1.0, 1.0])) and process.time_input(t)[2] == 1000
        x_start, noise = pair(n=1)
        assert torch.equal(process.q_sample(x_start, t[2:], noise), noise)
        # an untrained network (zeros) is right at both ends
        zeros = torch.zeros(1, 3 * process.heads, 4, 4, dtype=torch.double)
        assert torch.equal(process.predictions(zeros, noise, torch.zeros(1))[0], noise)
        assert torch.equal(process.predictions(zeros, noise, torch.ones(1))[1], noise)


def test_two_heads_are_weighted_by_the_inverse_of_their_errors_variances():
    torch.manual_seed(0)
    diffusion, (x_start, noise), draws = DecoupledDiffusion(), pair(n=2000), torch.randn(2, 2000, 3, 4, 4)
    for value in (1e-4, 0.1, 0.5, 0.9, 0.99, 1.0):
        t, v = torch.full((2000,), value, dtype=torch.double), (1 - value) ** 2 + value
        weights = value / v, max((1 - value) ** 2 / v, 1e-4)  # in the loss; at t = 1 nothing trains the second head
        x_t, right = diffusion.q_sample(x_start, t, noise), right_output(diffusion, x_start, t, noise)
        off = right + torch.cat([0.1 / w**0.5 * x for w, x in zip(weights, draws, strict=True)], dim=1)
        got_x, got_noise = diffusion.predictions(off, x_t, t)
        signal, sigma = diffusion.coefficients(t, x_t)
        error = right[:, :3] - (signal * got_noise - sigma * got_x) / v**0.5
        assert error.std() == pytest.approx(0.1, rel=0.02)  # 1 / (w1 / .01 + w2 / .01) = .01, the least there is
        # no larger than the loss, whatever the errors
        assert error.square().mean() <= diffusion.loss(off, x_start, x_t, t, noise) * 1.001 + 1e-12


def test_sampling_settings_are_checked_against_the_process():
    assert Sampling().changed(GaussianDiffusion(), steps=7, noise_scale=None) == Sampling("ddim", 7, 1.0)
    assert Sampling().changed(FlowMatching()).sampler == "euler"
    for process, changes, words in (
        (DecoupledDiffusion, {"sampler": "ddim"}, "ddim.*choose from decoupled"),
        (GaussianDiffusion, {"steps": 1001}, "1..1000"),
        (FlowMatching, {"steps": 0}, "at least 1"),
        (FlowMatching, {"noise_scale": 0.0}, "noise_scale is 0"),
        (FlowMatching, {"noise_scale": 1e9}, "up to 100"),
    ):
        with pytest.raises(ValueError, match=words):
            Sampling().changed(process(), **changes)
