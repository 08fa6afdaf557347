"""The state dict that is the model's: one of the usual name, or the only one that fits."""

from pathlib import Path

import pytest
import torch
from tests.surgery.checkpoints.networks import is_same, network, prefixed
from torch import nn

from normsmith.errors import InputError
from normsmith.surgery.checkpoints.choose import check_loads, choose, unwrapped

STATE, OTHER = network(1).state_dict(), network(2).state_dict()


def chosen(content, key=None, prefix=None, strict=True):
    fit, every = choose(network(), content, Path("a.pt"), key=key, prefix=prefix, strict=strict)
    return fit.state.name, fit.match.prefix, [state.name for state in every]


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ({"generator": STATE, "discriminator": nn.Linear(3, 1).state_dict()}, {}, ("generator", "")),
        (
            {"generator": STATE, "discriminator": {**STATE, "0.weight": torch.ones(9, 6)}},
            {},
            ("generator", ""),
        ),
        ({"model": STATE, "model_ema": OTHER}, {}, ("model", "")),
        ({"model": {"state_dict": STATE}, "ema": {"state_dict": OTHER}}, {}, ("model.state_dict", "")),
        ({"model": STATE, "ema": {"shadow": OTHER}}, {"key": "ema"}, ("ema.shadow", "")),
        ({"model": {**STATE, "extra": torch.ones(1)}, "clean": OTHER}, {"strict": False}, ("clean", "")),
        (prefixed("module.backbone.model.", STATE), {"prefix": "backbone"}, ("", "module.backbone.model.")),
        (prefixed("module.", STATE) | OTHER, {"prefix": "module"}, ("", "module.")),
    ],
)
def test_one_is_chosen(content, options, expected):
    assert chosen(content, **options)[:2] == expected


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ({"student": STATE, "teacher": OTHER}, {}, "got student, teacher; name one: --key student"),
        ({"model": STATE, "state_dict": OTHER}, {}, "got model, state_dict; name one"),
        ({"model": STATE, "teacher": OTHER}, {"key": "x"}, "under the key 'x'; there are model, teacher"),
        ({"model": 3}, {"key": "model"}, "under the key 'model'; there is a dict of 'model'"),
        (prefixed("a.", STATE) | prefixed("b.", OTHER), {}, "under a., b.; take that part with --prefix a."),
    ],
)
def test_two_or_none_are_refused(content, options, said):
    with pytest.raises(InputError) as refused:
        chosen(content, **options)
    assert said in str(refused.value)


def test_a_try_changes_nothing():
    model = network()
    with pytest.raises(InputError, match=r"^a\.pt: expected weights of Sequential: .*Missing key"):
        check_loads(model, {"0.weight": torch.ones(16, 6)}, Path("a.pt"))
    check_loads(model, STATE, Path("a.pt"))
    assert is_same(model, network())


def test_wrappers_are_looked_into():
    model = network()
    assert unwrapped(torch.compile(nn.DataParallel(model), backend="eager")) is model
    assert unwrapped(model) is model
