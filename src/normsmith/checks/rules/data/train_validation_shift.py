"""Validation data reach the batch norms with other statistics than training data, and the network pays for it.

What: your own `validate(model)` is run on a copy. What reaches each norm in it, in evaluation mode, is compared with
    what the training batches give in the same mode. It is reported where the two differ by more than sampling explains
    in a tenth of a layer's channels, and that costs something: `validate` returns a better number where the norms
    normalise by each batch of the validation data; or its number hardly changes when the samples are shuffled within
    each batch, so that they no longer match their targets, although the network has learned its training data. The
    shuffled run also shows whether a higher or a lower number is better, so you need not say.

Formula: |μ_v − μ_t| / σ_t > 0.1 or |log σ²_v − log σ²_t| > 0.2, each plus 2.58 standard errors from the variance
    between batches, with mean μ and variance σ² of validation (v) and training data (t).
    gain = (better − now) / (better − shuffled) ≥ 0.02, where `validate` gives the number `now` as the model is,
    `better` with the statistics of each validation batch, and `shuffled` with the same and with shuffled samples. Or
    |now − shuffled| < 0.1·|shuffled|, where both are of the model as it is.

Why it hurts: running statistics are those of the training data. Data from another camera or hospital, from another
    decoder or resize, or without the scaling that training data got, arrive shifted at every norm: the network is bad
    in validation, whatever the mode. Where only training data are augmented, statistics differ too; that costs nothing,
    and nothing is reported.

Threshold: 0.1 and 0.2 between statistics are those of NS404. A gain of 2 % of the difference between `better` and
    `shuffled` is about the one point of a metric and the 0.05 of a loss that count elsewhere. The 0.1 in
    |now − shuffled|: below this share the network counts as knowing nothing about the validation data; so a gain counts
    only if `better` is at least as far from `shuffled`, and by 0.01 or more where `shuffled` is the smaller of the two:
    a score that is 0 by chance, as that of a detector, has no share. All are our own choice.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    batches = [(x, (x[:, 0] > 0).long()) for x in torch.randn(16, 64, 4)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for x, y in 8 * batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    def validate(model, offset=2.0):  # a camera with another offset
        return sum((model.eval()(x + offset).argmax(1) == y).float().mean() for x, y in batches).item() / 16

    findings = normsmith.check(model, batches, validate=validate, select=["NS408"])
    assert findings.codes == ("NS408",)
    assert normsmith.check(model, batches, validate=lambda m: validate(m, 0.0), select=["NS408"]).passed()

Fix: the same preparation for both sets of data. Where the data really differ, evaluate with the statistics of the new
    data (`prior=0.0`: use only these):

        validation = [x + 2.0 for x, y in batches]
        with normsmith.surgery.adapt(model, validation, prior=0.0):
            score = validate(model)

Threads: swook/GazeML#25, keras-team/keras#7265, torch/nn#308, uci-cbcl/UFold#18.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._text import error_text, number
from normsmith._torch import map_leaves
from normsmith.anatomy.forward import copied
from normsmith.anatomy.isolation import same_random_numbers
from normsmith.checks.batches import rows
from normsmith.checks.comparison import normalising_by_batches
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.moments import Call, numbered
from normsmith.checks.norms import Norm, norms_of
from normsmith.checks.rule import Rule
from normsmith.checks.shift import CHANNELS, Shift, noise_of, shift
from normsmith.measure import measurable_layers

GAIN = 0.02
NOTHING = 0.1
"""A share of what comes out with exchanged samples: so near to it, a network knows nothing of them."""
POINT = 0.01
"""How far a score has to grow from what comes out with exchanged samples, which may be 0 and have no share."""
_FIX = Fix(
    "the same preparation for both sets of data; or "
    "with normsmith.surgery.adapt(model, validation_batches, prior=0.0): ..."
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm that gets other data in validation, if that costs something."""
    if not any(norm.keeps_statistics for norm in context.norms):
        return
    assert context.validate is not None  # the engine has asked
    try:
        twin = copy.deepcopy(context.network)
    except Exception as error:
        raise UnavailableError(f"the model cannot be copied: {error_text(error)}") from error
    watch = _Watch(twin)
    with torch.no_grad():
        run = numbered(context.output)
        watch.during(lambda: [run(twin.eval(), copied(batch)) for batch in context.measured])
        training = watch.calls
        value = watch.during(lambda: _number(context.validate, twin))
        validation = watch.calls
    away = _shifts(context, training, validation)
    if not away or (cost := _cost(context, twin, value)) is None:
        return
    for norm, moved in away.items():
        yield Finding(
            norm.path,
            f"validation data differ from training data {moved.text}; validate gives {number(value)}, and {cost}",
            "another source, or another preparation of the data",
            _FIX,
            quantity="share of channels",
            measured=moved.share,
            threshold=CHANNELS,
            batches=len(context.measured),
            also=norm.also,
            evidence=moved.to_dict("validation data", "the training data"),
        )


Calls = dict[str, list[Call]]


class _Watch:
    """The moments of what reaches the norms of a model in evaluation mode."""

    def __init__(self, model: nn.Module) -> None:
        self._norms = norms_of(model)
        self.calls: Calls = {}

    def during(self, work: Callable[[], Any]) -> Any:
        """What `work` gives; `calls` are afterwards those within it."""
        calls: Calls = {}
        self.calls = calls
        handles = [
            n.module.register_forward_pre_hook(_kept(calls.setdefault(n.path, []))) for n in self._norms
        ]
        try:
            return work()
        finally:
            for handle in handles:
                handle.remove()


def _kept(calls: list[Call]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def enters(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        x = arguments[0] if arguments else None
        if module.training or not isinstance(x, Tensor) or x.ndim < 2 or x.numel() < 2 * x.shape[1]:
            return
        values = x.detach().transpose(0, 1).flatten(1)
        var, mean = torch.var_mean(values.float(), 1)
        calls.append(Call(len(calls), 0, values.shape[1], mean.double().cpu(), var.double().cpu()))

    return enters


def _number(validate: Any, model: nn.Module) -> float:
    """What the user's validation gives, with the same random numbers each time."""
    try:
        with same_random_numbers(model):
            value = validate(model)
    except Exception as error:
        raise UnavailableError(f"validate raised {error_text(error)}") from error
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UnavailableError(f"expected a number from validate, got {type(value).__name__}") from error


def _shifts(context: Context, training: Calls, validation: Calls) -> dict[Norm, Shift]:
    away: dict[Norm, Shift] = {}
    if all(len(calls) < 3 for calls in validation.values()):
        raise UnavailableError("validate called no norm in evaluation mode for 3 batches")
    for norm in context.norms:
        one, other = validation.get(norm.path, []), training.get(norm.path, [])
        if min(len(one), len(other)) < 3:
            continue
        noise, noise_of_other = noise_of(one, norm.epsilon), noise_of(other, norm.epsilon)
        weight = 1 / len(one) + 1 / len(other)
        louder = noise if float(noise.mean.sum()) > float(noise_of_other.mean.sum()) else noise_of_other
        moved = shift(_average(one), _average(other), norm.epsilon, louder, weight)
        if moved.counts:
            away[norm] = moved
    return away


def _average(calls: list[Call]) -> tuple[Tensor, Tensor]:
    return torch.stack([c.mean for c in calls]).mean(0), torch.stack([c.var for c in calls]).mean(0)


def _cost(context: Context, twin: nn.Module, now: float) -> str | None:
    """What would be better than the number of the validation, in words; None where nothing is that counts."""
    layers = measurable_layers(twin).layers
    with normalising_by_batches(layers):
        better = _number(context.validate, twin)
        with _exchanged(twin):
            chance = _number(context.validate, twin)
    if not all(map(math.isfinite, (now, better, chance))):
        return None
    if better == chance:
        raise UnavailableError("validate gives the same number where inputs do not fit their targets")
    least = max(NOTHING * abs(chance), POINT if abs(better) > abs(chance) else 0.0)
    knows_something = abs(better - chance) >= least  # or the quotient is that of two noises
    if knows_something and (better - now) / (better - chance) >= GAIN:
        return f"{number(better)} with their own statistics"
    if not context.has_learned:
        return None
    with _exchanged(twin):
        exchanged = _number(context.validate, twin)
    knows_nothing = abs(now - exchanged) < NOTHING * abs(exchanged)
    return (
        f"{number(exchanged)} with shuffled samples, as if it had learned nothing" if knows_nothing else None
    )


@contextmanager
def _exchanged(model: nn.Module) -> Iterator[None]:
    """A block in which a model gets each sample in the place of another one of its batch."""

    def enters(_: nn.Module, arguments: Any, options: Any) -> tuple[Any, Any]:
        both = (arguments, options)
        count = rows(both)

        def moved(leaf: Any) -> Any:
            of_batch = isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == count
            return leaf.roll(count // 2, 0) if of_batch else leaf

        exchanged: tuple[Any, Any] = map_leaves(moved, both)
        return exchanged

    handle = model.register_forward_pre_hook(enters, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


RULE = Rule("NS408", "train-validation-shift", "warning", check, __doc__, needs=("batches", "validate"))
