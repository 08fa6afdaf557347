"""Population statistics against a computation in float64 with all data at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normsmith.errors import InputError
from normsmith.measure import EXACT, Passes, Population, PopulationResult, Statistics, measurable_layers


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm1d(3), nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.BatchNorm1d(4)
    )


def sorted_batches() -> list[Tensor]:
    """Batches of distant means: the statistics of a batch say little about those of all."""
    return [torch.randn(4, 3) + 3 * number for number in range(5)]


def expected(model: nn.Sequential, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and unbiased variance of each norm's input, with all norms before it on such statistics, in float64."""
    found, x = [], x.double()
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d):
            var, mean = torch.var_mean(x, 0)
            found.append((mean, var))
            x = (x - mean) / (var + layer.eps).sqrt() * layer.weight.double() + layer.bias.double()
        elif isinstance(layer, nn.Linear):
            x = x @ layer.weight.double().T + layer.bias.double()
        else:
            x = layer(x)
    return found


def measure(model: nn.Module, batches, way: str, *arguments, **options) -> PopulationResult:
    layers = measurable_layers(model).layers
    passes = Passes(model, layers)
    population = Population(passes, batches, [layer.statistics() for layer in layers], **options)
    with passes.borrowed_model():
        return getattr(population, way)(*arguments)


def alike_batches() -> list[Tensor]:
    """Batches that say much about all, so that one pass leaves small gaps."""
    return [torch.randn(40, 3) for _ in range(4)]


@pytest.mark.parametrize("make", [sorted_batches, alike_batches])
def test_exact_statistics_are_those_of_a_float64_computation(make):
    model, batches = chain(), make()
    result = measure(model, batches, "exact", 4)
    assert result.passes == 4  # the fast one, the second norm, the third, and the proof
    assert result.gap_of == "all"
    assert max(result.gaps) <= EXACT
    for statistics, (mean, var) in zip(result.statistics, expected(model, torch.cat(batches)), strict=True):
        torch.testing.assert_close(statistics.mean, mean, rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(statistics.var, var, rtol=1e-5, atol=0)
    assert model[0].running_mean.tolist() == [0.0] * 3


def test_too_few_passes_end_with_the_gap_that_is_left():
    result = measure(chain(), sorted_batches(), "exact", 2)
    assert result.passes == 2
    assert result.gaps[0] <= EXACT
    assert max(result.gaps) > 0.1


@pytest.mark.parametrize(("gap", "passes"), [("none", 1), ("sample", 1), ("all", 2)])
def test_one_pass_is_exact_for_the_first_norm_and_the_gap_says_so(gap, passes):
    model, batches = chain(), sorted_batches()
    result = measure(model, batches, "fast", gap)
    (mean, var), *_ = expected(model, torch.cat(batches))
    torch.testing.assert_close(result.statistics[0].mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result.statistics[0].var, var, rtol=1e-5, atol=0)
    assert (result.passes, result.gap_of) == (passes, gap)
    if gap == "none":
        assert result.gaps == [None] * 3
    else:
        assert result.gaps[0] <= EXACT
        assert result.gaps[1] > 0.1


def test_the_gap_over_all_batches_is_the_largest_distance_in_standard_deviations():
    model, batches = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2)), sorted_batches()
    result = measure(model, batches, "fast", "all")
    x = torch.cat(batches).double()
    first, second = result.statistics
    x = (x - first.mean) / (first.var + model[0].eps).sqrt()
    var, mean = torch.var_mean(x @ model[1].weight.double().T + model[1].bias.double(), 0)
    with_epsilon = var + model[2].eps
    gaps = ((mean - second.mean).abs() / with_epsilon.sqrt(), (var - second.var).abs() / with_epsilon)
    assert result.gaps[1] == pytest.approx(torch.stack(gaps).max().item(), rel=1e-4)


def test_the_loss_is_that_with_the_new_statistics():
    model, batches = nn.Sequential(nn.BatchNorm1d(3)), sorted_batches()
    x = torch.cat(batches)
    for way, most in (("exact", 3), ("fast", "all")):
        result = measure(model, batches, way, most, loss=lambda output, _: output.square().mean())
        var = x.var(0)
        assert result.loss == pytest.approx((x.var(0, correction=0) / (var + 1e-5)).mean().item(), rel=1e-4)


def test_a_rule_decides_what_layers_should_hold():
    def rule(epsilon, own, moments, samples):
        return Statistics(own.mean + samples, own.var + epsilon)

    (statistics,) = measure(
        nn.BatchNorm1d(3), sorted_batches(), "fast", "none", population_rule=rule
    ).statistics
    assert statistics.mean.tolist() == [20.0] * 3
    torch.testing.assert_close(statistics.var, torch.full((3,), 1 + 1e-5))


def test_the_first_pass_goes_by_the_batch_rule():
    model, batches = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.BatchNorm1d(3)), sorted_batches()
    result = measure(model, batches, "fast", "none", batch_rule=lambda epsilon, own, moments, samples: own)
    x = torch.cat(batches).double()
    torch.testing.assert_close(result.statistics[1].mean, x.mean(0), rtol=2e-5, atol=1e-5)


def test_a_layer_that_a_single_value_reaches_keeps_its_statistics():
    model = nn.Sequential(nn.BatchNorm1d(3))
    result = measure(model, [torch.ones(1, 3)], "fast", "all")
    assert result.statistics[0].mean is model[0].running_mean
    assert result.gaps == [None]


@pytest.mark.parametrize(("way", "how"), [("exact", 3), ("fast", "none")])
def test_no_batches_are_no_population(way, how):
    with pytest.raises(InputError, match="expected at least one batch, got none"):
        measure(nn.BatchNorm1d(3), [], way, how)


class Shared(nn.Module):
    """Three norms, one norm called four times, three norms."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = _norms(3), _norms(3)
        self.layer, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        for _ in range(4):
            x = torch.tanh(self.norm(2 * self.layer(x)))
        return self.after(x)


def _norms(number: int) -> nn.Sequential:
    return nn.Sequential(
        *(layer for _ in range(number) for layer in (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU()))
    )


def test_a_layer_that_feeds_itself_settles_between_others():
    result = measure(Shared(), [torch.randn(32, 6) + number for number in range(3)], "exact", 30)
    assert result.gap <= EXACT
    assert result.repeated == (6,)
    assert all(gap is not None for gap in result.gaps)


class Twins(nn.Module):
    """One chain of norms, called with two inputs: every norm is called twice, and none depends on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = _norms(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(x) - self.chain(2 * x.flip(0))


def test_layers_that_are_called_twice_without_depending_on_themselves_take_no_more_passes():
    result = measure(Twins(), [torch.randn(4, 6) + number for number in range(4)], "exact", 30)
    assert result.gap <= EXACT
    assert result.passes <= 9
    assert result.repeated == tuple(range(8))


def test_values_that_are_never_finite_end_the_search():
    batches = sorted_batches()
    batches[1][0] = float("nan")
    result = measure(chain(), batches, "exact", 30)
    assert result.passes <= 3
    assert result.gap == float("inf")
