"""Batch-normalized LSTM and GRU, called as torch's: arguments, states, policy, and what does not fit."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.layers.recurrences import (
    TORCHS,
    as_identity,
    both,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from normsmith.errors import InputError
from normsmith.layers import BatchNormGRU, BatchNormLSTM, use_mask
from normsmith.layers.recurrent import RecurrentBase


@both
@pytest.mark.parametrize("normalize", ["all", "input"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True},
        {"num_layers": 3, "batch_first": True, "bias": False},
        {"bidirectional": True, "batch_first": True},
    ],
    ids=["plain", "deep", "batch-first", "bidirectional"],
)
@pytest.mark.parametrize("form", ["tensor", "packed", "sorted", "unbatched"])
def test_with_idle_norms_it_is_torchs(
    cls: type[RecurrentBase], normalize: str, options: dict[str, object], form: str
) -> None:
    theirs, ours = TORCHS[cls](3, 4, **options), cls(3, 4, normalize=normalize, **options)
    as_identity(ours, theirs)
    ours.eval()
    batch_first = ours.batch_first
    x = torch.randn(5, 4, 3) if batch_first else torch.randn(4, 5, 3)
    h = torch.randn(ours.num_layers * ours.directions, 5, 4)
    lengths = [4, 1, 3, 2, 4] if form == "packed" else [4, 3, 3, 2, 1]
    given: Tensor | PackedSequence = x
    if form in {"packed", "sorted"}:
        given = pack_padded_sequence(
            x, torch.tensor(lengths), batch_first=batch_first, enforce_sorted=form == "sorted"
        )
    elif form == "unbatched":
        given, h = (x[0] if batch_first else x[:, 0]), h[:, 0]
    for hx in (None, h if cls is BatchNormGRU else (h, h.cos())):
        expected, got = theirs(given, hx), ours(given, hx)
        if isinstance(expected[0], PackedSequence):
            assert isinstance(got[0], PackedSequence)
            torch.testing.assert_close(got[0].data, expected[0].data, rtol=1e-5, atol=1e-5)
            for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
                mine, other = getattr(got[0], name), getattr(expected[0], name)
                assert (mine is None and other is None) or torch.equal(mine, other)
        else:
            torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got[1], expected[1], rtol=1e-5, atol=1e-5)


@both
def test_policy_freeze_and_evaluation(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4)
    layer(torch.randn(3, 6, 3))
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(3, 6, 3)
    evaluated, _ = layer.eval()(x)
    frozen, _ = nn.Sequential(layer.freeze()).train()[0](x)
    assert layer.policy == ("running", False)
    torch.testing.assert_close(frozen, evaluated)
    layer.unfreeze().freeze("batch")
    trained, _ = layer(x)
    assert not torch.allclose(trained, evaluated)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key
    layer.unfreeze()(x)
    assert layer.l0.norm_hh.num_batches_tracked[0] == 2


@both
def test_use_mask_reaches_recurrent_layers(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, batch_first=True)
    net = nn.ModuleDict({"rnn": layer})
    x, mask = torch.randn(4, 5, 3), torch.arange(5) < torch.tensor([[5], [3], [4], [1]])
    expected, _ = copy.deepcopy(layer)(x, mask=mask)
    with use_mask(net, mask):
        got, _ = layer(x)
    torch.testing.assert_close(got, expected)


@both
def test_a_single_sequence(cls: type[RecurrentBase]) -> None:
    x = torch.randn(4, 1, 3)
    for given in (x, x[:, 0]):
        with pytest.raises(InputError, match="more than one sequence"):
            cls(3, 4)(given)
        layer = cls(3, 4, on_small_batch="running")
        trained, evaluated = layer(given)[0], layer.eval()(given)[0]
        torch.testing.assert_close(trained, evaluated)
        assert layer.l0.norm_hh.num_batches_tracked.sum() == 0
    # over all steps there are statistics of one sequence
    assert cls(3, 4, normalize="input")(x)[0].isfinite().all()


@both
def test_nothing_valid_and_nobody_there(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4)
    before = copy.deepcopy(layer.state_dict())
    h = torch.randn(1, 5, 4)
    output, states = layer(
        torch.full((3, 5, 3), float("nan")),
        (h, h) if cls is BatchNormLSTM else h,
        mask=torch.zeros(3, 5, dtype=torch.bool),
    )
    assert (output == 0).all()
    torch.testing.assert_close(states[0] if cls is BatchNormLSTM else states, h)
    assert layer(torch.randn(3, 0, 3))[0].shape == (3, 0, 4)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key


@both
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"input": torch.randn(4, 5, 2)}, "3 features.*features come last"),
        ({"input": torch.randn(4)}, "3 features"),
        ({"input": torch.randn(2, 2, 2, 3)}, "features"),
        ({"input": torch.ones(4, 5, 3, dtype=torch.long)}, "floating-point"),
        ({"input": torch.randn(0, 5, 3)}, "at least one step"),
        ({"mask": torch.ones(5, 4)}, "0/1 integers"),
        ({"mask": torch.ones(5, 4, dtype=torch.bool)}, r"mask: expected shape \(4, 5\)"),
        ({"hx": torch.zeros(1, 4, 4)}, "hx: expected"),
        ({"hx": 3}, "hx: expected.*int"),
        ({"first_step": -1}, "first_step"),
    ],
)
def test_bad_calls_leave_the_statistics_alone(
    cls: type[RecurrentBase], arguments: dict[str, object], match: str
) -> None:
    net = nn.ModuleDict({"encoder": cls(3, 4)})
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match=rf"ModuleDict.encoder: (?s:.*){match}"):
        net["encoder"](**{"input": torch.randn(4, 5, 3), **arguments})
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


@both
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"hidden_size": 0}, "hidden_size: expected a positive whole number, got 0"),
        ({"max_steps": 0}, "max_steps"),
        ({"proj_size": 2}, "proj_size: expected 0"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_bad_settings(cls: type[RecurrentBase], arguments: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        cls(**{"input_size": 3, "hidden_size": 4, **arguments})


@pytest.mark.compiles  # where shapes are not checked, neither are other annotations: the layer's own words are seen
@both
def test_unknown_words(cls: type[RecurrentBase]) -> None:
    with pytest.raises(InputError, match="normalize: expected 'all' or 'input', got 'hidden'"):
        cls(3, 4, normalize="hidden")
    with pytest.raises(InputError, match="on_small_batch: expected one of"):
        cls(3, 4, on_small_batch="skip")


@both
def test_dropout_between_layers_only(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, num_layers=2, dropout=1.0).freeze("batch")
    output, _ = layer(torch.randn(4, 6, 3))
    # nothing reaches the second layer: all sequences are alike, while those of the first differ
    torch.testing.assert_close(output, output[:, :1].expand_as(output))
    single = cls(3, 4, dropout=1.0)
    output, _ = single(torch.randn(4, 6, 3))
    assert output.std(1).min() > 0
    torch.testing.assert_close(layer.eval()(torch.ones(4, 6, 3))[0], layer(torch.ones(4, 6, 3))[0])


@both
def test_repr(cls: type[RecurrentBase]) -> None:
    text = repr(cls(3, 4, num_layers=2, bidirectional=True, normalize="input", max_steps=7))
    expected = f"{cls.__name__}(\n  3, 4, num_layers=2, bidirectional=True, normalize='input', max_steps=7\n"
    assert text.startswith(expected)
    assert "StepNorm(16, eps=1e-05, momentum=0.1, affine=True" in repr(cls(3, 4)).replace("(12,", "(16,")
