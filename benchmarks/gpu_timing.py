"""Timing on a GPU: graphs of calls, replayed in alternating order between two events."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu_rows import Forward, Inputs, Row, candidates, inputs

ROUNDS = 15


def captured(body: Callable[[], object], calls: int) -> torch.cuda.CUDAGraph:
    """A graph of so many calls, after three that compile and warm up on the stream of the capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            body()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            body()
    return graph


def interleaved(graphs: dict[str, torch.cuda.CUDAGraph], calls: int) -> dict[str, float]:
    """Microseconds of a call of each candidate: the median over the rounds."""
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for graph in graphs.values():
        graph.replay()
    for round_ in range(ROUNDS):
        for name in graphs if round_ % 2 == 0 else reversed(graphs):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graphs[name].replay()
            stop.record()
            stop.synchronize()
            times[name].append(start.elapsed_time(stop) * 1e3 / calls)
    return {name: statistics.median(found) for name, found in times.items()}


def calls_of(row: Row) -> int:
    """More of short ones: a replay itself costs microseconds."""
    return max(2, min(20, 2**28 // row.bytes))


def forward_body(forward: Forward, i: Inputs) -> Callable[[], object]:
    """Training's forward, without gradients."""

    def body() -> Tensor:
        with torch.no_grad():
            return forward(i)

    return body


def step_body(forward: Forward, i: Inputs) -> Callable[[], object]:
    """Forward and backward."""
    return lambda: torch.autograd.grad(forward(i), i.leaves, i.g)


def times_of(row: Row) -> dict[str, dict[str, float]]:
    """Microseconds of every candidate: "forward", "step" (with its backward), and where both run, "backward".

    A backward alone replays the graph of one forward. Compiled functions free what theirs keeps: a step only.
    """
    i, calls = inputs(row), calls_of(row)
    runners = candidates(row)
    found = {
        "forward": _timed({name: forward_body(forward, i) for name, forward in runners.items()}, calls),
        "step": _timed({name: step_body(forward, i) for name, forward in runners.items()}, calls),
    }
    if row.op == "bn":
        found["backward"] = _backward(runners, i, calls)
    return found


def _timed(bodies: dict[str, Callable[[], object]], calls: int) -> dict[str, float]:
    return interleaved({name: captured(body, calls) for name, body in bodies.items()}, calls)


def _backward(runners: dict[str, Forward], i: Inputs, calls: int) -> dict[str, float]:
    graphs, outputs = {}, []  # what the forwards left for their backwards must live as long as the graphs
    for name, forward in runners.items():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # autograd runs a backward on the stream of its forward
            outputs.append(forward(i))
            for _ in range(3):
                torch.autograd.grad(outputs[-1], i.leaves, i.g, retain_graph=True)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(calls):
                torch.autograd.grad(outputs[-1], i.leaves, i.g, retain_graph=True)
        graphs[name] = graph
    return interleaved(graphs, calls)


def copy_bandwidth(row: Row) -> float:
    """Bytes per microsecond of a copy of the row's batch: read once, written once."""
    x = inputs(row).x.detach()
    y = torch.empty_like(x)
    calls = calls_of(row)
    time = interleaved({"copy": captured(lambda: y.copy_(x), calls)}, calls)["copy"]
    return 2 * row.bytes / time
