"""Sequences of different lengths: padded with a mask or packed, they equal sequences on their own."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.layers.recurrences import (
    both,
    draw,
    lively,
    oracle,
    padded,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from normsmith.errors import InputError
from normsmith.layers import BatchNormLSTM, use_mask
from normsmith.layers._sequences import reverse, sequences
from normsmith.layers.recurrent import RecurrentBase


@both
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True},  # sequences turn around within their lengths
        {"max_steps": 2, "bias": False},  # steps 1 to 4 share a row
        {"max_steps": 1},  # all steps share one
        {"normalize": "input", "bidirectional": True},
    ],
    ids=["plain", "deep", "late", "one-row", "input"],
)
@pytest.mark.parametrize("form", ["mask", "left", "holes", "packed"])
def test_padding_and_packing_equal_unpadded_sequences(
    cls: type[RecurrentBase], options: dict[str, object], form: str
) -> None:
    layer = lively(cls(3, 4, dtype=torch.float64, **options))
    xs = draw()
    expected, norms = oracle(layer, xs)
    upstream = [torch.randn_like(y) for y in expected]
    loss = sum((y * g).sum() for y, g in zip(expected, upstream, strict=True))
    wanted = torch.autograd.grad(loss, [*xs, *layer.parameters()])

    if form == "packed":
        packed = nn.utils.rnn.pack_sequence(xs, enforce_sorted=False)
        output, states = layer(packed)
        assert isinstance(output, PackedSequence)
        got, _ = pad_packed_sequence(output)
        ys = [got[: len(x), b] for b, x in enumerate(xs)]
    else:
        x, mask = padded(xs, value=float("nan"))
        place = torch.arange(len(x)).unsqueeze(1).expand(mask.shape)
        if form == "left":
            place = torch.stack([torch.arange(len(x)).roll(-len(own)) for own in xs], 1)
        elif form == "holes":
            place = torch.stack([torch.randperm(len(x)) for _ in xs], 1)
            keep = mask.gather(0, place)
            # shuffle where the steps are, not their order
            place = place.clone()
            for b in range(len(xs)):
                place[keep[:, b], b] = torch.arange(len(xs[b]))
        x = x.gather(0, place.unsqueeze(2).expand_as(x))
        mask = mask.gather(0, place)
        output, states = layer(x, mask=mask)
        assert (output[~mask] == 0).all()
        ys = [output[mask[:, b], b] for b in range(len(xs))]
    for y, e in zip(ys, expected, strict=True):
        torch.testing.assert_close(y, e, rtol=1e-10, atol=1e-10)
    loss = sum((y * g).sum() for y, g in zip(ys, upstream, strict=True))
    for gradient, e in zip(torch.autograd.grad(loss, [*xs, *layer.parameters()]), wanted, strict=True):
        torch.testing.assert_close(gradient, e, rtol=1e-9, atol=1e-9)
    for name, norm in norms.items():
        mean, var = norm.running()
        torch.testing.assert_close(layer.get_submodule(name).running_mean, mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(layer.get_submodule(name).running_var, var, rtol=1e-10, atol=1e-10)
    h = states[0] if cls is BatchNormLSTM else states
    width = h.shape[2]
    last = torch.stack([e[-1, :width] for e in expected])
    torch.testing.assert_close(h[-2 if layer.bidirectional else -1], last, rtol=1e-10, atol=1e-10)


@both
@pytest.mark.parametrize("normalize", ["all", "input"])
@pytest.mark.parametrize("lengths", [[3, 3], [3, 2]])
def test_within_use_mask_the_lengths_of_packed_sequences_count(
    cls: type[RecurrentBase], normalize: str, lengths: list[int]
) -> None:
    layer = cls(3, 4, normalize=normalize)
    packed = nn.utils.rnn.pack_sequence([torch.randn(length, 3) for length in lengths])
    expected, _ = copy.deepcopy(layer)(packed)
    with use_mask(layer, torch.zeros(3, 2, dtype=torch.bool)):
        got, _ = layer(packed)
    torch.testing.assert_close(got.data, expected.data)


@both
def test_packed_sequences_take_no_mask(cls: type[RecurrentBase]) -> None:
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 3), torch.randn(2, 3)])
    with pytest.raises(InputError, match="knows its lengths"):
        cls(3, 4)(packed, mask=torch.ones(3, 2, dtype=torch.bool))


@pytest.mark.parametrize("batch_first", [True, False])
def test_masked_steps_go_to_the_end_and_come_back(batch_first: bool) -> None:
    x = torch.arange(1.0, 9.0).view(4, 2, 1)
    mask = torch.tensor([[1, 0], [0, 1], [1, 1], [1, 0]])
    given, valid = (x.transpose(0, 1), mask.T) if batch_first else (x, mask)
    batch = sequences(given, valid, batch_first, 1)
    assert batch.x.squeeze(2).T.tolist() == [[1, 5, 7, 0], [4, 6, 0, 0]]
    assert batch.alive is not None
    assert batch.alive.T.tolist() == [[True, True, True, False], [True, True, False, False]]
    restored = batch.restore(batch.x)
    assert isinstance(restored, Tensor)
    assert torch.equal(restored, given * valid.unsqueeze(2))


def test_a_single_sequence_gets_a_batch_and_loses_it() -> None:
    x = torch.randn(4, 3)
    batch = sequences(x, None, True, 3)
    assert batch.x.shape == (4, 1, 3)
    assert not batch.batched
    assert torch.equal(batch.restore(batch.x), x)  # type: ignore[arg-type]


def test_packed_sequences_of_one_length_need_no_mask() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 2), torch.randn(3, 2)])
    batch = sequences(packed, None, False, 2)
    assert batch.alive is None
    restored = batch.restore(batch.x)
    assert isinstance(restored, PackedSequence)
    assert torch.equal(restored.data, packed.data)


def test_reversal_turns_each_sequence_within_its_length_and_is_its_own_inverse() -> None:
    x = torch.tensor([[1.0, 4.0], [2.0, 5.0], [3.0, 0.0]]).unsqueeze(2)
    alive = torch.tensor([[True, True], [True, True], [True, False]])
    turned = reverse(x, alive)
    assert turned.squeeze(2).T.tolist() == [[3, 2, 1], [5, 4, 0]]
    assert torch.equal(reverse(turned, alive), x)
    assert torch.equal(reverse(x, None), x.flip(0))
