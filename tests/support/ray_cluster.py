"""A Ray cluster on this machine, for the tests of the executor; nodes can be added to it and killed."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEMORY = 80 * 2**20
"""Bytes of a node for objects; outcomes are small."""
PATIENCE = 240.0
"""Seconds for a node to start: Ray gives it 30, which a busy machine exceeds."""


@contextmanager
def patient() -> Iterator[None]:
    """Have Ray wait longer for a node that starts, with nothing to say."""
    from ray._private import services

    ask = services.get_node

    def ask_again(*arguments: Any) -> Any:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    services.get_node = ask_again
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        services.get_node = ask


def ports() -> dict[str, int]:
    """Free ports for a node's helpers: for those that choose their own, a node waits 30 seconds and no more."""
    names = (
        "metrics_agent_port",
        "metrics_export_port",
        "runtime_env_agent_port",
        "dashboard_agent_listen_port",
    )
    sockets = [socket.create_server(("localhost", 0)) for _ in names]
    free = {name: opened.getsockname()[1] for name, opened in zip(names, sockets, strict=True)}
    for opened in sockets:
        opened.close()
    return free


def start() -> Any:
    """A head node with two CPUs, whose workers import what tests do."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # other tests run beside it  # noqa: SIM112 - Ray's own name
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    try:
        with patient():
            from ray.cluster_utils import Cluster

            cluster = Cluster()
            cluster.add_node(
                num_cpus=2,
                object_store_memory=MEMORY,
                include_dashboard=False,  # nor what else watches a cluster
                include_log_monitor=False,
                no_monitor=True,
                **ports(),
            )
            return cluster
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def add_node(cluster: Any, **resources: float) -> Any:
    """Another node of one CPU, with resources that no other one has."""
    with patient():
        return cluster.add_node(
            num_cpus=1, object_store_memory=MEMORY, include_log_monitor=False, resources=resources, **ports()
        )


def stop(cluster: Any) -> None:
    """Leave the cluster, and end all of its processes."""
    import ray

    with patient():
        ray.shutdown()
        cluster.shutdown()
