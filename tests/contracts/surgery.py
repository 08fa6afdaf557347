"""What every operation of surgery must keep. A test class inherits `SurgeryContract` and says how to make its plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.surgery.networks import HARD, REAL, Network
from tests.surgery.states import HOOKS, bits, state_of
from torch import nn
from torch.optim.swa_utils import AveragedModel

from normsmith.anatomy.forward import call, flat
from normsmith.surgery import Plan
from normsmith.surgery.plans.edits import Edit

ALL = {**REAL, **HARD}
LARGE = "hf-mobilenet-v2"
"""The network with the most layers; what else it has, a smaller one has too."""


class SurgeryContract:
    """`plan(model)` makes the operation's plan. It is tried on every network; `partial` where it refuses parts.

    `batch` is one of the network's, for operations that follow the model with data.
    """

    partial: bool = False
    batch: Any

    def plan(self, model: nn.Module) -> Plan:
        raise NotImplementedError

    def apply(self, plan: Plan, **options: Any) -> nn.Module:
        return plan.apply(partial=self.partial, **options)

    @pytest.fixture(params=[pytest.param(n, marks=pytest.mark.full if n == LARGE else []) for n in ALL])
    def network(self, request: pytest.FixtureRequest) -> Network:
        return ALL[request.param]

    @pytest.fixture(autouse=True)
    def _batch(self, network: Network) -> None:
        self.batch = network.batch()

    def test_planning_and_verifying_change_nothing(self, network: Network) -> None:
        model, batch = network.model(), network.batch()
        model.train()
        before = state_of(model)
        plan = self.plan(model)
        str(plan)
        assert state_of(model) == before
        plan.verify(batch)
        assert state_of(model) == before

    def test_everything_else_is_as_before(self, network: Network) -> None:
        model = network.model()
        optimizer = trained(model, network.batch())
        before, places = kept(model), groups(optimizer)
        plan = self.plan(model)
        changed = self.apply(plan, optimizer=optimizer)
        after = kept(changed)
        gone = tuple(path for change in plan.changes for path in (change.path, *change.also))
        for key, value in before.items():
            path = moved(key[0], plan.renamed)
            if not (within(key[0], gone) or ".".join(filter(None, key)) in gone):
                assert after[path, key[1]] == value, key
        assert_sharing_is_kept(plan, changed)
        mine = {id(p) for p in changed.parameters()}
        held = {parameter: (index, state) for parameter, index, state in groups(optimizer)}
        for parameter, index, state in places:
            if parameter in mine:
                assert held[parameter] == (index, state)
        assert {id(p) for p in changed.parameters() if p.requires_grad} <= held.keys() <= mine

    def test_reverting_restores_every_bit(self, network: Network) -> None:
        model, batch = network.model(), network.batch()
        ema, optimizer = AveragedModel(model), trained(model, batch)
        before = state_of(model), state_of(ema), groups(optimizer)
        plan = self.plan(model)
        self.apply(plan, optimizer=optimizer, ema=ema)
        plan.revert()
        assert state_of(model) == before[0]
        assert state_of(ema) == before[1]
        assert groups(optimizer) == before[2]

    def test_training_continues(self, network: Network) -> None:
        model, batch = network.model(), network.batch()
        ema, optimizer = AveragedModel(model), trained(model, batch)
        changed = self.apply(self.plan(model), optimizer=optimizer, ema=ema)
        values = [p.detach().clone() for p in changed.parameters() if p.requires_grad]
        for _ in range(2):
            step(changed, batch, optimizer)
        ema.update_parameters(changed)
        moved_ = [
            not torch.equal(value, p)
            for value, p in zip(values, (p for p in changed.parameters() if p.requires_grad), strict=True)
        ]
        assert any(moved_)
        assert all(bool(p.isfinite().all()) for p in changed.parameters())
        with torch.no_grad():
            assert all(
                bool(t.isfinite().all()) for t in flat(call(ema.eval(), batch)) if t.is_floating_point()
            )

    def test_an_exception_in_the_middle_leaves_everything_as_it_was(
        self, network: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, batch = network.model(), network.batch()
        ema, optimizer = AveragedModel(model), trained(model, batch)
        before = state_of(model), state_of(ema), groups(optimizer)
        plan = self.plan(model)
        edits = plan.edits
        for broken in sorted({0, len(edits) // 2, len(edits) - 1}):
            plan.edits = (*edits[:broken], Interrupted(edits[broken]), *edits[broken + 1 :])
            with pytest.raises(KeyboardInterrupt):
                self.apply(plan, optimizer=optimizer, ema=ema)
            assert (state_of(model), state_of(ema), groups(optimizer)) == before

    def test_a_copy_is_changed_alone_and_computes_the_same(self, network: Network) -> None:
        model, batch = network.model(), network.batch()
        before = state_of(model)
        plan = self.plan(model)
        twin = self.apply(plan, copy=True)
        assert state_of(model) == before
        with torch.no_grad():
            ours = list(flat(call(self.apply(self.plan(model)).eval(), batch)))
            theirs = list(flat(call(twin.eval(), batch)))
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))

    def test_a_plan_goes_to_another_process(self, network: Network) -> None:
        plan = self.plan(network.model())
        again = Plan.from_json(network.model(), plan.to_json())
        assert (again.changes, again.refusals, str(again)) == (plan.changes, plan.refusals, str(plan))


class Interrupted(Edit):
    """An edit that is interrupted when it is half done."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit

    def is_possible(self) -> bool:
        return self._edit.is_possible()

    def do(self) -> None:
        self._edit.do()
        raise KeyboardInterrupt

    def undo(self) -> None:
        self._edit.undo()

    def replaced(self) -> Any:
        return self._edit.replaced()


def step(model: nn.Module, batch: Any, optimizer: torch.optim.Optimizer) -> None:
    """One step down a loss of all outputs."""
    model.train()
    optimizer.zero_grad()
    outputs = [t for t in flat(call(model, batch)) if t.is_floating_point()]
    loss = sum(((t.float() - 1) ** 2).mean() for t in outputs)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    optimizer.step()


def trained(model: nn.Module, batch: Any) -> torch.optim.Optimizer:
    """An optimizer with a group for vectors and one for the rest, its state that of a step; the model in eval."""
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    rest = [p for p in model.parameters() if p.dim() > 1]
    optimizer = torch.optim.SGD([{"params": vectors, "lr": 1e-3}, {"params": rest}], lr=1e-2, momentum=0.9)
    step(model, batch, optimizer)
    optimizer.zero_grad()
    model.eval()
    return optimizer


def groups(optimizer: torch.optim.Optimizer) -> list[tuple[int, int, Any]]:
    """Each parameter with its group and its state, bit by bit."""

    def shown(state: Any) -> Any:
        return {
            name: bits(value) if isinstance(value, torch.Tensor) else value for name, value in state.items()
        }

    return [
        (id(p), index, shown(optimizer.state[p]))
        for index, group in enumerate(optimizer.param_groups)
        for p in group["params"]
    ]


def kept(model: nn.Module) -> dict[tuple[str, str], Any]:
    """What an operation leaves alone, by path: modules, modes, hooks, tensors and their flags, plain attributes."""
    found: dict[tuple[str, str], Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        hooks = {name: [id(hook) for hook in vars(module).get(name, {}).values()] for name in HOOKS}
        found[path, ":module"] = (id(module), type(module), module.training, hooks, list(vars(module)))
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                flags = (tensor.requires_grad, tensor.dtype, tensor.device, bits(tensor))
                found[path, name] = (id(tensor), *flags)
    return found


def within(path: str, gone: tuple[str, ...]) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in gone)


def moved(path: str, renamed: Any) -> str:
    for old, new in renamed.items():
        if path == old or path.startswith(f"{old}."):
            return new + path.removeprefix(old)
    return path


def assert_sharing_is_kept(plan: Plan, changed: nn.Module) -> None:
    """A module that several paths led to is one module still."""
    for change in plan.changes:
        if change.also:
            assert len({id(changed.get_submodule(path)) for path in (change.path, *change.also)}) == 1
