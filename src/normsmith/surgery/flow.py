"""Follow a model's data through its `nn.Sequential`s: what comes before and after each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import fx, nn

from normsmith.surgery.kinds import (
    ACTIVATION_FUNCTIONS,
    ACTIVATIONS,
    NORM_FUNCTIONS,
    NORMS,
    PASSING,
    is_activation,
    is_leaf,
    is_norm,
    is_producer,
    is_sequential,
    plain_name,
)

Kind = Literal["activation", "norm", "unknown"]


@dataclass(frozen=True)
class Step:
    """A layer in a Sequential: its path, the Sequential that holds it and its name there."""

    path: str
    module: nn.Module
    parent: nn.Sequential
    name: str


@dataclass(frozen=True)
class Obstacle:
    """Something that cannot be changed because how data reaches it is not known, or not changeable."""

    path: str
    kind: Kind
    reason: str


@dataclass
class Flow:
    """Layers that run one after another; `continues`: layers with weights come after the last."""

    steps: list[Step] = field(default_factory=list)
    continues: bool = False

    def is_hidden(self, index: int) -> bool:
        """Whether a layer with weights comes after step `index`, so that it is not the network's output."""
        return self.continues or any(_has_weights(step.module) for step in self.steps[index + 1 :])

    def producer(self, index: int) -> Step | None:
        """The linear layer or convolution that decides how many channels reach step `index`."""
        for step in reversed(self.steps[:index]):
            if is_producer(step.module):
                return step
            if not isinstance(step.module, (*PASSING, *ACTIVATIONS, *NORMS)):
                return None
        return None

    def neighbour(self, index: int, direction: Literal[-1, 1]) -> Step | None:
        """The next step before or after `index`, identities left out."""
        position = index + direction
        while 0 <= position < len(self.steps):
            if type(self.steps[position].module) is not nn.Identity:
                return self.steps[position]
            position += direction
        return None


def follow(model: nn.Module) -> tuple[list[Flow], list[Obstacle]]:
    """Find every chain of layers in a model and everything that is in none.

    `nn.Sequential`s are followed by what they are; the forward of a module of another class is traced
    symbolically (torch.fx), with the random state and the module as before. Only a Sequential that the traced
    forward calls as a whole, once, is a chain.
    """
    trail = _Trail(Counter(id(module) for _, module in model.named_modules(remove_duplicate=False)))
    trail.visit(model, "", continues=False)
    return trail.flows, trail.obstacles


@dataclass
class _Trail:
    uses: Counter[int]
    flows: list[Flow] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)

    def visit(self, module: nn.Module, path: str, *, continues: bool) -> None:
        if is_sequential(module):
            flow = Flow(list(self._steps(module, path)), continues)
            self.flows.append(flow)
            for index, step in enumerate(flow.steps):
                if _is_foreign(step.module) or is_sequential(step.module):
                    self._visit_part(step.module, step.path, continues=flow.is_hidden(index))
        elif is_leaf(module):
            if is_norm(module) or (is_activation(module) and continues):
                kind: Kind = "norm" if is_norm(module) else "activation"
                self.obstacles.append(Obstacle(path, kind, "it is not in an nn.Sequential"))
        elif type(module).__module__.startswith("torch."):
            self._refuse(module, path, f"it is inside {type(module).__name__}, whose forward is fixed")
        else:
            self._visit_traced(module, path, continues=continues)

    def _steps(self, sequence: nn.Module, path: str) -> Iterator[Step]:
        for name in sequence._modules:
            child = sequence.get_submodule(name)
            child_path = _join(path, name)
            if is_sequential(child) and self.uses[id(child)] == 1:
                yield from self._steps(child, child_path)
            else:
                assert isinstance(sequence, nn.Sequential)
                yield Step(child_path, child, sequence, name)

    def _visit_part(self, module: nn.Module, path: str, *, continues: bool) -> None:
        if self.uses[id(module)] > 1:
            self._refuse(module, path, "it is part of a module that is used in several places")
        else:
            self.visit(module, path, continues=continues)

    def _visit_traced(self, module: nn.Module, path: str, *, continues: bool) -> None:
        graph = _traced(module)
        if isinstance(graph, str):
            self._refuse(module, path, f"the forward of {type(module).__name__} cannot be followed: {graph}")
            return
        calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        for node in graph.nodes:
            hidden = continues or _leads_to_weights(module, node)
            if node.op == "call_module":
                self._visit_call(module, path, str(node.target), calls[str(node.target)], hidden=hidden)
            elif (name := _function_name(node)) in NORM_FUNCTIONS or (
                name in ACTIVATION_FUNCTIONS and hidden
            ):
                kind: Kind = "norm" if name in NORM_FUNCTIONS else "activation"
                reason = f"{type(module).__name__}.forward calls the function {name}; make it a module"
                self.obstacles.append(Obstacle(path, kind, reason))
        for name, child in module.named_children():
            if not any(target == name or target.startswith(f"{name}.") for target in calls):
                self._refuse(child, _join(path, name), f"{type(module).__name__}.forward does not call it")

    def _visit_call(self, module: nn.Module, path: str, target: str, calls: int, *, hidden: bool) -> None:
        child, child_path = module.get_submodule(target), _join(path, target)
        if calls > 1 and not is_producer(child):
            self._refuse(child, child_path, f"{type(module).__name__}.forward calls it more than once")
        elif _is_in_sequential(module, target):
            self._refuse(
                child, child_path, f"{type(module).__name__}.forward picks it out of its nn.Sequential"
            )
        else:
            self._visit_part(child, child_path, continues=hidden)

    def _refuse(self, module: nn.Module, path: str, reason: str) -> None:
        """Every activation and norm inside is out of reach; so is what a foreign forward may hide."""
        kinds: set[Kind] = set()
        for name, part in module.named_modules(prefix=path):
            if is_activation(part) or is_norm(part):
                kind: Kind = "norm" if is_norm(part) else "activation"
                kinds.add(kind)
                self.obstacles.append(Obstacle(name, kind, reason))
        if "activation" not in kinds and any(_is_foreign(part) for part in module.modules()):
            self.obstacles.append(Obstacle(path, "unknown", reason))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _traced(module: nn.Module) -> fx.Graph | str:
    """The graph of a module's own forward, or the reason why there is none.

    A shallow copy runs it, so that attributes which a forward sets do not end up on the user's module.
    """
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            return _Tracer().trace(copy(module))
    except Exception as error:  # noqa: BLE001  somebody's forward meets proxies: anything may be raised
        return " ".join(f"{type(error).__name__}: {error}".split())


def _leads_to_weights(module: nn.Module, node: fx.Node) -> bool:
    seen: set[fx.Node] = set()
    waiting = list(node.users)
    while waiting:
        user = waiting.pop()
        if user in seen:
            continue
        seen.add(user)
        if any(source.op == "get_attr" for source in user.all_input_nodes):
            return True
        if user.op == "call_module":
            called = module.get_submodule(str(user.target))
            if _has_weights(called):
                return True
        waiting.extend(user.users)
    return False


def _function_name(node: fx.Node) -> str:
    if node.op == "call_method":
        return plain_name(str(node.target))
    return plain_name(str(getattr(node.target, "__name__", ""))) if node.op == "call_function" else ""


def _has_weights(module: nn.Module) -> bool:
    """Whether a module, or one inside it, has weights that are neither a norm's nor an activation's."""
    return any(
        any(True for _ in part.parameters(recurse=False))
        for part in module.modules()
        if not (is_norm(part) or is_activation(part))
    )


def _is_foreign(module: nn.Module) -> bool:
    """Neither a leaf of torch nor a Sequential: something with a forward that has to be looked into."""
    return not (
        is_leaf(module) or is_sequential(module) or isinstance(module, (nn.ModuleList, nn.ModuleDict))
    )


def _is_in_sequential(module: nn.Module, target: str) -> bool:
    parts = target.split(".")
    prefixes = (".".join(parts[:count]) for count in range(1, len(parts)))
    return any(is_sequential(module.get_submodule(prefix)) for prefix in prefixes)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
