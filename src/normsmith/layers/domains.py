"""The domain of a forward: which of a layer's domains a batch is of, or each of its samples, chosen around the call."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normsmith._choices import did_you_mean
from normsmith._text import some
from normsmith._torch import checkpointed_segment, is_recording
from normsmith.errors import InputError
from normsmith.layers._recompute import is_recomputing, recall, remember
from normsmith.layers._symbolic import is_symbol
from normsmith.layers._where import where
from normsmith.layers.models import layers_of
from normsmith.layers.scripted import unscriptable


class Split(NamedTuple):
    """A batch whose samples are of several domains."""

    numbers: Tensor
    """The number of each sample's domain, shape (batch,), int64."""
    rows: tuple[Tensor, ...]
    """For each domain the numbers of its samples."""
    back: Tensor
    """Where each sample is once the samples are sorted by domain."""


class Choice(threading.local):
    """What the innermost open `use_domain` of this thread has chosen for a layer; no part of copies and pickles."""

    current: str | Split | None = None

    def __reduce__(self) -> tuple[type[Choice], tuple[()]]:
        return Choice, ()


class HasDomains(nn.Module):
    """A layer that does something else in every domain, and is told by `use_domain` which one it is."""

    default: str | None
    """The domain outside of every `use_domain`; None where a forward there is an error."""

    def _name_domains(self, domains: Sequence[str] | int, default: str | None) -> None:
        """Check and keep the names of the domains; nothing is chosen yet.

        Raises:
            InputError: the names are none, or the default is none of them.
        """
        self._domains = domain_names(domains)
        if default is not None and default not in self._domains:
            raise InputError(_unknown("default", default, self._domains))
        self.default = default
        self._choice = Choice()

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the domains; an index per sample counts them from 0."""
        return self._domains

    @property
    def domain(self) -> str | Tensor | None:
        """What the next forward in this thread uses: a domain, an index for each sample, or None, an error."""
        current = self._choice.current
        return current.numbers if isinstance(current, Split) else current or self.default

    def _domain_of_forward(self) -> str | Split:
        """The domain of this forward; that of its original where it is recomputed.

        Raises:
            InputError: there is no open block, and no default.
        """
        if torch.compiler.is_compiling():
            return self._present()
        if is_recomputing():
            original: str | Split | None = recall(self)
            if original is not None:
                return original
        domain = self._present()
        segment = checkpointed_segment()
        if segment is not None:
            remember(segment, self, domain)
        return domain

    def __prepare_scriptable__(self) -> nn.Module:
        """Refused: torch.jit.script knows no context that chooses a domain."""
        raise unscriptable(self)

    def _present(self) -> str | Split:
        current = self._choice.current
        if current is not None:
            return current
        if self.default is None:
            raise InputError(
                f"{where(self)}: expected a domain out of {', '.join(self._domains)}, got none; run the forward within "
                "use_domain(model, ...), in the same thread, or give the layer a default"
            )
        return self.default


@contextmanager
def use_domain(model: nn.Module, domain: str | int | Tensor) -> Iterator[None]:
    """Run the forwards of a block in one domain, or each sample in its own.

    For all layers of the model that have domains (`DomainNorm`, `ConditionalNorm`). Blocks may be nested, the
    innermost one holds, and what was there comes back when it ends, by an exception too. A block holds for its own
    thread alone, as `torch.no_grad()` does, so that threads may serve a model in several domains at once. What
    activation checkpointing recomputes in a backward, inside or outside of the block, is in the domain of its first
    forward.

    Args:
        model: any module with such layers, wrapped by DistributedDataParallel or torch.compile too.
        domain: its name, or its number among the layer's `domains`; or a tensor of shape (batch,) with such a number
            for each sample, best on the device of the inputs. Each domain's samples are then normalised by themselves,
            within one forward. The numbers are looked at once, when the block begins, for which the host waits for a
            GPU.

    Raises:
        InputError: the model has no such layer, or a layer does not know this domain; nothing is chosen then.

    >>> from normsmith.layers import DomainBatchNorm1d, use_domain
    >>> layer = DomainBatchNorm1d(1, ("clean", "adversarial"), affine="none")
    >>> x = torch.tensor([[1.0], [3.0], [10.0], [30.0]])
    >>> with use_domain(layer, torch.tensor([0, 0, 1, 1])):
    ...     layer(x).round(decimals=2).flatten()
    tensor([-1.,  1., -1.,  1.])
    >>> with use_domain(layer, "clean"):
    ...     layer.eval()(x[:1])
    tensor([[0.7628]])
    """
    layers = domain_layers(model, "use_domain")
    chosen = [_chosen(layer, domain) for layer in layers]
    if isinstance(domain, Tensor):
        splits = {count: _split(domain, count) for count in {len(layer.domains) for layer in layers}}
        chosen = [splits[len(layer.domains)] for layer in layers]
    before = [layer._choice.current for layer in layers]
    try:
        for layer, one in zip(layers, chosen, strict=True):
            layer._choice.current = one
        yield
    finally:
        for layer, earlier in zip(layers, before, strict=True):
            layer._choice.current = earlier


@contextmanager
def some_domain(model: nn.Module, domain: str | int | None = None) -> Iterator[None]:
    """Have a domain for every layer of a model: the one that is given, or else the first where there is none now.

    For forwards that tell how a model is built, or compare it with another one. The model may have no such layer.
    """
    layers = [module for module in model.modules() if isinstance(module, HasDomains)]
    before = [layer._choice.current for layer in layers]
    try:
        for layer in layers:
            if domain is not None or layer.domain is None:
                layer._choice.current = domain_named(layer, 0 if domain is None else domain)
        yield
    finally:
        for layer, earlier in zip(layers, before, strict=True):
            layer._choice.current = earlier


def domain_layers(model: nn.Module, caller: str) -> list[HasDomains]:
    """The layers of a model that have domains, at least one; `caller` is named in the message otherwise.

    Raises:
        InputError: there is none, or `model` is none.
    """
    advice = 'convert it first: normsmith.convert(model, to="domain", domains=(...))'
    return layers_of(model, HasDomains, caller, what="norms per domain", advice=advice)


def domain_named(layer: HasDomains, domain: object) -> str:
    """The name of a domain of a layer that is given by its name or number.

    Raises:
        InputError: the layer has no such domain.
    """
    if isinstance(domain, int) and not isinstance(domain, bool) and 0 <= domain < len(layer.domains):
        return layer.domains[domain]
    if not isinstance(domain, str) or domain not in layer.domains:
        many = (
            ""
            if isinstance(domain, (str, int))
            else "; an index for each sample is a tensor of whole numbers"
        )
        raise InputError(f"{where(layer)}: {_unknown('domain', domain, layer.domains)}{many}")
    return domain


def _chosen(layer: HasDomains, domain: Any) -> str | Split | None:
    return None if isinstance(domain, Tensor) else domain_named(layer, domain)


def _split(index: Tensor, domains: int) -> Split:
    if is_recording():
        raise InputError(
            "domain: expected the name of one in what is exported or traced, got an index for each sample: which "
            "samples go through which norm would be kept as it is now; open the block around the export, with one name"
        )
    if index.ndim != 1 or index.is_floating_point() or index.is_complex():
        raise InputError(
            f"domain: expected a whole number for each sample, of shape (batch,), got {index.dtype} of shape "
            f"{tuple(index.shape)}"
        )
    index = index.detach().long().clone()  # which the caller may write into
    if index.numel() and not bool(((index >= 0) & (index < domains)).all()):
        sample = int(((index < 0) | (index >= domains)).nonzero()[0])
        raise InputError(
            f"domain: expected numbers from 0 to {domains - 1}, which count the domains in their order, got "
            f"{index[sample].item()} for sample {sample}"
        )
    rows = tuple((index == number).nonzero().flatten() for number in range(domains))
    return Split(index, rows, torch.cat(rows).argsort())


def check_split(layer: HasDomains, split: Split, x: Tensor) -> None:
    """Refuse a batch that has not one row for each number of the index, and to keep the index in a program.

    Raises:
        InputError: it has another number of rows, or the forward is exported or traced.
    """
    if is_symbol(x) or is_recording():
        raise InputError(
            f"{where(layer)}: expected one domain to export or trace, got an index for each sample, whose numbers the "
            f'program would keep; do it within use_domain(model, "{layer.domains[0]}"), once for each domain that is '
            "needed"
        )
    if x.shape[0] != len(split.numbers):
        raise InputError(
            f"{where(layer)}: expected an input of {len(split.numbers)} rows, one for each number that use_domain was "
            f"given, got shape {tuple(x.shape)}; repeat the numbers as the model repeats samples, or run each domain "
            "by itself"
        )


def _unknown(what: str, name: object, known: Sequence[str]) -> str:
    return f"{what}: expected one of {some(list(known), 10)}, got {name!r}{did_you_mean(name, known)}"


def domain_names(domains: Sequence[str] | int) -> tuple[str, ...]:
    """The names of domains that are given by their names, or by how many there are.

    Raises:
        InputError: there are no two, two are the same, or one is not fit for the state dict.

    >>> domain_names(3), domain_names(["clean", "adversarial"])
    (('0', '1', '2'), ('clean', 'adversarial'))
    """
    if isinstance(domains, int) and not isinstance(domains, bool):
        domains = [str(number) for number in range(domains)]
    if isinstance(domains, (str, int)) or not all(isinstance(name, str) for name in domains):
        raise InputError(
            f'domains: expected their names, as ("clean", "adversarial"), or their number, got {domains!r}'
        )
    names = tuple(domains)
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"domains: expected two different names at least, got {names!r}")
    taken = nn.ModuleDict()
    for name in names:
        if not name or "." in name or hasattr(taken, name):
            raise InputError(
                f"domains: expected names that the state dict can hold, got {name!r}, which is empty, has a dot in it "
                f'or is what a module of torch calls something else; choose another, e.g. "{name or "a"}_domain"'
            )
    return names
