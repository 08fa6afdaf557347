"""Fixes tried on a copy of the model, so that a finding has what mending it brings, measured."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from normsmith._text import error_text
from normsmith.anatomy.forward import copied
from normsmith.anatomy.isolation import same_random_numbers
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, Proof, UnavailableError
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept


def proved(findings: Iterable[Finding], context: Context) -> list[Finding]:
    """The findings, those with a plan as their fix with its proof; each fix is tried once, and by itself.

    A fix that is measured on data sees other batches than those on which it is judged, where there are enough.
    """
    proofs: dict[Fix, Proof] = {}
    context.proving = True
    try:
        found = list(findings)
        for finding in found:
            if finding.fix.plan is not None and finding.fix not in proofs:
                proofs[finding.fix] = _tried(finding.fix, context)
        return [replace(finding, proof=proofs.get(finding.fix)) for finding in found]
    finally:
        context.proving = False


def _tried(fix: Fix, context: Context) -> Proof:
    assert fix.plan is not None  # others are not tried
    try:
        if context.loss is None and context.metric is None:
            return Proof(failed="give loss=... or metric=...")
        before = _evaluated(context.network, context)
        copy = deepcopy(context.network)
        after = _evaluated(fix.plan(copy).apply(), context)
    except UnavailableError as reason:
        return Proof(failed=str(reason))
    except Exception as error:  # noqa: BLE001  a copy or a plan that fails says nothing about the finding
        return Proof(failed=error_text(error))
    loss, metric = (None if a is None or b is None else (a, b) for a, b in zip(before, after, strict=True))
    if loss is None and metric is None:
        return Proof(failed="the batches have no target")
    held_back = context.held_back is not context.measured
    return Proof(loss, metric, len(context.held_back), held_back)


def _evaluated(model: nn.Module, context: Context) -> tuple[float | None, float | None]:
    """Mean loss and metric over the held-back batches in evaluation, with the same random numbers for each model."""
    forward, judge = numbered(context.forward), context.judge
    losses: list[float | None] = []
    metrics: list[float | None] = []
    with modes_kept(model), torch.no_grad(), same_random_numbers(model):
        model.eval()
        for batch in context.held_back:
            output, target = forward(model, copied(batch))
            losses.append(judge.loss_of(output, target))
            metrics.append(judge.metric_of(output, target))
    return _mean(losses), _mean(metrics)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
