"""The tensor that is meant in a batch: by a key, an index or a function, or the first of several."""

import pytest
import torch

from normsmith.errors import InputError
from normsmith.layers.batches import tensor_of_batch

X = torch.ones(2)
Y = torch.zeros(2)


@pytest.mark.parametrize(
    ("batch", "select"),
    [
        (X, None),
        ((X, Y), None),
        ([X, Y], 0),
        ((Y, X), 1),
        ({"x": X, "y": Y}, "x"),
        ({"x": X, "y": Y}, lambda batch: batch["x"]),
    ],
)
def test_the_tensor_that_is_meant(batch, select):
    assert tensor_of_batch(batch, select, "select") is X


@pytest.mark.parametrize(
    ("batch", "select", "says"),
    [
        ((), None, "inputs: expected a tensor, got a tuple of 0; say what of a batch is meant"),
        ({"x": X}, None, r"expected a tensor, got a dict with the keys \['x'\]"),
        ({"x": X}, "y", "inputs: expected a batch with 'y' in it"),
        ((X,), 1, "expected a batch with 1 in it, got a tuple of 1; inputs takes a key, an index"),
        (3, "x", "expected a batch with 'x' in it, got a int"),
        (X, lambda batch: batch.tolist(), "expected a tensor, got a list of 2"),
    ],
)
def test_what_is_no_tensor_is_refused(batch, select, says):
    with pytest.raises(InputError, match=says):
        tensor_of_batch(batch, select, "inputs")
