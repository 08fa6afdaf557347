"""What each operation does to each of the families: how many changes, and what it refuses, for which reason."""

from __future__ import annotations

from tests.surgery.families import FAMILIES

ORDER = (
    "pre-activation", "shared activation", "fused, ours", "fused, timm's", "branches", "mobile", "dense", "inception",
    "siamese", "causal", "transformer", "generator", "discriminator", "face", "u-net",
)  # fmt: skip
NORMS = (5, 6, 3, 3, 7, 5, 6, 5, 2, 4, 4, 3, 2, 6, 10)
FUSED = ORDER[2:4]
APART = tuple(0 if name in FUSED else norms for name, norms in zip(ORDER, NORMS, strict=True))
"""Norms that are not in one layer with their activation."""

_CHANGES = {
    "insert before": (8, 12, 6, 6, 10, 10, 8, 10, 0, 7, 4, 6, 5, 4, 20),
    "insert after": (5, 6, 3, 3, 5, 5, 6, 4, 0, 6, 2, 3, 3, 2, 10),
    "insert beside norms, before": (0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 4, 0, 1, 0, 0),
    "insert beside norms, after": (5, 6, 0, 0, 1, 5, 6, 4, 0, 6, 2, 3, 3, 1, 10),
    "strip": (7, 12, 6, 6, 12, 10, 8, 10, 4, 4, 4, 6, 4, 9, 20),
    "strip and fold": (4, 12, 6, 6, 10, 10, 4, 10, 4, 8, 0, 6, 4, 9, 20),
    "fold": (4, 12, 6, 6, 10, 10, 4, 10, 4, 8, 0, 6, 4, 9, 20),
    "place before": (0,) * len(ORDER),
    "place after": (11, 9, 0, 0, 0, 8, 8, 3, 0, 4, 0, 6, 4, 2, 20),
    "place back": (11, 6, 0, 0, 0, 6, 8, 3, 0, 4, 0, 6, 4, 2, 20),
    "swap": (5, 3, 0, 0, 3, 5, 6, 0, 2, 6, 2, 3, 3, 2, 10),
    "to batch": (5, 6, 0, 3, 7, 5, 6, 5, 2, 4, 4, 3, 2, 6, 10),
    "to torch": APART, "to group": APART, "to layer": APART,
    "to renorm": NORMS, "to sync": NORMS, "to ghost": NORMS, "to frozen": NORMS, "freeze statistics": NORMS,
    "freeze affine": NORMS, "freeze both": NORMS, "set statistics": NORMS, "recalibrate, fast": NORMS,
    "recalibrate, exact": NORMS, "warm start": NORMS,
}  # fmt: skip
CHANGES = {operation: dict(zip(ORDER, row, strict=True)) for operation, row in _CHANGES.items()}
"""Operation → family → how many changes the plan has; norms, biases, and the layers that hold what is new."""

_MOVED = (5, 3, 0, 0, 0, 4, 6, 1, 0, 4, 0, 3, 2, 1, 10)
MOVED = {
    "before": dict.fromkeys(ORDER, 0),
    "after": dict(zip(ORDER, _MOVED, strict=True)),
    "back": dict(zip(ORDER, (5, 2, 0, 0, 0, 3, 6, 1, 0, 4, 0, 3, 2, 1, 10), strict=True)),
}
"""How many norms `place` takes across their activations."""


def _each(reason: str, paths: str) -> dict[str, str]:
    return dict.fromkeys(paths.split(), reason)


def _of_fused(reason: str) -> dict[str, dict[str, str]]:
    return {name: _each(reason, "first.1 first.3 second.1") for name in FUSED}


_BEFORE = "is before it already"
_AFTER = "is after it already; strip the norms first"
_ALONE = "beside no linear layer or convolution that could do its work"
_ADDITION = "it would have to cross the addition at the end of a residual block"
_CALLED = "is called more than once, and a norm on it would be in all places"
_PLACES = "the forward calls it 2 times, each of them another place"
_OTHERS = "puts out goes to others too, for which it would change"
_TWO = "is after {} already, and two norms would be in one place"
_FUNCTION = "its forward calls the function relu; make it a module"
_CAT = "the function cat in the forward of the model "
_CATS = {
    "one": _CAT + "cannot hold a norm; call one there in your own code, or make it a module",
    **_each(_CAT + "takes more than the one result", "three.1 pooled"),
}
_TOWER = {
    "tower.2": "Flatten tower.4 is called more than once, and a norm on it would be in all places",
    "tower.7": "Linear tower.8 is called more than once, and a norm on it would be in all places",
}
_UNFOLDED = {
    "pre-activation": {
        "1.norm1": "the function add in 1 takes what 0 (Conv2d) puts out as well", **_each(_ALONE, "2.norm1 3")
    },
    "branches": _each(_ALONE, "3.same 4.same"),
    "dense": _each(_ALONE, "1.layers.0.0 1.layers.1.0 2 6"),
    "transformer": _each(_ALONE, "blocks.0.norm1.bn blocks.0.norm2.bn blocks.1.norm1.bn blocks.1.norm2.bn"),
    "face": {"4.residual.0": "4.residual.1 after it has a border"},
}  # fmt: skip
_IN_ONE_LAYER = "its activation, relu, is in one layer with a norm already; strip the norms first"

REFUSED: dict[str, dict[str, dict[str, str]]] = {
    "insert before": {"siamese": _each(_CALLED, "tower.2 tower.7")},
    "insert after": {"inception": _CATS, "siamese": _TOWER},
    "insert beside norms, before": {
        "pre-activation": _each(_BEFORE, "1.act1 1.act2 2.act1 2.act2 4"),
        "shared activation": _each(_BEFORE, "2 3.relu 4.relu"),
        "branches": _each(_BEFORE, "2 3.act 4.act"),
        "mobile": _each(_BEFORE, "2 3.body_.2 3.body_.5 6"),
        "dense": _each(_BEFORE, "1.layers.0.1 1.layers.0.4 1.layers.1.1 1.layers.1.4 3 7"),
        "inception": _each(_BEFORE, "stem one three.0 three.1 pooled"),
        "siamese": _each(_BEFORE, "tower.2 tower.7"),
        "causal": _each(_BEFORE, "0.branch.3 0.branch.8 1.branch.3 1.branch.8"),
        "generator": _each(_BEFORE, "2 5 8"),
        "discriminator": _each(_BEFORE, "4 7"),
        "face": _each(_BEFORE, "2 4.residual.3"),
        "u-net": _each(_BEFORE, "down1.2 down1.5 down2.2 down2.5 down3.2 down3.5 up2.2 up2.5 end.2 end.5"),
        **_of_fused(_IN_ONE_LAYER),
    },
    "insert beside norms, after": {
        "branches": {"2": f"3.same {_AFTER}", "3.act": f"4.same {_AFTER}"},
        "inception": _CATS,
        "siamese": _TOWER,
        "face": {"2": f"4.residual.0 {_AFTER}"},
        **_of_fused(_IN_ONE_LAYER),
    },
    "strip and fold": _UNFOLDED,
    "fold": _UNFOLDED,
    "place before": {
        "branches": {"3.same": f"ReLU 2 {_OTHERS}", "4.same": f"ReLU 3.act {_OTHERS}"},
        "siamese": _each(_PLACES, "tower.1 tower.6"),
        "face": {"4.residual.0": f"MaxPool2d 3 {_OTHERS}"},
    },
    "place after": {
        "shared activation": _each(_ADDITION, "3.bn2 4.bn2 4.downsample.1"),
        "branches": {
            "1": f"3.same {_TWO.format('ReLU 2')}",
            **_each(_ADDITION, "3.dense.1 3.pointwise.1 4.dense.1 4.pointwise.1"),
        },
        "inception": {
            "stem.bn": "puts out goes to several layers, and one norm cannot be before each",
            **{f"{path}.bn": reason for path, reason in _CATS.items()},
        },
        "siamese": _each(_PLACES, "tower.1 tower.6"),
        "face": {"1": f"4.residual.0 {_TWO.format('PReLU 2')}"},
        **_of_fused("it is in one layer with its activation, relu"),
    },
    "swap": {
        "inception": _each(_FUNCTION, "stem one three.0 three.1 pooled"),
        **_of_fused("its activation, relu, is in one layer with a norm"),
    },
    "to torch": _of_fused("torch's batch norm has no activation"),
    "to group": _of_fused("it is fused with its activation, relu"),
    "to layer": _of_fused("it is fused with its activation, relu"),
}
"""Operation → family → path → what the reason says."""
REFUSED["place back"] = {
    **REFUSED["place before"],
    "shared activation": {"3.conv1.input_norm": f"ReLU 2 {_OTHERS}"},
    "mobile": {"3.body_.0_norm": f"Hardswish 2 {_OTHERS}"},
}

assert tuple(FAMILIES) == ORDER
