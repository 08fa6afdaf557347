"""Norms inside a recurrence: where they stand, and whose statistics they have."""

import copy
from dataclasses import replace

import cloudpickle
import pytest
import torch
from tests.studies.tiny import recurrent, task
from torch import nn

from normsmith.errors import StudyError
from normsmith.studies.recurrence import PLACES, OverSteps, PerStep, check_recurrent, norm_in_recurrence
from normsmith.tasks.digits import Elman

T = 3


def with_norm(place, gamma=0.5):
    torch.manual_seed(0)
    return norm_in_recurrence(Elman(2, 8, 3), recurrent, place, gamma)


def by_hand(model, x, normalise):
    """The forward of the network with a norm before tanh, for which `normalise(t, x)` stands."""
    h = x.new_zeros(len(x), 8)
    for t in range(T):
        h = torch.tanh(normalise(t, model.input(x[:, t]) + model.state(h)))
    return model.head(h)


def standardised(x):
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


def in_doubles(model, batch):
    return model(batch[0].double().reshape(-1, T, 2)), batch[1]


@pytest.mark.parametrize("place", PLACES)
def test_norms_are_made_where_the_network_is(place):
    model = norm_in_recurrence(Elman(2, 8, 3).double(), replace(recurrent, forward=in_doubles), place, 0.5)
    assert {t.dtype for t in model.state_dict().values() if t.is_floating_point()} == {torch.float64}


@pytest.mark.parametrize("place", ["shared", "per step"])
def test_in_training_every_step_is_normalised_by_its_batch(place):
    model, x = with_norm(place), torch.randn(16, T, 2)
    torch.testing.assert_close(model(x), by_hand(model, x, lambda t, a: 0.5 * standardised(a)))


def test_in_evaluation_each_step_has_its_own_statistics_and_every_forward_begins_anew():
    model, x = with_norm("per step"), torch.randn(16, T, 2)
    for _ in range(3):
        model(x)
    norms = model.activation[0].norms
    assert len(norms) == T
    assert [int(norm.num_batches_tracked) for norm in norms] == [3] * T
    assert not torch.allclose(norms[0].running_var, norms[2].running_var)
    model.eval()
    expected = by_hand(model, x, lambda t, a: 0.5 * norms[t](a))
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model(x), expected)


def test_shared_statistics_are_moved_by_every_step():
    model = with_norm("shared")
    model(torch.randn(16, T, 2))
    assert int(model.activation[0].num_batches_tracked) == T


def test_inputs_are_normalised_over_samples_and_steps():
    model, x = with_norm("input"), torch.randn(16, T, 2)
    y = model.input(x)
    assert isinstance(model.input[1], OverSteps)
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 1), correction=0), torch.full((8,), 0.5), atol=1e-3, rtol=0)
    assert model(x).shape == (16, 3)


def test_steps_beyond_the_last_are_as_the_last():
    norm = PerStep(2, 2, 1.0).eval()
    norm.norms[1].running_mean.fill_(1.0)
    outputs = [norm(torch.ones(4, 2)).detach() for _ in range(3)]
    assert torch.equal(outputs[1], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])
    norm.begin()
    assert torch.equal(norm(torch.ones(4, 2)), outputs[0])


def test_copies_count_their_own_steps():
    model, x = with_norm("per step").eval(), torch.randn(4, T, 2)
    for other in (copy.deepcopy(model), cloudpickle.loads(cloudpickle.dumps(model))):
        torch.testing.assert_close(other(x), model(x))
        torch.testing.assert_close(other(x), model(x))
        assert other.activation[0].step == T


def test_other_networks_and_places_are_refused():
    check_recurrent(recurrent)
    with pytest.raises(StudyError, match=r"the network of digits-rnn .*, and this is Sequential"):
        check_recurrent(task)
    with pytest.raises(StudyError, match=r"expected a normsmith.tasks.digits.Elman, got Linear"):
        norm_in_recurrence(nn.Linear(2, 2), task, "input", 0.1)
    with pytest.raises(StudyError, match="expected one of input, shared, per step as place, got 'output'"):
        norm_in_recurrence(Elman(2, 8, 3), recurrent, "output", 0.1)
