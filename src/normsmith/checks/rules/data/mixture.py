"""One batch norm serves domains, or calls, whose statistics differ: its running average fits none of them.

What: the inputs of each norm are measured domain by domain, as your function `domain(batch)` names them, and call by
    call where a forward calls the norm more than once. If you give a `training_step`, level deep measures the forwards
    of a step one by one as well, as those of real and generated samples. It is reported where they differ by more than
    sampling explains in a tenth of its channels or more, and where that costs loss or metric: statistics are measured
    on one part of your batches, and on the rest the network is better in evaluation if each domain or call is
    normalised by its own statistics than by their common average, over all domains or for one of them alone. For the
    forwards of a step, the check uses the statistics of the forward whose inputs are most like your batches. Classes
    are no domains: a network has to tell them apart.

Formula: |μ_a − μ_b| / σ_b > 0.1 or |log σ²_a − log σ²_b| > 0.2 for two domains or calls a and b with mean μ and
    variance σ² of the norm's input, each plus 2.58 standard errors from the variance between batches of one domain.

Why it hurts: training normalises each batch, or call, by itself, and never sees that they differ; evaluation shifts and
    scales all of them by one average: the network is good in training and bad in evaluation, for each domain in its own
    way. Unlike in NS406, the order of the batches does not matter. Examples are two datasets in turn, real and
    generated images, clean and adversarial ones, cameras, and hospitals.

Threshold: 0.1 and 0.2, and a loss that is worse by 0.05 or a metric by 0.01 (one percentage point), as in NS404: our
    own choice.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    data = [torch.randn(64, 4) for _ in range(16)]
    labels = [(x[:, 0] > 0).long() for x in data]
    batches = [(x + 6 * (number % 2), y) for number, (x, y) in enumerate(zip(data, labels))]
    optimizer, loss = torch.optim.Adam(model.parameters(), lr=0.02), nn.functional.cross_entropy
    for x, y in 8 * batches:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    domain = lambda batch: "far" if batch[0].mean() > 3 else "near"
    findings = normsmith.check(model, batches, loss=loss, domain=domain, select=["NS412"])
    assert findings.codes == ("NS412",)
    assert normsmith.check(model, batches, loss=loss, domain=lambda batch: "all", select=["NS412"]).passed()

Fix: statistics for each domain. In evaluation (`prior=0.0`: use only the statistics of the new data):

        far = [batch for batch in batches if domain(batch) == "far"]
        with normsmith.surgery.adapt(model, far, prior=0.0):
            y = model(far[0][0])

    In training a norm for each domain: `normsmith.convert(model, to="domain", domains=("near", "far"))`, and each
    forward in its own, `with normsmith.use_domain(model, "near"):`. For each call, norms of their own in the code. Or
    mix the domains within each batch in training: one average then fits what training uses.

Threads: pytorch/pytorch#48929, woozch/DSBN#10, Britefury/self-ensemble-visual-domain-adapt-photo#3,
    google-research/adamatch#1, adapt-python/adapt#92.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._text import error_text, some
from normsmith.checks.comparison import Comparison, normalising_by
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.moments import Call, LayerMoments
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.shift import CHANNELS, Shift, noise_of, shift
from normsmith.measure import MeasuredLayer, Statistics

Parts = dict[Any, list[Call]]
_FIX_OF_DOMAINS = Fix(
    "with normsmith.surgery.adapt(model, batches_of_the_domain, prior=0.0): ...  # in evaluation; "
    'or normsmith.convert(model, to="domain", domains=(...)), with a norm for each domain'
)
_FIX_OF_CALLS = Fix("one nn.BatchNorm for each call")
_FIX_OF_FORWARDS = Fix(
    "a norm for each kind of data; or, where they may share statistics, one forward of both, "
    "model(torch.cat([a, b]))"
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm whose domains, or else whose calls, differ, if that costs something."""
    if not context.norms or not context.layers:
        return
    found: list[Finding] = []
    reasons: list[UnavailableError] = []
    for part in (_of_domains, _of_calls, _of_forwards):
        try:
            found += part(context)
        except UnavailableError as reason:  # the other parts may still tell
            reasons.append(reason)
    if reasons and not found:
        raise reasons[0]
    yield from found


def _of_domains(context: Context) -> Iterator[Finding]:
    """Those of the domains that the user names."""
    if context.domain is None:
        return
    names = _names(context)
    among = names[: len(context.measured)]
    split = {
        n: _split(context.calls_of(n), [among[c.batch] for c in context.calls_of(n)]) for n in context.norms
    }
    yield from _findings(context, split, names)


def _of_calls(context: Context) -> Iterator[Finding]:
    """Those of the calls of a norm in one forward."""
    split = {n: _split(context.calls_of(n), [c.number for c in context.calls_of(n)]) for n in context.norms}
    yield from _findings(context, split, None)


def _names(context: Context) -> list[str]:
    assert context.domain is not None  # `check` has asked
    try:
        return [str(context.domain(batch)) for batch in context.batches]
    except Exception as error:
        raise UnavailableError(f"domain raised {error_text(error)}") from error


def _split(calls: Sequence[Call], keys: Sequence[Any]) -> Parts:
    parts: Parts = {}
    for call, key in zip(calls, keys, strict=True):
        parts.setdefault(key, []).append(call)
    return parts


def _findings(context: Context, split: dict[Norm, Parts], names: list[str] | None) -> Iterator[Finding]:
    """Those of domains, where `names` has that of each batch, or of calls."""
    differ = {
        norm: away
        for norm, parts in split.items()
        if len(parts) > 1 and not norm.is_frozen and (away := _largest_shift(parts, norm.epsilon)).counts
    }
    if not differ:
        return
    layers = [layer for layer in context.layers if any(layer.layer is norm.module for norm in differ)]
    parts_of = {norm.module: split[norm] for norm in differ}
    cost = _cost(context, layers, parts_of, names)
    if cost is None:
        return
    for norm, away in differ.items():
        keys = [str(key) for key in split[norm]]
        which = f"domains {some(keys, 3)}" if names is not None else f"{len(keys)} calls"
        yield Finding(
            norm.path,
            f"inputs of its {which} differ {away.text}; {cost}",
            "data of several kinds, each in batches of its own"
            if names is not None
            else "one norm, called several times",
            _FIX_OF_CALLS if names is None else _FIX_OF_DOMAINS,
            quantity="share of channels",
            measured=away.share,
            threshold=CHANNELS,
            batches=len(context.measured),
            also=norm.also,
            evidence=away.to_dict(f"one of the {which}", "another"),
        )


def _of_forwards(context: Context) -> Iterator[Finding]:
    """Those of the forwards of a training step of the user's own, each on data of its own kind."""
    split = {norm: _forwards(context, norm) for norm in context.norms if not norm.is_frozen}
    differ = {
        norm: away
        for norm, parts in split.items()
        if len(parts) > 1 and context.calls_of(norm) and (away := _largest_shift(parts, norm.epsilon)).counts
    }
    if not differ:
        return
    layers = [layer for layer in context.layers if any(layer.layer is norm.module for norm in differ)]
    parts_of = {norm.module: split[norm] for norm in differ}
    pooled = [_statistics(layer, _every(parts_of[layer.layer])) for layer in layers]
    own = [_statistics(layer, _like(context.moments[layer.layer], parts_of[layer.layer])) for layer in layers]
    with normalising_by(layers, pooled):
        cost = context.compare_with(lambda: normalising_by(layers, own)).cost
    for norm, away in differ.items() if cost is not None else ():
        yield Finding(
            norm.path,
            f"inputs of {len(split[norm])} forwards of a training step differ {away.text}; {cost}",
            "several kinds of data, as real and generated samples, each in a forward of its own",
            _FIX_OF_FORWARDS,
            quantity="share of channels",
            measured=away.share,
            threshold=CHANNELS,
            batches=len(_every(split[norm])),
            also=norm.also,
            evidence=away.to_dict("one of the forwards", "another"),
        )


def _forwards(context: Context, norm: Norm) -> Parts:
    """The calls of a norm in the user's steps, by the number of their forward within a step; none without steps."""
    parts: Parts = {}
    with suppress(UnavailableError):
        for step, record in enumerate(context.own_steps if context.looks_at_training else ()):
            numbers: dict[int, int] = {}
            for call in record.calls_of(norm.path):
                if call.forward is None or call.values < 2 or not (call.moved and call.records):
                    continue
                number = numbers.setdefault(call.forward, len(numbers))
                var = call.var * call.values / (call.values - 1)
                parts.setdefault(number, []).append(Call(step, number, call.values, call.mean, var))
    return {number: calls for number, calls in parts.items() if len(calls) > 1}  # one tells nothing of noise


def _like(measured: LayerMoments, parts: Parts) -> list[Call]:
    """The part whose means are nearest to what was measured on the batches."""

    def distance(calls: list[Call]) -> float:
        mean, _ = _average(calls)
        return float(((mean - measured.mean).square() / measured.within.clamp(min=1e-30)).sum())

    return min(parts.values(), key=distance)


def _every(parts: Parts) -> list[Call]:
    return [call for part in parts.values() for call in part]


def _largest_shift(parts: Parts, epsilon: float) -> Shift:
    """Between the two parts that differ most; noise is how much batches of one part vary."""
    noise = noise_of(_centred(parts), epsilon)
    return max(
        (
            shift(_average(one), _average(other), epsilon, noise, 1 / len(one) + 1 / len(other))
            for one, other in combinations(parts.values(), 2)
        ),
        key=lambda away: away.share,
    )


def _centred(parts: Parts) -> list[Call]:
    """All calls, in batches of their own, with what parts differ by taken away."""
    mean, var = _average(_every(parts))
    centred: list[Call] = []
    for part in parts.values():
        own_mean, own_var = _average(part)
        ratio = var / own_var.clamp(min=1e-30)
        centred += [
            replace(c, mean=c.mean - own_mean + mean, var=c.var * ratio) for c in part if len(part) > 1
        ]
    return [replace(call, batch=number, number=0) for number, call in enumerate(centred)]


def _average(calls: Sequence[Call]) -> tuple[Tensor, Tensor]:
    """Mean and variance as a running average of these calls has them."""
    return (
        torch.stack([call.mean for call in calls]).mean(0),
        torch.stack([call.var for call in calls]).nanmean(0),
    )


def _cost(
    context: Context, layers: list[MeasuredLayer], parts: dict[nn.Module, Parts], names: list[str] | None
) -> str | None:
    """What one average for all parts costs held-back batches, against statistics for each; None for nothing.

    Where all batches together show nothing, one domain alone may pay, with at least two batches to tell.
    """
    pooled = [_statistics(layer, _every(parts[layer.layer])) for layer in layers]
    with normalising_by(layers, pooled):
        if names is None:
            return context.compare_with(lambda: _each_call(layers, parts)).cost
        held = list(zip(context.held_back, names[-len(context.held_back) :], strict=True))
        known = dict.fromkeys(name for _, name in held if all(name in parts[layer.layer] for layer in layers))
        compared = {
            name: _of_domain(context, layers, parts, name, [b for b, of in held if of == name])
            for name in known
        }
    if not compared:
        raise UnavailableError("no domain has batches both to measure and to hold back")
    if (cost := _together(list(compared.values())).cost) is not None:
        return cost
    alone = ((name, one.cost) for name, one in compared.items() if one.batches > 1)
    return next((f"{cost} of {name}" for name, cost in alone if cost is not None), None)


def _together(compared: list[Comparison]) -> Comparison:
    """All domains in one comparison."""
    return replace(
        compared[0],
        losses=tuple(pair for one in compared for pair in one.losses),
        metrics=tuple(pair for one in compared for pair in one.metrics),
        moved=max(one.moved for one in compared),
        batches=sum(one.batches for one in compared),
    )


def _of_domain(
    context: Context,
    layers: list[MeasuredLayer],
    parts: dict[nn.Module, Parts],
    name: str,
    batches: list[Any],
) -> Comparison:
    own = [_statistics(layer, parts[layer.layer][name]) for layer in layers]
    return context.compare_with(lambda: normalising_by(layers, own), batches)


def _statistics(layer: MeasuredLayer, calls: Sequence[Call]) -> Statistics:
    mean, var = _average(calls)
    return Statistics(mean, var, (var + layer.epsilon).sqrt() if layer.statistics().std is not None else None)


@contextmanager
def _each_call(layers: list[MeasuredLayer], parts: dict[nn.Module, Parts]) -> Iterator[None]:
    """A block, for one batch, in which each call of a layer is normalised by statistics of its own."""
    held = [layer.statistics() for layer in layers]

    def entering(layer: MeasuredLayer) -> Any:
        own, before = layer.statistics(), iter(list(parts[layer.layer].values()))

        def enters(*_: Any) -> None:
            calls = next(before, None)
            if calls is not None:
                layer.normalise_by(_statistics(layer, calls).like(own))

        return enters

    handles = [layer.layer.register_forward_pre_hook(entering(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, own in zip(layers, held, strict=True):
            layer.normalise_by(own)


RULE = Rule("NS412", "mixture", "warning", check, __doc__, needs=("batches",))
