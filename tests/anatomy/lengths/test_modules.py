"""Modules that are followed as a whole: our layers, and those with a rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unpadded import Runs, assert_as_alone, padded, run_padded

from normsmith import use_lengths, use_mask
from normsmith.errors import LengthsError
from normsmith.layers import (
    BatchNorm1d,
    BatchNormAct1d,
    BatchNormGRU,
    BatchNormLSTM,
    BatchRenorm1d,
    InputNorm,
    Whiten1d,
)

SAMPLES = [torch.randn(1, 4, n) for n in (9, 5, 12)]
LENGTHS = [9, 5, 12]


@pytest.mark.parametrize(
    "layer",
    [
        BatchNorm1d(4, momentum=None),
        BatchRenorm1d(4, total_steps=10, momentum=None),
        BatchNormAct1d(4, momentum=None),
        InputNorm(4),
        Whiten1d(4, momentum=None),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_statistics_are_those_of_valid_positions(layer) -> None:
    """As from the positions of all samples in one row, which no padding is between."""
    net = nn.Sequential(layer, nn.Conv1d(4, 4, 3, padding=1)).train()
    with use_lengths(net, LENGTHS) as lengths:
        together = net(padded(SAMPLES))
    after = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    layer.reset_running_stats() if not isinstance(layer, InputNorm) else layer.reset_parameters()
    alone = layer(torch.cat(SAMPLES, dim=2)).split(LENGTHS, dim=2)
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(after[name], buffer, rtol=1e-5, atol=1e-6)
    for i, rows in enumerate(alone):
        torch.testing.assert_close(together[i : i + 1, :, : LENGTHS[i]], net[1](rows), rtol=1e-4, atol=1e-5)
    assert lengths.lengths_of(together).tolist() == LENGTHS


@pytest.mark.parametrize("kind", [BatchNormLSTM, BatchNormGRU])
def test_recurrent_layers_of_ours(kind) -> None:
    network = kind(4, 3, bidirectional=True, batch_first=True)
    net = Runs(lambda x: network(x.mT)[0] + network(x.mT)[1][0].sum().mul(0), network)
    assert_as_alone(net, SAMPLES)


def test_a_residual_must_have_the_lengths_of_the_input() -> None:
    norm = BatchNormAct1d(4).eval()
    assert_as_alone(Runs(lambda x: norm(x, residual=x * 2), norm), SAMPLES)
    with pytest.raises(LengthsError, match="its residual has other lengths"):
        run_padded(Runs(lambda x: norm(x[..., 1:], residual=F.pad(x, (0, -2))), norm), SAMPLES)


@pytest.mark.parametrize("order", ["T·N", "N·T"])
def test_a_flat_mask_in_the_wrong_order_is_noticed(order) -> None:
    """(T·N, C) is what the norm gets; a mask flattened from (N, T) fits its shape as well."""
    mask = torch.arange(15) < torch.tensor(LENGTHS).unsqueeze(1)
    norm = BatchNorm1d(4)
    net = Runs(
        lambda x: norm(x.permute(2, 0, 1).flatten(0, 1)).view(x.shape[2], len(x), 4).permute(1, 2, 0), norm
    )
    flat = (mask.T if order == "T·N" else mask).flatten()
    with use_mask(net, flat), use_lengths(net, LENGTHS):
        if order == "N·T":
            with pytest.raises(
                LengthsError, match=r"its mask is flat in the order N·T, and its input in the order T·N"
            ):
                net(padded(SAMPLES))
        else:
            net(padded(SAMPLES))


@pytest.mark.parametrize("mask", [torch.ones(3, 15), torch.ones(3, 4)])
def test_other_masks_are_refused(mask) -> None:
    net = nn.Sequential(BatchNorm1d(4))
    with (
        pytest.raises(LengthsError, match=r"0 cannot be followed: a mask .*is given to it"),
        use_mask(net, mask.bool()),
        use_lengths(net, LENGTHS),
    ):
        net(padded(SAMPLES))


def test_channels_must_be_channels() -> None:
    norm = BatchNorm1d(15)
    with pytest.raises(LengthsError, match="dimension 1 of its input, its channels"):
        run_padded(Runs(lambda x: norm(x.mT), norm), SAMPLES)


class Halves(nn.Module):
    """Something that no rule is known for: it looks at every second position, through numpy."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(x.detach().numpy()[..., ::2].copy()), x[0]


def test_rules_stand_in_for_what_cannot_be_followed() -> None:
    halves, norm = Halves(), BatchNorm1d(4)
    net = Runs(lambda x: F.max_pool1d(norm(halves(x)[0]), 2), halves, norm)
    with pytest.raises(LengthsError, match=r"layers\.0 cannot be followed: numpy: no rule"):
        run_padded(net, SAMPLES)
    for name in ("layers.0", "*.0", Halves):
        assert_as_alone(net, SAMPLES, rules={name: lambda lengths: (lengths + 1) // 2})
    with pytest.raises(LengthsError, match=r"layers\.0 cannot be followed: its rule does not fit"):
        run_padded(net, SAMPLES, rules={Halves: lambda lengths: lengths})


def test_what_a_rule_says_nothing_of_must_not_be_used() -> None:
    halves = Halves()
    net = Runs(lambda x: halves(x)[1] + 1, halves)
    with pytest.raises(LengthsError, match="beside its first tensor"):
        run_padded(net, SAMPLES, rules={Halves: lambda lengths: (lengths + 1) // 2})
