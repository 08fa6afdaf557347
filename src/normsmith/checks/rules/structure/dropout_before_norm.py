"""Dropout before a batch norm raises the variances that the norm averages: in evaluation they are too large.

What: dropout that is active in training, and whose result reaches a batch norm with no other norm between. Given
    batches and a loss or metric, the check measures how much the norm's input variances differ with and without
    dropout, and whether that costs anything: it repeats the evaluation with dropout and statistics that match, (a)
    dropout off and statistics measured with dropout off, (b) dropout on and statistics measured with dropout on. It
    reports a warning only where the variances differ and plain evaluation is worse than (a) or (b). Without batches or
    a loss it reports information.

Formula: dropout with the rate p multiplies each x by 0 or by 1/(1 − p). The mean stays, and the variance var becomes
    (var + p·mean²) / (1 − p), twice as much or more at p = 0.5. In evaluation nothing is dropped, and the norm still
    divides by the larger standard deviation.

Why it hurts: the network is good in training and bad in evaluation, though dropout should make training the harder of
    the two, and whatever the batches are: the layers after the norm get inputs of a scale that they have never seen.
    Where it costs nothing, as mostly in classifiers with a small p, the order is a matter of taste.

Threshold: variances that differ by a fifth (0.2 in the logarithm) in a tenth of the channels, beyond sampling error;
    and in evaluation a loss that is worse by 0.05, or a metric by 0.01 (one percentage point), beyond the noise between
    batches. All are our own choice, the same as in NS404. To exclude statistics that are merely old (NS404), the loss
    must stay worse after the statistics are measured anew with dropout on.

Reproduction:
    import normsmith, torch
    from torch import nn

    torch.manual_seed(0)
    drop, linear = nn.Dropout(0.8), nn.Linear(32, 32)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), drop, linear, nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = [3 + torch.randn(64, 8) for _ in range(16)]
    batches = [(x, x.mean(1, keepdim=True)) for x in data]
    loss = nn.functional.mse_loss
    for x, y in 10 * batches:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    findings = normsmith.check(model, batches, loss=loss, select=["NS102"])
    assert findings.codes == ("NS102",)  # a loss of 0.08 in training, and of 4 in evaluation

Fix: move the dropout after the last batch norm and train again.
    `model = normsmith.surgery.recalibrate(model, batches).apply()` measures the statistics without dropout and helps
    without new training, but only where the noise of dropout is a small part of the variance: the check offers it only
    where it helped on your batches and keeping dropout on was no better.

Threads: luigibonati/mlcolvar#205 (moved after the norm), luigibonati/mlcolvar#267, arXivTimes/arXivTimes#608 (Li et
    al. 2018, variance shift), mozilla/DeepSpeech#373.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from normsmith._text import path_text
from normsmith.anatomy.graph import Event
from normsmith.checks.comparison import Comparison, normalising_by
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.moments import LayerMoments
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.shift import LOG_VARIANCE, Shift, noise_of_pairs, shift
from normsmith.measure import Statistics

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_FUNCTIONS = {"dropout", "dropout1d", "dropout2d", "dropout3d"}


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm after dropout, where that costs something or no loss can tell."""
    after = {norm: found for norm in context.norms if (found := _dropouts_before(context, norm))}
    if not after:
        return
    judged = context.loss is not None or context.metric is not None
    if not context.looks_at_data or context.data is None or not judged:
        for norm, paths in after.items():
            what = "; give batches and loss=... to see whether that costs something"
            yield replace(_finding(norm, paths, what), severity="info")
        return
    shifts = _shifts(context, list(after))
    if not shifts:
        return
    against_none, against_dropping = _costs(context, [(norm, after[norm]) for norm in shifts])
    cost = against_dropping or against_none
    for norm, away in shifts.items() if cost is not None else ():
        what = f"; with and without it, statistics differ {away.text}; {cost}"
        finding = _finding(norm, after[norm], what)
        yield replace(
            finding,
            fix=finding.fix if against_dropping else context.recalibration(),
            quantity="log of the variances' ratio",
            measured=float(away.log_variance.max()),
            threshold=LOG_VARIANCE,
            batches=len(context.measured),
        )


def _finding(norm: Norm, dropouts: list[str], what: str) -> Finding:
    names = ", ".join(map(path_text, dropouts))
    return Finding(
        norm.path,
        f"comes after dropout ({names}){what}",
        "dropout between the layers instead of after the last norm",
        Fix(f"move the dropout ({names}) after the last batch norm, and train anew"),
        also=norm.also,
    )


def _dropouts_before(context: Context, norm: Norm) -> list[str]:
    """The paths of the dropouts that reach a norm with no other norm between."""
    if norm.is_frozen or not norm.updates:
        return []
    training = context.network.training
    found, seen = dict[str, None](), set[Event]()
    waiting = [source for event in context.calls(norm) for source in event.sources]
    while waiting:
        event = waiting.pop()
        if event in seen or event.role == "norm":
            continue
        seen.add(event)
        if _drops(event, training):
            found[event.path] = None
        waiting += event.sources
    return list(found)


def _drops(event: Event, model_trains: bool) -> bool:
    module = event.module
    if module is None:
        return event.kind == "function" and event.name in _FUNCTIONS
    is_off = model_trains and not module.training
    return isinstance(module, _DROPOUTS) and module.p > 0 and not is_off


def _shifts(context: Context, norms: list[Norm]) -> dict[Norm, Shift]:
    """How far the statistics with dropout are from those without it, of the norms where that counts."""
    without = context.moments_without_dropout
    away: dict[Norm, Shift] = {}
    for norm in norms:
        on, off = context.moments.get(norm.module), without.get(norm.module)
        if on is None or off is None:
            continue
        noise = noise_of_pairs(on.calls, off.calls, norm.epsilon)
        one = shift((on.mean, on.within), (off.mean, off.within), norm.epsilon, noise, 1 / noise.batches)
        if one.counts:
            away[norm] = one
    return away


def _costs(context: Context, norms: Iterable[tuple[Norm, list[str]]]) -> tuple[str | None, str | None]:
    """What evaluation costs against statistics without dropout, and against dropping; None for nothing.

    In both it has to cost as much with statistics that are measured anew, with dropout: else the running ones are old,
    which is the affair of NS404.
    """
    droppers = [context.network.get_submodule(path) for _, paths in norms for path in paths]
    renewed = context.compare(_statistics(context.moments))
    without = context.compare(_statistics(context.moments_without_dropout))
    dropping = context.compare_with(lambda: _dropping(context, droppers))
    first, second = (
        other.cost if _between(renewed, other).cost is not None else None for other in (without, dropping)
    )
    return first, second


def _statistics(moments: dict[nn.Module, LayerMoments]) -> dict[nn.Module, Statistics]:
    return {module: measured.statistics for module, measured in moments.items()}


def _between(one: Comparison, other: Comparison) -> Comparison:
    """What one change comes to, and another one."""
    losses, metrics = (
        tuple((now, then) for (_, now), (_, then) in zip(*pairs, strict=True))
        for pairs in ((one.losses, other.losses), (one.metrics, other.metrics))
    )
    return replace(other, losses=losses, metrics=metrics)


@contextmanager
def _dropping(context: Context, droppers: list[nn.Module]) -> Iterator[None]:
    """A block in which dropout drops in evaluation too, and the norms have the statistics that go with it."""
    layers = [layer for layer in context.layers if layer.layer in context.moments]
    with normalising_by(layers, [context.moments[layer.layer].statistics for layer in layers]):
        for module in droppers:
            module.training = True
        try:
            yield
        finally:
            for module in droppers:
                module.training = False


RULE = Rule("NS102", "dropout-before-norm", "warning", check, __doc__, needs=("graph",), varies=("info",))
