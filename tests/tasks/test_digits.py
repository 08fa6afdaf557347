"""The embedded digits: sizes, stratification, scale, and that they can be learnt."""

import builtins

import pytest
import torch
from torch import nn

from normsmith.errors import MissingExtraError
from normsmith.surgery import insert, strip
from normsmith.tasks import batches, build, digits_cnn, digits_mlp, digits_rnn, evaluate
from normsmith.tasks import digits as digits_module
from normsmith.tasks.digits import Elman


@pytest.mark.parametrize(
    ("task", "shape"), [(digits_mlp(), (64,)), (digits_cnn(), (1, 8, 8)), (digits_rnn(), (32, 2))]
)
def test_splits(task, shape):
    sizes = {split: len(task.dataset(split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 1077, "validation": 360, "test": 360}
    images = torch.cat([task.dataset(split).tensors[0] for split in sizes])
    assert images.shape[1:] == shape
    assert abs(float(images.mean())) < 1e-4
    assert images.max() - images.min() == 1
    for split, size in sizes.items():
        counts = torch.bincount(task.dataset(split).tensors[1])
        assert counts.max() - counts.min() <= 0.03 * size


def test_no_image_is_in_two_splits_and_all_are_used():
    from sklearn.datasets import load_digits

    task = digits_mlp()
    rows = torch.cat([task.dataset(split).tensors[0] for split in ("train", "validation", "test")])
    pixels = (rows * 16 + 4.884).round().long()
    whole = torch.from_numpy(load_digits().data).long()
    assert sorted(map(tuple, pixels.tolist())) == sorted(map(tuple, whole.tolist()))


@pytest.mark.parametrize(
    ("task", "rate", "reached"), [(digits_mlp(), 2**-4, 0.88), (digits_cnn(), 2**-2, 0.5)]
)
def test_they_learn(task, rate, reached):
    model = build(task, 0)
    optimizer = task.optimizer(model.parameters(), rate)
    stream = batches(task, torch.Generator().manual_seed(0))
    start = evaluate(task, model, "test")
    for _ in range(150):
        output, target = task.forward(model, next(stream))
        optimizer.zero_grad()
        task.loss(output, target).backward()
        optimizer.step()
    loss, metric = evaluate(task, model, "test")
    assert loss < start[0]
    assert metric > reached


@pytest.mark.parametrize("task", [digits_mlp(), digits_cnn()], ids=lambda task: task.name)
def test_surgery_works_on_them(task):
    model = task.model()
    insert(model, lambda n, p: nn.GroupNorm(2, n)).apply()
    assert sum(isinstance(layer, nn.GroupNorm) for layer in model) == 3
    strip(model).apply()
    assert [type(layer) for layer in model] == [type(layer) for layer in task.model()]


def test_the_recurrent_network_is_torchs():
    network, theirs = Elman(2, 5, 3), nn.RNN(2, 5, batch_first=True)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(network.input.weight)
        theirs.bias_ih_l0.copy_(network.input.bias)
        theirs.weight_hh_l0.copy_(network.state.weight)
        theirs.bias_hh_l0.zero_()
    x = torch.randn(4, 7, 2)
    torch.testing.assert_close(network(x), network.head(theirs(x)[0][:, -1]))


def test_the_recurrent_network_reads_pixels_row_by_row():
    image = digits_mlp().train.tensors[0][0]
    assert torch.equal(digits_rnn().train.tensors[0][0].flatten(), image)


def test_the_recurrent_network_learns():
    """A few steps: it is slower than the others."""
    task = digits_rnn()
    model = build(task, 0)
    optimizer = task.optimizer(model.parameters(), 2**-6)
    stream = batches(task, torch.Generator().manual_seed(0))
    losses = []
    for _ in range(40):
        output, target = task.forward(model, next(stream))
        losses.append(task.loss(output, target))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(name, name=name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"normsmith\[study\]"):
        digits_module._digits.__wrapped__()
