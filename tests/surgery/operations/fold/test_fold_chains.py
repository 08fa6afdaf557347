"""Folding through chains of reshapes by chance, against the network that is not folded."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

from tests.surgery.exact import check_same, draw, ready
from tests.surgery.small import Net
from torch import Tensor, nn

from normsmith.surgery import fold


def chance_chain(chance: random.Random, shape: list[int]) -> list[Callable[[Tensor], Tensor]]:
    """Moves that hold for other sizes of the batch too, as long as they do not mix it with the rest."""
    chain: list[Callable[[Tensor], Tensor]] = []
    for _ in range(chance.randint(1, 4)):
        kind = chance.choice(["transpose", "flatten", "unflatten", "unsqueeze", "slice"])
        first = chance.randrange(len(shape))
        last = chance.randrange(first, len(shape))
        if kind == "transpose":
            chain.append(lambda x, a=first, b=last: x.transpose(a, b))
            shape[first], shape[last] = shape[last], shape[first]
        elif kind == "flatten" and last - first < 2:
            chain.append(lambda x, a=first, b=last: x.flatten(a, b))
            shape[first : last + 1] = [math.prod(shape[first : last + 1])]
        elif kind == "unflatten" and shape[first] % 2 == 0 and first:
            chain.append(lambda x, a=first, s=(2, shape[first] // 2): x.unflatten(a, s))
            shape[first : first + 1] = [2, shape[first] // 2]
        elif kind == "unsqueeze" and len(shape) < 4:
            chain.append(lambda x, a=first: x.unsqueeze(a))
            shape.insert(first, 1)
        elif kind == "slice" and last == len(shape) - 1 and shape[last] > 3:
            chain.append(lambda x: x[..., ::2])
            shape[last] = (shape[last] + 1) // 2
    return chain


def chain_network(seed: int) -> tuple[nn.Module, list[tuple[int, ...]]] | None:
    """A layer and a norm with a chain of moves between the two, and shapes for it; None where no norm takes that."""
    chance = random.Random(seed)
    linear, before = chance.random() < 0.5, chance.random() < 0.5
    start = (3, 4, 6) if linear else (3, 6, 4)
    shape = list(start)
    chain = chance_chain(chance, shape)
    if not 2 <= len(shape) <= 3:
        return None
    if before:
        if not linear and len(shape) != 3:
            return None
        layer = nn.Linear(shape[-1], 5) if linear else nn.Conv1d(shape[1], 5, 1)
        parts: list[nn.Module] = [nn.BatchNorm1d(start[1]), layer]
    else:
        parts = [nn.Linear(6, 6) if linear else nn.Conv1d(6, 6, 1), nn.BatchNorm1d(shape[1])]

    def body(net: Any, x: Tensor) -> Tensor:
        x = net.first(x)
        for move in chain:
            x = move(x)
        return net.last(x)

    return ready(Net(body, first=parts[0], last=parts[1])), [start, (5, *start[1:])]


def test_chains_of_moves_are_exact_or_refused() -> None:
    folded, tried = 0, 0
    for seed in range(400):
        network = chain_network(seed)
        if network is None:
            continue
        model, shapes = network
        plan = fold(copy.deepcopy(model), draw(*shapes[0]))
        tried += 1
        if not plan.changes:
            continue
        folded += 1
        other = plan.apply()
        check_same(model, other, draw(*shapes[0]))
        try:
            model(draw(*shapes[1]))
        except (ValueError, RuntimeError):  # the chain has mixed the batch into a size that a layer expects
            continue
        check_same(model, other, draw(*shapes[1]))
    assert tried > 150
    assert folded > tried / 5
