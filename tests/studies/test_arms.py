"""Arms: their edits make of a task's network what their names say."""

import pytest
import torch
from tests.studies.tiny import make, normed_network
from torch import nn

from normsmith.errors import StudyError, SurgeryError
from normsmith.layers import BatchNorm1d, BatchRenorm1d, Whiten1d, Whiten2d
from normsmith.studies import arms
from normsmith.studies.arms import AS_IS, Arm, edit, network, normalized
from normsmith.studies.probes import activation_signals, renorm_activity

TASK = make("arms")


def kinds(model):
    """The classes of a chain's layers, without linear layers and what stripped norms leave."""
    return [type(module) for module in model if not isinstance(module, nn.Linear | nn.Identity)]


def built(arm, task=TASK):
    return arm.build(task.model(), task)


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        (AS_IS, [nn.ReLU, nn.ReLU]),
        (network(None), [nn.ReLU, nn.ReLU]),
        (network("tanh"), [nn.Tanh, nn.Tanh]),
        (normalized(None), [BatchNorm1d, nn.ReLU] * 2),
        (normalized("sigmoid", where="after"), [nn.Sigmoid, BatchNorm1d] * 2),
        (normalized(None, "renorm", total_steps=9), [BatchRenorm1d, nn.ReLU] * 2),
        (normalized(None, "group"), [nn.GroupNorm, nn.ReLU] * 2),
    ],
    ids=lambda value: value.name if isinstance(value, Arm) else "",
)
def test_networks_are_what_their_arm_is_called(arm, expected):
    assert kinds(built(arm)) == expected


def test_norms_that_a_network_has_are_stripped_before_others_come():
    task = make("normed", model=normed_network)
    assert kinds(built(network(None), task)) == [nn.ReLU, nn.ReLU]
    assert kinds(built(AS_IS.but("x", edit(arms.strip_batch_norm)), task)) == [nn.LayerNorm, nn.ReLU, nn.ReLU]


def test_norms_are_converted_and_moved_where_they_stand():
    task = make("normed", model=normed_network)
    converted = built(AS_IS.but("x", edit(arms.convert_norm, to="renorm", total_steps=9)), task)
    assert kinds(converted) == [nn.LayerNorm, BatchRenorm1d, nn.ReLU, BatchRenorm1d, nn.ReLU]
    moved = built(AS_IS.but("x", edit(arms.move_norm, where="after")), task)
    assert kinds(moved) == [nn.LayerNorm, nn.ReLU, nn.BatchNorm1d, nn.ReLU, nn.BatchNorm1d]
    plan = arms.plan_of_move(task.model(), task, "after")
    assert len(plan.changes) == 2


def test_what_surgery_refuses_an_arm_refuses():
    with pytest.raises(SurgeryError):
        built(AS_IS.but("x", edit(arms.convert_norm, to="renorm")), TASK)


def test_edits_are_equal_whatever_the_order_of_their_arguments():
    assert edit(arms.insert_norm, norm="batch", where="after") == edit(
        arms.insert_norm, where="after", norm="batch"
    )
    assert edit(arms.move_norm, where="before") != edit(arms.move_norm, where="after")


def test_an_arm_measures_renorm_where_it_has_it():
    assert normalized(None, "renorm").probes == (activation_signals, renorm_activity)
    assert normalized(None).probes == (activation_signals,)


def test_an_arm_is_extended_and_the_old_one_stays():
    more = AS_IS.but("moved", edit(arms.move_norm, where="after"), probes=(renorm_activity,))
    assert Arm("as is") == AS_IS
    assert more.probes == (activation_signals, renorm_activity)
    assert (more.name, len(more.edits)) == ("moved", 1)


def test_arms_that_do_the_same_are_one_whatever_they_are_called():
    assert AS_IS.called("other") == AS_IS
    assert len({AS_IS, AS_IS.called("other"), network(None), network("relu", is_own=True)}) == 2
    assert network("relu") != network(None)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.recurrent, self.head = kind, kind(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        if issubclass(self.kind, nn.RNNBase):
            return self.head(self.recurrent(x.unsqueeze(0))[0].squeeze(0))
        return self.head(self.recurrent(x))


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.RNNCell])
@pytest.mark.parametrize(
    "arm", [normalized(None), normalized("tanh"), network("sigmoid")], ids=lambda arm: arm.name
)
def test_what_recurrent_layers_do_not_allow_is_one_short_sentence(kind, arm):
    task = make("recurrent", model=lambda: Recurrent(kind))
    with pytest.raises(
        SurgeryError, match=rf"^the activations of recurrent \({kind.__name__}\) are inside it, where"
    ):
        arm.build(task.model(), task)


def test_settings_of_norms_are_changed():
    model = built(normalized(None).but("x", edit(arms.set_norms, momentum=0.01, eps=0.5)))
    assert {(norm.momentum, norm.epsilon) for norm in model if isinstance(norm, BatchNorm1d)} == {(0.01, 0.5)}


def test_gamma_and_beta_are_held_where_they_begin():
    model = built(normalized(None).but("x", edit(arms.fix_affine, weight=True, bias=False)))
    norms = [norm for norm in model if isinstance(norm, BatchNorm1d)]
    assert [(norm.weight.requires_grad, norm.bias.requires_grad) for norm in norms] == [(False, True)] * 2


def test_whitening_is_over_groups_of_channels_that_divide():
    change = edit(arms.insert_whitening, where="before", method="newton", most=5)
    whitened = [layer for layer in built(network(None).but("x", change)) if isinstance(layer, Whiten1d)]
    assert [(layer.groups, layer.method) for layer in whitened] == [
        (4, "newton")
    ] * 2  # of 16 channels, 4 each
    data = torch.zeros(64, 1, 4, 4), torch.zeros(64, dtype=torch.long)
    images = make("images", train=data, validation=data, test=data, model=pictures)
    assert any(isinstance(layer, Whiten2d) for layer in built(network(None).but("x", change), images))


def pictures():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("last", [BatchNorm1d, nn.ReLU, BatchNorm1d, nn.ReLU, nn.Dropout]),
        ("between", [BatchNorm1d, nn.ReLU, nn.Dropout, BatchNorm1d, nn.ReLU]),
    ],
)
def test_dropout_stands_between_layers_or_last(where, expected):
    model = built(normalized(None).but("x", edit(arms.insert_dropout, share=0.25, where=where)))
    assert kinds(model) == expected
    assert {layer.p for layer in model if isinstance(layer, nn.Dropout)} == {0.25}


def test_one_activation_has_nothing_between():
    with pytest.raises(StudyError, match=r"two or more hidden activations .*, and there "):
        built(
            AS_IS.but("x", edit(arms.insert_dropout, share=0.5, where="between")),
            make("one", model=one_layer),
        )


def one_layer():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
