"""The head of a cluster: one that answers no more is waited for, and then said, before Ray ends this process."""

import socket

import pytest

from normsmith.errors import StudyError
from normsmith.studies.executors import head
from normsmith.studies.executors.head import Head


def test_a_head_that_answers_no_more_is_waited_for_and_then_said(monkeypatch):
    monkeypatch.setattr(head, "LOOK", 0.0)
    with socket.create_server(("localhost", 0)) as listening:
        address = f"localhost:{listening.getsockname()[1]}"
        looked_at = Head(address)
        looked_at.check()
    looked_at.check()  # it may come back
    monkeypatch.setattr(head, "GONE_SECONDS", 0.0)
    with pytest.raises(
        StudyError, match=f"cluster at {address}, got no answer .* finished trials are stored"
    ):
        looked_at.check()


def test_a_head_is_not_looked_at_more_often_than_it_must_be(monkeypatch):
    monkeypatch.setattr(head, "GONE_SECONDS", 0.0)
    Head("localhost:1").check()
