"""The usual forward, with batches and outputs of any kind."""

from __future__ import annotations

import random
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from normsmith.anatomy.forward import call, check_runnable, copied, flat, outputs, unwrapped
from normsmith.anatomy.preserve import preserved
from normsmith.errors import SurgeryError


class Echo(nn.Module):
    """Returns its arguments as they came; its parameter tells the device."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, device=device))

    def forward(self, *arguments, **options):
        return arguments, options


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    "batch",
    [("x", "label"), ["x", "label"], Pair("x", "label")],
    ids=["tuple", "list", "named tuple"],
)
def test_of_a_tuple_or_list_the_first_part_goes_in(batch):
    assert call(Echo(), batch) == (("x",), {})


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_a_mapping_goes_in_by_names(kind):
    assert call(Echo(), kind(x=1, mask=None)) == ((), {"x": 1, "mask": None})


def test_anything_else_goes_in_as_it_is():
    @dataclass
    class Batch:
        x: torch.Tensor

    batch, x = Batch(torch.ones(2)), torch.ones(2)
    assert call(Echo(), batch)[0][0] is batch
    assert call(Echo(), x)[0][0] is x
    assert call(Echo(), ()) == (((),), {})


def test_tensors_go_to_the_device_of_the_model_those_in_containers_too():
    model, x = Echo("meta"), torch.ones(2)
    (moved,), _ = call(model, x)
    assert moved.is_meta
    _, options = call(model, {"x": x, "more": [x, {"y": x}], "n": 3})
    assert options["x"].is_meta
    assert options["more"][0].is_meta
    assert options["more"][1]["y"].is_meta
    assert options["n"] == 3
    assert not x.is_meta


def test_a_tensor_that_is_on_the_device_already_is_the_same_and_so_is_that_for_a_model_without_tensors():
    x = torch.ones(2)
    assert call(Echo(), x)[0][0] is x
    x = torch.ones(2, device="meta")
    assert call(nn.Identity(), x) is x


def test_a_buffer_tells_the_device_of_a_model_without_parameters():
    model = nn.BatchNorm1d(2, affine=False, device="meta").eval()
    assert call(model, torch.ones(3, 2)).is_meta


# Outputs.


def test_tensors_come_out_of_any_output_in_order():
    @dataclass
    class Output:
        loss: torch.Tensor
        rest: tuple
        name: str

    one, two, three = torch.ones(1), torch.ones(2), torch.ones(3)
    assert list(flat(one)) == [one]
    assert [len(t) for t in flat((one, [two, (three,)], None, "text"))] == [1, 2, 3]
    assert [len(t) for t in flat({"a": two, "b": {"c": one}})] == [2, 1]
    assert [len(t) for t in flat(UserDict(a=three))] == [3]
    assert [len(t) for t in flat(Output(one, (two,), "x"))] == [1, 2]
    assert list(flat(None)) == []
    assert list(flat(3)) == []


def test_outputs_are_copies_without_gradients_of_what_is_floating_point():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return {"y": self.weight * x, "same": self.weight, "index": x.argmax()}

    model = Model()
    y, same = outputs(model, torch.tensor([1.0, 2.0]), call, training=False)
    assert y.tolist() == [1.0, 2.0]
    assert not y.requires_grad
    same.zero_()
    assert model.weight.tolist() == [1.0, 1.0]


def test_outputs_go_by_the_mode_the_seed_and_the_forward():
    model, x = nn.Dropout(0.5), torch.ones(100)
    (plain,) = outputs(model, x, call, training=False)
    assert torch.equal(plain, x)
    draws = [outputs(model, x, call, training=True, seed=seed)[0] for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    (twice,) = outputs(model, x, lambda model, batch: model(2 * batch), training=False)
    assert torch.equal(twice, 2 * x)


# Models.


def test_models_without_values_cannot_run():
    check_runnable(nn.Linear(2, 2))
    with pytest.raises(SurgeryError, match=r"needs values, and 0\.weight is on the meta device"):
        check_runnable(nn.Sequential(nn.Linear(2, 2, device="meta")))
    with pytest.raises(SurgeryError, match=r"needs values, and weight is not initialised yet \(lazy\)"):
        check_runnable(nn.LazyLinear(2))
    layer = nn.BatchNorm1d(2, affine=False, device="meta")
    with pytest.raises(SurgeryError, match="running_mean is on the meta device"):
        check_runnable(layer)


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_wrappers_are_looked_through():
    layer = nn.Linear(2, 2)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(layer)
        assert unwrapped(wrapped) is layer
        assert unwrapped(torch.compile(wrapped)) is layer
        assert unwrapped(nn.Sequential(wrapped))[0] is wrapped
    finally:
        torch.distributed.destroy_process_group()


def test_a_copied_batch_has_its_own_tensors_of_all_kinds():
    @dataclass
    class Graphs:
        nodes: torch.Tensor

    class Bound:
        def __init__(self):
            self.x = torch.zeros(1)

        def __deepcopy__(self, _):
            raise TypeError("bound to this process")

    x, bound = torch.zeros(1), Bound()
    batch = (
        x,
        {"again": x},
        UserDict(mask=x),
        Graphs(x),
        bound,
        "label",
        None,
        torch.ones(1, requires_grad=True) * 2,
    )
    copy = copied(batch)
    assert copy[0] is copy[1]["again"]
    assert copy[4] is bound
    assert copy[5:7] == batch[5:7]
    for tensor in (copy[0], copy[2]["mask"], copy[3].nodes, copy[7]):
        tensor.detach().add_(1)
    assert x.item() == 0
    assert batch[7].item() == 2


def test_outputs_draw_from_pythons_and_numpys_random_numbers_by_the_seed():
    class Masking(nn.Module):
        def forward(self, x):
            return x * random.random() * np.random.rand()

    runs = []
    for _ in range(2):
        with preserved(Masking()):
            runs.append(outputs(Masking(), torch.ones(1), call, training=True)[0])
    assert runs[0] == runs[1]
