"""A trial is decided by what it says it is, and by nothing else."""

import itertools
import math
import statistics
from dataclasses import replace

import pytest
import torch
from torch import nn

from normsmith.layers.prepared import PreparedCalls
from normsmith.ops.function_calls import FunctionCalls
from normsmith.studies.arms import AS_IS, Arm, edit, network, normalized
from normsmith.studies.initial_weights import scale_hidden_weights
from normsmith.studies.store import Record
from normsmith.studies.trial import RESAMPLED, Outcome, Trial, evaluation_steps, stream_seed, train
from normsmith.tasks import load

VERSIONS = {"torch": "1"}
TRIAL = Trial(AS_IS, learning_rate=0.1, seed=0, steps=20)


def weights(task, trial):
    """The model a trial starts from, seen through a forward hook on its first step."""
    seen = []

    def forward(model, batch):
        if not seen:
            seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return model(batch[0]), batch[1]

    train(replace(task, forward=forward), trial)
    return seen[0]


def test_a_trial_learns_and_says_so(tiny):
    outcome = train(load(tiny()), TRIAL)
    assert outcome.status == "finished"
    assert outcome.steps == tuple(range(21))
    assert len(outcome.test) == len(outcome.validation) == len(outcome.loss) == 21
    assert outcome.test[-1] > outcome.test[0] + 0.2
    assert outcome.loss[-1] < outcome.loss[1]


def test_the_same_trial_gives_the_same_numbers_whatever_the_random_state(tiny):
    first = train(load(tiny()), TRIAL)
    torch.manual_seed(12345)
    second = train(load(tiny()), TRIAL)
    assert replace(first, seconds=0, loss=first.loss[1:]) == replace(second, seconds=0, loss=second.loss[1:])


def test_numbers_do_not_depend_on_whether_calls_are_prepared(tiny, monkeypatch):
    trial, unprepared, found, run = replace(TRIAL, arm=normalized("tanh")), [], [], PreparedCalls.run

    def noted(*call):
        found.append(run(*call))
        return found[-1]

    monkeypatch.setattr(PreparedCalls, "run", noted)
    first = train(load(tiny()), trial)
    assert any(isinstance(each, torch.Tensor) for each in found)
    for calls in (PreparedCalls, FunctionCalls):
        monkeypatch.setattr(calls, "run", lambda *_: unprepared.append(1))
    second = train(load(tiny()), trial)
    assert unprepared
    assert replace(first, seconds=0, loss=first.loss[1:]) == replace(second, seconds=0, loss=second.loss[1:])


def test_a_trial_leaves_the_random_state_as_it_was(tiny):
    before = torch.get_rng_state()
    train(load(tiny()), TRIAL)
    assert torch.equal(torch.get_rng_state(), before)


def test_arms_start_from_the_same_weights_where_shapes_agree(tiny):
    task = load(tiny())
    plain = weights(task, TRIAL)
    normed = weights(task, replace(TRIAL, arm=normalized(None)))
    matrices = [p for p in plain.values() if p.dim() == 2]
    others = [p for p in normed.values() if p.dim() == 2]
    assert len(matrices) == 3
    assert all(torch.equal(a, b) for a, b in zip(matrices, others, strict=True))


@pytest.mark.parametrize("change", [{"seed": 1}, {"stream": 1}])
def test_other_seeds_and_streams_start_elsewhere(tiny, change):
    task = load(tiny())
    assert not torch.equal(
        weights(task, TRIAL)["0.weight"], weights(task, replace(TRIAL, **change))["0.weight"]
    )


def test_arms_see_the_same_batches_in_the_same_order(tiny):
    orders = []
    for arm in (AS_IS, normalized("tanh")):
        seen = []

        def forward(model, batch, seen=seen):
            if model.training:
                seen.append(batch[0].clone())
            return model(batch[0]), batch[1]

        train(replace(load(tiny()), forward=forward), replace(TRIAL, arm=arm, steps=8))
        orders.append([x for x in seen if x.shape[0] == 32])
    assert len(orders[0]) >= 8
    assert all(torch.equal(a, b) for a, b in zip(orders[0][:8], orders[1][:8], strict=True))


def test_divergence_is_a_result_with_its_reason(tiny):
    outcome = train(load(tiny()), replace(TRIAL, learning_rate=1e30))
    assert outcome.status == "diverged"
    assert "step" in outcome.reason
    assert outcome.measured
    assert outcome.test  # what it was before training stays


def test_without_a_curve_a_trial_is_the_same_and_measured_before_and_after_training_alone(tiny):
    whole = train(load(tiny()), TRIAL)
    brief = train(load(tiny()), replace(TRIAL, detail="metric"))
    assert brief.steps == (0, 20)
    assert brief.validation == (whole.validation[0], whole.validation[-1])
    assert brief.test == (whole.test[0], whole.test[-1])
    assert brief.probes == {}
    assert whole.probes == {} or all(len(values) == 4 for values in whole.probes.values())


def test_measuring_along_the_way_changes_nothing_even_where_evaluation_draws_numbers(tiny):
    task = replace(load(tiny()), model=lambda: nn.Sequential(load(tiny()).model(), _Noisy()))
    whole, brief = train(task, TRIAL), train(task, replace(TRIAL, detail="metric"))
    assert whole.test[-1] == brief.test[-1]


class _Noisy(nn.Module):
    """Noise in training and in evaluation."""

    def forward(self, x):
        return x + torch.randn_like(x)


def test_the_final_metric_is_measured_on_other_draws_of_the_test_split(tiny):
    outcome = train(load(tiny()), TRIAL)
    assert len(outcome.resampled) == RESAMPLED
    assert len(set(outcome.resampled)) > 3
    assert abs(statistics.fmean(outcome.resampled) - outcome.test[-1]) < 0.05
    assert train(load(tiny()), replace(TRIAL, detail="metric")).resampled == ()


def test_a_shorter_trial_is_the_beginning_of_a_longer_one(tiny):
    """This is what lets a search rank settings early."""
    whole = train(load(tiny()), TRIAL)
    brief = train(load(tiny()), replace(TRIAL, steps=7, detail="metric"))
    assert brief.validation[-1] == whole.validation[whole.steps.index(7)]


@pytest.mark.parametrize("steps", [1, 2, 20, 50, 51, 150, 1000, 54321])
def test_steps_are_known_to_a_twentieth_or_a_50th_of_the_whole(steps):
    at = (0, *evaluation_steps(steps))
    assert at[-1] == steps
    assert all(later - now <= max(1, steps / 50 + 1, now / 20) for now, later in itertools.pairwise(at))
    assert len(at) <= 56


def test_the_key_is_stable_and_feels_every_part():
    key = TRIAL.key("task", VERSIONS)
    assert key == Trial(AS_IS, 0.1, 0, 20).key("task", VERSIONS)
    others = [
        replace(TRIAL, arm=network(None)),
        replace(TRIAL, arm=network(None).but("x", edit(scale_hidden_weights, gain=2.0))),
        replace(TRIAL, arm=network(None).but("x", edit(scale_hidden_weights, gain=4.0))),
        replace(TRIAL, learning_rate=0.2),
        replace(TRIAL, seed=1),
        replace(TRIAL, stream=1),
        replace(TRIAL, steps=21),
        replace(TRIAL, detail="metric"),
    ]
    keys = [key, *(other.key("task", VERSIONS) for other in others)]
    keys += [TRIAL.key("another task", VERSIONS), TRIAL.key("task", {"torch": "2"})]
    assert len(set(keys)) == len(keys)


def test_the_name_of_an_arm_is_for_readers_only():
    assert replace(TRIAL, arm=Arm("something else")).key("task", VERSIONS) == TRIAL.key("task", VERSIONS)


def test_streams_of_seeds_are_apart():
    seeds = {
        stream_seed(p, s, t) for p in ("initial weights", "batch order") for s in range(9) for t in (0, 1)
    }
    assert len(seeds) == 36
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_outcome_comes_back_from_the_store_as_it_went(store, tiny):
    outcome = train(load(tiny()), TRIAL)
    key = TRIAL.key("task", VERSIONS)
    store.put(
        Record(TRIAL.content("task"), outcome.status, "", outcome.measurements(), outcome.seconds, VERSIONS)
    )
    back = Outcome.of(store.get([key])[key])
    assert math.isnan(back.loss[0])
    assert replace(back, loss=back.loss[1:]) == replace(outcome, loss=outcome.loss[1:])
