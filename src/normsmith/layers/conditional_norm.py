"""Class-conditional batch norm: one set of statistics, and a γ and β for each class, taken by the class of a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normsmith.errors import InputError
from normsmith.layers._symbolic import call_in_graph, is_symbol
from normsmith.layers.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normsmith.layers.domains import HasDomains, Split, check_split, domain_names
from normsmith.layers.ours import Ours
from normsmith.layers.statistics import StatisticsBase
from normsmith.ops.call import computing_dtype
from normsmith.ops.masks import valid_elements


class ConditionalNorm(HasDomains, Ours, nn.Module):
    """A norm whose γ and β are those of a sample's class (domain), rows of two embeddings; its statistics are of all.

        y = γ[class]·(x − μ)/sqrt(σ² + eps) + β[class]

    `use_domain` says which class a batch is of, or, by an index, each of its samples. All classes have one mean and one
    variance: that is what tells it from `DomainNorm`, which keeps them apart. γ and β are looked up, not computed:
    there are none for a class without a row, between two classes, or for a vector (noise, text, a style).

    The state dict has `weight` and `bias` of shape (classes, channels), and the statistics under `norm`; that of a
    plain batch norm loads: every class begins with its γ and β.

    Args:
        norm: a batch norm or batch renorm of normsmith without γ and β (`affine=False`) and without activation.
        domains: the names of the classes, two at least, or how many there are ("0", "1", … then).
        default: the class outside of every `use_domain`; without one a forward there is an error.

    Raises:
        InputError: an argument or an input does not fit; says what was expected, and where.

    >>> from normsmith.layers import BatchNorm1d, use_domain
    >>> layer = ConditionalNorm(BatchNorm1d(1, affine=False), domains=3)
    >>> with torch.no_grad():
    ...     _ = layer.bias[2].fill_(10)
    >>> with use_domain(layer, torch.tensor([0, 2])):
    ...     layer(torch.tensor([[1.0], [3.0]])).round(decimals=2).flatten()
    tensor([-1., 11.], grad_fn=<ViewBackward0>)

    Source: de Vries et al. (2017), arXiv:1707.00683; for generators: Brock et al. (2019), arXiv:1809.11096.
    """

    norm: StatisticsBase
    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self, norm: StatisticsBase, domains: Sequence[str] | int, *, default: str | None = None
    ) -> None:
        super().__init__()
        self._name_domains(domains, default)
        if not isinstance(norm, StatisticsBase) or norm.affine or norm.activation is not None:
            raise InputError(
                f"norm: expected a norm of normsmith with affine=False and without activation, got {norm!r}"
            )
        self.norm = norm
        mean: Any = norm.running_mean
        device = None if mean is None else mean.device
        shape = (len(self.domains), norm.num_features)
        self.weight = nn.Parameter(torch.ones(shape, device=device))
        self.bias = nn.Parameter(torch.zeros(shape, device=device))

    @property
    def num_features(self) -> int:
        """The number of channels, the size of dimension 1 of the input."""
        return int(self.norm.num_features)

    def forward(
        self,
        input: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Normalise a batch by the statistics of all, then scale and shift each sample as its class does.

        Args:
            input: shape (batch, channels, *space), floating point; the output has its dtype.
            mask: bool or 0/1 integers, True = valid, the shape of the input without channels, broadcastable.
            sample_weight: ≥ 0, shape (batch,) or that of the input without channels.
            residual: shape of the input, added to the result.

        Raises:
            InputError: no class is chosen, or an argument does not fit.
        """
        if is_symbol(input):
            return call_in_graph(self, input, mask, sample_weight, residual)
        chosen = self._domain_of_forward()
        if isinstance(chosen, Split):
            check_split(self, chosen, input)
        y: Tensor = self.norm(input, mask, sample_weight)
        if isinstance(chosen, Split):
            weight, bias = self.weight[chosen.numbers], self.bias[chosen.numbers]
        else:
            row = self.domains.index(chosen)
            weight, bias = self.weight[row : row + 1], self.bias[row : row + 1]
        dtype = torch.promote_types(computing_dtype(y), weight.dtype)
        place = (...,) + (None,) * (y.ndim - 2)
        z = torch.addcmul(bias.to(dtype)[place], y.to(dtype), weight.to(dtype)[place])
        if residual is not None:
            z = z + residual
        valid = valid_elements(self.norm.context_mask if mask is None else mask, input)
        if valid is not None:
            z = torch.where(valid, z, 0.0)
        return z.to(y.dtype)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *arguments: Any
    ) -> None:
        for name in ("weight", "bias"):
            plain = state_dict.get(f"{prefix}{name}")
            if isinstance(plain, Tensor) and plain.ndim == 1:  # a checkpoint of one γ and β for all
                state_dict[f"{prefix}{name}"] = plain.expand(len(self.domains), -1).clone()
        for name in ("running_mean", "running_var", "num_batches_tracked", "running_std"):
            if f"{prefix}{name}" in state_dict:
                state_dict[f"{prefix}norm.{name}"] = state_dict.pop(f"{prefix}{name}")
        super()._load_from_state_dict(state_dict, prefix, metadata, *arguments)

    def extra_repr(self) -> str:
        """Channels, classes, and the default."""
        default = "" if self.default is None else f", default={self.default!r}"
        return f"{self.num_features}, {len(self.domains)} classes{default}"


class _OfBatchNorm(ConditionalNorm):
    """A `ConditionalNorm` that makes its batch norm itself."""

    _kind: ClassVar[Callable[..., StatisticsBase]]

    def __init__(
        self,
        num_features: int,
        domains: Sequence[str] | int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        default: str | None = None,
        **settings: Any,
    ) -> None:
        kind: Any = type(self)._kind
        super().__init__(
            kind(num_features, eps, momentum, affine=False, **settings),
            domain_names(domains),
            default=default,
        )


class ConditionalBatchNorm1d(_OfBatchNorm):
    """Class-conditional batch norm of (batch, channels) or (batch, channels, length) inputs; see `ConditionalNorm`.

    Args:
        num_features: number of channels C, the size of dimension 1 of the input.
        domains: the names of the classes, two at least, or how many there are ("0", "1", … then).
        eps: finite number ≥ 0 that is added to the variance.
        momentum: weight of the new batch in the running statistics; None is the cumulative average.
        default: the class outside of every `use_domain`; without one a forward there is an error.
        settings: of its `BatchNorm1d`, as `ghost_batch_size`, `process_group`, `on_small_batch`.

    >>> ConditionalBatchNorm1d(2, 10, default="0")(torch.ones(4, 2)).shape
    torch.Size([4, 2])
    """

    _kind = BatchNorm1d


class ConditionalBatchNorm2d(_OfBatchNorm):
    """Class-conditional batch norm of (batch, channels, height, width) inputs; as `ConditionalBatchNorm1d`.

    >>> ConditionalBatchNorm2d(3, ("cat", "dog"), default="cat")(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """

    _kind = BatchNorm2d


class ConditionalBatchNorm3d(_OfBatchNorm):
    """Class-conditional batch norm of (batch, channels, depth, height, width) inputs; as `ConditionalBatchNorm1d`.

    >>> ConditionalBatchNorm3d(3, ("cat", "dog"), default="dog")(torch.ones(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 4, 4, 4])
    """

    _kind = BatchNorm3d
