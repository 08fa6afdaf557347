"""A checkpoint has the weights of the batch norms, and not the running statistics that belong to them.

What: the file, given as `checkpoint=...`, is read without loading it into the model. Reported is a file that lacks
    running means or variances that the model keeps; or that has those of a new layer, 0 and 1, beside a γ or β that was
    trained; or has statistics that are not finite, or negative variances. A missing `num_batches_tracked` alone, frozen
    norms, and norms without running statistics are left alone.

Formula: loaded with `strict=False`, y = γ·(x − 0) / sqrt(1 + eps) + β: nothing is normalised in evaluation by a model
    that has loaded this file.

Why it hurts: the weights were trained on normalised inputs: the network was good when it was trained, and is bad once
    it is loaded. It comes from saving `named_parameters()`, from averaging parameters alone, from scripts that filter
    keys with "running", and from merges.

Threshold: none: the values are there or not, possible or not.

Reproduction:
    import normsmith, tempfile, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    batches = [torch.randn(32, 4) for _ in range(8)]
    file = f"{tempfile.mkdtemp()}/last.pt"
    torch.save(dict(model.named_parameters()), file)  # buffers are no parameters
    findings = normsmith.check(model, checkpoint=file, select=["NS413"])
    assert [finding.path for finding in findings] == ["1"]
    torch.save(model.state_dict(), file)
    assert normsmith.check(model, checkpoint=file, select=["NS413"]).passed()

Fix: another checkpoint; or load it with `model.load_state_dict(torch.load(file), strict=False)`, measure with training
    data, `model = normsmith.surgery.recalibrate(model, batches).apply()`, and save
    `normsmith.surgery.save_checkpoint(model, "mended.pt")`. From now on save `model.state_dict()`, which has the
    buffers.

Threads: torch/nn#1165 (parameters alone), cleinc/bts#90 (0 and 1), timgaripov/swa#8 (negative variances),
    pytorch/pytorch#8430 (the counter alone is missing).
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith.anatomy.broken_statistics import broken_values
from normsmith.checks.context import Context
from normsmith.checks.files import Saved, of_norm, saved
from normsmith.checks.finding import Finding
from normsmith.checks.rule import Rule


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm whose statistics are not in the file, or are none."""
    assert context.checkpoint is not None  # the rule needs it
    tensors = saved(context.network, context.checkpoint)
    trained = {norm: _is_trained(of_norm(norm, tensors)) for norm in context.norms}
    for norm in context.norms:
        if norm.is_frozen or not norm.updates:
            continue
        held = of_norm(norm, tensors)
        mean, var = held.get("running_mean"), held.get("running_var", held.get("running_std"))
        has_trained = trained[norm] if "weight" in held or "bias" in held else any(trained.values())
        broken = broken_values(held, norm.epsilon)
        if mean is None or var is None:
            what, cause = "the file has no running statistics of it", "parameters saved without the buffers"
        elif has_trained and bool((mean == 0).all() and (var == 1).all()) and context.may_call(norm):
            what = "in the file its running mean is 0 and its running variance 1, though γ and β are trained"
            cause = "parameters saved beside the buffers of a new network, or trained in evaluation mode"
        elif broken is not None:
            what, cause = f"in the file {broken.text}", "a merge of checkpoints, or training that diverged"
        else:
            continue
        yield Finding(norm.path, what, cause, context.recalibration(), also=norm.also)


def _is_trained(held: Saved) -> bool:
    """Whether γ or β have moved from the constants that they start as."""
    tensors = [held[name] for name in ("weight", "bias") if name in held]
    return any(tensor.numel() > 1 and bool((tensor != tensor.flatten()[0]).any()) for tensor in tensors)


RULE = Rule("NS413", "checkpoint-without-statistics", "error", check, __doc__, needs=("checkpoint",))
