"""Networks of the families that people train go through every operation: right, or refused with the reason."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.distributed as dist
from tests.surgery.expected import CHANGES, MOVED, REFUSED
from tests.surgery.families import FAMILIES, by_hand, is_a_norm
from tests.surgery.states import state_of
from torch import Tensor, nn

from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.kinds import is_norm
from normsmith.anatomy.passing import moves as passes
from normsmith.surgery import (
    Plan,
    adapt,
    convert,
    fold,
    freeze,
    insert,
    place,
    recalibrate,
    set_statistics,
    strip,
    swap_activation,
    trace,
    warm_start,
)

TINY = 1e-12
"""With which a norm that has seen nothing is an identity in evaluation, to far more digits than are compared."""


def given_statistics(model: nn.Module) -> dict[str, dict[str, list[float]]]:
    """Some for every norm."""
    return {
        path: {"running_mean": [0.1 * c for c in range(n)], "running_var": [1.0 + c for c in range(n)]}
        for path, module in model.named_modules()
        if is_a_norm(module) and (n := int(module.num_features))
    }


OPERATIONS: dict[str, Callable[[nn.Module, list[Tensor]], Plan]] = {
    "insert before": lambda model, xs: insert(model, "batch", "before", batch=xs[0], eps=TINY),
    "insert after": lambda model, xs: insert(model, "batch", "after", batch=xs[0], eps=TINY),
    "insert beside norms, before": lambda model, xs: insert(model, "batch", "before", batch=xs[0], eps=TINY),
    "insert beside norms, after": lambda model, xs: insert(model, "batch", "after", batch=xs[0], eps=TINY),
    "strip": lambda model, xs: strip(model, batch=xs[0]),
    "strip and fold": lambda model, xs: strip(model, fold=True, batch=xs[0]),
    "fold": lambda model, xs: fold(model, xs[0]),
    "place before": lambda model, xs: place(model, "before", batch=xs[0]),
    "place after": lambda model, xs: place(model, "after", batch=xs[0]),
    "place back": lambda model, xs: place(model, "before", batch=xs[0]),
    "swap": lambda model, xs: swap_activation(model, "tanh", batch=xs[0]),
    "to batch": lambda model, xs: convert(model, "batch"),
    "to renorm": lambda model, xs: convert(model, "renorm", total_steps=100),
    "to sync": lambda model, xs: convert(model, "sync"),
    "to ghost": lambda model, xs: convert(model, "ghost", ghost_batch_size=2),
    "to frozen": lambda model, xs: convert(model, "frozen"),
    "to torch": lambda model, xs: convert(model, "torch"),
    "to group": lambda model, xs: convert(model, "group", num_groups=2),
    "to layer": lambda model, xs: convert(model, "layer"),
    "freeze statistics": lambda model, xs: freeze(model, "statistics"),
    "freeze affine": lambda model, xs: freeze(model, "affine"),
    "freeze both": lambda model, xs: freeze(model, "both"),
    "set statistics": lambda model, xs: set_statistics(model, given_statistics(model)),
    "recalibrate, fast": lambda model, xs: recalibrate(model, xs).plan,
    "recalibrate, exact": lambda model, xs: recalibrate(model, xs, mode="exact").plan,
    "warm start": lambda model, xs: warm_start(model, updates=1000, remaining=100),
}  # fmt: skip


def prepared(name: str, operation: str) -> nn.Module:
    """The network as an operation gets it: norms are inserted where none are, and renorm is what starts warm."""
    family = FAMILIES[name]
    if operation in ("insert before", "insert after"):
        return strip(family.model(), batch=family.batch()).apply()
    if operation == "place back":
        return place(family.model(), "after", batch=family.batch()).apply(partial=True)
    if operation == "to torch":
        return convert(family.model(), "batch").apply()
    if operation == "warm start":
        return convert(family.model(), "renorm", total_steps=100).apply()
    return family.model()


def evaluated(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x)


def in_training(model: nn.Module, x: Tensor) -> Tensor:
    """By a training forward of a copy, with the same dropout at every call."""
    torch.manual_seed(5)
    with torch.no_grad():
        return copy.deepcopy(model).train()(x)


same = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-8)


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_an_operation_is_right_or_refused_with_the_reason(
    name: str, operation: str, request: pytest.FixtureRequest
) -> None:
    family = FAMILIES[name]
    model, xs = prepared(name, operation), [family.batch(number) for number in range(3)]
    if operation == "to sync":
        request.getfixturevalue("one_rank")
    old, x, before = copy.deepcopy(model), xs[0], state_of(model)
    plan = OPERATIONS[operation](model, xs)
    assert len(plan.changes) == CHANGES[operation][name]
    check_reasons(name, operation, plan)
    plan.verify(x)
    assert state_of(model) == before
    other = Plan.from_json(copy.deepcopy(old), plan.to_json()).apply(partial=True)
    changed = plan.apply(partial=True)
    for run in (evaluated, in_training):
        assert torch.equal(run(other, x), run(changed, x))
    WHAT_IT_DOES[operation](name, old, changed, xs)
    check_trains(copy.deepcopy(changed), x)
    plan.revert()
    assert {**state_of(model), "random": before["random"]} == before
    assert torch.equal(evaluated(model, x), evaluated(old, x))


def check_reasons(name: str, operation: str, plan: Plan) -> None:
    expected = REFUSED.get(operation, {}).get(name, {})
    assert {refusal.path for refusal in plan.refusals} == set(expected)
    for refusal in plan.refusals:
        assert expected[refusal.path] in refusal.reason


def check_trains(model: nn.Module, x: Tensor) -> None:
    """One step of training moves all parameters that train, by finite gradients."""
    model.train()(x).square().mean().backward()
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, path
            assert bool(parameter.grad.isfinite().all()), path


# What each operation does, by other means than its own.


def keeps_evaluation(name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    for x in xs:
        same(evaluated(new, x), evaluated(old, x))


def keeps_both(name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    keeps_evaluation(name, old, new, xs)
    same(in_training(new, xs[0]), in_training(old, xs[0]))


def pins_statistics(name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    keeps_evaluation(name, old, new, xs)
    with norms_in(old.train(), training=False):
        torch.manual_seed(5)
        with torch.no_grad():
            expected = old(xs[0])
    same(in_training(new, xs[0]), expected)
    trained = copy.deepcopy(new).train()
    trained(xs[0])
    for (path, buffer), after in zip(new.named_buffers(), trained.buffers(), strict=True):
        assert torch.equal(buffer, after), path


def pins_all(name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    pins_statistics(name, old, new, xs)
    assert not any(p.requires_grad for norm in norms(new) for p in norm.parameters(recurse=False))


def stops_the_affine(name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    keeps_both(name, old, new, xs)
    held = {p for norm in norms(new) for p in norm.parameters(recurse=False)}
    assert all(p.requires_grad == (p not in held) for p in new.parameters())


def takes_norms_out(name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    expected = FAMILIES[name].without_norms()
    assert not any(map(is_norm, new.modules()))
    for run in (evaluated, in_training):
        same(run(new, xs[0]), run(expected, xs[0]))


def folds(name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    keeps_evaluation(name, old, new, xs)
    assert len(norms(new)) == len(REFUSED["fold"].get(name, ()))


def inserts(where: str, name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    """The new norms are identities yet, so that nothing else may have changed but biases that they make redundant.

    Each stands beside an activation, or "before" at the end of a branch.
    """
    without_biases = copy.deepcopy(old)
    for path, layer in new.named_modules():
        if getattr(layer, "bias", 0) is None and without_biases.get_submodule(path).bias is not None:
            nn.init.zeros_(without_biases.get_submodule(path).bias)
    keeps_evaluation(name, without_biases, new, xs)
    graph = trace(new, xs[0])
    added = [event for event in graph.having("norm") if getattr(event.module, "eps", 0) == TINY]
    assert len(added) == len(norms(new)) - len(norms(old))
    for event in added:
        ends = later(graph, event) if where == "before" else {earlier(event)}
        assert {end.role for end in ends} & {"activation", "add"}, event.path


def later(graph: Graph, event: Event) -> set[Event]:
    """The calls that take a result, through those that pass its values on or move them."""
    takers = graph.consumers(event)
    return {end for taker in takers for end in (later(graph, taker) if passes(taker) else {taker})}


def earlier(event: Event) -> Event:
    """The call that a norm's input comes from."""
    event = event.sources[0]
    while passes(event):
        event = event.sources[0]
    return event


def moves(where: str, name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    """With norms that are identities nothing changes; and those that moved are on the other side."""
    neutral = [as_identities(copy.deepcopy(old)) for _ in range(2)]
    place(neutral[1], "after" if where == "after" else "before", batch=xs[0]).apply(partial=True)
    same(evaluated(neutral[1], xs[0]), evaluated(neutral[0], xs[0]))
    assert len(norms(new)) == len(norms(old))
    crossed = (beside(new, xs[0]) - beside(old, xs[0])) * (-1 if where == "back" else 1)
    assert crossed.tolist() == [-MOVED[where][name], MOVED[where][name]]


def beside(model: nn.Module, x: Tensor) -> Tensor:
    """How many norms have an activation right after them, and how many have one right before."""
    graph = trace(model, x)
    events = graph.having("norm")
    before = [e for e in events if any(end.role == "activation" for end in later(graph, e))]
    after = [e for e in events if earlier(e).role == "activation"]
    return torch.tensor([len(before), len(after)])


def swaps(name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    family = FAMILIES[name]
    expected = family.model(nn.Tanh if CHANGES["swap"][name] else None)
    expected.load_state_dict(old.state_dict(), strict=False)
    for run in (evaluated, in_training):
        same(run(new, xs[0]), run(expected, xs[0]))


def groups(count: int, name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    """Group norm by hand, with the same γ and β, unless refused."""

    def group_norm(norm: nn.Module) -> nn.Module:
        result = nn.GroupNorm(count, norm.num_features, norm.eps)
        result.weight, result.bias = norm.weight, norm.bias
        return result

    expected = by_hand(old, group_norm) if CHANGES["to group"][name] else old
    for run in (evaluated, in_training):
        same(run(new, xs[0]), run(expected, xs[0]))


def keeps_evaluation_and_renormalises(name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    keeps_evaluation(name, old, new, xs)
    assert all(type(norm).__name__.startswith("BatchRenorm") for norm in norms(new))


def writes_what_was_given(name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    old = copy.deepcopy(old)
    state = old.state_dict()
    for path, given in given_statistics(old).items():
        state |= {f"{path}.{key}": torch.tensor(values) for key, values in given.items()}
    old.load_state_dict(state)
    keeps_both(name, old, new, xs)


def measures(first: bool, name: str, old: nn.Module, new: nn.Module, xs: list[Tensor]) -> None:
    """The statistics are those of what goes into the norms in evaluation; of the first norm, or of all."""
    same(in_training(new, xs[0]), in_training(old, xs[0]))
    inputs: dict[nn.Module, list[Tensor]] = {}
    handles = [
        norm.register_forward_pre_hook(lambda norm, args: inputs.setdefault(norm, []).append(args[0]))
        for norm in norms(new)
    ]
    training = new.training
    new.eval()
    with torch.no_grad():
        for x in xs:
            new(x)
    new.train(training)
    for handle in handles:
        handle.remove()
    for norm in list(inputs)[: 1 if first else None]:
        rows = torch.cat([x.movedim(1, -1).flatten(0, -2) for x in inputs[norm]])
        deviation = rows.std(0)
        assert ((norm.running_mean - rows.mean(0)).abs() / deviation).max() < 3e-4
        assert (norm.running_var / deviation.square() - 1).abs().max() < 3e-4


WHAT_IT_DOES: dict[str, Callable[[str, nn.Module, nn.Module, list[Tensor]], None]] = {
    "insert before": partial(inserts, "before"), "insert after": partial(inserts, "after"),
    "insert beside norms, before": partial(inserts, "before"),
    "insert beside norms, after": partial(inserts, "after"),
    "strip": takes_norms_out, "strip and fold": folds, "fold": folds,
    "place before": partial(moves, "before"), "place after": partial(moves, "after"),
    "place back": partial(moves, "back"), "swap": swaps,
    "to batch": keeps_both, "to renorm": keeps_evaluation_and_renormalises, "to sync": keeps_both,
    "to ghost": keeps_evaluation, "to frozen": pins_all, "to torch": keeps_both,
    "to group": partial(groups, 2), "to layer": partial(groups, 1),
    "freeze statistics": pins_statistics, "freeze affine": stops_the_affine, "freeze both": pins_all,
    "set statistics": writes_what_was_given,
    "recalibrate, fast": partial(measures, True), "recalibrate, exact": partial(measures, False),
    "warm start": keeps_evaluation_and_renormalises,
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_adapting_is_between_evaluation_and_training_and_leaves_no_trace(name: str) -> None:
    family = FAMILIES[name]
    model, xs = family.model().eval(), [family.batch(number) for number in range(3)]
    before = state_of(model)
    with torch.no_grad():
        with adapt(model, prior=1.0):
            same(model(xs[1]), evaluated(model, xs[1]))
        with adapt(model, prior=0.0):
            by_batches = model(xs[1])
        with adapt(model, xs, prior=0.5):
            assert bool(model(xs[1]).isfinite().all())
        assert state_of(model) == before
        with norms_in(copy.deepcopy(model), training=True) as trained:
            same(by_batches, trained(xs[1]))


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if is_norm(module)]


@contextmanager
def norms_in(model: nn.Module, *, training: bool) -> Iterator[nn.Module]:
    """The norms of a model in another mode than the rest."""
    modes = {norm: norm.training for norm in norms(model)}
    for norm in modes:
        norm.training = training
    yield model
    for norm, mode in modes.items():
        norm.training = mode


def as_identities(model: nn.Module) -> nn.Module:
    """Norms that in evaluation put out what they take, to many digits."""
    for norm in filter(is_a_norm, model.modules()):
        norm.reset_parameters()
        norm.eps = TINY
    return model
