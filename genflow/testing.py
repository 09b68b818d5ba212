"""The contract that every registered class must pass; plugin authors call it in their one test.

    from genflow.testing import check_process
    check_process(MyProcess())

Each check raises AssertionError with what was expected. Expected values come from autograd, quadrature or closed
forms, never from the formula under test.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor

from genflow.process.affine import AffineProcess
from genflow.process.base import Process
from genflow.process.guidance import NO_CLASS
from genflow.solver.base import FixedStep, Solver
from genflow.solver.fields import CallableField

SHAPES = ((4,), (1, 4, 4), (1,))
"""Sample shapes the checks run on: a vector, an image, a single entry."""


def check_process(process: Process) -> None:
    """Everything a process promises; an `AffineProcess` is held to more, since more is known of it."""
    for shape in SHAPES:
        check_shapes(process, shape)
    check_grid(process)
    check_prior(process)
    check_config(process)
    if isinstance(process, AffineProcess) and process.is_affine:
        check_coefficients(process)
        check_head(process)
        check_posterior(process)
        check_oracle_flow(process)


def inner_times(process: Process, count: int = 5) -> Tensor:
    """Times well inside the safe interval, (count,), float64, even in the clock."""
    return process.grid(count + 1)[1:-1]


def fitted(process: Process, shape: tuple[int, ...]) -> tuple[Process, Tensor]:
    """The process fitted to a few fixed points, and the points (7, *shape), float64."""
    points = torch.randn(7, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return process.for_data(points), points


def check_shapes(process: Process, shape: tuple[int, ...]) -> None:
    """Training pairs, velocity, prior: shapes, dtype, and the same draw from the same seed; B equal to N included."""
    process, points = fitted(process, shape)
    for count in {1, 3, math.prod(shape)}:
        x = points[torch.arange(count) % len(points)].float()
        pairs = [process.perturb(x, generator=torch.Generator().manual_seed(3), refs=points.float()) for _ in range(2)]
        one, two = pairs
        assert one.x_t.shape == x.shape, f"x_t has shape {tuple(one.x_t.shape)}, want {tuple(x.shape)}"
        assert one.t.shape == (count,), f"t has shape {tuple(one.t.shape)}, want ({count},)"
        assert one.x_t.dtype == x.dtype, "x_t has another dtype than x"
        wide = (count, shape[0] + process.extra_channels, *shape[1:])
        assert one.target.shape == wide, f"the target has shape {tuple(one.target.shape)}, want {wide}"
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True)), "the same generator gave another draw"
        assert bool(one.target.isfinite().all()), "the target is not finite"
        for t in (one.t, one.t[0]):
            velocity = process.velocity(one.target, one.x_t, t)
            assert velocity.shape == x.shape, (
                f"velocity has shape {tuple(velocity.shape)} for t of shape {tuple(t.shape)}"
            )
            assert velocity.dtype == x.dtype, "velocity has another dtype than x"
        draws = [process.sample_prior(tuple(x.shape), generator=torch.Generator().manual_seed(5)) for _ in range(2)]
        assert torch.equal(*draws), "the prior's draws differ for the same generator"
        assert draws[0].shape == x.shape, "the prior's draws have another shape than asked for"


def check_grid(process: Process) -> None:
    """Grids run from the prior to the data, hit both ends exactly, and never step back; times outside are refused."""
    near_data, near_prior = process.safe_interval
    for steps in (1, 2, 7, 50):
        grid = process.grid(steps)
        assert grid.dtype == torch.float64
        assert len(grid) == steps + 1, f"grid({steps}) has {len(grid)} times"
        assert float(grid[0]) == near_prior, "the grid does not begin exactly at the prior's end"
        assert float(grid[-1]) == near_data, "the grid does not end exactly at the data's end"
        step = grid.diff() * math.copysign(1, near_data - near_prior)
        assert bool((step > 0).all()), "the grid is not monotone"
    t = inner_times(process)
    torch.testing.assert_close(process.time(process.condition(t)), t, rtol=1e-12, atol=0)
    torch.testing.assert_close(process.from_clock(process.to_clock(t)), t, rtol=1e-12, atol=0)
    span = process.t_prior - process.t_data
    for outside in (process.t_data - 0.1 * span, process.t_prior + 0.1 * span):
        x = torch.zeros(1, 4)
        try:
            process.velocity(torch.zeros(1, 4 + process.extra_channels), x, torch.tensor(outside))
        except ValueError:
            continue
        raise AssertionError(f"velocity took t = {outside:g}, which lies outside the interval")


def check_prior(process: Process) -> None:
    """log_prior integrates to one over the line (N = 1), by quadrature on x = s tan u, or is refused with a reason."""
    process, _ = fitted(process, (1,))
    if process.why_not("likelihood"):
        try:
            process.log_prior(torch.zeros(1, 1))
        except ValueError:
            return
        raise AssertionError("why_not('likelihood') gives a reason, but log_prior gives a number")
    scale = float(process.sample_prior((999, 1), generator=torch.Generator().manual_seed(0)).abs().median())
    u = torch.linspace(-math.pi / 2, math.pi / 2, 200_001, dtype=torch.float64)[1:-1]
    x = scale * u.tan()
    density = process.log_prior(x[:, None]).exp() * scale / u.cos().square()
    total = float(torch.trapezoid(density, u))
    assert abs(total - 1) < 1e-4, f"the prior's density integrates to {total:.6f}"


def check_config(process: Process) -> None:
    """The constructor options rebuild a process with the same grid and prior."""
    process, points = fitted(process, (4,))
    again = type(process)(**process.config())
    assert torch.equal(again.grid(5), process.grid(5)), "config() does not rebuild the same grid"
    if not process.why_not("likelihood"):
        same = torch.equal(again.log_prior(points), process.log_prior(points))
        assert same, "config() does not rebuild the same prior"


def check_coefficients(process: AffineProcess) -> None:
    """da and db against autograd of a and b, and finite over the safe interval, ends included."""
    t = process.grid(9).requires_grad_()
    c = [torch.as_tensor(v, dtype=torch.float64).expand_as(t) for v in process.coefficients(t)]
    for value, rate, name in ((c[0], c[2], "da"), (c[1], c[3], "db")):
        exact = torch.zeros_like(t)
        if value.requires_grad:
            (exact,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        assert torch.allclose(rate, exact, rtol=1e-8, atol=1e-10), (
            f"{name} is not the derivative: {rate} against {exact}"
        )
    assert all(bool(v.isfinite().all()) for v in c), "a coefficient is not finite inside the safe interval"


def check_head(process: AffineProcess) -> None:
    """encode and decode are inverse, and the velocity is a' X̂ + b' N̂, at () and (B,) times."""
    for shape in SHAPES:
        fit, points = fitted(process, shape)
        assert isinstance(fit, AffineProcess)
        x, mean = points * 2 + 0.3, points.flip(0)
        for t in (*inner_times(fit), inner_times(fit, len(x))):
            c = fit.at(t, x)
            output = fit.prediction.encode(mean, x, c)
            size = float(mean.abs().max() + x.abs().max() + c.b.max())
            data, base = fit.prediction.decode(output, x, c)
            assert float((data - mean).abs().max()) < 1e-9 * size, f"decode(encode(mean)) is off at t = {t}"
            want = c.da * mean + c.db * (x - c.a * mean) / c.b
            torch.testing.assert_close(fit.velocity(output, x, t), want, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(c.a * data + c.b * base, x, rtol=1e-8, atol=1e-8 * size)


def check_posterior(process: AffineProcess) -> None:
    """The posterior mean against the base's density, weight by weight, and where it is easy to go wrong."""
    from genflow.process.posterior import posterior_mean

    fit, points = fitted(process, (3,))
    assert isinstance(fit, AffineProcess)
    for t in inner_times(fit):
        c = fit.at(t, points)
        for x in (points[:2] + 0.1, points[:1] * float(c.a), 1e4 * points[:2]):
            rows = [fit.base.log_prob((row - c.a * points) / c.b).softmax(0) @ points for row in x]
            found = posterior_mean(x, t, points, fit)
            torch.testing.assert_close(found, torch.stack(rows), rtol=1e-7, atol=1e-7)
            twice = posterior_mean(x, t, torch.cat([points, points]), fit)
            torch.testing.assert_close(twice, found, rtol=1e-9, atol=1e-9)
        alone = posterior_mean(points[:2], t, points[:1], fit)
        torch.testing.assert_close(alone, points[:1].expand(2, -1), rtol=1e-9, atol=1e-9)


def check_oracle_flow(process: AffineProcess) -> None:
    """The exact field of two far points carries every prior draw to near one of them, and back again."""
    from genflow.sampling import draw_prior
    from genflow.solver.adaptive import RK45

    points = torch.tensor([[-1.0, 0.5], [1.0, -0.5]], dtype=torch.float64)
    fit = process.for_data(points)
    assert isinstance(fit, AffineProcess)
    field = fit.field(fit.oracle(points))
    start, _ = draw_prior(fit, (2,), seed=0, indices=range(60), dtype=torch.float64)
    solver = RK45(rtol=1e-7, atol=1e-7)
    end = solver.solve(field, start).x
    a, b = (float(v) for v in fit.coefficients(torch.tensor(fit.safe_interval[0], dtype=torch.float64))[:2])
    radius = torch.cdist(end, a * points).amin(1) / b
    far = float(radius.median()) / fit.base.median_radius(2)
    assert far < 2.5, f"the flow ends {far:.1f} noise radii from the data in the median"
    back = solver.solve(field, end, grid=fit.grid(1).flip(0)).x
    gap = ((back - start).norm(dim=1) / (1 + start.norm(dim=1))).median()
    assert float(gap) < 1e-2, f"there and back again is off by {float(gap):.2g} of the prior's radius"


def check_solver(solver: Solver, order: float) -> None:
    """A fixed-step solver's order as a slope, its exact NFE at every budget, on the simplest field that it takes."""
    if not isinstance(solver, FixedStep) or solver.mode != "ode":
        return
    slope = error_slope(solver, [40, 80, 160, 320])
    assert abs(slope - order) < 0.15, f"order {slope:.2f} measured, {order} stated"
    for nfe in range(1, 21):
        field = GaussianField() if solver.needs else CallableField(lambda x, t: -x, 1.0, 0.0)
        found = solver.solve(field, torch.ones(2, 2, dtype=torch.float64), nfe=nfe).nfe
        assert found == nfe, f"asked for NFE {nfe}, spent {found}"


class GaussianField(CallableField):
    """The exact field of x_t = sin(t) X + cos(t) N with independent normal X_i of scales (1/2, 2), from 0.2 to 1.4.

    x_t is normal with scales S_i = sqrt(a² s_i² + b²), E[X | x] = a s² x/S², the score is −x/S², and along the ODE
    x/S is constant.
    """

    scales = torch.tensor([0.5, 2.0], dtype=torch.float64)

    def __init__(self, t_start: float = 0.2, t_end: float = 1.4) -> None:
        super().__init__(self._slope, t_start, t_end)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and b."""
        return t.double().sin(), t.double().cos()

    def why_not(self, capability: str) -> str | None:
        """It has everything."""
        return None

    def scale(self, t: Tensor) -> Tensor:
        """S at t (), one for each entry."""
        a, b = self.schedule(t)
        return (a * a * self.scales**2 + b * b).sqrt()

    def _slope(self, x: Tensor, t: Tensor) -> Tensor:
        a, b = self.schedule(t)
        return a * b * (self.scales**2 - 1) * x / self.scale(t) ** 2

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """E[X | x]; one evaluation."""
        self.evaluations += len(x)
        return self.schedule(t)[0] * self.scales**2 * x / self.scale(t) ** 2

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Gradient of the log density; one evaluation."""
        self.evaluations += len(x)
        return -x / self.scale(t) ** 2

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.velocity(x, t), -x / self.scale(t) ** 2

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """b (a' b − a b') = cos t."""
        return t.double().cos()


def turn(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = (1 + cos(t)/2) J x, which turns x by t + sin(t)/2: its errors have a length, and no change of sign."""
    return (1 + torch.cos(t) / 2) * torch.stack([-x[:, 1], x[:, 0]], dim=1)


def error_slope(
    solver: FixedStep, steps: list[int], spacing: Callable[[Tensor], Tensor] = lambda share: share
) -> float:
    """Least-squares slope of log error against log step on `turn` from 0 to 2, on a grid of given spacing.

    A solver that needs more than dx/dt is measured on `GaussianField`.

    Arguments:
        solver: Fixed-step ODE solver.
        steps: Numbers of steps.
        spacing: Increasing map of [0, 1] onto itself that places the times.
    """
    angle = 2 + math.sin(2.0) / 2
    want = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    start, ends = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64)
    field: CallableField = CallableField(turn, 0.0, 2.0)
    if solver.needs:
        field = normal = GaussianField()
        start, ends = torch.ones(1, 2, dtype=torch.float64), field.grid(1)
        want = normal.scale(ends[1]) / normal.scale(ends[0])

    def error(count: int) -> float:
        shares = spacing(torch.linspace(0, 1, count + 1, dtype=torch.float64))
        return float((solver.solve(field, start, grid=ends[0] + (ends[1] - ends[0]) * shares).x - want).norm())

    x = -torch.tensor(steps, dtype=torch.float64).log()
    y = torch.tensor([math.log(error(n)) for n in steps], dtype=torch.float64)
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def check_backbone(make: Callable[..., torch.nn.Module], shape: tuple[int, ...]) -> None:
    """Shapes, the extra channel, seeded initial weights, rebuilding from its config, and gradients everywhere.

    A backbone that takes `classes` is held to `check_conditional` as well.
    """
    x, condition = torch.randn(3, *shape), torch.rand(3) + 0.1
    plain, wide = make(shape=shape, extra_channels=0), make(shape=shape, extra_channels=1)
    assert plain(x, condition).shape == x.shape
    assert wide(x, condition).shape == (3, shape[0] + 1, *shape[1:])
    for model in (plain, wide):
        model.initialise(7)  # type: ignore[operator]
    ours, theirs = dict(plain.named_parameters()), dict(wide.named_parameters())
    agree = [n for n in ours if ours[n].shape == theirs[n].shape]
    assert len(agree) > len(ours) / 2, "the extra channel changed most layers"
    for name in agree:
        assert torch.equal(ours[name], theirs[name]), f"{name} starts differently because of the extra channel"
    again = make(**wide.config())  # type: ignore[operator]
    again.load_state_dict(wide.state_dict())
    assert torch.equal(again(x, condition), wide(x, condition)), "config() does not rebuild the network"
    wide(x, condition).square().mean().backward()
    idle = [n for n, p in wide.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    assert not idle, f"parameters without a finite gradient: {idle}"
    single = wide.eval()(x[:1], condition[:1])
    torch.testing.assert_close(single, wide(x, condition)[:1], rtol=1e-4, atol=1e-4)
    if "classes" in inspect.signature(make).parameters:
        check_conditional(make, shape)


def check_conditional(make: Callable[..., torch.nn.Module], shape: tuple[int, ...]) -> None:
    """With classes a backbone begins as the unconditional one; then each row follows its own label."""
    x, condition, labels = torch.randn(4, *shape), torch.rand(4) + 0.1, torch.tensor([0, 1, 2, NO_CLASS])
    plain, conditional = make(shape=shape), make(shape=shape, classes=3)
    for model in (plain, conditional):
        model.initialise(7)  # type: ignore[operator]
    assert conditional.classes == 3, "the backbone does not give its number of classes"
    ours, theirs = dict(plain.named_parameters()), dict(conditional.named_parameters())
    changed = [n for n in ours if n not in theirs or not torch.equal(ours[n], theirs[n])]
    assert not changed, f"parameters that start differently because of the classes: {changed}"
    torch.testing.assert_close(conditional(x, condition, labels), plain(x, condition), rtol=1e-5, atol=1e-5)
    conditional.eval()
    with torch.no_grad():  # a network may begin with layers at zero, behind which nothing shows
        for parameter in conditional.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    given = conditional(x, condition, labels)
    given.square().mean().backward()
    unreached = [n for n, p in theirs.items() if n not in ours and not bool(p.grad is not None and p.grad.any())]
    assert not unreached, f"parameters that the labels do not reach: {unreached}"
    again = make(**conditional.config())  # type: ignore[operator]
    again.load_state_dict(conditional.state_dict())
    assert torch.equal(again.eval()(x, condition, labels), given), "config() does not rebuild the classes"
    none = conditional(x, condition)
    torch.testing.assert_close(none, conditional(x, condition, torch.full_like(labels, NO_CLASS)), rtol=1e-5, atol=1e-5)
    gap = (given - none).abs().flatten(1).amax(1)
    assert bool((gap[:3] > 1e-3 * given.abs().max()).all()), "a class makes no difference"
    torch.testing.assert_close(given[3], none[3], rtol=1e-4, atol=1e-4)
    conditional = conditional.double()  # float32 adds up in another order for one row
    x, condition = x.double(), condition.double()
    given = conditional(x, condition, labels)
    for k in range(4):
        alone = conditional(x[k : k + 1], condition[k : k + 1], labels[k : k + 1])
        torch.testing.assert_close(alone[0], given[k], rtol=1e-4, atol=1e-4)


__all__ = ["GaussianField", "check_backbone", "check_conditional", "check_process", "check_solver", "error_slope"]
