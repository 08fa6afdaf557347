"""NS307: the ranks of a distributed run have statistics of their own; here as the files that each has saved."""

from __future__ import annotations

import copy

from tests.corpus import data, training
from tests.corpus.case import Given, case
from torch import nn

MAY = "403 404 406"


def ranks(base: str, parts: list[list[training.Pair]], norm: str | None = None) -> Given:
    """One network whose running statistics each rank has updated on its own part of the data, weights shared."""
    given = training.trained(base, norm)
    states = []
    for part in parts:
        rank: nn.Module = copy.deepcopy(given.model).train()
        for x, _ in part * (40 // len(part)):
            rank(x)
        states.append(copy.deepcopy(rank.state_dict()))
    given.model.load_state_dict(states[0])
    return training.around(given.model, base, saved_by_ranks=tuple(states))


def by_class(base: str) -> list[list[training.Pair]]:
    """Two parts: the small digits and the large ones."""
    x, y = training.samples(base)[0]
    return [data.batches((x[y < 5], y[y < 5]), most=5), data.batches((x[y >= 5], y[y >= 5]), most=5)]


def by_brightness(base: str) -> list[list[training.Pair]]:
    """Two parts, one of them with images of other brightness and contrast."""
    plain = data.batches(training.samples(base)[0], most=10)
    return [plain[:5], [(2 * x + 1, y) for x, y in plain[5:]]]


def alike(base: str) -> list[list[training.Pair]]:
    """Twice the same data."""
    plain = data.batches(training.samples(base)[0], most=5)
    return [plain, plain]


@case(
    "CNN",
    must="307",
    may=MAY,
    seen="DDP with broadcast_buffers=False, each rank evaluates with its own statistics",
)
def ranks_of_different_brightness() -> Given:
    """Two ranks read from different sources; weights are equal, buffers are not."""
    return ranks("cnn", by_brightness("cnn"))


@case("MLP", must="307", may=MAY, seen="a sampler that gives each rank its own classes")
def ranks_of_different_classes() -> Given:
    """Rank 0 has seen the digits below 5, rank 1 the others."""
    return ranks("mlp", by_class("mlp"))


@case(
    "Hugging Face",
    must="307",
    may=MAY,
    seen="federated training: clients keep local statistics in one global model",
)
def clients_of_different_brightness() -> Given:
    """A client's images are brighter; the weights are shared, the statistics local."""
    return ranks("hf", by_brightness("hf"))


@case("CNN", must_not="307")
def ranks_alike() -> Given:
    """Buffers of both ranks are equal, as DDP's broadcast leaves them."""
    return ranks("cnn", alike("cnn"))


@case("RNN", must_not="307")
def ranks_without_batch_norm() -> Given:
    """Group norms have no buffers to differ."""
    return ranks("gru", by_brightness("gru"), "group")


@case("MLP", must_not="307")
def single_rank() -> Given:
    """One rank alone has nobody to differ from."""
    return ranks("mlp", alike("mlp")[:1])
