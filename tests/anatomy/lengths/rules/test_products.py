"""Linear layers, products, softmax and attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unpadded import Runs, assert_as_alone, run_padded

from normsmith import use_lengths
from normsmith.errors import LengthsError

SAMPLES = [torch.randn(1, n, 4) for n in (9, 5, 12)]
WEIGHT = torch.randn(6, 4)


class Attention(nn.Module):
    """`nn.MultiheadAttention` of each step to all."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.heads(x, x, x)[0]


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(Runs(lambda x: F.linear(x, WEIGHT)), id="linear"),
        pytest.param(Runs(lambda x: x @ x.transpose(1, 2) @ x), id="a sum over lengths"),
        pytest.param(Runs(lambda x: (x.mT @ x).softmax(-1)), id="channels with channels"),
        pytest.param(Runs(lambda x: (x[..., :1].softmax(1) * x).sum(1)), id="weights of positions"),
        pytest.param(Runs(lambda x: F.log_softmax(x, dim=1)), id="log_softmax over time"),
        pytest.param(Runs(lambda x: torch.einsum("ntc,nsc,nsd->ntd", x, x, x)), id="einsum"),
        pytest.param(Runs(lambda x: F.scaled_dot_product_attention(x, x, x)), id="attention without a mask"),
        pytest.param(Runs(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)), id="causal"),
        pytest.param(Attention(), id="multi-head"),
        pytest.param(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), id="a transformer layer"),
    ],
)
def test_each_sample_is_what_it_is_alone(net) -> None:
    assert_as_alone(net, SAMPLES, (1,), layout="NTC")


def test_words_are_embedded() -> None:
    words = [torch.randint(0, 9, (1, n)) for n in (7, 4)]
    net = nn.Sequential(nn.Embedding(9, 3), Runs(lambda x: x.mean(1)))
    batch = torch.stack([F.pad(each[0], (0, 8 - each.shape[1])) for each in words])
    with use_lengths(net, [7, 4]):
        together = net(batch)
    torch.testing.assert_close(together, torch.cat([net(each) for each in words]))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: F.linear(x.mT, torch.ones(2, x.shape[1])), "weights are made for one length"),
        (lambda x: torch.ones(3, x.shape[1]) @ x, "lengths and a fixed size"),
        (lambda x: torch.einsum("ntc,tc->nt", x, torch.ones(x.shape[1:])) @ torch.ones(2, 2), "product"),
        (lambda x: torch.einsum("...c,...c->...", x, x), "ellipsis"),
        (lambda x: torch.softmax(x, 0), "over samples"),
        (lambda x: F.linear(torch.ones(1, 4), x[:, 0]), "weights are computed"),
        (lambda x: x @ torch.ones(4), "a product with a vector"),
    ],
)
def test_weights_over_positions_are_refused(function, words) -> None:
    with pytest.raises(LengthsError, match=words):
        run_padded(function, SAMPLES, (1,), layout="NTC")
