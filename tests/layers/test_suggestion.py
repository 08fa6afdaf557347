"""The suggestion of a transform, held to samples of known distributions: this is what calibrates its thresholds."""

from __future__ import annotations

import builtins
import sys

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import PowerTransformer, QuantileTransformer, RobustScaler, StandardScaler

from normsmith.errors import InputError, MissingExtraError
from normsmith.layers import InputNorm
from normsmith.layers.suggestion import FEWEST, suggestion

DISTRIBUTIONS = {  # name: (what should be suggested, how to draw n values)
    "normal": ("standard", lambda r, n: r.normal(50, 3, n)),
    "uniform": ("standard", lambda r, n: r.uniform(-1, 1, n)),
    "two equal peaks": ("standard", lambda r, n: r.normal(0, 1, n) + 6 * r.integers(0, 2, n)),
    "Laplace": ("standard", lambda r, n: r.laplace(size=n)),
    "a count of 0 to 4": ("standard", lambda r, n: r.integers(0, 5, n)),
    "a rare flag": ("standard", lambda r, n: r.uniform(size=n) < 0.02),
    "mostly zero": ("standard", lambda r, n: r.exponential(size=n) * (r.uniform(size=n) < 0.1)),
    "constant": ("standard", lambda r, n: np.full(n, 1e6 + 0.1)),
    "1 % gross errors": ("robust", lambda r, n: r.normal(0, np.where(r.uniform(size=n) < 0.01, 100, 1))),
    "gross errors, one side": ("robust", lambda r, n: r.normal(60 * (r.uniform(size=n) < 0.01), 1)),
    "Student's t, 3 degrees": ("robust", lambda r, n: r.standard_t(3, n)),
    "exponential": ("power", lambda r, n: r.exponential(7, n)),
    "log-normal": ("power", lambda r, n: r.lognormal(0, 1, n)),
    "incomes": ("power", lambda r, n: r.lognormal(10, 0.8, n)),
    "log-normal, mirrored": ("power", lambda r, n: -r.lognormal(0, 1, n)),
    "chi-squared, 1 degree": ("power", lambda r, n: r.chisquare(1, n)),
    "Cauchy": ("quantile", lambda r, n: r.standard_cauchy(n)),
    "both signs, six decades": (
        "quantile",
        lambda r, n: r.choice([-1, 1], n) * 10 ** r.uniform(-3, 3, n),
    ),
}


def draw(name: str, n: int, seed: int) -> np.ndarray:
    return np.asarray(DISTRIBUTIONS[name][1](np.random.default_rng(seed), n), np.float64)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_known_distributions(name):
    """Nine samples in ten at 2,000 values, each of them at 20,000."""
    expected = DISTRIBUTIONS[name][0]
    many = suggestion(np.stack([draw(name, 20_000, seed) for seed in range(3)], 1))
    assert [f.choice for f in many.features] == [expected] * 3, str(many)
    fewer = suggestion(np.stack([draw(name, 2_000, seed) for seed in range(20)], 1))
    assert [f.choice for f in fewer.features].count(expected) >= 18, str(fewer)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e9])
def test_scale_decides_nothing_but_what_a_power_can_do(scale):
    names = [name for name, (choice, _) in DISTRIBUTIONS.items() if choice in ("standard", "robust")]
    result = suggestion(np.stack([scale * draw(name, 5_000, 0) for name in names], 1))
    assert [f.choice for f in result.features] == [DISTRIBUTIONS[name][0] for name in names]


def test_the_numbers_are_those_of_the_definition():
    x = draw("exponential", 5_000, 0)
    (feature,) = suggestion(x[:, None]).features
    z = (x - x.mean()) / x.std()
    assert feature.skewness == pytest.approx((z**3).mean())
    assert feature.excess_kurtosis == pytest.approx((z**4).mean() - 3)
    low, high = np.quantile(x, [0.25, 0.75])
    far = (x < low - 3 * (high - low)) | (x > high + 3 * (high - low))
    assert feature.outliers == pytest.approx(far.mean())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("normal", StandardScaler),
        ("1 % gross errors", RobustScaler),
        ("log-normal", PowerTransformer),
        ("Cauchy", QuantileTransformer),
    ],
)
def test_the_transformer_does_what_it_is_suggested_for(name, kind):
    x = draw(name, 5_000, 1)[:, None]
    result = suggestion(x)
    transformer = result.transformer()
    assert type(transformer) is kind
    assert result.needed == (kind is not StandardScaler)
    y = transformer.fit_transform(x)[:, 0]
    core = y[np.abs(y - np.median(y)) < 20]
    assert 0.3 < core.std() < 3
    if kind in (PowerTransformer, QuantileTransformer):
        assert abs(((y - y.mean()) ** 3).mean() / y.std() ** 3) < 0.5


def test_features_that_differ_go_through_their_own_in_their_order():
    names = ["normal", "uniform", "log-normal", "normal", "Cauchy"]
    x = np.stack([draw(name, 3_000, 2) for name in names], 1)
    transformer = suggestion(x).transformer()
    assert isinstance(transformer, ColumnTransformer)
    y = transformer.fit_transform(x)
    for column in range(5):
        order = np.argsort(x[:, column], kind="stable")
        assert (np.diff(y[order, column]) >= -1e-9).all(), "monotone in its own column"


def test_loaders_axes_and_integers():
    x = torch.tensor(np.stack([draw("log-normal", 4_000, 3), draw("normal", 4_000, 3)], 1))
    expected = str(suggestion(x))
    assert str(InputNorm.suggest(x.split(123))) == expected
    assert str(InputNorm.suggest([{"x": x, "y": 0}], select="x")) == expected
    assert str(InputNorm.suggest(x.reshape(40, 100, 2), dim=-1)) == expected
    assert suggestion((x * 100).long()).features[0].choice == "power"


def test_limit_takes_an_even_sample():
    x = np.sort(draw("log-normal", 50_000, 4))[:, None]  # the first thousands alone would mislead
    result = suggestion(torch.tensor(x).split(1000), limit=5_000)
    assert result.values == 5_000
    assert result.features[0].choice == "power"
    assert result.features[0].outliers == pytest.approx(suggestion(x).features[0].outliers, abs=0.01)
    assert str(result) == str(suggestion(torch.tensor(x).split(1000), limit=5_000))


def test_it_reads_as_a_table():
    lines = str(suggestion(np.stack([draw("normal", 1_000, 0), draw("Cauchy", 1_000, 0)], 1))).splitlines()
    assert lines[0].split() == ["feature", "skewness", "kurtosis", "outliers", "suggestion"]
    assert lines[1].endswith("standard: neither skewed nor heavy-tailed")
    assert "quantile: " in lines[2]


def test_too_few_values_say_nothing():
    (feature,) = suggestion(draw("log-normal", FEWEST - 1, 0)[:, None]).features
    assert feature.choice == "standard"
    assert "too few" in feature.reason


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (np.array([[1.0, np.nan]]), {}, r"features \[1\]"),
        (np.ones(5), {}, r"got shape \(5,\)"),
        (np.ones((5, 2)), {"dim": 0}, "along dim=0"),
        (np.ones((5, 2)), {"dim": 2}, "along dim=2"),
        ([], {}, "at least one batch"),
        ([torch.ones(3, 2), torch.ones(3, 4)], {}, "2 features as before, got 4"),
        ([{"x": torch.ones(3, 2)}], {}, "say what of a batch"),
    ],
)
def test_bad_data_is_refused(data, options, said):
    with pytest.raises(InputError, match=said):
        suggestion(data, **options)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(builtins, "__import__", real)
    with pytest.raises(MissingExtraError, match=r"normsmith\[study\]"):
        suggestion(np.ones((5, 2)))
