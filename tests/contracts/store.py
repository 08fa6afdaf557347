"""What every store of trials does, whatever database is behind it."""

from __future__ import annotations

import math
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normsmith.errors import InputError, StoreError
from normsmith.studies.store import Record, Status, Store


def a_record(name: str = "a", status: Status = "finished", **changes: Any) -> Record:
    """A record with `name` in its spec, and hence in its key."""
    record = Record(
        spec={"name": name, "arm": ["norm"], "seed": 3, "learning_rate": 0.1, "probe_every": None},
        status=status,
        reason="" if status == "finished" else f"it {status}",
        measurements={"steps": [0, 5], "loss": [0.1 + 0.2, 1e-300], "probes": {"σ′": [0.25]}},
        seconds=0.1 + 0.2,
        versions={"torch": "2.13"},
    )
    return replace(record, **changes)


def fill_up(store: Store) -> None:
    """Let a store in a file grow no further, and have the database say what it does on a full disk."""
    engine = store._database.engine
    engine.dispose()  # connections that are open already

    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # as many as there are


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def bits(value: Any) -> Any:
    """The value with floats as their bytes, so that NaN equals NaN and 0.0 differs from -0.0 and from 0."""
    if isinstance(value, dict):
        return {name: bits(item) for name, item in value.items()}
    if isinstance(value, list):
        return [bits(item) for item in value]
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("d", value)
    return (type(value).__name__, value)


INHERITED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]


class StoreContract:
    """Inherit, and give the fixture `url`: an address at which there is no store yet."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, url):
        with Store(url) as store:
            yield store

    def test_starts_empty(self, store):
        assert store.count() == 0
        assert store.get(["0" * 64]) == {}
        assert store.get([]) == {}

    def test_gives_back_what_was_put(self, store):
        record = a_record()
        store.put(record)
        assert store.get([record.key, "0" * 64]) == {record.key: record}

    @given(values=st.dictionaries(st.text(max_size=5), json_values, max_size=4))
    @settings(max_examples=60, deadline=None, suppress_health_check=INHERITED)
    def test_gives_back_every_number_bit_for_bit(self, store, values):
        # One record, put again and again: "killed" ones are replaced.
        record = a_record(status="killed", measurements=values)
        store.put(record)
        assert bits(store.get([record.key])[record.key].measurements) == bits(values)

    def test_gives_back_more_records_than_a_query_may_name(self, store):
        records = [a_record(str(number)) for number in range(601)]
        for record in records:
            store.put(record)
        keys = [record.key for record in records]
        assert list(store.get(keys + keys[:3])) == keys
        assert store.count() == 601

    def test_gives_all_records_page_by_page(self, store):
        records = {record.key: record for record in map(a_record, "abcde")}
        for record in records.values():
            store.put(record)
        pages = list(store.pages(2))
        assert [len(page) for page in pages] == [2, 2, 1]
        assert [record for page in pages for record, _ in page] == [records[key] for key in sorted(records)]

    @pytest.mark.parametrize("first", ["finished", "diverged"])
    @pytest.mark.parametrize("later", ["finished", "diverged", "raised", "killed", "timeout"])
    def test_a_result_stays(self, store, first, later):
        record = a_record(status=first)
        store.put(record)
        store.put(a_record(status=later, seconds=9.0))
        assert store.get([record.key]) == {record.key: record}
        assert store.count() == 1

    @pytest.mark.parametrize("first", ["raised", "killed", "timeout"])
    @pytest.mark.parametrize("later", ["finished", "diverged", "raised", "killed", "timeout"])
    def test_what_is_no_result_is_replaced(self, store, first, later):
        store.put(a_record(status=first))
        record = a_record(status=later, seconds=9.0)
        store.put(record)
        assert store.get([record.key]) == {record.key: record}
        assert store.count() == 1

    def test_takes_reasons_that_databases_refuse(self, store):
        record = a_record(status="raised", reason="lone \ud800 and nul \0")
        store.put(record)
        assert store.get([record.key])[record.key].reason == "lone ? and nul \N{REPLACEMENT CHARACTER}"

    @pytest.mark.parametrize(
        ("measurements", "said"),
        [
            ({"steps": {5: 0.1}}, "names to be strings"),  # would come back as {"5": 0.1}
            ({"$float": "nan"}, "'$float'"),  # would come back as a number
            ({"loss": {1.0, 2.0}}, "got a set"),
            ({"loss": b"1.0"}, "got a bytes"),
        ],
    )
    def test_refuses_what_would_not_come_back(self, store, measurements, said):
        with pytest.raises(InputError, match=said.replace("$", r"\$")):
            store.put(a_record(measurements=measurements))
        assert store.count() == 0

    def test_refuses_work_after_close(self, store):
        store.close()
        store.close()
        for work in (store.count, lambda: store.get([]), lambda: store.put(a_record())):
            with pytest.raises(StoreError, match="after close"):
                work()

    def test_a_claim_keeps_others_out_until_it_is_released(self, store):
        key = a_record().key
        assert store.claims.take("one", key)
        assert not store.claims.take("two", key)
        assert store.claims.held([key, "0" * 64]) == {key}
        store.claims.release("two", key)
        assert not store.claims.take("two", key)
        store.claims.release("one", key)
        assert store.claims.held([key]) == set()
        assert store.claims.take("two", key)

    def test_free_trials_are_claimed_together_and_those_of_others_are_left(self, store):
        keys = [a_record(str(number)).key for number in range(4)]
        assert store.claims.take("one", keys[2])
        assert store.claims.take_free("two", keys) == {keys[0], keys[1], keys[3]}
        assert store.claims.take_free("two", keys) == set()
        assert store.claims.take_free("two", []) == set()
        store.claims.release("two")
        assert store.claims.held(keys) == {keys[2]}

    def test_all_claims_of_one_study_are_released_at_once(self, store):
        keys = [a_record(str(number)).key for number in range(3)]
        assert [store.claims.take(owner, key) for owner, key in zip("aab", keys, strict=True)] == [True] * 3
        store.claims.release("a")
        assert store.claims.held(keys) == {keys[2]}

    def test_a_claim_expires_and_is_renewed(self, store):
        key, other = a_record().key, a_record("b").key
        store.claims.seconds = -1  # over as soon as it is made
        assert store.claims.take("one", key)
        assert store.claims.take("one", other)
        assert store.claims.held([key, other]) == set()
        store.claims.seconds = 60
        store.claims.renew("one")
        assert store.claims.held([key, other]) == {key, other}
        store.claims.seconds = -1
        store.claims.renew("one")
        store.claims.seconds = 60
        assert store.claims.take("two", key)
        store.claims.renew("one")  # of what was taken from it nothing comes back
        assert not store.claims.take("one", key)
        store.claims.release("one")
        assert store.claims.held([key, other]) == {key}

    def test_a_record_ends_the_claim_on_it(self, store):
        record = a_record(status="raised")
        assert store.claims.take("one", record.key)
        store.put(record)
        assert store.claims.held([record.key]) == set()

    def test_of_many_that_claim_at_once_one_does(self, store, url):
        if not store.is_kept:
            pytest.skip("a store in memory is one process's")
        together = Barrier(6)

        def study(number):
            with Store(url) as own:
                together.wait(timeout=20)
                return own.claims.take(str(number), a_record().key)

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(study, range(6))) == 1
