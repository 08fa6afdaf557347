"""Which channels go: those with the smallest |γ|, as far as they can go, and never all of a layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from normsmith._text import count, path_text
from normsmith.anatomy.batch_norms import BatchNorm
from normsmith.anatomy.float64 import in_float64
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.errors import SurgeryError
from normsmith.surgery.operations.prune.channels import Channels


@dataclass(frozen=True)
class Choice:
    """The channels of each norm that go, what should have gone and cannot, and what stays so that a layer has some."""

    removed: dict[str, list[int]]
    refused: tuple[Refusal, ...]
    kept: tuple[Remark, ...]


def choose(
    channels: Channels,
    norms: Mapping[str, BatchNorm],
    zeroed: Iterable[str],
    share: float | None,
    below: float | None,
    *,
    allow_rough: bool,
) -> Choice:
    """Choose by |γ|: this share of all channels that go together, or all below a number."""
    scores = _scores(channels, norms, zeroed)
    order = sorted(scores, key=lambda root: (scores[root], root))
    wanted = (
        order[: int(share * len(order) + 1e-9)]
        if share is not None
        else [r for r in order if scores[r] < (below or 0)]
    )
    whys = channels.whys
    if not allow_rough:
        for root, paths in channels.rough.items():
            whys.setdefault(
                root,
                f"act(β) of them is not 0 and meets zero padding on the way into {' and '.join(sorted(paths))}; "
                'approximate="allow" removes them all the same',
            )
    gone = {root for root in wanted if root not in whys}
    kept = _spared(channels, scores, gone)
    removed = {
        path: indices
        for path, numbers in channels.norms.items()
        if (indices := [index for index, number in enumerate(numbers) if channels.root(number) in gone])
    }
    return Choice(removed, tuple(_refusals(channels, zeroed, set(wanted), whys)), tuple(kept))


def _scores(channels: Channels, norms: Mapping[str, BatchNorm], zeroed: Iterable[str]) -> dict[int, float]:
    """For all channels that go together the largest |γ| of their norms."""
    scores: dict[int, float] = {}
    for path in zeroed:
        weight = norms[path].tensors["weight"]
        assert weight is not None  # `zeroed` are norms with γ
        if wrong := int((~weight.detach().isfinite()).sum()):
            raise SurgeryError(
                f"prune: expected finite γ to choose channels by, got others in {wrong} of {len(weight)} channels of "
                f"{path_text(path)}; go back to weights from before, or leave the norm out with only="
            )
        for number, value in zip(channels.norms[path], in_float64(weight).abs().tolist(), strict=True):
            root = channels.root(number)
            scores[root] = max(scores.get(root, 0.0), value)
    return scores


def _spared(channels: Channels, scores: Mapping[int, float], gone: set[int]) -> list[Remark]:
    """Take out of `gone` the channel with the largest |γ| of each layer that would lose all of them."""
    kept: list[Remark] = []
    sides = [*channels.rows.items(), *((path, numbers) for path, (numbers, _) in channels.columns.items())]
    for path, numbers in sides:
        roots = {channels.root(number) for number in numbers}
        if roots and roots <= gone:
            gone.discard(max(roots, key=lambda root: (scores[root], root)))
            kept.append(Remark(path, "would lose all of its channels: the one with the largest |γ| stays"))
    return list(dict.fromkeys(kept))


def _refusals(
    channels: Channels, zeroed: Iterable[str], wanted: set[int], whys: Mapping[int, str]
) -> Iterable[Refusal]:
    """For each norm and reason how many of its channels should go and cannot."""
    for path in zeroed:
        reasons: dict[str, list[int]] = defaultdict(list)
        for index, root in enumerate(_roots(channels, channels.norms[path])):
            if root in wanted and root in whys:
                reasons[whys[root]].append(index)
        for reason, indices in reasons.items():
            yield Refusal(path, f"{count(len(indices), 'channel')} cannot go: {reason}")


def _roots(channels: Channels, numbers: Sequence[int]) -> list[int]:
    return [channels.root(number) for number in numbers]
