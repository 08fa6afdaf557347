"""Folding batch norms: equal outputs for every layer and side, and what is refused, with its reason."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.contracts.surgery import ALL, SurgeryContract
from tests.surgery.networks import REAL, BatchNormAct2d, FrozenBatchNorm2d, Network, lived_in
from tests.surgery.small import Net
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import normsmith
from normsmith import layers
from normsmith.anatomy.forward import call, flat
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import Plan, fold, fold_pairs

EXACT = {torch.float32: 1e-5, torch.float64: 1e-12}
REFUSING = {"shared norm", "conditional", "hooked", "parametrized", "old weight norm", "tied"}


def difference(plan: Plan, batch: Any, *, partial: bool = False) -> float:
    """Of outputs in evaluation, by the largest one; the plan's model is changed."""
    with torch.no_grad():
        before = [t.clone() for t in flat(call(plan.model.eval(), batch)) if t.is_floating_point()]
        after = [t for t in flat(call(plan.apply(partial=partial).eval(), batch)) if t.is_floating_point()]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(after, before, strict=True))


def reasons(model: nn.Module, batch: Any = None) -> dict[str, str]:
    return {refusal.path: refusal.reason for refusal in fold(lived_in(model), batch).refusals}


class TestContract(SurgeryContract):
    partial = True

    @pytest.fixture(params=[name for name in ALL if name not in REFUSING])
    def network(self, request: pytest.FixtureRequest) -> Network:
        return ALL[request.param]

    def plan(self, model: nn.Module) -> Plan:
        return fold(model, self.batch)


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("name", REAL)
def test_real_networks_are_equal(name: str, dtype: torch.dtype) -> None:
    model, batch = REAL[name].model().to(dtype), REAL[name].batch()
    batch = {key: t.to(dtype) for key, t in batch.items()} if isinstance(batch, dict) else batch.to(dtype)
    plan = fold(model, batch)
    left = 6 if name == "monai-densenet" else 0  # before activations, after concatenations
    assert len(plan.refusals) == left
    assert difference(plan, batch, partial=True) < EXACT[dtype]
    assert sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()) == left


@pytest.mark.parametrize("name", sorted(REFUSING))
def test_networks_with_nothing_to_fold_refuse_all(name: str) -> None:
    plan = fold(ALL[name].model(), ALL[name].batch())
    assert plan.refusals
    assert not plan.changes
    with pytest.raises(SurgeryError, match="cannot do everything"):
        plan.apply()


PRODUCERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "linear, no bias": (lambda: nn.Linear(6, 4, bias=False), (5, 6)),
    "1d": (lambda: nn.Conv1d(6, 4, 3, padding=1), (2, 6, 7)),
    "2d in groups": (lambda: nn.Conv2d(6, 4, 3, groups=2, bias=False), (2, 6, 7, 7)),
    "2d depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, padding="same"), (2, 4, 7, 7)),
    "3d": (lambda: nn.Conv3d(6, 4, 2, stride=2, dilation=2), (2, 6, 7, 7, 7)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(6, 4, 3, stride=2, bias=False), (2, 6, 7)),
    "transposed 2d in groups": (
        lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 6, 5, 5),
    ),
    "transposed 3d": (lambda: nn.ConvTranspose3d(6, 4, 2), (2, 6, 4, 4, 4)),
}
NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "torch's": lambda d, c: getattr(nn, f"BatchNorm{d}d")(c),
    "torch's, no affine": lambda d, c: getattr(nn, f"BatchNorm{d}d")(c, affine=False, eps=1e-3),
    "ours": lambda d, c: getattr(layers, f"BatchNorm{d}d")(c),
    "ours, frozen": lambda d, c: getattr(layers, f"BatchNorm{d}d")(c).freeze(),
    "renorm by its standard deviation": lambda d, c: getattr(layers, f"BatchRenorm{d}d")(
        c, schedule="keras", track="std"
    ),
}


def _dimensions(producer: nn.Module) -> int:
    return 1 if isinstance(producer, nn.Linear) else len(producer.kernel_size)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("producer", PRODUCERS)
def test_a_norm_after(producer: str, norm: str, dtype: torch.dtype) -> None:
    """Torch's helpers raise on affine=False after linear layers and on grouped transposed convolutions."""
    make, shape = PRODUCERS[producer]
    layer = make()
    model = lived_in(nn.Sequential(layer, NORMS[norm](_dimensions(layer), 4), nn.Tanh())).to(dtype)
    plan = fold(model)
    assert not plan.refusals
    assert difference(plan, torch.randn(shape, dtype=dtype)) < EXACT[dtype]
    assert isinstance(model[1], nn.Identity)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        pytest.param(nn.Linear(4, 6), (5, 4), id="linear"),
        pytest.param(nn.Linear(4, 6, bias=False), (5, 4), id="linear, no bias"),
        pytest.param(nn.Conv1d(4, 6, 3), (2, 4, 7), id="no padding"),
        pytest.param(nn.Conv1d(4, 6, 1, padding="same"), (2, 4, 7), id="same, which is none"),
        pytest.param(nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 7, 7), id="groups"),
        pytest.param(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 7, 7), id="reflects"),
        pytest.param(nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 7, 7), id="circular"),
        pytest.param(nn.ConvTranspose2d(4, 6, 1, groups=2), (2, 4, 5, 5), id="transposed, by the point"),
    ],
)
def test_a_norm_before(layer: nn.Module, shape: tuple[int, ...], norm: str, dtype: torch.dtype) -> None:
    model = lived_in(nn.Sequential(NORMS[norm](_dimensions(layer), 4), copy.deepcopy(layer))).to(dtype)
    plan = fold(model)
    assert not plan.refusals
    assert difference(plan, torch.randn(shape, dtype=dtype)) < EXACT[dtype]
    assert isinstance(model[0], nn.Identity)


BORDERED = [
    pytest.param(nn.Conv2d(4, 6, 3, padding=1), id="zeros around"),
    pytest.param(nn.Conv2d(4, 6, 3, padding="same"), id="zeros around, by name"),
    pytest.param(nn.ConvTranspose2d(4, 6, 3), id="fewer taps at the border"),
    pytest.param(nn.ConvTranspose2d(4, 6, 1, stride=2), id="nothing between the points"),
    pytest.param(nn.ConvTranspose2d(4, 6, 1, dilation=2, output_padding=1), id="nothing at the end"),
]


@pytest.mark.parametrize("layer", BORDERED)
def test_a_border_that_the_shift_does_not_reach_is_refused(layer: nn.Module) -> None:
    assert "border" in reasons(nn.Sequential(nn.BatchNorm2d(4), layer))["0"]


@pytest.mark.parametrize("layer", BORDERED)
def test_without_a_shift_a_border_does_not_matter(layer: nn.Module) -> None:
    model = lived_in(nn.Sequential(nn.BatchNorm2d(4), copy.deepcopy(layer))).double()
    model[0].running_mean.zero_()
    nn.init.zeros_(model[0].bias)
    assert difference(fold(model), torch.randn(2, 4, 5, 5).double()) < 1e-12


def test_norms_on_both_sides_and_in_a_row() -> None:
    model = lived_in(
        nn.Sequential(
            nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Dropout(), nn.BatchNorm2d(4), nn.Identity(), nn.BatchNorm2d(4)
        )
    ).double()  # fmt: skip
    plan = fold(model)
    assert not plan.refusals
    assert difference(plan, torch.randn(2, 3, 6, 6).double()) < 1e-12
    assert list(model.state_dict()) == ["1.weight", "1.bias"]


def test_norms_in_a_row_that_are_made_in_another_order_than_they_are_called() -> None:
    def body(net: Any, x: Tensor) -> Tensor:
        return net.second(net.first(net.conv(x)))

    parts = {"second": nn.BatchNorm2d(4), "first": nn.BatchNorm2d(4), "conv": nn.Conv2d(3, 4, 3)}
    model = lived_in(Net(body, **parts)).double()
    assert difference(fold(model), torch.randn(2, 3, 6, 6).double()) < 1e-12


@pytest.mark.parametrize(
    ("norm", "stays"),
    [
        (layers.BatchNormAct2d(4, activation="silu"), nn.SiLU),
        (layers.BatchRenormAct2d(4, schedule="keras", track="var"), nn.ReLU),
        (layers.BatchNormAct2d(4, activation=None), nn.Identity),
        (BatchNormAct2d(4, nn.Hardswish()), nn.Sequential),
        (FrozenBatchNorm2d(4, eps=0.1), nn.Identity),
        (nn.SyncBatchNorm(4), nn.Identity),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_fused_and_frozen_norms(norm: nn.Module, stays: type[nn.Module]) -> None:
    model = lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), copy.deepcopy(norm))).double()
    batch = torch.randn(2, 3, 6, 6).double()
    plan = fold(model, batch)
    assert not plan.refusals
    assert difference(plan, batch) < 1e-12
    assert type(model[1]) is stays


@pytest.mark.parametrize("activation", normsmith.ops.ACTIVATIONS)
def test_every_activation_stays(activation: str) -> None:
    model = lived_in(nn.Sequential(nn.Linear(3, 4), layers.BatchNormAct1d(4, activation=activation)))
    assert difference(fold(model.double()), torch.randn(9, 3).double()) < 1e-12


def test_inputs_whose_channels_are_elsewhere_are_seen() -> None:
    """(N, C, C): a linear layer's features come last, the norm's channels second; torch's helper folds wrongly."""
    model = lived_in(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))).eval()
    assert "dimension" in {r.reason for r in fold(model, torch.randn(2, 4, 4)).refusals}.pop()
    fold(model).apply()
    assert model(torch.randn(5, 4)).shape == (5, 4)
    with pytest.raises(InputError, match="folded for 2-D inputs"):
        model(torch.randn(2, 4, 4))


def test_without_a_bias_the_new_one_is_for_the_optimizer_too() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fold(model).apply(optimizer=optimizer)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}
    assert model[0].bias.requires_grad


def test_memory_format_dtype_and_requires_grad_stay() -> None:
    model = lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).to(
        memory_format=torch.channels_last
    )
    model[0].weight.requires_grad_(False)
    fold(model.half()).apply()
    weight = model[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert (weight.dtype, weight.requires_grad, model[0].bias.requires_grad) == (torch.float16, False, True)


def test_half_precision_is_rounded_once() -> None:
    model = lived_in(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))).bfloat16()
    norm, weight = model[1], model[0].weight.double()
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    fold(model).apply()
    assert torch.equal(model[0].weight, (weight * scale[:, None]).bfloat16())


def test_what_half_precision_cannot_hold_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, eps=1e-12)).half()
    model[1].running_var.fill_(0)
    assert "not all finite in torch.float16" in fold(model).refusals[0].reason


def test_hooks_after_the_norm_stay_and_see_the_same() -> None:
    model, seen = (
        lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).double().eval(),
        [],
    )
    handle = model[1].register_forward_hook(lambda _, __, output: seen.append(output.detach().clone()))
    batch = torch.randn(2, 3, 6, 6).double()
    assert difference(fold(model), batch) < 1e-12
    assert torch.allclose(seen[0], seen[-1], rtol=1e-12)
    handle.remove()
    count = len(seen)
    model(batch)
    assert len(seen) == count


def _hook(model: nn.Module, at: str) -> nn.Module:
    if at == "norm":
        model[1].register_forward_pre_hook(lambda *_: None)
    elif at == "backward":
        model[1].register_full_backward_hook(lambda *_: None)
    else:
        model.get_submodule(at).register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("at", ["norm", "backward", "0", "0.0"])
def test_hooks_between_are_refused(at: str) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4)), nn.BatchNorm1d(4))
    assert "a hook of" in reasons(_hook(model, at))["1"]


class Also(nn.Module):
    """Puts out, or adds, what goes between the convolution and its norm."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv, self.norm = how, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if self.how == "in place":
            y[:, 0] = 0
        if self.how == "weight":
            return self.norm(y) + self.conv.weight.sum()
        if self.how == "function":
            return self.norm(F.conv2d(x, self.conv.weight))
        if self.how == "statistics":
            return self.norm(y) + self.norm.running_mean.sum()
        return (y, self.norm(y)) if self.how == "output" else self.norm(y) + y.mean()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("consumer", "the function mean takes what conv"),
        ("output", "output of the model too"),
        ("in place", "between the function setitem"),
        ("weight", "used outside"),
        ("function", "make it a module"),
        ("statistics", "used outside"),
    ],
)
def test_what_else_uses_the_parts_is_a_reason(how: str, reason: str) -> None:
    assert reason in reasons(Also(how), torch.randn(2, 3, 6, 6))["norm"]


class Branch(nn.Module):
    """Goes by the data over one norm or the other, which symbols cannot follow and one batch does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.one if x.mean() < 100 else self.other)(self.conv(x))


def test_data_that_may_go_another_way_is_refused() -> None:
    with pytest.raises(SurgeryError, match="give a batch"):
        fold(Branch())
    found = reasons(Branch(), torch.randn(2, 3, 6, 6))
    assert "did not call other" in found["one"]
    assert "does not come by it" in found["other"]


def _by_the_batch(how: str) -> nn.Module:
    norm = {
        "none": nn.BatchNorm1d(4, track_running_stats=False),
        "pinned": layers.BatchNorm1d(4).freeze("batch"),
    }[how]
    return nn.Sequential(nn.Linear(3, 4), norm)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_by_the_batch("none"), "no running statistics"),
        (_by_the_batch("pinned"), "frozen to the statistics of the batch"),
        (nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.BatchNorm1d(4)), "parametriz"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4)), "stands between 1"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.BatchNorm1d(16)), "1 (Flatten) moves channels"),
    ],
)
def test_what_is_not_exact_says_why(model: nn.Module, reason: str) -> None:
    assert reason in str(reasons(model))


def test_a_layer_without_values_is_refused() -> None:
    plan = fold(nn.Sequential(nn.Linear(3, 4), nn.LazyBatchNorm1d()))
    assert "run the model once" in plan.refusals[0].reason
    plan = fold(nn.Sequential(nn.LazyLinear(4), nn.BatchNorm1d(4)))
    assert "run the model once" in plan.refusals[0].reason


class Pair(nn.Module):
    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


@pytest.mark.compiles
def test_compiled_models_fold_and_a_norm_compiled_by_itself_does_not() -> None:
    batch = torch.randn(2, 3, 6, 6).double()

    def compiled(module: nn.Module) -> Any:
        return torch.compile(module, backend="eager")

    conv, norm = nn.Conv2d(3, 4, 3).double(), lived_in(nn.BatchNorm2d(4).double())
    assert "compile after folding" in fold(Pair(conv, compiled(norm)).eval(), batch).refusals[0].reason
    whole, part = compiled(Pair(conv, norm).eval()), Pair(compiled(conv), norm).eval()
    whole(batch), part(batch)
    assert difference(fold(copy.deepcopy(part), batch), batch) < 1e-12
    assert difference(fold(whole, batch), batch) < 1e-12


def test_parts_of_quantisation_are_refused() -> None:
    model = nn.Sequential(torch.ao.nn.intrinsic.ConvBn2d(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert "part of ConvBn2d" in reasons(model)["0.1"]


def test_a_layer_that_is_called_without_the_norm_too_is_refused() -> None:
    conv = nn.Conv2d(4, 4, 3)
    model = nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), conv)
    assert "0 is called 2 times in a forward, of which 1" in reasons(model)["1"]


def test_only_what_is_selected() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    assert [change.path for change in fold(model, only="3").changes] == ["3", "2"]
    assert [change.path for change in fold(model, only=lambda path, _: path == "1").changes] == ["1", "0"]
    for other in (model[:1], model):
        with pytest.raises(SurgeryError, match="expected batch norms"):
            fold(other, only="nothing")


def test_a_plan_made_with_a_batch_goes_to_another_process() -> None:
    network = REAL["hf-resnet"]
    text = fold(network.model(), network.batch(), only=lambda path, _: "encoder" in path).to_json()
    plan = Plan.from_json(network.model(), text)
    assert plan.changes
    assert difference(plan, network.batch()) < 1e-5


def test_pairs_that_are_none() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(5, 4))
    for row in [("1", "0", "above", None), ("1", "9", "after", None), ("1", "0")]:
        with pytest.raises(InputError, match="pairs: expected"):
            fold_pairs(model, [row])
    assert "it has 4 channels, 2 has 5" in fold_pairs(model, [("1", "2", "before", None)]).refusals[0].reason
    assert "no plain linear" in fold_pairs(model, [("1", "1", "before", None)]).refusals[0].reason


def test_pairs_with_several_channels_of_the_layer_for_one_of_the_norm() -> None:
    model = lived_in(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))).double()
    assert fold(model, torch.randn(2, 3, 2, 2).double()).operation.arguments["pairs"] == [
        ["0", "2", "before", None, 4]
    ]
    assert "it has 3 channels, 2 has 12" in fold_pairs(model, [("0", "2", "before", None)]).refusals[0].reason
    assert "3 channels" in fold_pairs(model, [("0", "2", "before", None, 5)]).refusals[0].reason
    for repeats in (0, -4, "4", True):
        with pytest.raises(InputError, match="a number of repeats, got"):
            fold_pairs(model, [("0", "2", "before", None, repeats)])
    plan = fold_pairs(model, [("0", "2", "before", None, 4)])
    assert difference(plan, torch.randn(2, 3, 2, 2).double()) < 1e-12


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    fold(model).apply()
    assert model[0].bias.is_meta


class ReadsAStatistic(nn.Module):
    """A network whose own forward reads a buffer of its norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)) + self.norm.running_mean.sum()


@pytest.mark.parametrize("batch", [None, torch.ones(2, 3, 5, 5)], ids=["symbols", "a batch"])
def test_a_norm_whose_statistics_are_read_elsewhere_is_refused(batch):
    plan = fold(ReadsAStatistic(), batch)
    assert not plan.changes
    assert "its tensors are used outside of its own forward" in plan.refusals[0].reason


def test_a_new_bias_trains_where_beta_did():
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8)).eval()
    model[1].requires_grad_(False)
    folded = fold(model).apply()[0]
    assert folded.weight.requires_grad
    assert not folded.bias.requires_grad
