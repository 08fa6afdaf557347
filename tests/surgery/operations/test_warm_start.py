"""From batch norm to batch renorm: step, momentum and bounds that fit the training to come."""

from __future__ import annotations

import pytest
import torch
from tests.contracts.surgery import ALL, SurgeryContract
from tests.surgery.networks import Network
from torch import nn

from normsmith.errors import InputError, SurgeryError
from normsmith.layers import BatchNorm1d, BatchRenorm1d
from normsmith.layers.schedules import scaled
from normsmith.surgery import Plan, convert, warm_start


def trained(steps=1000, **options):
    """A renorm layer that was batch norm for some steps of data around 5."""
    norm = nn.BatchNorm1d(2, momentum=options.get("momentum", 0.1))
    for _ in range(min(steps, 200)):
        norm(torch.randn(32, 2) * 2 + 5)
    norm.num_batches_tracked.fill_(steps)
    layer = BatchRenorm1d(2, **options)
    layer.load_state_dict(norm.state_dict(), strict=options.get("track") != "std")
    return layer


class TestPlan(SurgeryContract):
    """A warm start is an operation like all others, on networks that were converted before."""

    @pytest.fixture(params=["hf-resnet", "shared norm", "used twice", "hooked", "bfloat16", "double", "tied"])
    def network(self, request: pytest.FixtureRequest) -> Network:
        found = ALL[request.param]
        return Network(
            lambda: convert(found.make(), to="renorm", schedule="constant").apply(), found.batch, found.why
        )

    def plan(self, model: nn.Module) -> Plan:
        return warm_start(model, updates=1000, remaining=500, batch_size=8, trained_batch_size=32)


def test_step_and_momentum_are_those_of_the_new_batches():
    layer = trained(1000)
    warm_start(layer, remaining=10_000, batch_size=16, trained_batch_size=64).apply()
    assert layer.num_batches_tracked == 4000
    # four new steps forget as much as one old step
    assert (1 - layer.momentum) ** 4 == pytest.approx(1 - 0.1)


def test_without_batch_sizes_step_and_momentum_stay():
    layer = trained(1000)
    warm_start(layer, remaining=10).apply()
    assert layer.num_batches_tracked == 1000
    assert layer.momentum == pytest.approx(0.1)


def test_bounds_open_over_the_steps_to_come():
    layer, whole = trained(1000), scaled(5000)
    warm_start(layer, remaining=5000).apply()
    for ahead in (0, 100, 500, 1000, 1500, 4999):
        layer.num_batches_tracked.fill_(1000 + ahead)
        assert tuple(layer.bounds()) == pytest.approx(whole(torch.tensor(ahead)))
    layer.num_batches_tracked.fill_(1000)
    assert tuple(layer.bounds()) == (1.0, 0.0)


def test_the_first_step_is_that_of_batch_norm():
    layer, x = trained(1000), torch.randn(4, 2) + 3
    warm_start(layer, remaining=5000).apply()
    twin = nn.BatchNorm1d(2)
    torch.testing.assert_close(layer(x), twin(x))


def test_bounds_of_a_run_that_goes_on():
    layer = trained(1000)
    warm_start(layer, remaining=3000, bounds="continue").apply()
    assert layer.total_steps == 4000
    assert tuple(layer.bounds()) == pytest.approx(scaled(4000)(torch.tensor(1000)))
    assert layer.bounds().r_max > 1


def test_a_schedule_that_is_kept_goes_by_the_new_counter():
    layer = trained(1000, schedule="crossq")
    warm_start(layer, updates=50_000, batch_size=32, trained_batch_size=64, bounds="keep").apply()
    assert tuple(layer.bounds()) == (3.0, 5.0)
    assert layer.num_batches_tracked == 100_000


def test_steps_to_come_from_epochs():
    layer = trained(1000)
    warm_start(layer, epochs=3, dataset_size=1050, batch_size=100).apply()  # 10 whole batches an epoch
    layer.num_batches_tracked.fill_(1000 + 30)
    assert tuple(layer.bounds()) == (3.0, 5.0)
    assert layer.schedule.r_end == pytest.approx(1000 + scaled(30).r_end)


def test_a_running_deviation_that_was_never_updated():
    layer = BatchRenorm1d(2, track="std")
    layer.running_var.copy_(torch.tensor([4.0, 9.0]))
    layer.num_batches_tracked.fill_(1000)
    plan = warm_start(layer, remaining=100)
    plan.apply()
    torch.testing.assert_close(layer.running_std, (torch.tensor([4.0, 9.0]) + 1e-5).sqrt())
    plan.revert()
    assert layer.running_std.tolist() == [1.0, 1.0]


def test_a_running_deviation_that_was_loaded_stays():
    layer = trained(1000, track="std")
    before = layer.running_std.clone()
    warm_start(layer, remaining=100).apply()
    assert torch.equal(layer.running_std, before)


def test_cumulative_averages_stay_cumulative():
    layer = trained(1000, momentum=None)
    warm_start(layer, remaining=100, batch_size=8, trained_batch_size=32).apply()
    assert layer.momentum is None


@pytest.mark.parametrize("bounds", ["open", "continue"])
def test_reverting_takes_the_schedule_away_again(bounds):
    layer = trained(1000)
    plan = warm_start(layer, remaining=100, bounds=bounds)
    plan.apply()
    plan.revert()
    assert (layer.schedule, layer.total_steps, layer.momentum) == (None, None, 0.1)
    assert layer.num_batches_tracked == 1000


def test_statistics_that_are_still_initial_are_refused():
    network = nn.Sequential(BatchRenorm1d(2), BatchRenorm1d(2, momentum=None), trained(30), trained(44))
    plan = warm_start(network, remaining=100)
    assert [refusal.path for refusal in plan.refusals] == ["0", "1", "2"]
    assert "100% what they were" in plan.refusals[0].reason
    assert "4% what they were" in plan.refusals[2].reason
    assert [change.path for change in plan.changes] == ["3"]
    with pytest.raises(SurgeryError, match="recalibrate them"):
        plan.apply()
    assert not warm_start(network[0], updates=1000, remaining=100).refusals


def test_other_norms_and_frozen_layers_are_kept():
    network = nn.Sequential(trained(), BatchNorm1d(2), nn.BatchNorm1d(2), trained().freeze())
    plan = warm_start(network, remaining=100)
    assert [remark.path for remark in plan.kept] == ["1", "2", "3"]
    assert [change.path for change in plan.changes] == ["0"]


def test_a_model_without_renorm():
    with pytest.raises(SurgeryError, match="expected batch renormalization layers"):
        warm_start(nn.Sequential(nn.BatchNorm1d(2)), remaining=100)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"remaining": 0},
        {"remaining": 10, "epochs": 1.0},
        {"epochs": 3.0, "dataset_size": 100},
        {"epochs": 0.0, "dataset_size": 100, "batch_size": 10},
        {"remaining": 10, "trained_batch_size": 64},
        {"remaining": 10, "batch_size": 0, "trained_batch_size": 64},
        {"remaining": 10, "updates": -1},
    ],
)
def test_arguments_that_do_not_fit(options):
    with pytest.raises(InputError):
        warm_start(trained(), **options)
