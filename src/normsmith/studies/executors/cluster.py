"""The executor of a Ray cluster: which cluster, and what a trial takes of it."""

from __future__ import annotations

import logging
import math
import os
import socket
from dataclasses import dataclass
from typing import Any, Literal

from normsmith._choices import did_you_mean
from normsmith._extras import imports_of_extra
from normsmith._text import error_text
from normsmith.errors import StudyError
from normsmith.studies.executors.head import Head
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.executors.remote import RayWorkers

LOCAL, RUNNING = "local", "auto"
"""Addresses: a cluster of this machine alone, for this process; the cluster that runs here, or is in RAY_ADDRESS."""
ANSWER_SECONDS = 5.0
"""How long a cluster may take to answer at its address."""
SETTINGS_SECONDS = 20.0
"""How long it may take to say what it is."""
_FORMS = "local, auto or host:port"
_PLACEMENTS = ("pack", "spread")
_joined: list[str] = []
"""The address by which this process joined its cluster; Ray knows it by another name of the same machine."""


@dataclass(frozen=True)
class RayExecutor:
    """Workers on a Ray cluster: actors, each of which runs trials in a worker process of its own on its node.

    Every node needs the same versions of normsmith, torch and numpy, and the same kind of processor or GPU, since
    trials are to give the same numbers everywhere; what a node has otherwise is refused. A task that was named by its
    file needs that file at the same path on every node.

    Args:
        address: "local" (this machine alone, as a cluster that ends with the process), "auto" (the cluster that runs on
            this machine, or that RAY_ADDRESS names) or host:port.
        cpus: how many of a node's CPUs one trial takes; a fraction lets trials share one.
        gpus: the same of GPUs; by default one for a task on "cuda", and none for others.
        placement: "pack" fills one node before the next, "spread" divides trials among all nodes.
        retries: how often a trial is begun again because its node, or Ray's process on it, was lost.

    Raises:
        StudyError: a number is out of its range, or the placement is unknown.
        MissingExtraError: when it is used, if Ray is not installed.

    >>> str(RayExecutor("auto", gpus=0.5))
    'Ray cluster auto, 1 CPU and 0.5 GPU a trial'
    """

    address: str = LOCAL
    cpus: float = 1.0
    gpus: float | None = None
    placement: Literal["pack", "spread"] = "pack"
    retries: int = 2

    def __post_init__(self) -> None:
        for name, value in (("CPUs", self.cpus), ("GPUs", self.gpus)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise StudyError(f"expected {name} per trial of at least 0, got {value:g}")
            if value is not None and value > 1 and value != int(value):
                raise StudyError(
                    f"expected {name} per trial of at most 1, or a whole number, got {value:g}: one is shared, or "
                    "several are taken whole"
                )
        if self.cpus == 0 and not self.gpus:
            raise StudyError(
                "expected CPUs or GPUs per trial, got 0 of both: any number of trials would run at once"
            )
        if self.placement not in _PLACEMENTS:
            hint = did_you_mean(self.placement, _PLACEMENTS)
            raise StudyError(
                f"expected a placement among {', '.join(_PLACEMENTS)}, got {self.placement!r}{hint}"
            )
        if self.retries < 0:
            raise StudyError(f"expected at least 0 retries of a trial whose node is lost, got {self.retries}")

    def __str__(self) -> str:
        gpus = "" if self.gpus is None else f" and {self.gpus:g} GPU"
        return f"Ray cluster {self.address}, {self.cpus:g} CPU{gpus} a trial"

    def gpus_for(self, device: str) -> float:
        """How many GPUs one trial of a task on that device takes.

        Raises:
            StudyError: none, for a task on one.
        """
        on_gpu = device.startswith("cuda")
        gpus = float(on_gpu) if self.gpus is None else self.gpus
        if on_gpu and not gpus:
            raise StudyError(
                f"expected GPUs per trial for a task on {device!r}, got 0; give 1, or a part of one"
            )
        return gpus

    def width(self, device: str) -> int:
        """How many trials fit on the nodes of the cluster at once.

        Raises:
            StudyError: no cluster answers there, or a trial fits on no node.
        """
        gpus = self.gpus_for(device)
        ray = connect(self.address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fits = sum(_fits(node, {"CPU": self.cpus, "GPU": gpus}) for node in nodes)
        if not nodes:
            raise StudyError(
                f"expected nodes in the Ray cluster {self.address}, got none that runs; start some with `ray start`"
            )
        if not fits:
            there = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes)
            raise StudyError(
                f"expected a node with {self.cpus:g} CPU and {gpus:g} GPU for a trial in the Ray cluster "
                f"{self.address}, got nodes with {there}; ask for less, or add a node"
            )
        return fits

    def open(self, reference: TaskReference, jobs: int, timeout: float) -> RayWorkers:
        """Workers on the cluster, of which no more start than fit on its nodes."""
        jobs = min(jobs, self.width(reference.device))
        options = {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus_for(reference.device),
            "scheduling_strategy": "SPREAD" if self.placement == "spread" else "DEFAULT",
        }
        ray = connect(self.address)
        return RayWorkers(
            ray,
            options,
            reference,
            jobs,
            timeout,
            self.retries,
            lambda: self._fits_no_more(reference.device),
            Head(ray.get_runtime_context().gcs_address).check,
        )

    def _fits_no_more(self, device: str) -> str:
        """Why no trial can be run any more; nothing if one can."""
        try:
            self.width(device)
        except StudyError as error:
            return str(error)
        return ""


def _fits(node: dict[str, float], trial: dict[str, float]) -> int:
    """How often what a trial takes fits on a node.

    >>> _fits({"CPU": 2.0, "GPU": 1.0}, {"CPU": 0.1, "GPU": 0.5}), _fits({"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0})
    (2, 0)
    """
    return min(math.floor(node.get(name, 0.0) / part + 1e-9) for name, part in trial.items() if part)


def connect(address: str) -> Any:
    """Ray, connected to a cluster: this process stays so until it ends.

    Raises:
        MissingExtraError: Ray is not installed.
        StudyError: there is no cluster at that address, or this process is connected to another one.
    """
    with imports_of_extra("ray", "the executor ray"):
        import ray
    if address == RUNNING and (named := os.environ.get("RAY_ADDRESS")):
        address = named
    target = None if address in (LOCAL, RUNNING) else _host_and_port(address)
    if ray.is_initialized():
        there = ray.get_runtime_context().gcs_address
        if target is not None and address not in (there, *_joined):
            raise StudyError(
                f"expected the Ray cluster {address}, got {there}, to which this process is connected; use that "
                "one, or another process"
            )
        return ray
    if target is not None:
        _check_answers(*target)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless a user wants it
    dashboard = False if address == LOCAL else None  # that of a cluster is its own
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
    except Exception as error:
        raise StudyError(
            f"expected a Ray cluster ({_FORMS}) at {address}, got {error_text(error)}; start one with `ray start "
            "--head`, or choose another address"
        ) from error
    _joined[:] = [address]
    return ray


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()) or "/" in host:
        raise StudyError(f"expected the address of a Ray cluster ({_FORMS}), got {address!r}")
    return host, int(port)


def _check_answers(host: str, port: int) -> None:
    """Refuse an address at which nobody listens, or what is no Ray, at once: Ray itself tries for minutes."""
    try:
        with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS") != "1":
                _check_is_http2(connection)
    except (OSError, OverflowError) as error:
        raise StudyError(
            f"expected a Ray cluster at {host}:{port}, got {error_text(error)}; start one there with `ray start "
            "--head`, or choose another address"
        ) from error


def _check_is_http2(connection: socket.socket) -> None:
    """Refuse a server that does not begin with its settings, as the head of a cluster does, which speaks HTTP/2.

    Raises:
        OSError: it says something else, or nothing for a while.
    """
    connection.settimeout(SETTINGS_SECONDS)
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    if connection.recv(4)[3:] != b"\4":  # three bytes of length, and the kind of the frame: settings
        raise ConnectionError("another server than one of Ray")
