"""The benchmark itself: peers compute the same, what is wrong is not timed, the page has every row."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from benchmarks import measure, networks, peers, processes, protocol, run, verify
from benchmarks.cases import BF16, F16, F32, Case, Inputs, inputs, suite
from benchmarks.goals import Figure, Goal, goals, losing
from benchmarks.limits import passes
from benchmarks.measure import Effort, Key, Measured, time_case
from benchmarks.page import page
from benchmarks.protocol import Ratio, interleave, ratio, sample
from torch import Tensor

IMAGES = (6, 5, 15, 15)
TINY = [
    Case(IMAGES, "planes"),
    Case(IMAGES, "channels last", channels_last=True),
    Case((7, 9), "rows"),
    Case((5, 6, 12), "sequences"),
    Case(IMAGES, "bf16", BF16),
    Case((40, 9), "fp16", F16),
]
SHORT = Effort(2, 0.0)
OPS = ("bn", "bn+relu", "bn+add+relu", "renorm", "masked")


def every() -> list[Case]:
    return [case._replace(op=op) for case in TINY for op in OPS if case.dtype == F32 or op == "bn"]


@pytest.mark.parametrize("case", every(), ids=str)
def test_all_candidates_are_right_at_mean_zero_and_ours_everywhere(case: Case) -> None:
    everyone = {
        name: run for name, run in peers.candidates(case).items() if name not in ("our BN", "unmasked")
    }
    found = {0.0: verify.errors(case, 0.0, everyone)}
    assert set(found[0.0]) == set(everyone)
    for name in everyone:
        assert verify.wrong(case, found, name) == []
    ours = {mean: verify.errors(case, mean, {"ours": everyone["ours"]}) for mean in verify.MEANS}
    assert verify.wrong(case, ours) == []


@pytest.mark.parametrize("part", range(5), ids=verify.NAMES)
def test_any_wrong_part_is_found(part: int) -> None:
    case = TINY[0]._replace(op="bn+add+relu")

    class Off(torch.autograd.Function):
        """Adds to one element of the output, or of a gradient."""

        @staticmethod
        def forward(ctx: object, y: Tensor, *leaves: Tensor) -> Tensor:
            y = y.clone()
            y.view(-1)[0] += 0.01 * (part == 0)
            return y

        @staticmethod
        def backward(ctx: object, g: Tensor) -> tuple[Tensor, ...]:
            leaves = [torch.zeros_like(leaf) for leaf in inputs(case).leaves]
            if part:
                leaves[part - 1].view(-1)[0] = 0.01
            return g, *leaves

    def off(i: Inputs) -> Tensor:
        return Off.apply(peers.separate(i), *i.leaves)

    found = {0.0: verify.errors(case, 0.0, {"ours": off})}
    (finding,) = verify.wrong(case, found)
    assert f"mean 0: {verify.NAMES[part]} of ours" in finding


@pytest.mark.parametrize("value", [float("nan"), 1.0])
def test_output_in_the_padding_is_wrong(value: float) -> None:
    case = Case((4, 3, 10), "", op="masked")

    def leaks(i: Inputs) -> Tensor:
        assert i.mask is not None
        return peers.ours(case)(i) + value * (~i.mask).unsqueeze(1)

    assert verify.wrong(case, {0.0: verify.errors(case, 0.0, {"ours": leaks})})


def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "candidates", lambda case: {"ours": lambda i: 1.001 * peers.eager(i)})
    measured = Measured()
    time_case(measured, "fresh", TINY[0], measure.fresh, SHORT)
    assert measured.times == {}
    assert "y of ours is off by" in measured.wrong[0]
    assert "wrong, not timed" in page(measured, suite(quick=True), [])


@pytest.mark.parametrize("case", [case for case in every() if case.op != "masked"], ids=str)
def test_kernels_fill_the_buffers_they_are_given(case: Case) -> None:
    kernels = peers.Kernels(case, inputs(case))
    kernels.y.fill_(7.0)
    kernels.dx.fill_(7.0)
    measure._check_kernels(case, kernels)
    kernels.backward = lambda: kernels.dx.fill_(7.0)  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(RuntimeError, match="not timed: dx"):
        measure._check_kernels(case, kernels)


@pytest.mark.parametrize("case", TINY, ids=str)
def test_torch_fills_its_buffer(case: Case) -> None:
    i = inputs(case)
    native = peers.Native(i)
    native.forward()
    native.backward()
    y = peers.eager(i)
    assert torch.equal(native.y, y)
    assert torch.equal(native.dx, torch.autograd.grad(y, [i.x], i.g)[0])


def test_stream_copy_copies() -> None:
    x, y = torch.randn(4096), torch.zeros(4096)
    peers.stream_copy(x, y)
    assert torch.equal(x, y)


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # Inductor's own imports
def test_inductor_computes_the_same() -> None:
    case = Case((4, 3, 8, 8), "", op="bn+add+relu")
    found = {0.0: verify.errors(case, 0.0, {"Inductor": peers.inductor(inputs(case))})}
    assert verify.wrong(case, found, "Inductor") == []


@pytest.mark.parametrize("regime", ["fresh", "reused", "cold"])
def test_each_regime_times_everyone_in_every_round(regime: str) -> None:
    measured, case = Measured(), Case((64, 24), "")
    timer = partial(measure.reused, measured) if regime == "reused" else getattr(measure, regime)
    time_case(measured, regime, case, timer, SHORT)
    assert len(measured.times) == 2
    for times in measured.times.values():
        assert {"ours", "torch"} <= set(times)
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in times.values())


def test_no_time_left_is_said_and_a_part_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def fails() -> None:
        raise RuntimeError("no compiler\nand more")

    measured = Measured()
    run.run(measured, [run.Task("fails", fails), run.Task("works", lambda: done.append(1))])
    assert (done, measured.failed) == ([1], {"fails": "no compiler"})
    monkeypatch.setattr(run, "LIMIT", -1)
    run.run(measured, [run.Task("works", lambda: done.append(2))])
    assert (done, measured.late) == ([1], ["works"])


def test_the_plan_measures_every_case() -> None:
    cases = suite()
    names = [task.name for task in run.tasks(Measured(), cases, quick=False)]
    assert len(set(names)) == len(names)
    regimes = {"reused": "reused", "cold": "cold", "serial": "fresh, 1 threads"}
    for group, rows in cases._asdict().items():
        assert {f"{regimes.get(group, 'fresh')}: {case}" for case in rows} <= set(names)
    assert {f"network: {name}" for name in networks.NAMES} <= set(names)


def test_only_and_list_name_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["run", "--list", "--rows", "FRESH: bn.add"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert run.main() == 0
    assert capsys.readouterr().out.splitlines() == [f"fresh: {c}" for c in suite().fused if "add" in c.op]


def test_a_sample_is_taken_again_only_where_a_switch_did_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def switched(times: int, waited: float) -> int:
        """How often a body is called that is switched out so often, and then waits so long."""
        calls.clear()
        monkeypatch.setattr(protocol, "_switches", lambda: min(len(calls), times))
        monkeypatch.setattr(protocol, "_waited", lambda: min(len(calls), times) * waited)
        _, again = sample(lambda: calls.append(1))
        assert len(calls) == again + 1
        return len(calls)

    assert switched(0, 1.0) == 1
    assert switched(2, 0.0) == 1
    assert switched(2, 1.0) == 3
    assert switched(100, 1.0) == protocol.RETRIES + 1


def test_waiting_of_all_threads_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert protocol._waited() >= 0  # as this system tells it
    for thread, nanoseconds in ((1, 2_000_000_000), (2, 500_000_000)):
        (tmp_path / str(thread)).mkdir()
        (tmp_path / str(thread) / "schedstat").write_text(f"10 {nanoseconds} 3\n")
    (tmp_path / "3").mkdir()  # has ended meanwhile
    monkeypatch.setattr(protocol, "_TASKS", tmp_path)
    assert protocol._waited() == 2.5
    monkeypatch.setattr(protocol, "_TASKS", tmp_path / "unknown")
    monkeypatch.setattr(protocol, "_switches", lambda: 7)
    assert protocol._waited() == 7


def test_slow_candidates_sit_out_and_short_rows_go_on() -> None:
    bodies = {"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.001)}
    times = interleave(bodies, rounds=4, slow=0.01)
    assert [math.isnan(seconds) for seconds in times["slow"]] == [False, True, True, False]
    assert ratio(times["slow"], times["fast"]).rounds == 2
    assert len(interleave({"fast": bodies["fast"]}, rounds=2, seconds=0.05)["fast"]) > 10
    measured = Measured(
        times={Key(TINY[0], "fresh", 2, "step"): {"ours": times["fast"], "torch": times["slow"]}}
    )
    assert "| 4, torch 2 |" in page(measured, suite(quick=True), [])


def test_interleaved_in_alternating_order() -> None:
    order: list[str] = []
    interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    squeezed = [name for index, name in enumerate(order) if index == 0 or order[index - 1] != name]
    assert squeezed == [
        "a",
        "b",
        "a",
        "b",
        "a",
    ]  # once each, then a b, then b a; repeats are samples taken again


def test_goals_are_judged_by_the_worst_row() -> None:
    def goal(at_most: bool, *values: float | None, mean: bool = False) -> Goal:
        rows = [Figure(str(v), None if v is None else ratio([v, v], [1.0, 1.0])) for v in values]
        return Goal("", 2.0, at_most, rows, mean)

    assert goal(True, 1.0, 2.0).verdict == "met"
    assert goal(True, 1.0, 2.1).verdict == "not met"
    assert goal(False, 2.0, 3.0).verdict == "met"
    assert goal(False, 1.9, 3.0, None).verdict == "not met"
    assert goal(False, 3.0, None).verdict == "open: 1 of 2 rows not measured"
    assert goal(False, None).verdict == "not measured"
    assert goal(False, 1.0, 4.0, mean=True).verdict == "met"
    assert goal(True, 1.0, 2.1).measured[0][0] == "2.1"


def test_every_goal_has_its_row_before_anything_is_measured() -> None:
    cases = suite()
    text = page(Measured(), cases, ["heading"])
    found = goals(Measured(), cases)
    assert len(found) == 26
    assert all(goal.verdict == "not measured" and goal.figures for goal in found)
    assert all(f"| {goal.name} | {goal.sign} | not measured | not measured |" in text for goal in found)


def test_large_cases_are_large_and_every_case_has_its_reason() -> None:
    cases = [case for group in suite() for case in group]
    assert all(case.why for case in cases)
    assert all(case.large == (case.bytes >= 100 * 10**6) for case in cases)
    assert {case.op for case in cases} == set(OPS)
    assert {case.dtype for case in cases} == {F32, BF16, F16}


def test_bytes_of_the_model() -> None:
    planes = Case((32, 256, 56, 56), "")  # a channel: 401 kB
    assert passes(planes, "forward") in (2, 3)  # by the cache of the machine
    small = Case((8, 16, 15, 15), "")
    assert (passes(small, "forward"), passes(small, "backward")) == (2, 3)
    added = small._replace(op="bn+add+relu")
    assert (passes(added, "forward"), passes(added, "backward")) == (3 + 1 / 32, 4 + 1 / 32)
    rows = Case((10**9, 8), "", BF16, op="bn+add+relu")
    assert (passes(rows, "forward"), passes(rows, "backward")) == (4 + 1 / 16, 6 + 1 / 8)


@pytest.mark.parametrize("name", networks.NAMES)
def test_networks_take_the_same_step(name: str) -> None:
    times = networks.network_times(name, SHORT, quick=True)
    assert {"ours", "torch"} <= set(times)


def test_the_best_peer_is_the_fastest_that_computes_the_same() -> None:
    times = {
        "ours": [2.0, 2.0],
        "torch": [4.0, 4.0],
        "oneDNN": [1.0, 1.0],
        "copy": [0.1, 0.1],
        "no norm": [0.2, 0.2],
    }
    assert measure.best_peer(times) == "oneDNN"
    assert measure.best_peer({"ours": [1.0], "our BN": [0.5]}) is None
    key = Key(TINY[0], "fresh", 2, "step")
    measured = Measured(times={key: times})
    (row,) = losing(measured, suite(quick=True))
    assert row.value == Ratio(0.5, 0.5, 0.5, 2)
    text = page(measured, suite(quick=True), [])
    assert f"| {row.row} | 0.5 (0.5 to 0.5) |" in text.partition("## Rows that the best peer wins")[2]


@pytest.mark.parametrize("last", [False, True])
def test_torch_in_the_other_layout_computes_the_same(last: bool) -> None:
    case = Case(IMAGES, "", channels_last=last, op="bn+add+relu")
    ((name, (forward, there)),) = peers.in_other_layout(case, inputs(case)).items()
    assert name == ("torch NCHW" if last else "torch NHWC")
    here, y = inputs(case), forward(there)
    assert y.is_contiguous(memory_format=torch.contiguous_format if last else torch.channels_last)
    expected = peers.separate(here)
    close = {"rtol": 1e-4, "atol": 1e-4}  # torch sums up in float32 in channels last
    torch.testing.assert_close(y, expected, **close)
    gradients = torch.autograd.grad(y, there.leaves, there.g)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, here.leaves, here.g), **close)
    assert peers.in_other_layout(TINY[2], inputs(TINY[2])) == {}


def test_peaks_are_those_of_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def first_alone(program: str) -> float:
        """The other process would be alike."""
        started.append(program)
        return seconds(program) if len(started) == 1 else 1000.0

    seconds = processes._seconds
    monkeypatch.setattr(processes, "_seconds", first_alone)
    found = processes.peaks("tabular MLP, batch 512", quick=True)
    assert list(found) == ["ours", "torch"]
    assert 50 < found["ours"] < 5000
    assert "only='ours'" in started[0]
    assert "only='torch'" in started[1]


def test_memory_of_a_step_is_counted() -> None:
    found = networks.peak_memory(quick=True)
    batch = 16 * 8 * 16 * 16 * 4
    for most, kept in found.values():
        assert 2 * batch <= kept <= most
    assert found["ours, fused"][1] < 1.01 * found["torch"][1]


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(measured: Measured, *_: object) -> None:
        measured.times[Key(TINY[0], "fresh", 2, "step")] = {"ours": [1e-3, 1e-3], "torch": [2e-3, 2e-3]}
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", stopped)
    monkeypatch.setattr(
        "sys.argv", ["run", "--quick", "--only", "none", "--output", str(tmp_path / "page.md")]
    )
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        run.main()
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "The run was interrupted" in text
    assert f"| {TINY[0]} | fresh | 2 | step | 1000.0 | 2 (2 to 2) |" in text


def test_a_single_value_has_no_spread() -> None:
    assert measure.timed({"ours": lambda: None}, 1, Effort(1, 0.0))["ours"]
    assert ratio([1.0], [2.0]) == Ratio(0.5, 0.5, 0.5, 1)
