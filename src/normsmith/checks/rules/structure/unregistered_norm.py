"""The forward calls a norm that is not among the model's modules: it is never trained, moved or saved.

What: a norm of any kind that a module of the model calls, and that is not in `model.modules()`: it is kept in a plain
    list or dict, in a global variable or a closure, or is made within the forward. Networks that are hidden like that
    on purpose, whose parameters do not require gradients, are left alone.

Formula: none: it is called, and it is not registered.

Why it hurts: `.parameters()`, `.to()`, `.state_dict()`, `.train()` and `.eval()` do not know of it. No optimizer
    trains γ and β; the device may be another; a checkpoint lacks it, so that a loaded model has new statistics; and in
    evaluation it goes on normalising by the batch, and updating its statistics.

Threshold: none: one such norm is enough.

Reproduction:
    import normsmith, torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
            self.norms = [nn.BatchNorm1d(4), nn.BatchNorm1d(4)]  # a list

        def forward(self, x):
            for layer, norm in zip(self.layers, self.norms):
                x = norm(layer(x)).relu()
            return x

    findings = normsmith.check(Network(), [torch.randn(8, 4)])
    assert findings.codes[0] == "NS110"

Fix: keep the norms in `nn.ModuleList([...])`, `nn.ModuleDict({...})`, or one attribute for each; then train again, as
    these norms were never trained.

Threads: pytorch/pytorch#1053 (layers in a list), pytorch/pytorch#8017, pytorch/pytorch#15005,
    kanezaki/pytorch-unsupervised-segmentation#6.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from normsmith._text import count
from normsmith._torch import buffers_of
from normsmith.anatomy.kinds import is_norm
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept
from normsmith.checks.rule import Rule


def check(context: Context) -> Iterator[Finding]:
    """A finding for each module that calls such norms."""
    strangers = _Strangers(context.network)
    with modes_kept(context.network), torch.no_grad(), strangers.watched():
        context.network.eval()
        numbered(context.output)(context.network, context.few)
    for path, norms in strangers.norms.items():
        kinds = ", ".join(sorted({type(norm).__name__ for norm in norms}))
        yield Finding(
            path,
            f"calls {count(len(norms), 'norm')} ({kinds}) that are not among its modules",
            "norms kept in a plain list or dict, or made in the forward",
            Fix(f"nn.ModuleList for the norms that {path or 'the model'} keeps"),
            quantity="unregistered norms",
            measured=len(norms),
            threshold=0,
        )


class _Strangers:
    """Looks at a forward for norms that the model does not have, by the path of the module that calls them."""

    def __init__(self, model: nn.Module) -> None:
        self._paths = {module: path for path, module in model.named_modules()}
        self._callers: list[str] = []
        self._kept: list[tuple[Tensor, Tensor]] = []
        self.norms: dict[str, list[nn.Module]] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A block with hooks on every module there is; the buffers of the norms that it finds are put back."""
        before = every_module.register_module_forward_pre_hook(self._enter)
        after = every_module.register_module_forward_hook(self._leave, always_call=True)
        with ExitStack() as stack:
            stack.callback(self._put_back)
            stack.callback(before.remove)
            stack.callback(after.remove)
            yield

    def _enter(self, module: nn.Module, _: Any) -> None:
        if module in self._paths:
            self._callers.append(self._paths[module])
        elif self._callers and is_norm(module):
            self._meet(module, self.norms.setdefault(self._callers[-1], []))

    def _meet(self, norm: nn.Module, known: list[nn.Module]) -> None:
        if any(norm is other for others in self.norms.values() for other in others):
            return
        self._kept += [(b, b.clone()) for b in buffers_of(norm).values() if b is not None]
        parameters = list(norm.parameters())
        if any(parameter.requires_grad for parameter in parameters) or (not parameters and norm.training):
            known.append(norm)

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if module in self._paths:
            self._callers.pop()

    def _put_back(self) -> None:
        self.norms = {path: norms for path, norms in self.norms.items() if norms}
        with torch.no_grad():
            for buffer, value in self._kept:
                buffer.copy_(value)


RULE = Rule("NS110", "unregistered-norm", "error", check, __doc__, needs=("batches",))
