"""Parties that exchange moments by files: equal to one process with all data, round by round, and what they refuse."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from torch import nn

from normsmith.errors import InputError, SyncError
from normsmith.measure.folder_group import FolderExchange, FolderGroup
from normsmith.surgery import recalibrate

MEMBERS = ("a", "b", "c")


def deep():
    torch.manual_seed(0)
    parts = [[nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh()] for _ in range(3)]
    return nn.Sequential(*[layer for part in parts for layer in part]).double()


def clients():
    """Batches of three clients of unequal size, whose data differ."""
    torch.manual_seed(1)
    sizes = {"a": (40, 9), "b": (12,), "c": (3, 30, 5, 8)}
    return {
        name: [torch.randn(size, 4).double() * (1 + number) + 2 * number for size in sizes[name]]
        for number, name in enumerate(MEMBERS)
    }


def together(folder, models, data, *, first=None, **options):
    """What each party gets, or the error that it got; the others start after the first one has sent its moments."""

    def one(name):
        group = FolderGroup(folder, name, MEMBERS, timeout=20)
        try:
            return recalibrate(models[name], data[name], group=group, **options)
        except Exception as error:  # noqa: BLE001  what it is, is the result
            return error

    results = {}
    with ThreadPoolExecutor(3) as pool:
        for name in sorted(MEMBERS, key=lambda name: name != first):
            results[name] = pool.submit(one, name)
            while name == first and "value" not in (folder / f"round-001-{name}.json").read_text():
                time.sleep(0.01)
    return {name: result.result() for name, result in results.items()}


def statistics(model):
    return [value for name, value in model.named_buffers() if "running" in name]


def test_through_a_deep_network_it_is_as_if_one_had_all_data(tmp_path):
    model, data = deep(), clients()
    models = {name: deepcopy(model) for name in MEMBERS}
    models["b"][1].running_mean += 5  # statistics may differ: they are measured anew
    results = together(tmp_path / "exchange", models, data, mode="exact")
    pooled = recalibrate(model, [batch for name in MEMBERS for batch in data[name]], mode="exact")
    pooled.apply()
    for name in MEMBERS:
        assert results[name].converged
        results[name].apply()
        for mine, expected in zip(statistics(models[name]), statistics(model), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)
    assert sum(len(batch) for batches in data.values() for batch in batches) == results["a"].layers[2].count


def test_who_was_stopped_goes_on_without_its_data(tmp_path):
    model, data = deep(), clients()
    first = together(tmp_path, dict.fromkeys("a", model) | {n: deepcopy(model) for n in "bc"}, data)
    files = sorted(path.name for path in tmp_path.iterdir())
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    group = FolderGroup(tmp_path, "b", MEMBERS, timeout=5)
    again = recalibrate(deepcopy(model), iter(data["b"]), group=group)
    for one, other in zip(first["b"].layers, again.layers, strict=True):
        torch.testing.assert_close(one.after["running_var"], other.after["running_var"], rtol=0, atol=0)
    assert files == sorted(path.name for path in tmp_path.iterdir())
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_other_weights_are_refused_by_everybody_who_sees_them(tmp_path):
    model = deep()
    models = {name: deepcopy(model) for name in MEMBERS}
    models["c"][3].weight.data += 1
    results = together(tmp_path, models, clients())
    assert all(isinstance(error, SyncError) for error in results.values())
    assert "others at c: 3.weight differs" in str(results["a"])
    assert "others at a: 3.weight differs" in str(results["c"])


def test_another_structure_is_told(tmp_path):
    model = deep()
    models = {name: deepcopy(model) for name in MEMBERS}
    models["b"].append(nn.Linear(4, 1).double())
    results = together(tmp_path, models, clients())
    assert "others at b: 9.weight is in one of the two only" in str(results["a"])


def test_other_settings_are_told(tmp_path):
    model, data = deep(), clients()

    def one(name):
        group = FolderGroup(tmp_path, name, ("a", "b"), timeout=20)
        with pytest.raises(SyncError, match=r"\(settings\) differs"):
            recalibrate(deepcopy(model), data[name], mode="exact" if name == "a" else "fast", group=group)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, "ab"))


def test_a_folder_of_another_exchange_is_refused(tmp_path):
    (tmp_path / "round-000-a.json").write_text(json.dumps({"value": {"x": "1"}}))
    with pytest.raises(SyncError, match="take an empty folder"):
        FolderExchange(FolderGroup(tmp_path, "a", ["a"]), {"x": "2"})


def test_an_error_of_one_party_is_told_to_all_and_the_model_is_as_it_was(tmp_path):
    model, data = deep(), clients()
    data["b"] = [torch.zeros(2, 7).double()]  # of another width
    models = {name: deepcopy(model) for name in MEMBERS}
    results = together(tmp_path, models, data)
    assert not isinstance(results["b"], SyncError)
    assert "b had" in str(results["a"])
    assert "start b again" in str(results["c"])
    before = statistics(model)
    assert all(map(torch.equal, statistics(models["a"]), before))
    data["b"] = clients()["b"]
    results = together(tmp_path, models, data, first="b")  # the mended party, and then the others, go on
    assert results["b"].layers[0].count == 107


def test_who_does_not_come_is_named(tmp_path):
    with pytest.raises(SyncError, match=r"got none of b, c within 0\.05 s"):
        FolderExchange(FolderGroup(tmp_path, "a", MEMBERS, timeout=0.05), {})


@pytest.mark.parametrize("text", ["", '{"value": {"mom', "[1]"])
def test_half_a_file_is_waited_for(tmp_path, text):
    (tmp_path / "round-000-b.json").write_text(text)
    with pytest.raises(SyncError, match="got none of b within"):
        FolderExchange(FolderGroup(tmp_path, "a", ["a", "b"], timeout=0.05), {})


def test_what_cannot_be_read_is_told_with_its_file(tmp_path):
    (tmp_path / "round-001-b.json").write_text('{"value": {"moments": 3}}')
    (tmp_path / "round-000-b.json").write_text('{"value": {"(members)": "a, b"}}')
    exchange = FolderExchange(FolderGroup(tmp_path, "a", ["a", "b"]), {})
    with pytest.raises(SyncError, match=r"round-001-b\.json: expected what b measured"):
        exchange.gather(lambda: 1, lambda value: {"moments": [value]}, lambda value: value["moments"][0])


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "exchange").write_text("")
    with pytest.raises(SyncError, match="expected a folder to read and write"):
        FolderExchange(FolderGroup(tmp_path / "exchange", "a", ["a"]), {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "ab"), "names of all parties"),
        (("a", ["a", "A"]), "each once"),  # one file on some systems
        (("a", ["a", "../b"]), r"got '\.\./b'"),
        (("d", MEMBERS), "one of the members a, b, c, got 'd'"),
        (("a", []), "names of all parties"),
        (("a", 2), "names of all parties, each once, got 2"),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path, arguments, message, unchecked):
    with pytest.raises(InputError, match=message):
        FolderGroup(tmp_path, *arguments)


@pytest.mark.parametrize("timeout", [0, "3", float("nan")])
def test_a_timeout_of_zero_is_refused(tmp_path, timeout, unchecked):
    with pytest.raises(InputError, match="above 0"):
        FolderGroup(tmp_path, "a", ["a"], timeout=timeout)


def test_no_folder_is_refused(unchecked):
    with pytest.raises(InputError, match="folder: expected the path of a folder, got None"):
        FolderGroup(None, "a", ["a"])
