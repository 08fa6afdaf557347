"""Folding through reshapes, and of pairs that are called together: many networks against the unfolded ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.surgery.exact import check_same, draw, ready
from tests.surgery.small import Net
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.surgery import Plan, fold

# Networks, as people write them.


def face_head(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(net.drop(net.features(x)).flatten(1)))


def face_head_by_functions(net: Any, x: Tensor) -> Tensor:
    x = F.dropout(net.features(x), 0.4, net.training)
    return net.bn(net.fc(x.contiguous().view(x.size(0), -1)))


def channels_last_head(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.bn(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1))


def generator(net: Any, z: Tensor) -> Tensor:
    return torch.tanh(net.up(F.relu(net.bn(net.fc(z).view(-1, 6, 4, 4)))))


def sequence(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x).transpose(1, 2)).transpose(1, 2)


def sequence_before(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.bn(x.mT).mT)


def tdnn(net: Any, x: Tensor) -> Tensor:
    x = net.conv(x.transpose(1, 2)).transpose(1, 2)
    return net.bn(x.permute(0, 2, 1)).relu().mean(2)


def causal(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.conv(x)[:, :, :-2])


def causal_before(net: Any, x: Tensor) -> Tensor:
    return net.conv(net.bn(x)[..., 1:])


def last_step(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x)[:, -1])


def flat_time(net: Any, x: Tensor) -> Tensor:
    y = net.fc(x)
    return net.bn(y.reshape(-1, y.shape[-1])).reshape_as(y)


def pointnet(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.bn(net.conv(x.transpose(2, 1))))
    return net.bn2(net.fc(x.max(2).values))


def shared_points(net: Any, x: Tensor) -> Tensor:
    """(batch, points, neighbours, features), with convolutions of one by one as the shared network."""
    return net.bn(net.conv(x.permute(0, 3, 2, 1))).max(2).values


def siamese(net: Any, x: Tensor) -> Tensor:
    return (net.bn(net.fc(x)) - net.bn(net.fc(x.flip(0)))).abs()


def siamese_before(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.bn(x)) * net.fc(net.bn(-x))


def two_steps_of_one_head(net: Any, x: Tensor) -> Tensor:
    y = net.bn(x)
    return net.fc(y[:, :, 0]) + net.fc(y[:, :, 1])


def pyramid(net: Any, x: Tensor) -> list[Tensor]:
    """One head on several sizes, as detectors have."""
    maps = [x, F.avg_pool2d(x, 2)]
    return torch.cat([net.bn(net.conv(y)).relu().flatten(2) for y in maps], 2)


def one_norm_of_one_result(net: Any, x: Tensor) -> Tensor:
    y = net.fc(x)
    return net.bn(y) * net.bn(y)


def super_resolution(net: Any, x: Tensor) -> Tensor:
    return net.bn(F.pixel_shuffle(net.conv(x), 2))


def space_to_depth(net: Any, x: Tensor) -> Tensor:
    return net.conv(net.unshuffle(net.bn(x)))


def in_heads(net: Any, x: Tensor) -> Tensor:
    """Heads of attention, each channel of a head with a scale of its own."""
    y = net.fc(x).unflatten(-1, (2, 4)).movedim(2, 1)
    return net.bn(y.flatten(0, 1).transpose(1, 2))


@dataclass(frozen=True)
class Case:
    body: Callable[..., Any]
    parts: dict[str, Callable[[], nn.Module]]
    shapes: tuple[tuple[int, ...], ...]
    """Of the batch that is followed, and of others for which the fold has to hold too."""
    folds: int = 1

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return ready(Net(self.body, **{name: make() for name, make in self.parts.items()}))


FACE = {
    "features": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8)), "drop": lambda: nn.Dropout(0.4),
    "fc": lambda: nn.Linear(72, 4), "bn": lambda: nn.BatchNorm1d(4),
}  # fmt: skip
TIME = {"fc": lambda: nn.Linear(6, 8), "bn": lambda: nn.BatchNorm1d(8)}
CASES = {
    "face head": Case(face_head, FACE, ((4, 8, 3, 3), (1, 8, 3, 3)), 2),
    "face head, of functions": Case(face_head_by_functions, FACE, ((4, 8, 3, 3), (1, 8, 3, 3)), 2),
    "channels last": Case(
        channels_last_head, {"bn": lambda: nn.BatchNorm2d(8), "fc": lambda: nn.Linear(48, 5)},
        ((4, 8, 3, 2), (2, 8, 3, 2)),
    ),
    "generator": Case(
        generator,
        {"fc": lambda: nn.Linear(5, 96, bias=False), "bn": lambda: nn.BatchNorm2d(6),
         "up": lambda: nn.ConvTranspose2d(6, 3, 4, 2, 1)},
        ((4, 5), (1, 5), (7, 5)),
    ),
    "sequence": Case(sequence, TIME, ((4, 5, 6), (2, 9, 6), (1, 8, 6))),
    "sequence, as long as wide": Case(sequence, TIME, ((4, 8, 6), (2, 9, 6))),
    "sequence, before": Case(
        sequence_before, {"fc": lambda: nn.Linear(6, 8), "bn": lambda: nn.BatchNorm1d(6)}, ((4, 5, 6), (2, 9, 6))
    ),
    "tdnn": Case(
        tdnn, {"conv": lambda: nn.Conv1d(6, 8, 3, dilation=2), "bn": lambda: nn.BatchNorm1d(8)},
        ((4, 9, 6), (2, 12, 6)),
    ),
    "causal": Case(
        causal, {"conv": lambda: nn.Conv1d(6, 8, 3, padding=2), "bn": lambda: nn.BatchNorm1d(8)},
        ((4, 6, 9), (2, 6, 12)),
    ),
    "causal, before": Case(
        causal_before, {"conv": lambda: nn.Conv1d(6, 8, 3, groups=2), "bn": lambda: nn.BatchNorm1d(6)},
        ((4, 6, 9), (2, 6, 12)),
    ),
    "the last step": Case(last_step, TIME, ((4, 5, 6), (3, 9, 6))),
    "time in the batch": Case(flat_time, TIME, ((4, 5, 6), (1, 9, 6))),
    "pointnet": Case(
        pointnet,
        {"conv": lambda: nn.Conv1d(3, 8, 1), "bn": lambda: nn.BatchNorm1d(8), "fc": lambda: nn.Linear(8, 4),
         "bn2": lambda: nn.BatchNorm1d(4)},
        ((4, 10, 3), (2, 20, 3)), 2,
    ),
    "shared points": Case(
        shared_points, {"conv": lambda: nn.Conv2d(3, 8, 1), "bn": lambda: nn.BatchNorm2d(8)},
        ((4, 10, 5, 3), (2, 20, 4, 3)),
    ),
    "siamese": Case(siamese, TIME, ((4, 6), (2, 6))),
    "siamese, before": Case(
        siamese_before, {"fc": lambda: nn.Linear(6, 8), "bn": lambda: nn.BatchNorm1d(6)}, ((4, 6), (2, 6))
    ),
    "one head on two steps": Case(
        two_steps_of_one_head, {"fc": lambda: nn.Linear(6, 8), "bn": lambda: nn.BatchNorm1d(6)},
        ((4, 6, 2), (3, 6, 4)),
    ),
    "pyramid": Case(
        pyramid, {"conv": lambda: nn.Conv2d(4, 8, 3, padding=1), "bn": lambda: nn.BatchNorm2d(8)},
        ((2, 4, 8, 8), (3, 4, 6, 6)),
    ),
    "one result normalised twice": Case(one_norm_of_one_result, TIME, ((4, 6), (2, 6))),
    "super-resolution": Case(
        super_resolution, {"conv": lambda: nn.Conv2d(3, 16, 3, groups=1), "bn": lambda: nn.BatchNorm2d(4)},
        ((2, 3, 6, 6), (3, 3, 5, 7)),
    ),
    "space to depth": Case(
        space_to_depth,
        {"bn": lambda: nn.BatchNorm2d(4), "unshuffle": lambda: nn.PixelUnshuffle(2),
         "conv": lambda: nn.Conv2d(16, 6, 3, groups=2)},
        ((2, 4, 8, 8), (3, 4, 10, 8)),
    ),
    "heads": Case(
        in_heads, {"fc": lambda: nn.Linear(6, 8), "bn": lambda: nn.BatchNorm1d(4)}, ((3, 5, 6), (2, 7, 6))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_networks_compute_the_same_when_folded(name: str) -> None:
    case = CASES[name]
    model = case.model()
    plan = fold(copy.deepcopy(model), draw(*case.shapes[0]))
    assert not plan.refusals
    again = Plan.from_json(copy.deepcopy(model), plan.to_json())
    folded = plan.apply()
    assert not any(map(is_batch_norm, folded.modules()))
    assert len(plan.replaced) == case.folds
    for shape in case.shapes:
        check_same(model, folded, draw(*shape))
    check_same(model, again.apply(), draw(*case.shapes[0]))


@pytest.mark.parametrize("name", ["face head", "generator", "sequence", "time in the batch", "siamese"])
def test_one_sample_is_enough_where_the_batch_stays_apart(name: str) -> None:
    case = CASES[name]
    model = case.model()
    shapes = [(1, *shape[1:]) for shape in case.shapes[:1]]
    folded = fold(copy.deepcopy(model), draw(*shapes[0])).apply()
    for shape in case.shapes:
        check_same(model, folded, draw(*shape))


class LayerScale(nn.Module):
    """A scale of each feature, the last dimension, and a shift."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(features) + 0.5), nn.Parameter(torch.rand(features))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma + self.beta


@pytest.mark.parametrize(
    ("body", "features", "layer"),
    [
        (lambda net, x: net.scale(net.fc(x)), 8, nn.Linear(6, 8)),
        (lambda net, x: net.scale(net.fc(x).unflatten(-1, (2, 4))), 4, nn.Linear(6, 8)),
        (lambda net, x: net.scale(net.fc(x.mT).mT), 8, nn.Conv1d(6, 8, 1)),
        (lambda net, x: net.fc(net.scale(x).mT), 6, nn.Conv1d(6, 8, 3)),
        (lambda net, x: net.scale(net.fc(x).unsqueeze(-1)), 1, nn.Linear(6, 8)),
    ],
    ids=["beside", "in heads", "after a convolution", "before a convolution", "one number for all"],
)  # fmt: skip
def test_scales_of_others_through_moves(body: Any, features: int, layer: nn.Module) -> None:
    model = ready(Net(body, scale=LayerScale(features), fc=copy.deepcopy(layer)))
    plan = fold(copy.deepcopy(model), draw(4, 5, 6))
    assert len(plan.changes) == 2
    folded = plan.apply()
    check_same(model, folded, draw(4, 5, 6))
    check_same(model, folded, draw(2, 7, 6))


# What is refused, and why.


def one_call_without(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x)) - net.fc(-x)


def norms_of_their_own(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x)) - net.bn2(net.fc(-x))


def one_norm_of_two(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x)) - net.bn(net.fc2(x))


def raw_result_too(net: Any, x: Tensor) -> Tensor:
    y = net.fc(x)
    return net.bn(y) - net.bn(net.fc(-x)) + y


def norm_of_the_input_too(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x)) - net.bn(x[:, :1].expand(-1, 8))


def in_one_call_reversed(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x)) - net.bn(net.fc(x).flip(1))


def in_one_call_interleaved(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x).view(-1, 4, 2)) - net.bn(net.fc(x).view(-1, 2, 4).mT)


def mixed_with_time(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x).reshape(x.shape[0], 8, -1))


def mixed_with_the_batch(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x).t().reshape(-1, 8))


def rows_of_one_sample(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x).view(8, -1).t())


def places_as_channels(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.fc(x))


def flattened_after(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.conv(x).flatten(1))


def by_the_data(net: Any, x: Tensor) -> Tensor:
    y = net.fc(x)
    return net.bn(y[:, x[0, :1].argsort().new_tensor(range(8)).long()])


def in_parts(net: Any, x: Tensor) -> Tensor:
    one, other = net.bn(x).chunk(2, 1)
    return net.fc(torch.cat([other, one], 1))


def padded(net: Any, x: Tensor) -> Tensor:
    return net.conv(F.pad(net.bn(x), (2, 0)))


def dropped_in_place(net: Any, x: Tensor) -> Tensor:
    """Of a view, so that what the norm takes has another shape than what the dropout returns."""
    y = net.fc(x)
    net.drop(y.view(-1, 2))
    return net.bn(y)


def dropped_and_ignored(net: Any, x: Tensor) -> Tensor:
    y = net.fc(x)
    net.drop(y)
    return net.bn(y)


def input_overwritten(net: Any, x: Tensor) -> Tensor:
    """Where the norm's result were its input, the layer would take what is overwritten."""
    x = x.relu()
    y = net.bn(x)
    x.mul_(2)
    return net.fc2(y)


class Standardised(nn.Linear):
    """A weight that is standardised at each forward."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return F.linear(x, weight / weight.std(1, keepdim=True), self.bias)


TWO = {**TIME, "bn2": lambda: nn.BatchNorm1d(8), "fc2": lambda: nn.Linear(6, 8)}
REFUSED = {
    "a call without the norm": (one_call_without, TIME, (4, 6), "of which 1 send their results elsewhere"),
    "a norm of their own": (norms_of_their_own, TWO, (4, 6), "of which 1 send their results elsewhere"),
    "one norm of two layers": (one_norm_of_two, TWO, (4, 6), "fc and fc2 stand beside it"),
    "the raw result too": (raw_result_too, TIME, (4, 6), "takes what fc (Linear) puts out as well"),
    "the norm of something else too": (norm_of_the_input_too, TIME, (4, 6), "the model's input"),
    "reversed in one call": (in_one_call_reversed, TIME, (4, 6), "not in the dimension"),
    "interleaved in one call": (
        in_one_call_interleaved, {"fc": lambda: nn.Linear(6, 8), "bn": lambda: nn.BatchNorm1d(4)}, (4, 6),
        "not the same ones of fc in each call",
    ),
    "mixed with time": (mixed_with_time, TIME, (4, 5, 6), "not in the dimension"),
    "mixed with the batch": (mixed_with_the_batch, TIME, (4, 6), "not in the dimension"),
    "one sample's rows": (rows_of_one_sample, TIME, (1, 6), "one sample does not show; give two"),
    "places as channels": (places_as_channels, TIME, (4, 8, 6), "not in the dimension"),
    "finer than the layer": (
        flattened_after, {"conv": lambda: nn.Conv2d(3, 4, 3), "bn": lambda: nn.BatchNorm1d(16)}, (2, 3, 4, 4),
        "not in the dimension",
    ),
    "where to by the data": (by_the_data, TIME, (4, 6), "the function getitem"),
    "in parts": (
        in_parts, {"bn": lambda: nn.BatchNorm1d(6), "fc": lambda: nn.Linear(6, 8)}, (4, 6), "the function chunk"
    ),
    "padded": (
        padded, {"bn": lambda: nn.BatchNorm1d(6), "conv": lambda: nn.Conv1d(6, 8, 3)}, (4, 6, 9), "the function pad"
    ),
    "dropped in place": (
        dropped_in_place, {**TIME, "drop": lambda: nn.Dropout(inplace=True)}, (4, 6),
        "the function write",
    ),
    "dropped in place, the result ignored": (
        dropped_and_ignored, {**TIME, "drop": lambda: nn.Dropout(inplace=True)}, (4, 6),
        "bn (BatchNorm1d) reads what drop (Dropout) has overwritten in place",
    ),
    "input overwritten": (
        input_overwritten, {"bn": lambda: nn.BatchNorm1d(6), "fc2": lambda: nn.Linear(6, 8)}, (4, 6),
        "the function mul overwrites in place what it takes",
    ),
    "standardised": (
        places_as_channels, {"fc": lambda: Standardised(6, 8), "bn": lambda: nn.BatchNorm1d(8)}, (4, 6),
        "fc is a Standardised with a forward of its own",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_exact_is_refused(name: str) -> None:
    body, parts, shape, reason = REFUSED[name]
    model = ready(Net(body, **{part: make() for part, make in parts.items()}))
    plan = fold(model, draw(*shape))
    assert not plan.changes
    assert reason in " ".join(refusal.reason for refusal in plan.refusals)


def test_without_a_batch_a_reshape_asks_for_one() -> None:
    for name in ("channels last", "generator", "sequence", "super-resolution"):
        plan = fold(CASES[name].model())
        assert "give a batch" in plan.refusals[0].reason


def test_without_a_batch_pairs_that_are_called_together_fold() -> None:
    for name in ("siamese", "siamese, before", "pyramid"):
        model = CASES[name].model()
        check_same(model, fold(copy.deepcopy(model)).apply(), draw(*CASES[name].shapes[0]))


# Linear layers of other people.


class Graphs(nn.Module):
    """As the linear layers of libraries for graphs: a class of its own, with torch's names."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.register_parameter("bias", nn.Parameter(torch.randn(outputs)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Transposed(nn.Module):
    """As GPT-2's: the weight is (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(inputs, outputs)),
            nn.Parameter(torch.randn(outputs)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


LINEAR = {
    "own class": Graphs,
    "own class, no bias": lambda i, o: Graphs(i, o, bias=False),
    "transposed": Transposed,
}  # fmt: skip


@pytest.mark.parametrize("batch", [True, False], ids=["a batch", "symbols"])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers_of_others(name: str, batch: bool) -> None:
    layer = LINEAR[name]
    model = ready(nn.Sequential(layer(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6), layer(6, 3)))
    plan = fold(copy.deepcopy(model), draw(5, 4) if batch else None)
    assert not plan.refusals
    check_same(model, plan.apply(), draw(5, 4))


def test_a_shared_linear_layer_of_others_through_a_reshape() -> None:
    model = ready(Net(siamese, fc=Graphs(6, 8), bn=nn.BatchNorm1d(8)))
    check_same(model, fold(copy.deepcopy(model), draw(4, 6)).apply(), draw(3, 6))
    model = ready(Net(sequence, fc=Transposed(6, 8), bn=nn.BatchNorm1d(8)))
    check_same(model, fold(copy.deepcopy(model), draw(4, 5, 6)).apply(), draw(2, 7, 6))
