"""NS406: batches that are not drawn from the data at random."""

from __future__ import annotations

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case

MAY = "202 403 404 408"


def in_order(base: str, key: torch.Tensor, **changes: object) -> Given:
    """A trained base that is trained on a little with its samples in the order of a key."""
    x, y = training.samples(base)[0]
    order = key.argsort(stable=True)
    ordered = data.batches((x[order], y[order]))
    given = training.trained(base)
    training.train(given.model, ordered, 2 * len(ordered), loss=training.BASES[base].loss, rate=1e-3)
    return training.around(given.model, base, batches=ordered, **changes)


@case("CNN", must="406", may=MAY, seen="ImageFolder without shuffle: one class after the other")
def sorted_by_class() -> Given:
    """The loader reads folder after folder: every batch is of one digit."""
    return in_order("cnn", training.samples("cnn")[0][1])


@case("RNN", must="406", may=MAY, seen="sensor data read in the order of time, while the level drifts")
def sorted_by_level() -> Given:
    """Sequences come in the order of their mean, as a drifting sensor gives them."""
    return in_order("gru", training.samples("gru")[0][0].mean((1, 2)))


@case(
    "Hugging Face",
    must="406",
    may=MAY,
    seen="all patches of an image in one batch, all slices of one patient",
)
def batches_of_one_patient() -> Given:
    """Each batch is of one patient, with the patient's own brightness."""
    x, y = training.samples("hf")[0]
    count = len(x) // data.SIZE
    shifts = torch.linspace(-1, 1, count)[torch.randperm(count)]
    patients = [(a + shift, b) for (a, b), shift in zip(data.batches((x, y)), shifts, strict=True)]
    model = training.train(networks.hf_resnet(), patients, 100, rate=1e-2)
    return training.around(model, "hf", batches=patients, validate=None)


@case("MLP", must="406", may=MAY, seen="a table that was exported sorted by its label, shuffle=False")
def table_sorted_by_label() -> Given:
    """The rows of a table in the order of their label; each batch of 32 is of one label, or of two."""
    x, y = data.table("breast_cancer")
    order = y.argsort(stable=True)
    ordered = data.batches((x[order], y[order]), 32)
    model = training.train(networks.mlp(inputs=30, outputs=2), ordered, 100)
    return Given(model, ordered, loss=torch.nn.functional.cross_entropy, optimizer=training.adam)


@case("MLP", must_not="406")
def shuffled() -> Given:
    """The same table, shuffled."""
    x, y = data.table("breast_cancer")
    model = training.train(networks.mlp(inputs=30, outputs=2), training.epochs((x, y), 32), 100)
    batches = data.batches((x, y), 32)
    return Given(model, batches, loss=torch.nn.functional.cross_entropy, optimizer=training.adam)


@case("CNN", must_not="406")
def stratified() -> Given:
    """Every batch has the same share of each digit: less variance between batches than by chance."""
    x, y = training.samples("cnn")[0]
    ranks = torch.zeros(len(y))
    for digit in range(10):
        members = (y == digit).nonzero()[:, 0]
        ranks[members] = torch.arange(len(members)) / len(members) + digit * 1e-4
    order = ranks.argsort()
    given = training.trained("cnn")
    return training.around(given.model, "cnn", batches=data.batches((x[order], y[order])))


@case("transformer-like", must_not="406")
def sorted_without_batch_norm() -> Given:
    """Batches of one class, but group norms: nothing is shared within a batch."""
    x, y = training.samples("transformer")[0]
    order = y.argsort(stable=True)
    given = training.trained("transformer", "group")
    return training.around(given.model, "transformer", batches=data.batches((x[order], y[order])))


@case("RNN", must_not="406")
def few_shuffled_batches() -> Given:
    """Three batches, shuffled: too few to say much, and nothing is wrong."""
    given = training.trained("gru")
    return training.around(given.model, "gru", batches=data.batches(training.samples("gru")[0], most=3))


@case("Hugging Face", must_not="406 404")
def augmented_batches() -> Given:
    """Each image has a brightness of its own: samples differ, batches do not."""
    x, y = training.samples("hf")[0]
    x = x + 0.5 * torch.randn(len(x), 1, 1, 1)
    model = training.train(networks.hf_resnet(), training.epochs((x, y)), 100, rate=1e-2)
    return training.around(model, "hf", batches=data.batches((x, y), most=12), validate=None)
