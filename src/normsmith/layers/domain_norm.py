"""Norms whose statistics are kept apart for every domain: clean and adversarial, source and target, and the like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from normsmith._choices import check_choice
from normsmith._torch import parameters_of
from normsmith.errors import InputError
from normsmith.layers._symbolic import is_symbol
from normsmith.layers.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normsmith.layers.domains import HasDomains, Split, check_split, domain_names
from normsmith.layers.ours import Ours
from normsmith.layers.statistics import StatisticsBase
from normsmith.layers.take_part import take_part

_AFFINE = ("weight", "bias")
_HELD = (*_AFFINE, "running_mean", "running_var", "num_batches_tracked", "running_std")


class DomainNorm(HasDomains, Ours, nn.Module):
    """Norms of one kind, one for each domain, of which `use_domain` chooses: running statistics are kept per domain.

    A forward in one domain is a forward of that domain's norm, in `norms[domain]`: an ordinary layer of normsmith,
    batch norm or batch renorm, with its activation or without. So everything that is done to norms is done to these:
    `freeze`, `use_mask`, `accumulate`, ranks that share statistics, `surgery.recalibrate`, `convert(to="renorm")`.

    A forward of several domains, with an index for each sample, normalises each domain's samples by themselves:
    outputs, gradients and statistics are those of separate forwards. A domain without samples is left alone; one with
    a single value per channel in training is treated as its norm's `on_small_batch` says.

    With `affine="shared"` all norms hold one γ and one β; with "own" each has its own. A norm that a forward did not
    use has no gradient; while `torch.distributed` is initialised it has zeros, as DistributedDataParallel wants. Ranks
    that share statistics (`process_group`) must run the same domains in the same order; with an index for each sample
    they do, and a rank may lack a domain.

    The state dict has the tensors of each norm, as `norms.clean.running_mean`, a shared γ under each domain. One of a
    plain batch norm loads too: every domain begins with its statistics.

    Args:
        norms: a norm of normsmith for each domain, all of one class and with as many channels.
        affine: "shared" gives all the first one's γ and β; "own" leaves each what it has.
        default: the domain outside of every `use_domain`; without one a forward there is an error.

    Raises:
        InputError: an argument or an input does not fit; says what was expected, and where.

    >>> from normsmith.layers import BatchRenorm1d, use_domain
    >>> layer = DomainNorm({name: BatchRenorm1d(2, total_steps=100) for name in ("clean", "adversarial")})
    >>> with use_domain(layer, "adversarial"):
    ...     y = layer(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> [norm.num_batches_tracked.item() for norm in layer.norms.values()]
    [0, 1]
    >>> layer.norms["clean"].weight is layer.norms["adversarial"].weight
    True

    Source: Chang et al. (2019), arXiv:1906.03950 (statistics and affine per domain); Xie et al. (2020),
    arXiv:1911.09665 (clean and adversarial); Li et al. (2016), arXiv:1603.04779 (statistics of the target domain).
    """

    is_composite: ClassVar[bool] = True

    def __init__(
        self,
        norms: Mapping[str, StatisticsBase],
        *,
        affine: Literal["shared", "own"] = "shared",
        default: str | None = None,
    ) -> None:
        super().__init__()
        check_choice("affine", affine, ("shared", "own"))
        self._name_domains(tuple(norms), default)
        _check_alike(norms)
        self.affine = affine
        self.norms = nn.ModuleDict(norms)
        first, *others = norms.values()
        if affine == "shared":
            for norm in others:
                parameters_of(norm).update(parameters_of(first))

    @property
    def num_features(self) -> int:
        """The number of channels, the size of dimension 1 of the input."""
        first: Any = self.norms[self.domains[0]]
        return int(first.num_features)

    def forward(
        self,
        input: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Normalise a batch by the statistics of its domain, or each sample among those of its own.

        Args:
            input: shape (batch, channels, *space), floating point; the output has its dtype.
            mask: bool or 0/1 integers, True = valid, the shape of the input without channels, broadcastable.
            sample_weight: ≥ 0, shape (batch,) or that of the input without channels.
            residual: shape of the input, added to the result.

        Raises:
            InputError: no domain is chosen, or an argument does not fit.
        """
        domain = self._domain_of_forward()
        if isinstance(domain, str):
            return self._call(domain, self._with_all(input, (domain,)), mask, sample_weight, residual)
        return self._each_its_own(domain, input, (mask, sample_weight, residual))

    def _each_its_own(self, split: Split, x: Tensor, others: tuple[Tensor | None, ...]) -> Tensor:
        """A forward whose samples are of several domains: each domain's samples through its norm."""
        check_split(self, split, x)
        shares = any(getattr(norm, "process_group", None) is not None for norm in self.norms.values())
        every = zip(self.domains, split.rows, strict=True)
        used = [(domain, rows) for domain, rows in every if shares or len(rows)]
        if not used:  # an empty batch: the first norm knows what comes of that
            used = [(self.domains[0], split.rows[0])]
        x = self._with_all(x, [domain for domain, _ in used])
        if len(used) == 1:
            return self._call(used[0][0], x, *others)
        mask, *rest = others
        parts: dict[str, Tensor] = {}
        # the smallest first: if one has too few values, no statistics have moved yet; ranks keep one order
        ordered = shares or torch.compiler.is_compiling()
        for domain, rows in used if ordered else sorted(used, key=lambda each: len(each[1])):
            its_mask = getattr(self.norms[domain], "context_mask", None) if mask is None else mask
            parts[domain] = self._call(domain, x[rows], *(_some(each, x, rows) for each in (its_mask, *rest)))
        return torch.cat([parts[domain] for domain, _ in used])[split.back]

    def _call(self, domain: str, x: Tensor, *others: Tensor | None) -> Tensor:
        """A forward of a domain's norm, which may be torch's, by torch's converters, and take an input alone."""
        arguments = others if any(each is not None for each in others) else ()
        y: Tensor = self.norms[domain](x, *arguments)
        return y

    def _with_all(self, x: Tensor, used: Sequence[str]) -> Tensor:
        """The input, of which the γ and β of unused norms are part where ranks train together: with gradient zero."""
        if self.affine == "shared" or is_symbol(x) or not torch.is_grad_enabled():
            return x
        if not (dist.is_available() and dist.is_initialized()):
            return x
        unused = (self.norms[domain].parameters() for domain in self.domains if domain not in used)
        return take_part(x, *(p for p in chain(*unused) if p.requires_grad))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *arguments: Any
    ) -> None:
        assigns = bool(metadata.get("assign_to_params_buffers"))
        for name in _HELD:
            plain = state_dict.pop(f"{prefix}{name}", None)
            if plain is not None:  # a checkpoint of one norm for all
                for domain in self.domains:
                    state_dict[_key(prefix, domain, name)] = plain.clone() if assigns else plain
        errors: list[str] = arguments[-1]
        for name in _AFFINE if self.affine == "shared" else ():
            keys = [_key(prefix, domain, name) for domain in self.domains]
            held = [state_dict[key] for key in keys if state_dict.get(key) is not None]
            if any(_differ(each, held[0]) for each in held[1:]):
                errors.append(
                    f'{prefix}norms: expected one {name} for all domains (affine="shared"), got several; '
                    'make the layer with affine="own"'
                )
            elif held and assigns:  # one parameter, so that it stays shared
                one = held[0] if isinstance(held[0], nn.Parameter) else nn.Parameter(held[0])
                state_dict |= dict.fromkeys(keys, one)
        super()._load_from_state_dict(state_dict, prefix, metadata, *arguments)

    def extra_repr(self) -> str:
        """Whether γ and β are shared, and the default."""
        default = "" if self.default is None else f", default={self.default!r}"
        return f"{self.num_features}, affine={self.affine!r}{default}"


def _key(prefix: str, domain: str, name: str) -> str:
    return f"{prefix}norms.{domain}.{name}"


def _some(value: Tensor | None, x: Tensor, rows: Tensor) -> Tensor | None:
    """These rows of a mask, of weights or of a residual; what has others than the input is for the norm to judge."""
    if value is None or value.ndim == 0 or value.shape[0] != x.shape[0]:
        return value
    return value[rows.to(value.device)]


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether two values of a checkpoint are not the same; on the meta device there are none."""
    if one is other or (one.is_meta and one.shape == other.shape):
        return False
    return one.shape != other.shape or not torch.equal(one, other)


def _check_alike(norms: Mapping[str, nn.Module]) -> None:
    described = {(type(norm).__name__, getattr(norm, "num_features", None)) for norm in norms.values()}
    if len(described) > 1 or not all(isinstance(norm, StatisticsBase) for norm in norms.values()):
        raise InputError(
            "norms: expected norms of normsmith, all of one class with as many channels, got "
            f"{', '.join(sorted(f'{kind}({features})' for kind, features in described))}"
        )
    if len({id(norm) for norm in norms.values()}) < len(norms):
        raise InputError(
            "norms: expected a norm for each domain, got one for two of them; copy.deepcopy makes another"
        )


def one_each(first: StatisticsBase, domains: Sequence[str], affine: str) -> dict[str, StatisticsBase]:
    """A norm for each domain: the first is the one that is given, the others copies of it.

    With affine "shared" the copies hold its very γ and β.
    """
    held = [p for p in parameters_of(first).values() if p is not None]
    norms = {}
    for number, domain in enumerate(domains):
        memo: dict[int, Any] = {id(p): p for p in held} if affine == "shared" else {}
        norms[domain] = deepcopy(first, memo) if number else first
    return norms


class _OfBatchNorms(DomainNorm):
    """A `DomainNorm` that makes its batch norms itself."""

    _kind: ClassVar[Callable[..., StatisticsBase]]

    def __init__(
        self,
        num_features: int,
        domains: Sequence[str] | int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        affine: Literal["shared", "own", "none"] = "shared",
        default: str | None = None,
        **settings: Any,
    ) -> None:
        check_choice("affine", affine, ("shared", "own", "none"))
        kind: Any = type(self)._kind
        first = kind(num_features, eps, momentum, affine != "none", **settings)
        sharing: Literal["shared", "own"] = "own" if affine == "own" else "shared"
        super().__init__(one_each(first, domain_names(domains), sharing), affine=sharing, default=default)


class DomainBatchNorm1d(_OfBatchNorms):
    """Batch norms of (batch, channels) or (batch, channels, length) inputs, one for each domain; see `DomainNorm`.

    Args:
        num_features: number of channels C, the size of dimension 1 of the input.
        domains: their names, two at least, or how many there are ("0", "1", … then).
        eps: finite number ≥ 0 that is added to the variance.
        momentum: weight of the new batch in the running statistics; None is the cumulative average.
        affine: whether the domains have one γ and one β ("shared"), each its "own", or "none".
        default: the domain outside of every `use_domain`; without one a forward there is an error.
        settings: of each `BatchNorm1d`, as `ghost_batch_size`, `process_group`, `on_small_batch`, `dtype`.

    >>> from normsmith.layers import use_domain
    >>> layer = DomainBatchNorm1d(2, ("source", "target"), default="source")
    >>> layer(torch.ones(4, 2)).shape, list(layer.state_dict())[:2]
    (torch.Size([4, 2]), ['norms.source.weight', 'norms.source.bias'])
    """

    _kind = BatchNorm1d


class DomainBatchNorm2d(_OfBatchNorms):
    """Batch norms of (batch, channels, height, width) inputs, one for each domain; as `DomainBatchNorm1d`.

    >>> from normsmith.layers import use_domain
    >>> layer = DomainBatchNorm2d(3, ("clean", "adversarial"), affine="own")
    >>> with use_domain(layer, torch.tensor([0, 1])):
    ...     layer(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """

    _kind = BatchNorm2d


class DomainBatchNorm3d(_OfBatchNorms):
    """Batch norms of (batch, channels, depth, height, width) inputs, one for each domain; as `DomainBatchNorm1d`.

    >>> layer = DomainBatchNorm3d(3, 2, default="1")
    >>> layer(torch.ones(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 4, 4, 4])
    """

    _kind = BatchNorm3d
