"""The fingerprint moves with all that decides a trial's result, and with nothing else."""

import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from normsmith.tasks import Task, accuracy, digits_cnn, digits_mlp, fingerprint, load

SCALE = 1.0


class Samples(Dataset):
    def __init__(self, count=90, shift=0.0, root="/somewhere"):
        self.count, self.shift, self.root = count, shift, root

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.full((3,), index + self.shift), {"label": index % 2, "name": f"{index}"}


class Block(nn.Module):
    def __init__(self, power=1):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.power = power

    def forward(self, x):
        return self.linear(x) ** self.power


class BlockWithAnotherForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.power = 1

    def forward(self, x):
        return -(self.linear(x) ** self.power)


BlockWithAnotherForward.__qualname__ = BlockWithAnotherForward.__name__ = "Block"


def scaled_loss(output, target):
    return SCALE * nn.functional.cross_entropy(output, target)


def base(**changes):
    x, y = torch.arange(300.0).reshape(100, 3), torch.arange(100) % 2
    arguments = {
        "model": Block,
        "train": (x, y),
        "validation": (x[:9], y[:9]),
        "test": (x[:9], y[:9]),
        "loss": nn.functional.cross_entropy,
        "metric": accuracy,
    }
    return Task(**(arguments | changes))


def test_it_is_the_same_for_equal_tasks_and_draws_nothing():
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = fingerprint(base())
    torch.rand(4)
    assert fingerprint(base()) == first
    assert len(first) == 64
    torch.manual_seed(5)
    fingerprint(base())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


def frozen_block():
    return Block().eval()


def nudged():
    x, y = torch.arange(300.0).reshape(100, 3), torch.arange(100) % 2
    x[57, 1] += 1e-4
    return x, y


@pytest.mark.parametrize(
    "changes",
    [
        {"model": lambda: nn.Linear(3, 2)},
        {"model": partial(Block, power=2)},
        {"model": BlockWithAnotherForward},
        {"model": frozen_block},
        {"loss": lambda output, target: 2 * nn.functional.cross_entropy(output, target)},
        {"loss": partial(nn.functional.cross_entropy, label_smoothing=0.1)},
        {"loss": nn.CrossEntropyLoss()},
        {"metric": lambda output, target: -accuracy(output, target)},
        {"optimizer": torch.optim.Adam},
        {"forward": lambda model, batch: (model(batch[0] + 1), batch[1])},
        {"batch_size": 32},
        {"train": nudged()},
        {"validation": nudged()},
        {"test": nudged()},
        {"train": Samples()},
    ],
)
def test_what_decides_the_result_counts(changes):
    assert fingerprint(base(**changes)) != fingerprint(base())


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 7},
        {"learning_rates": (0.5,)},
        {"name": "other"},
        {"description": "words"},
        {"target": 0.5},
        {"activations": ("tanh",)},
        {"higher_is_better": False},
    ],
)
def test_what_a_trial_brings_or_only_judges_does_not_count(changes):
    assert fingerprint(base(**changes)) == fingerprint(base())


def closing_over(value):
    return lambda output, target: value * nn.functional.cross_entropy(output, target)


def with_default(value):
    def loss(output, target, weight=value):
        return weight * nn.functional.cross_entropy(output, target)

    return loss


@pytest.mark.parametrize("make", [closing_over, with_default])
def test_closures_and_defaults_count(make):
    assert fingerprint(base(loss=make(1.0))) == fingerprint(base(loss=make(1.0)))
    assert fingerprint(base(loss=make(1.0))) != fingerprint(base(loss=make(2.0)))
    assert fingerprint(base(loss=make(torch.ones(2)))) != fingerprint(
        base(loss=make(torch.tensor([1.0, 2.0])))
    )


def test_globals_that_a_function_uses_count(monkeypatch):
    before = fingerprint(base(loss=scaled_loss))
    monkeypatch.setitem(scaled_loss.__globals__, "SCALE", 3.0)
    assert fingerprint(base(loss=scaled_loss)) != before


def test_other_datasets_count_by_their_samples_not_their_attributes():
    first = fingerprint(base(train=Samples()))
    assert fingerprint(base(train=Samples(root="/elsewhere"))) == first
    assert fingerprint(base(train=Samples(shift=0.5))) != first
    assert fingerprint(base(train=Samples(count=91))) != first


def test_of_a_large_dataset_an_even_subset_is_read():
    class Large(Samples):
        read = 0

        def __getitem__(self, index):
            type(self).read += 1
            return super().__getitem__(index)

    task = base(train=Large(count=50_000))
    Large.read = 0
    fingerprint(task)
    assert Large.read == 4096


def test_recursive_functions_and_values_end():
    def fold(output, target, depth=2):
        if depth:
            return fold(output, target, depth - 1)
        return nn.functional.cross_entropy(output, target)

    knot = {}
    knot["self"] = knot
    assert fingerprint(base(loss=fold)) == fingerprint(base(loss=fold))
    assert fingerprint(base(loss=partial(fold, depth=knot))) == fingerprint(
        base(loss=partial(fold, depth=knot))
    )


def test_a_dataset_that_augments_at_random_has_one_fingerprint():
    class Noisy(Samples):
        def __getitem__(self, index):
            return torch.randn(3), index % 2

    assert fingerprint(base(train=Noisy())) == fingerprint(base(train=Noisy()))


FILE = """
    import enum
    import torch
    from torch import nn
    from normsmith.tasks import Task

    {comment}
    NAMES = {{"b", "a", "c", "zz", "q"}}
    class Mode(enum.Enum):
        FAST = 1

    class Net(nn.Module):
        kinds = frozenset(["x", "y", "z"])
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
            self.thing = object()
            self.mode = Mode.FAST
        def forward(self, x):
            return self.body(x)

    def helper(output):
        return output * {factor}

    def loss(output, target):
        if "b" in {{"a", "b", "c"}} and NAMES:
            return nn.functional.cross_entropy(helper(output), target)

    x, y = torch.arange(300.).reshape(100, 3), torch.arange(100) % 2
    task = Task(model=Net, train=(x, y), test=(x, y), loss=loss,
                metric=lambda output, target: float((output.argmax(1) == target).float().mean()))
"""


def fingerprint_elsewhere(path, **environment):
    code = f"from normsmith.tasks import fingerprint, load; print(fingerprint(load({str(path) + ':task'!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path)), **environment},
    )  # fmt: skip
    return done.stdout.strip()


def write(path, comment="# nothing", factor=1):
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(FILE).format(comment=comment, factor=factor))
    return path


def test_it_is_the_same_in_every_process(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    elsewhere = fingerprint_elsewhere(write(tmp_path / "a" / "mine.py"), PYTHONHASHSEED="1")
    same = write(tmp_path / "b" / "yours.py", comment="# another line\n    # and more")
    other = write(tmp_path / "c" / "mine.py", factor=2)
    assert fingerprint(load(f"{same}:task")) == elsewhere
    assert fingerprint(load(f"{other}:task")) != elsewhere


def test_the_embedded_tasks_differ():
    assert fingerprint(digits_mlp()) != fingerprint(digits_cnn())
    assert fingerprint(digits_mlp()) != fingerprint(replace(digits_mlp(), batch_size=32))
