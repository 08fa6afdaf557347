"""NS412 and NS106: one norm for things that have different statistics; one norm in several places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F

MAY = "202 401 403 404 406 408"
Change = Callable[[Tensor], Tensor]


def source(batch: Any) -> str:
    """Where a batch comes from: the third thing in it."""
    return batch[2]


def brighter(x: Tensor) -> Tensor:
    """Of twice the contrast, and brighter."""
    return 2 * x + 1.5


def two_sources(
    base: str, change: Change | None, *, norm: str | None = None, model: nn.Module | None = None
) -> Given:
    """Batches of two sources in turn, the second of them changed or not; trained on both for a while."""
    plain = data.batches(training.samples(base)[0], most=16)
    batches = [
        (change(x) if change and i % 2 else x, y, "second" if i % 2 else "first")
        for i, (x, y) in enumerate(plain)
    ]
    model = training.trained(base, norm).model if model is None else model
    training.train(model, [(x, y) for x, y, _ in batches], 60, rate=5e-3)
    return training.around(model, base, batches=batches, domain=source, validate=None)


@case(
    "CNN",
    must="412",
    may=MAY,
    seen="domain adaptation: source and target batches in turn through one batch norm",
)
def two_cameras_in_turn() -> Given:
    """Every other batch is of a camera with other brightness; the running average is of neither."""
    return two_sources("cnn", brighter)


@case("Hugging Face", must="412", may=MAY, seen="multi-site medical data, one site per batch")
def two_sites_in_turn() -> Given:
    """Two sites, batches pure, one set of running statistics."""
    return two_sources("hf", brighter)


@case("RNN", must="412", may=MAY, seen="multi-task training with batches of one task each")
def two_gains_in_turn() -> Given:
    """Sequences of two devices in turn, one of them at a seventh of the gain."""
    return two_sources("gru", lambda x: 0.15 * x)


@case("CNN", must_not="412 406")
def two_sources_alike() -> Given:
    """Batches are named by two sources, but the sources have the same statistics."""
    return two_sources("cnn", None)


@case("transformer-like", may="401", must_not="412 406")
def two_sources_without_batch_norm() -> Given:
    """Different sources, but group norms."""
    return two_sources("transformer", brighter, norm="group")


class OfEachSource(nn.Module):
    """A norm for each source; which one is told by the brightness of the batch's input, set by the network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.each = nn.ModuleList([nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)])
        self.chosen = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.each[self.chosen](x)


class SourceCnn(networks.Cnn):
    """The network with norms of each source."""

    def __init__(self) -> None:
        super().__init__(lambda channels, _: OfEachSource(channels))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.modules():
            if isinstance(module, OfEachSource):
                module.chosen = int(x.mean() > 0.75)
        return super().forward(x)


@case("CNN", may="401", must_not="412 106")
def norms_of_each_source() -> Given:
    """Domain-specific batch norm: each source has statistics of its own."""
    return two_sources("cnn", brighter, model=training.fitted(SourceCnn(), "cnn").model)


@case("MLP", must_not="412")
def classes_are_no_domains() -> Given:
    """Batches are shuffled and classes differ, as classes do; nobody named domains."""
    return training.trained("mlp")


# One norm in several places.

SHARED = "202 304 403 404 412"


class Shared(networks.Cnn):
    """One norm after both convolutions: they have the same width, so why have two?"""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(24, 24, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(24)
        del self.bn1, self.bn2

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv2(F.relu(self.bn(self.conv1(x))))))


@case("CNN", must="106", may=SHARED, seen="`self.bn` used after each convolution of the same width")
def norm_after_both_convolutions() -> Given:
    """One norm serves two convolutions whose outputs differ; its running statistics are a blend."""
    return training.fitted(Shared(), "cnn")


class Cell(nn.Module):
    """A recurrent cell that normalises its state with one norm at each step."""

    def __init__(self, *, norms: int) -> None:
        super().__init__()
        self.inp, self.rec = nn.Linear(8, 32), nn.Linear(32, 32, bias=False)
        self.bns = nn.ModuleList(nn.BatchNorm1d(32) for _ in range(norms))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 32)
        for step in range(x.shape[1]):
            bn = self.bns[step % len(self.bns)]
            state = torch.tanh(self.inp(x[:, step]) + bn(self.rec(state) if step else self.inp(x[:, step])))
        return self.head(state)


@case(
    "RNN",
    must="106",
    may=SHARED + " 502",
    seen="recurrent batch norm with one set of statistics for all steps",
)
def norm_shared_by_steps() -> Given:
    """A batch norm inside a recurrent cell is called once for each step, whose statistics differ."""
    return training.fitted(Cell(norms=1), "gru")


class Levels(nn.Module):
    """A head shared by two levels of a pyramid, norm included."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.head = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.bns = nn.ModuleList([nn.BatchNorm2d(12) for _ in range(1 if shared else 2)])
        self.out = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.stem(x))
        levels = [fine, F.max_pool2d(fine, 4)]
        maps = [F.relu(self.bns[i % len(self.bns)](self.head(level))) for i, level in enumerate(levels)]
        return self.out(torch.cat([level.mean((2, 3)) for level in maps], 1))


@case(
    "CNN",
    must="106",
    may=SHARED,
    seen="RetinaNet and NAS-FPN heads: shared convolutions need norms of their own per level",
)
def head_shared_by_levels() -> Given:
    """A detector's head is shared between pyramid levels together with its norm."""
    return training.fitted(Levels(shared=True), "cnn")


class SharedBlock(networks.Transformer):
    """One block, norms and all, applied twice: weights are shared between layers."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        for _ in range(2):
            x = self.blocks[0](x)
        return self.head(self.norm(x).mean(1))


@case(
    "transformer-like",
    must="106",
    may=SHARED,
    seen="weight sharing between layers as in ALBERT, with batch norm",
)
def block_applied_twice() -> Given:
    """Sharing a block between layers shares its running statistics too."""
    model = SharedBlock()
    model.blocks = model.blocks[:1]
    return training.fitted(model, "transformer")


@case("transformer-like", must_not="106 412")
def group_norm_shared_by_layers() -> Given:
    """The shared block with group norms, which keep no statistics."""
    model = SharedBlock(networks.group_norm)
    model.blocks = model.blocks[:1]
    return training.fitted(model, "transformer")


@case("CNN", must_not="106 412")
def head_with_norms_of_each_level() -> Given:
    """Convolutions are shared between levels, norms are not."""
    return training.fitted(Levels(shared=False), "cnn")


@case("RNN", must_not="106")
def norm_of_each_step() -> Given:
    """The recurrent cell with a norm for each step."""
    return training.fitted(Cell(norms=8), "gru")


@case("MLP", must_not="106 110 207")
def norm_registered_under_two_names() -> Given:
    """One norm has two names, but is called once in a forward."""
    return training.around(Named(training.trained("mlp").model), "mlp")


class Named(nn.Module):
    """A network that calls its layers by number, with another name for one of them."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.first_norm = network[1]
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)
