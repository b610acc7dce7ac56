"""Forward processes and samplers: exact inverses, oracles, closed forms."""

import math

import pytest
import torch

from denoising_diffusion_pytorch.diffusion import DecoupledDiffusion, FlowMatching, GaussianDiffusion, beta_schedule
from denoising_diffusion_pytorch.processes import PROCESSES
from denoising_diffusion_pytorch.samplers import (
    SAMPLERS,
    Sampling,
    sample_ddim,
    sample_ddpm,
    sample_euler,
    sample_heun,
)

CLASSES = {"ddpm": GaussianDiffusion, "const_sde": DecoupledDiffusion, "flow": FlowMatching}


def build(model_type, objective, **options):
    return CLASSES[model_type](**options | ({"objective": objective} if model_type == "ddpm" else {}))


VARIANTS = [(name, objective) for name, process in PROCESSES.items() for objective in process.objectives]
ALL = pytest.mark.parametrize("model_type,objective", VARIANTS)


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
    if diffusion.objective == "pred_x0":
        return x_start
    signal, sigma = diffusion.coefficients(t, x_start)
    output = (signal * noise - sigma * x_start) / (signal**2 + sigma**2).sqrt()
    return torch.cat([output] * diffusion.heads, dim=1)


def oracle(diffusion, x_start, error=lambda t: 0.0):
    """A network that knows x_start, off by `error(t)`, and counts its calls."""

    def model(x_t, t):
        model.calls += 1
        signal, sigma = diffusion.coefficients(t, x_t)
        return right_output(diffusion, x_start, t, (x_t - signal * x_start) / sigma) + error(t)

    model.calls = 0
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
def test_predictions_invert_the_forward_process(model_type, objective):
    diffusion, (x_start, noise) = build(model_type, objective), pair()
    t = some_times(diffusion)
    x_t, output = diffusion.q_sample(x_start, t, noise), right_output(diffusion, x_start, t, noise)
    got_x, got_noise = diffusion.predictions(output, x_t, t)
    assert torch.allclose(got_x, x_start, atol=1e-6) and torch.allclose(got_noise, noise, atol=1e-4)
    assert torch.allclose(diffusion.estimate(output, x_t, t), diffusion.target(x_start, t, noise), atol=1e-6)
    assert diffusion.loss(output, x_start, x_t, t, noise) < 1e-12
    # whatever the output, x_start and noise agree
    x_start, noise = diffusion.predictions(output.sin(), x_t, t)
    assert torch.allclose(diffusion.q_sample(x_start, t, noise), x_t, atol=1e-5)


@ALL
def test_a_wrong_output_is_no_worse_at_the_noisy_end(model_type, objective):
    """Output off by 1 everywhere: x_start is off by at most 1 at every t, whatever the signal's amplitude there."""
    for options in [{"schedule": "scaled_linear"}, {"schedule": "cosine"}] if model_type == "ddpm" else [{}]:
        diffusion, (x_start, noise) = build(model_type, objective, **options), pair()
        t = some_times(diffusion)
        x_t = diffusion.q_sample(x_start, t, noise)
        got, _ = diffusion.predictions(right_output(diffusion, x_start, t, noise) + 1, x_t, t)
        assert (got - x_start).abs().max() < 1 + 1e-5


@ALL
def test_the_output_has_a_unit_variance_target_that_x_t_does_not_foretell(model_type, objective):
    if objective == "pred_x0":
        return  # its target is x_start
    torch.manual_seed(0)
    diffusion, (x_start, noise) = build(model_type, objective), torch.randn(2, 20000, 1, 1, 1, dtype=torch.double)
    for value in some_times(diffusion):
        t = value.expand(20000)
        output, x_t = right_output(diffusion, x_start, t, noise), diffusion.q_sample(x_start, t, noise)
        assert abs(output.std() - 1) < 0.03 and abs((output * x_t).mean()) < 0.03
        assert model_type != "ddpm" or abs(x_t.std() - 1) < 0.03  # variance-preserving


def test_the_noise_loss_weighs_the_output_by_the_signal():
    """Its error is that of the predicted noise: signal times the output's."""
    diffusion, (x_start, noise) = GaussianDiffusion(objective="pred_noise"), pair()
    t = some_times(diffusion)
    x_t = diffusion.q_sample(x_start, t, noise)
    signal, _ = diffusion.coefficients(t, x_start)
    loss = diffusion.loss(right_output(diffusion, x_start, t, noise) + 0.3, x_start, x_t, t, noise)
    assert torch.allclose(loss, (0.3 * signal).square().mean())


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 50])
@ALL
def test_an_oracle_makes_every_sampler_return_x_start(model_type, objective, steps):
    for options in [{"schedule": "scaled_linear"}, {"schedule": "cosine"}] if model_type == "ddpm" else [{}]:
        diffusion, (x_start, noise) = build(model_type, objective, **options), pair()
        for name in PROCESSES[model_type].samplers:
            model = oracle(diffusion, x_start)
            result = Sampling(name, steps).run(diffusion, model, noise, randn)
            assert model.calls == steps and torch.allclose(result, x_start, atol=1e-5)


def test_ddim_with_eta_one_is_ancestral():
    diffusion, (_, noise) = GaussianDiffusion(objective="pred_x0"), pair()

    def sampled(sampling):
        torch.manual_seed(1)
        return sampling.run(diffusion, lambda x_t, t: 0.5 * x_t.clamp(-2, 2), noise, randn)

    assert torch.allclose(sampled(Sampling("ddpm", 10)), sampled(Sampling("ddim", 10, eta=1.0)), atol=1e-5)
    assert not torch.allclose(sampled(Sampling("ddpm", 10)), sampled(Sampling("ddim", 10)), atol=1e-2)


def test_a_gaussian_is_sampled_with_its_moments():
    """For x_start ~ N(m, s^2) the ideal denoiser is known; full ancestral sampling must reproduce m and s."""
    m, s = 0.7, 0.4
    diffusion = GaussianDiffusion(timesteps=200, schedule="cosine", objective="pred_x0")

    def model(x_t, t):
        signal, sigma = diffusion.coefficients(t, x_t)
        return m + signal * s**2 / (signal**2 * s**2 + sigma**2) * (x_t - signal * m)

    torch.manual_seed(0)
    samples = sample_ddpm(diffusion, model, torch.randn(4000, 1, 1, 1, dtype=torch.double), 200, randn)
    assert abs(samples.mean() - m) < 0.03 and abs(samples.std() - s) < 0.03


def test_times_run_from_pure_noise_to_the_end():
    diffusion = GaussianDiffusion(timesteps=1000)
    assert diffusion.schedule(4).tolist() == [999, 749, 499, 249, -1]
    assert diffusion.schedule(1000).tolist() == list(range(999, -2, -1))
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="steps"):
            diffusion.schedule(steps)
    u = torch.tensor([0.0, 0.9999999, 0.5])
    assert diffusion.sample_t(u, torch.tensor([False, False, False])).tolist() == [0, 999, 500]
    assert diffusion.sample_t(u, torch.tensor([True, False, False])).tolist()[0] == 999
    clean, none = diffusion.coefficients(torch.tensor([-1]), torch.zeros(1, 1))
    assert clean == 1 and none == 0


@pytest.mark.parametrize("process", [DecoupledDiffusion, FlowMatching])
def test_continuous_times_run_from_pure_noise_to_the_end(process):
    diffusion = process()
    assert diffusion.schedule(4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    with pytest.raises(ValueError, match="steps"):
        diffusion.schedule(0)
    t = diffusion.sample_t(torch.tensor([0.0, 0.5, 0.0]), torch.tensor([False, False, True]))
    assert torch.allclose(t, torch.tensor([1e-4, 0.50005, 1.0])) and t[2] == 1
    assert diffusion.time_input(t)[2] == 1000
    x_start, noise = pair(n=1)
    assert torch.equal(diffusion.q_sample(x_start, t[2:], noise), noise)
    # an untrained network (zeros) is right at both ends
    zeros = torch.zeros(1, 3 * diffusion.heads, 4, 4, dtype=torch.double)
    assert torch.equal(diffusion.predictions(zeros, noise, torch.zeros(1))[0], noise)
    assert torch.equal(diffusion.predictions(zeros, noise, torch.ones(1))[1], noise)


def test_decoupled_reverse_step_matches_the_posterior():
    """x_s given (x_t, x_start, noise) has the stated mean and variance: checked on the forward process itself."""
    torch.manual_seed(0)
    n, t, s = 200_000, 0.6, 0.25  # step s: from t to t - s
    x_start = 0.8
    w_then = torch.randn(n, dtype=torch.double) * math.sqrt(t - s)  # a Wiener path, so that sqrt(t) noise = w_now
    w_now = w_then + torch.randn(n, dtype=torch.double) * math.sqrt(s)
    x_now, x_then = (1 - t) * x_start + w_now, (1 - t + s) * x_start + w_then
    mean = x_now + s * x_start - s / math.sqrt(t) * (w_now / math.sqrt(t))
    rest = x_then - mean
    assert abs(rest.mean()) < 5e-3 and abs(rest.var() - s * (t - s) / t) < 2e-3
    assert abs((rest * w_now).mean()) < 2e-3  # nothing left to predict


def head_errors(spread, keys=(1, 2)):
    """Independent errors of the two heads, whose standard deviations are spread(w1, w2): (B, 6, 4, 4) at t (B,)."""

    def error(t):
        t = t.double().view(-1, 1, 1, 1)
        v = (1 - t) ** 2 + t
        deviations = spread(t / v, (1 - t) ** 2 / v)
        draws = [torch.randn(len(t), 3, 4, 4, generator=g, dtype=torch.double) for g in generators]
        return torch.cat([d * x for d, x in zip(deviations, draws, strict=True)], dim=1)

    generators = [torch.Generator().manual_seed(key) for key in keys]
    return error


def as_weighted(w1, w2):
    """Error variances in inverse proportion to the weights in the loss; the second head's are bounded."""
    return 0.1 / w1.sqrt(), 0.1 / w2.clamp(min=1e-4).sqrt()


SPREADS = {"as weighted": as_weighted, "equal": lambda w1, w2: (0.3 + 0 * w1, 0.3 + 0 * w2)}


class OneHead(DecoupledDiffusion):
    """Takes x_start and noise from one of the two heads."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def predictions(self, model_output, x_t, t):
        return self.split(model_output.chunk(2, dim=1)[self.head], x_t, t)


def test_two_heads_are_weighted_by_the_inverse_of_their_errors_variances():
    diffusion, (x_start, noise) = DecoupledDiffusion(), pair(n=2000)
    for value in (1e-4, 0.1, 0.5, 0.9, 0.99, 1.0):
        t = torch.full((2000,), value, dtype=torch.double)
        x_t, right = diffusion.q_sample(x_start, t, noise), right_output(diffusion, x_start, t, noise)
        off = right + head_errors(as_weighted)(t)
        got_x, got_noise = diffusion.predictions(off, x_t, t)
        signal, sigma = diffusion.coefficients(t, x_t)
        error = right[:, :3] - (signal * got_noise - sigma * got_x) / ((1 - value) ** 2 + value) ** 0.5
        assert error.std() == pytest.approx(0.1, rel=0.02)  # 1 / (w1 / .01 + w2 / .01) = .01, the least there is
        for other in (OneHead(0), OneHead(1)):
            assert (got_x - x_start).std() <= 1.001 * (other.predictions(off, x_t, t)[0] - x_start).std()
        # no larger than the loss, whatever the errors
        assert error.square().mean() <= diffusion.loss(off, x_start, x_t, t, noise) * 1.001 + 1e-12


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("sampler", PROCESSES["const_sde"].samplers)
def test_errors_of_two_heads_do_not_add_up_with_the_number_of_steps(sampler, spread):
    x_start, noise = pair(n=500)

    def error(diffusion, steps):
        model = oracle(diffusion, x_start, head_errors(SPREADS[spread]))
        return (Sampling(sampler, steps).run(diffusion, model, noise, randn) - x_start).square().mean()

    both = [error(DecoupledDiffusion(), steps) for steps in (1, 2, 5, 10)]
    assert all(b <= a for a, b in zip(both, both[1:], strict=False))
    for head in (0, 1):
        assert all(b <= 1.05 * error(OneHead(head), steps) for b, steps in zip(both, (1, 2, 5, 10), strict=True))


FLOW_SAMPLERS = [SAMPLERS[name] for name in PROCESSES["flow"].samplers]


def test_flow_velocity_is_the_docstrings():
    diffusion, (x_start, noise) = FlowMatching(), pair()
    t = torch.tensor([1e-4, 0.2, 0.7, 1.0], dtype=torch.double)
    x_t, times = diffusion.q_sample(x_start, t, noise), t.view(-1, 1, 1, 1)
    variance = (1 - times) ** 2 + times**2
    assert torch.equal(diffusion.target(x_start, t, noise), noise - x_start)
    assert torch.allclose(diffusion.estimate(noise, x_t, t), (2 * times - 1) / variance * x_t + noise / variance.sqrt())


@pytest.mark.parametrize("steps", [40, 41])
def test_a_gaussian_flows_to_its_moments(steps):
    """For x_start ~ N(m, s^2) the known velocity carries noise z to m + s z; Heun's method is of second order."""
    m, s = 0.7, 0.4
    diffusion = FlowMatching()

    def model(x_t, t):
        signal, sigma = diffusion.coefficients(t, x_t)
        rest = (x_t - signal * m) / (signal**2 * s**2 + sigma**2)
        return right_output(diffusion, m + signal * s**2 * rest, t, sigma * rest)

    noise = torch.linspace(-3, 3, 101, dtype=torch.double).view(-1, 1, 1, 1)

    def error(sampler, calls):
        return (sampler(diffusion, model, noise, calls, randn) - (m + s * noise)).abs().max()

    for sampler in FLOW_SAMPLERS:
        assert error(sampler, 200) < 0.03
    assert error(sample_heun, steps) < error(sample_euler, steps) / 4
    assert error(sample_heun, 4 * steps) < error(sample_heun, steps) / 10  # 16 for a perfect second order
    samples = sample_heun(diffusion, model, torch.randn(4000, 1, 1, 1, dtype=torch.double), steps, randn)
    assert abs(samples.mean() - m) < 0.03 and abs(samples.std() - s) < 0.03


def test_sampling_settings_are_checked_against_the_process():
    chosen = Sampling(eta=0.5).changed(GaussianDiffusion(), steps=7, noise_scale=None)
    assert chosen == Sampling("ddim", 7, 1.0, 0.5)
    assert chosen.changed(GaussianDiffusion(), sampler="ddpm") == Sampling("ddpm", 7)  # which has no eta
    assert Sampling().changed(FlowMatching()).sampler == "euler"
    for process, changes, words in (
        (DecoupledDiffusion, {"sampler": "ddim"}, "ddim.*decoupled"),
        (FlowMatching, {"sampler": "ddpm"}, "euler, heun"),
        (FlowMatching, {"eta": 0.5}, "eta is 0.5.*euler"),
        (GaussianDiffusion, {"sampler": "ddpm", "eta": 1.0}, "eta is 1.*ddpm"),
        (GaussianDiffusion, {"steps": 1001}, "1..1000"),
        (FlowMatching, {"noise_scale": 0.0}, "noise_scale is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            Sampling().changed(process(), **changes)
    with pytest.raises(TypeError, match="stps"):
        Sampling().changed(FlowMatching(), stps=2)


def test_euler_on_straight_paths_is_ddim_and_one_call_is_the_estimate():
    diffusion, (_, noise) = FlowMatching(), pair()

    def model(x_t, t):
        return (x_t + t.view(-1, 1, 1, 1)).sin()

    euler, ddim = (sampler(diffusion, model, noise, 7, randn) for sampler in (sample_euler, sample_ddim))
    assert torch.allclose(euler, ddim, atol=1e-6)
    assert torch.equal(sample_heun(diffusion, model, noise, 2, randn), sample_euler(diffusion, model, noise, 2, randn))
    x_start, _ = diffusion.predictions((noise + 1).sin(), noise, torch.ones(4))
    assert all(torch.allclose(sampler(diffusion, model, noise, 1, randn), x_start) for sampler in FLOW_SAMPLERS)
