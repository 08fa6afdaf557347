"""The layer that a batch norm becomes with statistics per domain, and the norm of one domain as a batch norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from normsmith._choices import check_choice
from normsmith._torch import children_of, parameters_of
from normsmith.anatomy.batch_norms import BatchNorm
from normsmith.anatomy.describe import describe_layer
from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.anatomy.remark import Refusal
from normsmith.errors import InputError
from normsmith.layers import ConditionalNorm, DomainNorm
from normsmith.layers.domain_norm import one_each
from normsmith.layers.domains import HasDomains, domain_named, domain_names
from normsmith.surgery.targets.converted import Converted


@dataclass(frozen=True)
class DomainOptions:
    """What was asked for: the domains, whose γ and β there are, the domain by default, and options of the norms."""

    domains: tuple[str, ...]
    affine: str
    default: str | None
    others: dict[str, Any]

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Read them. Raises InputError where the domains are missing or an option has no such value."""
        others = dict(options)
        domains: Sequence[str] | int | None = others.pop("domains", None)
        if domains is None:
            raise InputError(
                'expected domains, their names, as ("clean", "adversarial"), or how many there are'
            )
        names = domain_names(domains)
        affine, default = others.pop("affine", "shared"), others.pop("default", None)
        check_choice("affine", affine, ("shared", "own", "embedding"))
        return cls(names, affine, default, others)


def per_domain(norm: BatchNorm, single: Converted, asked: DomainOptions) -> Converted | Refusal:
    """A batch norm with statistics per domain, or γ and β per class, made of one of normsmith's with its tensors."""
    if norm.lazy or norm.is_uninitialised:
        return Refusal("", "it does not know its number of channels yet (lazy); run the model once")
    inner: Any = single.new
    if asked.affine != "embedding":
        sharing: Any = asked.affine
        new: nn.Module = DomainNorm(
            one_each(inner, asked.domains, sharing), affine=sharing, default=asked.default
        )
        why = (
            f"asked for; every domain begins with its statistics{'' if sharing == 'shared' else ', γ and β'}"
        )
    elif norm.activation is not None:
        return Refusal("", f"it is fused with its activation, {norm.activation}, before which γ and β come")
    else:
        new = _conditional(inner, asked)
        why = "asked for; every class begins with its γ and β"
    for part in new.modules():
        part.training = norm.module.training
    return replace(single, new=new, after=describe_layer(new), why=why, changes=True, inner=inner)


def norm_of_domain(layer: HasDomains, domain: str | int) -> BatchNorm | Refusal:
    """The norm of one domain, or of one class with its γ and β, as a batch norm of its own.

    Raises:
        InputError: the layer has no such domain.
    """
    name = domain_named(layer, domain)
    if isinstance(layer, DomainNorm):
        return read_batch_norm(layer.norms[name])
    assert isinstance(layer, ConditionalNorm)
    norm, row = read_batch_norm(layer.norm), layer.domains.index(name)
    if isinstance(norm, Refusal):
        return norm
    affine: dict[str, Tensor | None] = {
        key: nn.Parameter(table[row].detach().clone(), table.requires_grad)
        for key, table in (("weight", layer.weight), ("bias", layer.bias))
    }
    return replace(norm, tensors=norm.tensors | affine)


def _conditional(norm: Any, asked: DomainOptions) -> ConditionalNorm:
    held = {name: parameters_of(norm)[name] for name in ("weight", "bias")}
    norm.affine = False
    for name in held:
        norm.register_parameter(name, None)
    new = ConditionalNorm(norm, asked.domains, default=asked.default)
    like = next((p for p in held.values() if p is not None), None)
    for name, one in held.items():
        table = parameters_of(new)[name]
        assert table is not None  # as its constructor makes it
        if one is not None:
            table = one.detach().expand(len(asked.domains), -1).clone()
        elif like is not None:
            table = torch.zeros_like(table, dtype=like.dtype, device=like.device)
        trains = one is None or one.requires_grad
        setattr(new, name, nn.Parameter(table.detach(), trains))
    return new


def inner_norms(layer: nn.Module) -> tuple[nn.Module, ...]:
    """The norms that a layer with domains holds; none for other layers."""
    if isinstance(layer, DomainNorm):
        return tuple(norm for norm in children_of(layer.norms).values() if norm is not None)
    return (layer.norm,) if isinstance(layer, ConditionalNorm) else ()
