"""Which batches are looked at, and what is known of the others."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from normsmith.checks.batches import MOST, Sizes, first_batches, first_rows, rows, sizes
from normsmith.checks.finding import UnavailableError


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(40.0))


def data(samples: int) -> TensorDataset:
    return TensorDataset(torch.arange(float(samples)))


def test_a_loader_of_any_length_is_looked_at_in_part():
    assert len(first_batches([1] * 100)) == MOST
    assert first_batches(iter([1, 2])) == [1, 2]


def test_no_worker_is_started(monkeypatch):
    def never(*_):
        raise AssertionError("a worker process")

    monkeypatch.setattr(torch.utils.data.dataloader, "_MultiProcessingDataLoaderIter", never)
    loader = DataLoader(data(10), batch_size=4, num_workers=2, shuffle=True)
    assert [len(batch[0]) for batch in first_batches(loader)] == [4, 4, 2]
    stream = DataLoader(Stream(), batch_size=10, num_workers=2)
    assert [len(batch) for batch in first_batches(stream)] == [10, 10, 10, 10]


def test_nothing_is_no_batch():
    with pytest.raises(UnavailableError, match="no batch came"):
        first_batches([])


def breaking(after: int):
    for number in range(after):
        yield torch.full((2, 1), float(number))
    raise OSError("the disk is gone")


def test_what_came_before_an_error_counts():
    assert len(first_batches(breaking(3))) == 3
    with pytest.raises(UnavailableError, match="first batch: OSError: the disk is gone"):
        first_batches(breaking(0))


@pytest.mark.parametrize(
    ("batches", "known"),
    [
        (DataLoader(data(10), batch_size=4), Sizes(4, 2, False)),
        (DataLoader(data(10), batch_size=4, shuffle=True), Sizes(4, 2, True)),
        (DataLoader(data(10), batch_size=4, drop_last=True), Sizes(4, 4, False)),
        (DataLoader(data(8), batch_size=4), Sizes(4, 4, False)),
        (DataLoader(data(3), batch_size=4), Sizes(3, 3, False)),
        ([torch.zeros(4, 1), torch.zeros(3, 1)], Sizes(4, 3, None)),
    ],
)
def test_sizes(batches, known):
    assert sizes(batches, first_batches(batches)) == known


def test_sizes_of_an_iterator_are_known_if_it_ended():
    assert sizes(iter([]), [torch.zeros(4, 1), torch.zeros(1, 1)]) == Sizes(4, 1, None)
    with pytest.raises(UnavailableError, match="no DataLoader that tells"):
        sizes(iter([]), [torch.zeros(4, 1)] * MOST)


def test_rows_are_those_of_the_first_tensor():
    assert rows(("name", torch.zeros(3, 2))) == 3
    assert rows(torch.tensor(1.0)) == 0


def test_first_rows_of_what_has_samples():
    batch = {"x": torch.zeros(5, 2), "name": "n", "weights": torch.zeros(3), "scale": torch.tensor(1.0)}
    few = first_rows(batch, 2)
    assert {name: getattr(part, "shape", part) for name, part in few.items()} == {
        "x": (2, 2),
        "name": "n",
        "weights": (3,),
        "scale": (),
    }
