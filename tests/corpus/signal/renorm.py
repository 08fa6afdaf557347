"""NS507: batch renormalization whose corrections are cut off."""

from __future__ import annotations

from functools import partial

from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import nn

MAY = "301 403 404 202 506"


def renorm(channels: int, dimensions: int, limits: tuple[float, float] | None, steps: int = 1) -> nn.Module:
    """Batch renorm with constant limits, or with the paper's schedule over so many steps."""
    from normsmith.layers import BatchRenorm1d, BatchRenorm2d

    layer = BatchRenorm2d if dimensions == 2 else BatchRenorm1d
    if limits is None:
        return layer(channels, total_steps=steps)
    return layer(channels, schedule=partial(constant, limits))


def constant(limits: tuple[float, float], _: object) -> tuple[float, float]:
    """A schedule that never changes."""
    return limits


def limited(limits: tuple[float, float]) -> networks.Norm:
    return lambda channels, dimensions: renorm(channels, dimensions, limits)


@case("MLP", must="507", may=MAY, seen="r_max and d_max taken from large batches and used with small ones")
def narrow_limits_in_batches_of_four() -> Given:
    """Limits of 1.05 and 0.05 with four samples: nearly every correction is cut."""
    return training.fitted(networks.mlp(limited((1.05, 0.05))), "mlp", size=4, steps=300)


@case(
    "RNN",
    must="507",
    may=MAY,
    seen="limits that never opened, because the schedule was never told of the steps",
)
def narrow_limits_for_a_last_state() -> Given:
    """A norm of the last state with limits near 1 and 0, eight sequences at a time."""

    class LastState(networks.Gru):
        def forward(self, x):
            return self.head(self.bn.norm(self.rnn(x)[1][-1]).relu())

    return training.fitted(LastState(limited((1.02, 0.02))), "gru", size=8, steps=250)


@case(
    "CNN",
    must="507",
    may=MAY,
    seen="renorm on images at batch size 1 or 2 with the limits of a paper on large ones",
)
def narrow_limits_in_batches_of_two() -> Given:
    """Two images, limits of 1.005 and 0.005."""
    return training.fitted(networks.Cnn(limited((1.005, 0.005))), "cnn", size=2, steps=250)


@case("MLP", must_not="507")
def usual_limits() -> Given:
    """Limits of 3 and 5 with 64 samples: nothing is cut."""
    return training.fitted(networks.mlp(limited((3.0, 5.0))), "mlp")


@case("CNN", must_not="507")
def usual_limits_for_images() -> Given:
    """Limits of 3 and 5 for images in batches of 32."""
    return training.fitted(networks.Cnn(limited((3.0, 5.0))), "cnn", size=32)


@case("RNN", must_not="507")
def limits_that_have_opened() -> Given:
    """The paper's schedule after its warm-up."""

    def norm(channels: int, dimensions: int) -> nn.Module:
        return renorm(channels, dimensions, None, steps=120)

    return training.fitted(networks.Gru(norm), "gru")


@case("transformer-like", must_not="507")
def no_renorm_at_all() -> Given:
    """Batch norm has no limits to cut at."""
    return training.trained("transformer")
