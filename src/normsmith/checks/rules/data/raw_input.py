"""The first layer gets raw data: numbers far from 1, or features on very different scales.

What: what reaches the first linear, convolutional or recurrent layer, feature by feature (of images channel by
    channel). Norms, divisions and other preparation before that layer count: a network that begins with a norm is fine.
    The outputs of embeddings are no raw data. Features that are constant, have only two values, or are mostly zero are
    left out.

Formula: r_f = sqrt(mean of x_f²), the root mean square of feature f. Reported is max r_f > 5, or max r_f < 0.01, or,
    with three or more features, max r_f > 20 times their median.

Why it hurts: initial weights have a size that fits inputs around 1. Inputs in the hundreds saturate the first layers,
    or make the gradient of the first weights that much larger than all others. A feature in the thousands hides one
    that is around 1. A batch norm after the first layer mends a common scale of all features, but never different
    scales: the first layer has mixed them.

Threshold: standardised data have 1, pixels in [0, 1] about 0.5, grey values of 0 to 255 more than 100. 5, 0.01, and 20
    between features are our own choice. UMLAUT, another checker of networks, warns outside of [−1, 1], where
    standardised data often are.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    batches = [255 * torch.rand(32, 3, 4, 4) for _ in range(8)]
    findings = normsmith.check(model, batches, select=["NS401"])
    assert findings.codes == ("NS401",)
    good = [batch / 255 for batch in batches]
    assert normsmith.check(model, good, select=["NS401"]).passed()

Fix: `model = nn.Sequential(normsmith.InputNorm(3).fit(batches), model)`, which standardises each feature or channel.
    The number is the size of dimension 1: 3 for RGB images of shape (N, 3, H, W), 48 for tables of shape (N, 48). Or
    divide by what is known, as `x / 255`. Then train again.

Threads: Belval/CRNN#62, kenshohara/3D-ResNets-PyTorch#7, huangzehao/caffe-vdsr#18, xindongzhang/ECBSR#24.
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith._text import number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.inputs import dense
from normsmith.checks.rule import Rule

LARGE = 5.0
SMALL = 0.01
RATIO = 20.0
_FEWEST_FEATURES = 3
_FEWEST_VALUES = 16
_FIX = Fix(
    "model = nn.Sequential(normsmith.InputNorm(features).fit(batches), model)  # features: the size of dimension 1"
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for the first layer, if what it gets is raw."""
    path, values = context.first_inputs
    if len(values) < _FEWEST_VALUES:
        raise UnavailableError(f"expected at least {_FEWEST_VALUES} values of a feature, got {len(values)}")
    values = values[:, dense(values)]
    if values.shape[1] == 0:
        return
    scales = values.square().mean(0).sqrt()
    largest, median = float(scales.max()), float(scales.median())
    if largest > LARGE:
        what, measured, threshold = f"inputs are around {number(largest)} in size, not 1", largest, LARGE
    elif largest < SMALL:
        what, measured, threshold = f"inputs are around {number(largest)} in size, not 1", largest, SMALL
    elif len(scales) >= _FEWEST_FEATURES and largest > RATIO * median:
        what = f"one feature is {number(largest / median)} times as large as the median feature"
        measured, threshold = largest / median, RATIO
    else:
        return
    yield Finding(
        path,
        f"{what} ({len(scales)} features, {number(float(scales.min()))} to {number(largest)})",
        "data that nobody has standardised",
        _FIX,
        quantity="size of inputs",
        measured=measured,
        threshold=threshold,
        batches=len(context.measured),
    )


RULE = Rule("NS401", "raw-input", "warning", check, __doc__, needs=("batches",))
