"""The learning rate does not fit the weights: updates are far too large or too small, and another rate does better.

What: in eight training steps on a copy, the updates of most weights of one of the optimizer's groups are above a tenth
    or below a ten-thousandth of the weights. The check then trains 16 steps with another rate, chosen so that updates
    are 0.03 or 0.01 of the weights (0.001 where that is too much for some layers). It reports only if the loss, in
    training mode, ends lower than with your rate. Only weights of linear layers and convolutions are looked at: biases,
    γ, β and weights that begin at 0 have no scale yet, and embeddings are updated a few rows at a time. Learning rates
    that a scheduler holds down (a warm-up, or the end of a decay) are not called too low.

Formula: ratio = ‖Δw‖/‖w‖ for a weight w and its update Δw, where ‖w‖ is the Euclidean norm of all entries; of this the
    median over a group's weights. It is below 1e-4 or above 1e-1; and the same training with a rate that makes the
    ratio 0.03 (or 0.01, or 0.001) ends after 16 steps with a loss that is lower by at least 5 % of the loss with
    shuffled targets (each sample gets the target of another), beyond noise between batches.

Why it hurts: updates of a tenth of the weight or more undo in ten steps what was learned; updates of a ten-thousandth
    need ten thousand steps to change the weight.

Threshold: 1e-4 and 1e-1 are those of TheDeepChecker (−4 and −1 of the logarithm); the 5 % are our own choice.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    data = [torch.randn(64, 8) for _ in range(16)]
    batches = [(x, (x[:, 0] > 0).long()) for x in data]
    given = {"loss": nn.functional.cross_entropy, "level": "deep", "select": ["NS505"]}
    for rate, passes in ((1.0, False), (0.01, True), (1e-7, False)):
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        assert normsmith.check(model, batches, optimizer=optimizer, **given).passed() is passes

Fix: the learning rate that the finding names, `for group in optimizer.param_groups: group["lr"] = rate`; a schedule
    with a warm-up where only the beginning is too fast.

Threads: gcr/torch-residual-networks#10, guillaumegenthial/sequence_tagging#47, barronalex/Tacotron#7.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from torch.optim import Optimizer

from normsmith._text import number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule

LOW, HIGH = 1e-4, 1e-1
_TRIED = (0.03, 0.01, 0.001)
"""Updates over weights that other rates are to come to: the larger ones are faster, where layers are much alike."""


def check(context: Context) -> Iterator[Finding]:
    """A finding for each group of the optimizer whose rate is out of proportion."""
    optimizer = context.optimizer
    assert optimizer is not None  # the rule needs it
    ratios = _ratios(context)
    high = {group: ratio for group, ratio in ratios.items() if ratio > HIGH}
    low = {
        group: ratio
        for group, ratio in ratios.items()
        if ratio < LOW and not _is_held_down(optimizer.param_groups[group])
    }
    for outside, threshold in ((high, HIGH), (low, LOW)):
        better = _better(context, outside)
        if better is None:
            continue
        factors, cost = better
        for group, ratio in outside.items():
            yield Finding(
                "",
                f"{_named(group, optimizer)} {number(100 * ratio, 2)} % of the weights; {cost}",
                "a learning rate that is too " + ("high" if threshold == HIGH else "low"),
                Fix(_code(optimizer, group, factors[group])),
                quantity="update over weight",
                measured=ratio,
                threshold=threshold,
                batches=context.signals.steps,
            )


def _better(context: Context, outside: dict[int, float]) -> tuple[dict[int, float], str] | None:
    """Factors on the rates of these groups with which the loss is lower after some steps, and what that saves."""
    for tried in _TRIED if outside else ():
        factors = {group: tried / ratio for group, ratio in outside.items()}
        cost = context.with_other_rates(factors).cost
        if cost is not None:
            return factors, cost
    return None


def _ratios(context: Context) -> dict[int, float]:
    """For each group of the optimizer the median of its weights' typical update, in units of the weight."""
    typical: dict[int, list[float]] = {}
    for signal in context.signals.weights:
        if signal.updates and signal.has_scale and signal.group is not None:
            typical.setdefault(signal.group, []).append(median(signal.updates))
    return {group: median(values) for group, values in typical.items()}


def _is_held_down(group: dict[str, object]) -> bool:
    """Whether a scheduler has put the rate below what it starts from or goes up to."""
    tops = [float(group[name]) for name in ("initial_lr", "max_lr") if name in group]  # type: ignore[arg-type]
    return bool(tops) and float(group["lr"]) < max(tops)  # type: ignore[arg-type]


def _named(group: int, optimizer: Optimizer) -> str:
    which = "" if len(optimizer.param_groups) == 1 else f" of group {group}"
    return f"a step changes the weights{which} by"


def _code(optimizer: Optimizer, group: int, factor: float) -> str:
    rate = float(optimizer.param_groups[group]["lr"]) * factor
    return f'optimizer.param_groups[{group}]["lr"] = {float(f"{rate:.1g}")!r}'


RULE = Rule(
    "NS505", "update-ratio", "warning", check, __doc__, needs=("batches", "loss", "optimizer", "training")
)
