"""Forward processes and samplers: exact inverses, oracles, closed forms."""

import math

import pytest
import torch

from denoising_diffusion_pytorch.diffusion import (
    DecoupledDiffusion,
    FlowMatching,
    GaussianDiffusion,
    beta_schedule,
    elementwise_loss,
    sample_ddim,
    sample_ddpm,
    sample_decoupled,
    sample_euler,
    sample_heun,
)

OBJECTIVES = ["pred_noise", "pred_x0", "pred_v"]


def draws(seed=0, n=4):
    g = torch.Generator().manual_seed(seed)
    shape = (n, 3, 4, 4)
    return torch.randn(shape, generator=g, dtype=torch.double).clamp(-3, 3), torch.randn(
        shape, generator=g, dtype=torch.double
    )


def randn(x):
    return torch.randn_like(x)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_schedules(schedule):
    betas = beta_schedule(schedule, 1000)
    assert betas.shape == (1000,) and (betas > 0).all() and (betas <= 0.999).all() and (betas.diff() >= 0).all()
    short = torch.cumprod(1 - beta_schedule(schedule, 100), 0)[-1]
    assert abs(short.sqrt() - torch.cumprod(1 - betas, 0)[-1].sqrt()) < 0.05  # the same noise at the end


def test_schedule_end_points():
    assert math.isclose(beta_schedule("linear", 1000)[0], 1e-4) and math.isclose(
        beta_schedule("linear", 1000)[-1], 0.02
    )
    assert math.isclose(beta_schedule("scaled_linear", 1000)[-1], 0.012)
    with pytest.raises(ValueError, match="beta schedule"):
        beta_schedule("quadratic", 10)


def right_output(diffusion, x_start, t, noise):
    """What a network that knows the answer puts out."""
    signal, sigma = diffusion.coefficients(t, x_start)
    return x_start if diffusion.objective == "pred_x0" else signal * noise - sigma * x_start


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_predictions_invert_the_forward_process(objective):
    diffusion = GaussianDiffusion(objective=objective)
    x_start, noise = draws()
    t = torch.tensor([0, 10, 500, 999])
    x_t = diffusion.q_sample(x_start, t, noise)
    output = right_output(diffusion, x_start, t, noise)
    got_x, got_noise = diffusion.predictions(output, x_t, t)
    assert torch.allclose(got_x, x_start, atol=1e-6) and torch.allclose(got_noise, noise, atol=1e-4)
    assert torch.allclose(diffusion.estimate(output, x_t, t), diffusion.target(x_start, t, noise), atol=1e-6)
    assert diffusion.loss(output, x_start, x_t, t, noise) < 1e-12


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("schedule", ["scaled_linear", "cosine"])
def test_a_wrong_output_is_no_worse_at_the_noisy_end(objective, schedule):
    """Output off by 1 everywhere: x_start is off by at most 1 at every t, whatever the signal's amplitude there."""
    diffusion = GaussianDiffusion(schedule=schedule, objective=objective)
    x_start, noise = draws()
    for step in (999, 998, 500, 1):
        t = torch.full((4,), step)
        x_t = diffusion.q_sample(x_start, t, noise)
        got, _ = diffusion.predictions(right_output(diffusion, x_start, t, noise) + 1, x_t, t)
        assert (got - x_start).abs().max() < 1 + 1e-5


def test_the_noise_loss_weighs_the_output_by_the_signal():
    """Its error is that of the predicted noise: signal times the output's."""
    diffusion, (x_start, noise) = GaussianDiffusion(objective="pred_noise"), draws()
    t = torch.tensor([0, 10, 500, 999])
    x_t = diffusion.q_sample(x_start, t, noise)
    signal, _ = diffusion.coefficients(t, x_start)
    loss = diffusion.loss(right_output(diffusion, x_start, t, noise) + 0.3, x_start, x_t, t, noise)
    assert torch.allclose(loss, (0.3 * signal).square().mean())


def test_q_sample_keeps_unit_variance():
    diffusion = GaussianDiffusion()
    signal, sigma = diffusion.coefficients(torch.arange(1000), torch.zeros(1000, 1, dtype=torch.double))
    assert torch.allclose(signal.square() + sigma.square(), torch.ones(1000, 1, dtype=torch.double), atol=1e-6)
    clean, none = diffusion.coefficients(torch.tensor([-1]), torch.zeros(1, 1))
    assert clean == 1 and none == 0


def oracle(diffusion, x_start):
    """A network that knows the answer."""

    def model(x_t, t):
        model.calls += 1
        signal, sigma = diffusion.coefficients(t, x_t)
        return right_output(diffusion, x_start, t, (x_t - signal * x_start) / sigma)

    model.calls = 0
    return model


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", [sample_ddpm, sample_ddim])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("schedule", ["scaled_linear", "cosine"])
def test_an_oracle_makes_every_sampler_return_x_start(objective, sampler, steps, schedule):
    diffusion = GaussianDiffusion(schedule=schedule, objective=objective)
    x_start, noise = draws()
    model = oracle(diffusion, x_start)
    result = sampler(diffusion, model, noise, steps, randn)
    assert model.calls == steps
    assert torch.allclose(result, x_start, atol=1e-5)


def test_ddim_with_eta_one_is_ancestral():
    diffusion = GaussianDiffusion(objective="pred_x0")
    _, noise = draws()

    def model(x_t, t):
        return 0.5 * x_t.clamp(-2, 2)

    torch.manual_seed(1)
    a = sample_ddpm(diffusion, model, noise, 10, randn)
    torch.manual_seed(1)
    b = sample_ddim(diffusion, model, noise, 10, randn, eta=1.0)
    assert torch.allclose(a, b, atol=1e-5)


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
    assert diffusion.draw_t(u, torch.tensor([False, False, False])).tolist() == [0, 999, 500]
    assert diffusion.draw_t(u, torch.tensor([True, False, False])).tolist()[0] == 999


@pytest.mark.parametrize("process", [DecoupledDiffusion, FlowMatching])
def test_continuous_times_run_from_pure_noise_to_the_end(process):
    diffusion = process()
    assert diffusion.schedule(4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    with pytest.raises(ValueError, match="steps"):
        diffusion.schedule(0)
    t = diffusion.draw_t(torch.tensor([0.0, 0.5, 0.0]), torch.tensor([False, False, True]))
    assert torch.allclose(t, torch.tensor([1e-4, 0.50005, 1.0])) and t[2] == 1
    assert diffusion.time_input(t)[2] == 1000
    x_start, noise = draws(n=1)
    assert torch.equal(diffusion.q_sample(x_start, t[2:], noise), noise)


def decoupled_output(diffusion, x_start, noise, x_t, t):
    """The network output whose heads are exactly C = -x_start and noise; t below 1."""
    t = t.double().view(-1, 1, 1, 1)
    variance = (1 - t) ** 2 + t
    f1 = (-x_start + (1 - t) / variance * x_t) / (t / variance).sqrt()
    f2 = (noise - t.sqrt() / variance * x_t) / ((1 - t) / variance.sqrt()).clamp(min=1e-12)
    return torch.cat([f1, f2], dim=1)


def test_decoupled_preconditioning():
    diffusion = DecoupledDiffusion()
    x_start, noise = draws()
    t = torch.tensor([1e-4, 0.2, 0.7, 0.999], dtype=torch.double)
    x_t = diffusion.q_sample(x_start, t, noise)
    output = decoupled_output(diffusion, x_start, noise, x_t, t)
    got_x, got_noise = diffusion.predictions(output, x_t, t)
    assert torch.allclose(got_x, x_start) and torch.allclose(got_noise, noise)
    assert torch.allclose(diffusion.estimate(output, x_t, t), diffusion.target(x_start, t, noise))
    assert diffusion.loss(output, x_start, x_t, t, noise) < 1e-12
    # an untrained network (zeros) is right at both ends: C -> -x_t as t -> 0, noise = x_t at t = 1
    tiny = torch.full((4,), 1e-8, dtype=torch.double)
    clean, _ = diffusion.predictions(torch.zeros_like(output), x_t, tiny)
    assert torch.allclose(clean, x_t, atol=1e-6)
    _, at_one = diffusion.predictions(torch.zeros_like(output), x_t, torch.ones(4, dtype=torch.double))
    assert torch.equal(at_one, x_t)


def test_decoupled_heads_have_unit_variance_targets():
    diffusion = DecoupledDiffusion()
    torch.manual_seed(0)
    x_start, noise = torch.randn(2, 20000, 1, 1, 1, dtype=torch.double)
    for value in (0.05, 0.5, 0.95):
        t = torch.full((20000,), value, dtype=torch.double)
        output = decoupled_output(diffusion, x_start, noise, diffusion.q_sample(x_start, t, noise), t)
        assert abs(output[:, 0].std() - 1) < 0.03 and abs(output[:, 1].std() - 1) < 0.03


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_decoupled_oracle(steps):
    diffusion = DecoupledDiffusion()
    x_start, noise = draws()
    calls = []

    def model(x_t, t):
        calls.append(float(t[0]))
        t_ = t.double().view(-1, 1, 1, 1)
        return decoupled_output(diffusion, x_start, (x_t - (1 - t_) * x_start) / t_.sqrt(), x_t, t)

    result = sample_decoupled(diffusion, model, noise, steps, randn)
    assert len(calls) == steps and calls[0] == 1
    assert torch.allclose(result, x_start, atol=1e-6)


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


def flow_output(x_start, noise, t):
    """The network output that stands for x_start and noise."""
    t = t.double().view(-1, 1, 1, 1)
    return ((1 - t) * noise - t * x_start) / ((1 - t) ** 2 + t**2).sqrt()


def test_flow_preconditioning():
    diffusion = FlowMatching()
    x_start, noise = draws()
    t = torch.tensor([1e-4, 0.2, 0.7, 1.0], dtype=torch.double)
    x_t = diffusion.q_sample(x_start, t, noise)
    output = flow_output(x_start, noise, t)
    got_x, got_noise = diffusion.predictions(output, x_t, t)
    assert torch.allclose(got_x, x_start) and torch.allclose(got_noise, noise)
    velocity = diffusion.target(x_start, t, noise)
    assert torch.equal(velocity, noise - x_start) and torch.allclose(diffusion.estimate(output, x_t, t), velocity)
    assert diffusion.loss(output, x_start, x_t, t, noise) < 1e-12
    # the docstring's form, for any output
    times = t.view(-1, 1, 1, 1)
    variance = (1 - times) ** 2 + times**2
    assert torch.allclose(diffusion.estimate(noise, x_t, t), (2 * times - 1) / variance * x_t + noise / variance.sqrt())
    # an untrained network (zeros) is right at both ends
    zeros = torch.zeros_like(output)
    assert torch.equal(diffusion.predictions(zeros, x_t, torch.zeros(4))[0], x_t)
    assert torch.equal(diffusion.predictions(zeros, x_t, torch.ones(4))[1], x_t)


def test_flow_output_has_a_unit_variance_target_that_x_t_does_not_foretell():
    diffusion = FlowMatching()
    torch.manual_seed(0)
    x_start, noise = torch.randn(2, 20000, 1, 1, 1, dtype=torch.double)
    for value in (1e-4, 0.3, 0.5, 0.95, 1.0):
        t = torch.full((20000,), value, dtype=torch.double)
        output, x_t = flow_output(x_start, noise, t), diffusion.q_sample(x_start, t, noise)
        assert abs(output.std() - 1) < 0.03 and abs((output * x_t).mean()) < 0.03


FLOW_SAMPLERS = [sample_euler, sample_heun]


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 20])
def test_flow_oracle(steps, sampler):
    diffusion = FlowMatching()
    x_start, noise = draws()
    calls = []

    def model(x_t, t):
        calls.append(float(t[0]))
        t_ = t.double().view(-1, 1, 1, 1)
        return flow_output(x_start, (x_t - (1 - t_) * x_start) / t_, t)

    result = sampler(diffusion, model, noise, steps, randn)
    assert len(calls) == steps and calls[0] == 1 and min(calls) > 0
    assert torch.allclose(result, x_start, atol=1e-6)


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_one_call_of_a_flow_is_the_estimate_from_pure_noise(sampler):
    diffusion, (_, noise) = FlowMatching(), draws()
    x_start, _ = diffusion.predictions(noise.sin(), noise, torch.ones(4))
    assert torch.allclose(sampler(diffusion, lambda x_t, t: x_t.sin(), noise, 1, randn), x_start)


def test_euler_on_straight_paths_is_ddim():
    diffusion, (_, noise) = FlowMatching(), draws()

    def model(x_t, t):
        return (x_t + t.view(-1, 1, 1, 1)).sin()

    euler, ddim = (sampler(diffusion, model, noise, 7, randn) for sampler in (sample_euler, sample_ddim))
    assert torch.allclose(euler, ddim, atol=1e-6)
    assert torch.equal(sample_heun(diffusion, model, noise, 2, randn), sample_euler(diffusion, model, noise, 2, randn))


@pytest.mark.parametrize("steps", [40, 41])
def test_a_gaussian_flows_to_its_moments(steps):
    """For x_start ~ N(m, s^2) the known velocity carries noise z to m + s z; Heun's method is of second order."""
    m, s = 0.7, 0.4
    diffusion = FlowMatching()

    def model(x_t, t):
        signal, sigma = diffusion.coefficients(t, x_t)
        rest = (x_t - signal * m) / (signal**2 * s**2 + sigma**2)
        return flow_output(m + signal * s**2 * rest, sigma * rest, t)

    noise = torch.linspace(-3, 3, 101, dtype=torch.double).view(-1, 1, 1, 1)

    def error(sampler, calls):
        return (sampler(diffusion, model, noise, calls, randn) - (m + s * noise)).abs().max()

    for sampler in FLOW_SAMPLERS:
        assert error(sampler, 200) < 0.03
    assert error(sample_heun, steps) < error(sample_euler, steps) / 4
    assert error(sample_heun, 4 * steps) < error(sample_heun, steps) / 10  # 16 for a perfect second order
    samples = sample_heun(diffusion, model, torch.randn(4000, 1, 1, 1, dtype=torch.double), steps, randn)
    assert abs(samples.mean() - m) < 0.03 and abs(samples.std() - s) < 0.03


def test_loss_types():
    a, b = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])
    assert elementwise_loss(a, b, "l2") == 2.5 and elementwise_loss(a, b, "l1") == 1.5
    assert elementwise_loss(a, b, "l1_l2") == 2.0
    with pytest.raises(ValueError, match="loss type"):
        elementwise_loss(a, b, "huber")
    with pytest.raises(ValueError, match="objective"):
        GaussianDiffusion(objective="pred_KC")
