"""A batch norm is in training mode during validation: it normalises by the validation batch and learns from it.

What: your `validate` is run on a copy that is in training mode, as it is after a training step, and each call of a norm
    is looked at. A call in training mode is an error. Adaptation on purpose is left alone: `normsmith.surgery.adapt`, a
    model in evaluation mode of which only the norms are in training mode, and `torch.optim.swa_utils.update_bn`, which
    measures the averages anew.

Formula: in training mode y = γ·(x − mean of this batch) / sqrt(var of this batch + eps) + β, and
    running ← (1 − momentum)·running + momentum·batch.

Why it hurts: the result depends on the other samples of the batch and on its size, so that it is not that of the
    network in use; and the running statistics become those of the validation data, which is a leak. Dropout is active,
    too. Accuracy looks better or worse than it is, and differs from run to run.

Threshold: none: a single call is enough.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(32, 4)

    def validate(model):  # torch.no_grad() is not model.eval()
        with torch.no_grad():
            return model(x).mean()

    findings = normsmith.check(model, validate=validate)
    assert findings.codes == ("NS306",)
    assert normsmith.check(model, validate=lambda model: validate(model.eval())).passed()

Fix: `model.eval()` at the beginning of the validation and `model.train()` after it. `torch.no_grad()` does not change
    the mode.

Threads: ugent-korea/pytorch-unet-segmentation#18 (no_grad alone), princeton-vl/pytorch_stacked_hourglass#44 (train()
    in the validation), facebookresearch/higher#55, ando-khachatryan/HiDDeN#13, weecology/DeepForest#477.
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith._text import count
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.watcher import NormCall

_FIX = Fix("model.eval() at the beginning of validate, model.train() after it")


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm that was called in training mode."""
    record = context.validation
    if context.norms and not record.forwards:
        raise UnavailableError("validate did not call the model that it was given")
    for norm in context.norms:
        calls = record.calls_of(norm.path)
        leaks = [call for call in calls if call.training and not _is_adaptation(call, norm)]
        if not leaks or norm.is_pinned or not norm.keeps_statistics:
            continue
        followed = any(call.moved for call in leaks)
        yield Finding(
            norm.path,
            f"is in training mode in {len(leaks)} of {count(len(calls), 'call')} of the validation: it normalises by "
            f"the batch{', and its running statistics follow the validation data' if followed else ''}",
            "no model.eval() before the validation, or a train() within it",
            _FIX,
            quantity="calls in training mode",
            measured=len(leaks),
            threshold=0,
            also=norm.also,
        )


def _is_adaptation(call: NormCall, norm: Norm) -> bool:
    """Whether a call in training mode is meant: norms alone are, or they average afresh, as `update_bn` does."""
    averages_afresh = call.momentum is None and norm.momentum is not None
    return averages_afresh or not call.parent_training


RULE = Rule("NS306", "eval-leak", "error", check, __doc__, needs=("validate",))
