"""The mode in which every call of torch's goes through a rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from unpadded import Runs

from normsmith import use_lengths
from normsmith.anatomy.lengths.following import name_of
from normsmith.errors import LengthsError


def followed(function) -> Tensor:
    net = Runs(function)
    with use_lengths(net, [8, 5]):
        return net(torch.ones(2, 3, 8))


def test_names_of_functions() -> None:
    assert name_of(Tensor.shape.__get__) == "get shape"
    assert name_of(Tensor.requires_grad.__set__) == "set requires_grad"
    assert name_of(torch.Tensor.__rsub__) == "sub"
    assert name_of(F.max_pool1d) == "max_pool1d"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: torch.fft.fft(x).real, "fft_fft: no rule"),
        (lambda x: x.renorm(2, 0, 1.0), "renorm: no rule"),
        (lambda x: x + torch.linspace(0, 1, x.size(-1)), "linspace: values are made from the size"),
        (lambda x: x + x.new_tensor(x.size(-1)), "new_tensor: values"),
        (lambda x: x + x.new_full((1,), x.size(-1)), "new_full: values"),
        (lambda x: x + torch.full((1,), x.size(-1)), "full: values"),
        (lambda x: x + torch.arange(x.size(-1), 0, -1), "arange: values"),
        (lambda x: x + torch.zeros(20)[x.size(-1) :][:8], "getitem: values"),
        (lambda x: x + torch.ones(20)[x.size(-1)], "getitem: values"),
        (lambda x: x * (torch.arange(x.size(-1)) / x.size(-1)), "div: values"),
        (lambda x: x.flip(-1), "flip: .*along dimension"),
    ],
)
def test_what_is_not_known_is_refused(function, words) -> None:
    with pytest.raises(LengthsError, match=words):
        followed(function)


def test_constants_shaped_by_a_size_are_constants() -> None:
    y = followed(lambda x: x * torch.arange(x.size(-1))[: x.size(-1)] + x.new_zeros(x.shape))
    assert y[1, 0].tolist() == [0, 1, 2, 3, 4, 0, 0, 0]


def test_tensors_from_nowhere_are_refused() -> None:
    """What a library computes outside of torch has no lengths that anybody knows."""
    hidden: list[Tensor] = []
    weight = torch.ones(3, 3, 1)
    hidden.append(torch.ones(2, 3, 8))
    with pytest.raises(
        LengthsError, match="conv1d takes a tensor that was made where no call of torch's is seen"
    ):
        followed(lambda x: F.conv1d(hidden[0], weight))


def test_without_lengths_any_function_is_called() -> None:
    assert followed(lambda x: torch.trace(x.mean(-1)[:, :2])).item() == 2.0
