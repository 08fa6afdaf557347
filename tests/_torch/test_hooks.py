"""Hooks of modules are found by their handles, and none is forgotten."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normsmith import _torch
from normsmith._torch import hooks


def test_hooks_are_found_by_the_handles_that_users_hold() -> None:
    layer = nn.Linear(2, 2)
    after = layer.register_forward_hook(lambda *_: None)
    before = layer.register_forward_pre_hook(lambda *_: None)
    keyword = layer.register_forward_pre_hook(lambda *_: None, with_kwargs=True)
    assert list(_torch.forward_hooks_of(layer)) == [after.id]
    assert list(_torch.forward_pre_hooks_of(layer)) == [before.id, keyword.id]
    assert _torch.keyword_pre_hooks_of(layer) == {keyword.id: True}
    assert _torch.backward_hooks_of(layer) == {}
    first = layer.register_full_backward_pre_hook(lambda *_: None)
    second = layer.register_full_backward_hook(lambda *_: None)
    assert list(_torch.backward_hooks_of(layer)) == [first.id, second.id]
    del _torch.forward_hooks_of(layer)[after.id]
    assert after.id not in _torch.forward_hooks_of(layer)


class _WithHooks(nn.Module):
    """Registers its own methods as hooks, as lazy modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.register_forward_hook(self.after)
        self._register_load_state_dict_pre_hook(self.loading)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def after(self, *_: Any) -> None:
        self.heard.append("after")

    def loading(self, *_: Any) -> None:
        self.heard.append("loading")


def test_a_successor_has_all_hooks_and_those_bound_to_the_module_are_bound_to_it() -> None:
    old, new = _WithHooks(), _WithHooks()
    calls: list[nn.Module] = []
    handle = old.register_forward_pre_hook(lambda module, _: calls.append(module))
    loaded: list[nn.Module] = []
    old.register_load_state_dict_pre_hook(lambda module, *_: loaded.append(module))
    _torch.hand_over_hooks(old, new)
    new(torch.zeros(1))
    new.load_state_dict({})
    assert (new.heard, old.heard) == (["after", "loading"], [])
    assert calls == loaded == [new]
    handle.remove()
    new(torch.zeros(1))
    assert calls == [new]


def test_modules_that_share_hooks_get_those_that_come_later_too() -> None:
    module, other = nn.Identity(), nn.Identity()
    calls: list[nn.Module] = []
    first = module.register_forward_hook(lambda module, *_: calls.append(module))
    _torch.share_hooks(module, other)
    other.register_forward_pre_hook(lambda module, *_: calls.append(module))
    other(torch.zeros(1))
    first.remove()
    module(torch.zeros(1))
    assert calls == [other, other, module]


def test_no_hooks_of_torch_are_forgotten() -> None:
    ways = ("forward", "forward_pre", "backward", "backward_pre", "state_dict", "state_dict_pre")
    loading = ("load_state_dict_pre", "load_state_dict_post")
    flags = {"_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"}
    known = {f"_{way}_hooks" for way in (*ways, *loading)} | flags | {"_is_full_backward_hook"}
    assert known <= set(hooks._HOOK_ATTRIBUTES)


def test_lazy_modules_keep_handles_of_their_own_hooks() -> None:
    lazy = nn.LazyLinear(2)
    assert {"_initialize_hook", "_load_hook"} <= set(vars(lazy))
