"""What is against folding: in the norm, in the layer, in hooks around the two, at a convolution's border."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.networks import OwnForward, SharedNorm, lived_in
from torch import nn
from torch.nn.utils import parametrizations

from normsmith import layers
from normsmith.anatomy.batch_norms import BatchNorm
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.anatomy.remark import Refusal
from normsmith.surgery.operations.fold.obstacles import Fold, Owners, foldable_norm, obstacle


def owners(model: nn.Module) -> Owners:
    return Owners(Locations(model))


def against(model: nn.Module, norm: str, producer: str, side: str = "after", between: tuple[str, ...] = ()):
    """What is against folding one module of a model into another."""
    modules = dict(model.named_modules())
    parts = read_batch_norm(modules[norm])
    assert isinstance(parts, BatchNorm)
    fold = Fold(modules[norm], modules[producer], side)
    return obstacle(fold, parts, owners(model), [modules[path] for path in between])


def pair(producer: nn.Module, features: int = 4) -> nn.Module:
    return lived_in(nn.Sequential(producer, nn.BatchNorm2d(features)))


# The owners.


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.BatchNorm1d(2))
        self.other = nn.ReLU()


def test_the_innermost_module_that_holds_two():
    model = Nested()
    where = owners(model)
    inner, norm = model.outer[0][0], model.outer[1]
    assert where.path(inner) == "outer.0.0"
    assert where.scope(inner, norm) == "outer"
    assert where.scope(inner, model.other) == ""
    assert list(where.around(inner, norm)) == [inner, model.outer[0]]
    assert list(where.around(norm, inner)) == [norm]


def test_every_path_of_a_shared_module_leads_to_it_and_parameters_know_their_holders():
    model = SharedNorm()
    where = owners(model)
    assert where.modules["norm"] is where.modules["again"] is model.norm
    assert where.path(model.norm) == "norm"
    assert where.holders[id(model.norm.weight)] == 1
    model.second.weight = model.first.weight
    assert owners(model).holders[id(model.first.weight)] == 2


# The norm.


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (lambda: OwnForward(4), "OwnForward has a forward of its own"),
        (nn.LazyBatchNorm2d, "it has no values yet (lazy); run the model once"),
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), "it has no running statistics"),
        (lambda: layers.BatchNorm2d(4).freeze("batch"), "frozen to the statistics of the batch"),
    ],
    ids=["own forward", "lazy", "untracked", "by the batch"],
)  # fmt: skip
def test_norms_that_cannot_be_folded_anywhere(norm, reason):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm())
    found = foldable_norm(model[1], Locations(model))
    assert isinstance(found, Refusal)
    assert found.path == "1"
    assert reason in found.reason


def test_a_norm_that_a_list_holds_too_is_not_folded():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert isinstance(foldable_norm(model[1], Locations(model)), BatchNorm)
    model.order = [model[1]]
    found = foldable_norm(model[1], Locations(model))
    assert isinstance(found, Refusal)
    assert found.reason.startswith("order holds it as a plain Python attribute")


# The layer.


def replaced_forward() -> nn.Module:
    layer = nn.Conv2d(3, 4, 3)
    layer.forward = lambda x: x
    return layer


def prepared() -> nn.Module:
    layer = nn.Conv2d(3, 4, 3)
    layer.qconfig = object()
    return layer


def subclassed() -> nn.Module:
    class Doubling(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * 2

    return Doubling(3, 4, 3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("producer", "reason"),
    [
        (lambda: nn.PReLU(4), "0 is no plain linear layer or convolution"),
        (subclassed, "0 is no plain linear layer or convolution"),
        (replaced_forward, "the forward of 0 was replaced"),
        (prepared, "0 is prepared for quantisation"),
        (lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), "0 is parametrized"),
        (lambda: nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), "the weight of 0 is computed before each forward"),
        (lambda: nn.Conv2d(3, 5, 3), "it has 4 channels, 0 has 5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layers_that_cannot_do_a_norms_work(producer, reason):
    assert against(pair(producer()), "1", "0").startswith(reason)


def test_a_plain_layer_can():
    assert against(pair(nn.Conv2d(3, 4, 3, padding=1)), "1", "0") is None


def test_a_layer_without_values_or_of_whole_numbers_cannot():
    assert "run the model once" in against(pair(nn.LazyConv2d(4, 3)), "1", "0")
    whole = nn.Conv2d(3, 4, 3).requires_grad_(False)
    whole.weight = nn.Parameter(torch.zeros(4, 3, 3, 3, dtype=torch.int8), requires_grad=False)
    assert against(pair(whole), "1", "0") == "the weights of 0 are no floating point numbers"


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_tied_layers_cannot(name):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    setattr(model[2], name, getattr(model[0], name))
    assert against(model, "1", "0") == "another module holds the weight or bias of 0 too (tied)"


def test_before_a_layer_its_inputs_are_counted():
    model = lived_in(nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1, groups=2), nn.BatchNorm2d(5)))
    assert against(model, "0", "1", "before") is None
    assert against(model, "2", "1", "before") == "it has 5 channels, 1 has 6"


# Hooks.


@pytest.mark.parametrize(
    ("path", "register", "against_after"),
    [
        ("0", "register_forward_hook", True),
        ("0", "register_forward_pre_hook", False),
        ("1", "register_forward_hook", False),
        ("1", "register_forward_pre_hook", True),
        ("0", "register_full_backward_hook", True),
        ("1", "register_full_backward_pre_hook", True),
        ("", "register_forward_hook", False),
    ],
)
def test_hooks_that_meet_what_changes(path, register, against_after):
    model = pair(nn.Conv2d(3, 4, 3))
    getattr(model.get_submodule(path), register)(lambda *_: None)
    found = against(model, "1", "0")
    assert (found is not None) == against_after
    if against_after:
        assert found.startswith(f"a hook of {path} meets what goes between norm and weights")


def test_hooks_on_the_way_and_around():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout()), nn.BatchNorm2d(4))
    model[0][1].register_forward_hook(lambda *_: None)
    assert against(model, "1", "0.0") is None
    assert against(model, "1", "0.0", between=("0.1",)).startswith("a hook of 0.1 meets")
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))
    model[0].register_forward_hook(lambda *_: None)
    assert against(model, "1", "0.0").startswith("a hook of 0 meets")


# The border.


@pytest.mark.parametrize(
    ("layer", "has_border"),
    [
        (nn.Linear(4, 2), False),
        (nn.Conv2d(4, 2, 3), False),
        (nn.Conv2d(4, 2, 3, padding="valid"), False),
        (nn.Conv2d(4, 2, 1, padding="same"), False),
        (nn.Conv2d(4, 2, 3, padding="same"), True),
        (nn.Conv2d(4, 2, 3, padding=(0, 1)), True),
        (nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"), False),
        (nn.ConvTranspose2d(4, 2, 1), False),
        (nn.ConvTranspose2d(4, 2, (1, 2)), True),
        (nn.ConvTranspose2d(4, 2, 1, stride=2), True),
        (nn.ConvTranspose2d(4, 2, 1, dilation=2, output_padding=1), True),
    ],
    ids=lambda value: " ".join(repr(value).split()) if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_a_border_is_against_a_norm_that_shifts_before_the_layer(layer, has_border):
    model = lived_in(nn.Sequential(nn.BatchNorm2d(4), layer))
    found = against(model, "0", "1", "before")
    assert (found is not None and "has a border" in found) == has_border
    model[0].running_mean.zero_()
    nn.init.zeros_(model[0].bias)
    assert (
        against(model, "0", "1", "before") is None
    )  # without a shift there is nothing that the border misses


def test_a_border_is_not_against_a_norm_after_the_layer():
    assert against(pair(nn.Conv2d(3, 4, 3, padding=1)), "1", "0") is None


def test_a_shift_without_values_counts_as_one():
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, padding=1))
    assert "has a border" in against(model, "0", "1", "before")
