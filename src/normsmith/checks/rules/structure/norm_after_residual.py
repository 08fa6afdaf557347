"""A norm stands after a residual addition, norm(x + f(x)), so that no path through the network is free of norms.

What: an addition of x and f(x) whose sum goes to a norm alone. Blocks that normalise before f, x + f(norm(x)), or at
    the end of f, x + norm(f(x)), as residual networks do, are left alone. It is information only: BERT and the first
    transformer are built like this, and train well with a warm-up of the learning rate.

Formula: x' = norm(x + f(x)). With L blocks the input passes L norms, each of which divides by about √2 at the start,
    since x and f(x) have about the same variance then.

Why it hurts: gradients to the first layers shrink by about √2 in each block, and those of the last layers are large at
    the start: deep networks need a warm-up of the learning rate, or diverge. Google's Deep Learning Tuning Playbook
    lists it as known to cause issues. Shallow networks (up to about 6 blocks) may end slightly better with it.

Threshold: none: the norm stands after the addition or not.

Reproduction:
    import normsmith, torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x):
            return self.norm(x + self.f(x))

    findings = normsmith.check(nn.Sequential(Block(), Block()), select=["NS105"])
    assert [finding.path for finding in findings] == ["0.norm", "1.norm"]
    assert findings.passed()  # it is information

Fix: write `return x + self.f(self.norm(x))` in each block, and put one norm after the last block; then train again.

Threads: google-research/tuning_playbook#31 (what is the evidence), huggingface/transformers#3929,
    lucidrains/vit-pytorch#56, harvardnlp/annotated-transformer#13.
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith._text import path_text
from normsmith.anatomy.graph import Graph, Residual
from normsmith.anatomy.passing import moves, norm_after
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm after a residual addition."""
    graph = context.graph
    paths = list(
        dict.fromkeys(path for block in graph.residuals if (path := _norm_path(graph, block)) is not None)
    )
    for path in paths:
        yield Finding(
            path,
            "normalises the sum of a residual block: norm(x + f(x))",
            "the order of the first transformer",
            Fix(f"x + f({path_text(path)}(x)), and one norm after the last block"),
        )


def _norm_path(graph: Graph, block: Residual) -> str | None:
    """The path of the norm that alone takes the sum of a block; None where there is none."""
    if graph.is_used_elsewhere(block.add):
        return None
    branch = [event for event in block.branch if not moves(event)]
    if branch and "norm" in (branch[0].role, branch[-1].role):
        return None
    norm = norm_after(graph, block.add)
    return None if norm is None else norm.path


RULE = Rule("NS105", "norm-after-residual", "info", check, __doc__, needs=("graph",))
