"""A Ray cluster as an executor: what is refused before anything runs, in one line that says what to do."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from threading import Thread

import pytest

from normsmith.errors import MissingExtraError, StudyError
from normsmith.studies.executors import cluster as cluster_module
from normsmith.studies.executors.cluster import RayExecutor, connect
from normsmith.studies.versions import chosen_by_environment

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cpus": -1.0}, "expected CPUs per trial of at least 0, got -1"),
        ({"cpus": float("nan")}, "got nan"),
        ({"gpus": 1.5}, "expected GPUs per trial of at most 1, or a whole number, got 1.5"),
        ({"cpus": 0.0}, "expected CPUs or GPUs per trial, got 0 of both"),
        ({"retries": -1}, "expected at least 0 retries"),
    ],
)
def test_numbers_out_of_their_range_are_refused(changes, words):
    with pytest.raises(StudyError, match=words):
        RayExecutor(**changes)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_placement_is_refused_with_the_one_that_was_meant():
    with pytest.raises(StudyError, match=r"among pack, spread, got 'spred'.*spread"):
        RayExecutor(placement="spred")


def test_a_task_on_a_gpu_takes_one_unless_it_is_said_otherwise():
    assert [RayExecutor().gpus_for(device) for device in ("cpu", "cuda", "cuda:1")] == [0.0, 1.0, 1.0]
    assert RayExecutor(gpus=0.25).gpus_for("cuda") == 0.25
    with pytest.raises(StudyError, match="expected GPUs per trial for a task on 'cuda', got 0"):
        RayExecutor(gpus=0.0).gpus_for("cuda")


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"the executor ray needs ray.*normsmith\[ray\]"):
        connect("local")


@pytest.mark.parametrize("address", ["nonsense", "host:", ":1", "ray://host:1"])
def test_what_is_no_address_is_refused(address, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(
        StudyError, match=r"expected the address of a Ray cluster \(local, auto or host:port\)"
    ):
        connect(address)


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        address = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(StudyError, match="Connection refused; start one there with `ray start --head`"):
            connect(address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(StudyError, match=f"expected a Ray cluster at {address}"):
            connect("auto")


@pytest.mark.parametrize(
    ("said", "words"), [(b"HTTP/1.1 400 Bad Request", "another server than one of Ray"), (b"", "timed out")]
)
def test_a_server_that_is_not_rays_is_refused_before_ray_tries_for_minutes(said, words, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(cluster_module, "SETTINGS_SECONDS", 0.2)
    with socket.create_server(("localhost", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection, suppress(ConnectionResetError):
                connection.sendall(said)
                connection.recv(100)  # until the other side leaves
                connection.recv(1)

        answering = Thread(target=answer)
        answering.start()
        with pytest.raises(StudyError, match=f"got .*{words}; start one there"):
            connect(f"localhost:{server.getsockname()[1]}")
        answering.join()


def test_what_ray_says_of_a_cluster_that_is_not_there_is_one_line(monkeypatch):
    def init(*arguments, **options):
        raise ConnectionError("Could not find any running Ray instance.\nAt all.")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(StudyError, match="auto, got ConnectionError: Could not find any") as raised:
        connect("auto")
    assert "\n" not in str(raised.value)


def test_room_is_counted_by_nodes_and_what_fits_on_none_is_refused(cluster):
    one = RayExecutor(cluster.address)
    assert one.width("cpu") == 2
    assert RayExecutor(cluster.address, cpus=0.5).width("cpu") == 4
    assert RayExecutor("auto").width("cpu") == 2  # this process is connected already
    with pytest.raises(
        StudyError, match=r"a node with 1 CPU and 3 GPU for a trial.*got nodes with 2 CPU, 0 GPU"
    ):
        RayExecutor(cluster.address, gpus=3.0).width("cpu")
    with pytest.raises(StudyError, match="expected a node with 1 CPU and 1 GPU"):
        one.width("cuda")
    with pytest.raises(StudyError, match="to which this process is connected; use that one"):
        connect("localhost:1")


def test_a_cluster_without_a_node_that_runs_says_so(monkeypatch):
    class Deserted:
        def nodes(self):
            return [{"Alive": False, "Resources": {"CPU": 2.0}}]

    monkeypatch.setattr(cluster_module, "connect", lambda address: Deserted())
    with pytest.raises(StudyError, match="nodes in the Ray cluster auto, got none that runs; start some"):
        RayExecutor("auto").width("cpu")


def test_what_chooses_the_computation_is_told_to_other_machines(monkeypatch):
    monkeypatch.setenv("NORMSMITH_BACKEND", "aten")
    assert chosen_by_environment()["NORMSMITH_BACKEND"] == "aten"
