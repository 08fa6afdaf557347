"""The edits that put norms on anybody's layers by hooks, and take them away again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from normsmith._torch import children_of, forward_hooks_of, forward_pre_hooks_of, keyword_pre_hooks_of
from normsmith.anatomy.hooks import After, Before, Side, attached_norms
from normsmith.anatomy.isolation import forget_compiled
from normsmith.surgery.placement.sequential import put_back
from normsmith.surgery.plans.edits import Edit


class AttachEdit(Edit):
    """Attach a norm to a module, as a child with a hook; no key of the state dict but the norm's appears."""

    def __init__(
        self,
        host: nn.Module,
        name: str,
        norm: nn.Module,
        side: Side,
        *,
        channels_last: bool,
        unsqueeze: int = 0,
    ) -> None:
        self.host, self.name, self.norm = host, name, norm
        self._hook = (After if side == "after" else Before)(name, channels_last, unsqueeze)
        self._handle: RemovableHandle | None = None

    def is_possible(self) -> bool:
        return not hasattr(self.host, self.name)

    def is_undoable(self) -> bool:
        # the very hook: an equal one, which moved the norm away and back, is not for this edit to take out
        hangs = any(hook is self._hook for hook in attached_norms(self.host).values())
        return hangs and children_of(self.host).get(self.name) is self.norm

    def do(self) -> None:
        children_of(self.host)[self.name] = self.norm
        if isinstance(self._hook, Before):
            self._handle = self.host.register_forward_pre_hook(self._hook, with_kwargs=True)
        else:
            self._handle = self.host.register_forward_hook(self._hook)
        forget_compiled()

    def undo(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        children_of(self.host).pop(self.name, None)
        forget_compiled()

    def touches(self) -> Iterable[nn.Module]:
        return (self.host,)


class DetachEdit(Edit):
    """Take an attached norm away again, with its hook."""

    def __init__(self, host: nn.Module, name: str) -> None:
        self.host, self.name = host, name
        self.norm = children_of(host)[name]
        self._children, self._groups = dict(children_of(host)), _Hooks(host)
        self._key = next(key for key, hook in attached_norms(host).items() if hook.name == name)

    def is_possible(self) -> bool:
        return children_of(self.host).get(self.name) is self.norm and self._key in attached_norms(self.host)

    def is_undoable(self) -> bool:
        return not hasattr(self.host, self.name) and self._key not in attached_norms(self.host)

    def do(self) -> None:
        self._children, self._groups = dict(children_of(self.host)), _Hooks(self.host)
        del children_of(self.host)[self.name]
        self._groups.drop(self._key)
        forget_compiled()

    def undo(self) -> None:
        put_back(children_of(self.host), self._children, self.name)
        self._groups.restore(self._key)
        forget_compiled()

    def touches(self) -> Iterable[nn.Module]:
        return (self.host,)


class _Hooks:
    """The forward hooks of a module as they are now, to be put back later."""

    def __init__(self, module: nn.Module) -> None:
        groups: list[Any] = [
            forward_hooks_of(module),
            forward_pre_hooks_of(module),
            keyword_pre_hooks_of(module),
        ]
        self._saved = [(group, dict(group)) for group in groups]

    def drop(self, key: int) -> None:
        for group, _ in self._saved:
            group.pop(key, None)

    def restore(self, key: int) -> None:
        for group, entries in self._saved:
            put_back(group, entries, key)
