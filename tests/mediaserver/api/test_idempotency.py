"""Idempotency keys: what is sent twice is done once."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api import idempotency
from mediaserver.api.idempotency import KEPT_S, MAX_KEYS_EACH, Answer, IdempotencyStore
from mediaserver.api.problems import Problem
from mediaserver.api.state import ApiState
from tests.mediaserver.api.conftest import bearer, client_of, token_of
from tests.mediaserver.api.fake_calls import FakeCall, FakeCalls
from tests.mediaserver.api.test_calls import problem

ANSWER = Answer(201, ((b"location", b"/a"),), b"{}")


def slug_of(store: IdempotencyStore, owner: str, key: str, fingerprint: bytes, now: float = 0.0) -> str:
    with pytest.raises(Problem) as caught:
        store.begin(owner, key, fingerprint, now)
    return f"{caught.value.status_code} {caught.value.slug}"


class TestStore:
    def test_the_first_runs_and_the_second_is_answered(self) -> None:
        store = IdempotencyStore()
        assert store.begin("me", "k", b"f", 0.0) is None
        assert slug_of(store, "me", "k", b"f") == "409 idempotency-conflict"
        store.finish("me", "k", ANSWER)
        assert store.begin("me", "k", b"f", 1.0) == ANSWER
        assert slug_of(store, "me", "k", b"g") == "422 idempotency-key-reused"

    def test_what_failed_may_be_tried_again(self) -> None:
        store = IdempotencyStore()
        store.begin("me", "k", b"f", 0.0)
        store.finish("me", "k", None)
        assert store.begin("me", "k", b"another", 0.0) is None

    def test_keys_are_of_a_token(self) -> None:
        store = IdempotencyStore()
        store.begin("me", "k", b"f", 0.0)
        assert store.begin("you", "k", b"g", 0.0) is None

    def test_keys_are_forgotten_after_a_day(self) -> None:
        store = IdempotencyStore()
        store.begin("me", "k", b"f", 0.0)
        store.finish("me", "k", ANSWER)
        assert store.begin("me", "k", b"f", KEPT_S) == ANSWER
        assert store.begin("me", "k", b"f", KEPT_S + 1) is None

    def test_one_token_cannot_have_the_keys_of_others_forgotten(self) -> None:
        store = IdempotencyStore()
        store.begin("me", "k", b"f", 0.0)
        for number in range(3 * MAX_KEYS_EACH):
            store.begin("you", str(number), b"f", 0.0)
        assert len(store) == MAX_KEYS_EACH + 1
        assert slug_of(store, "me", "k", b"f") == "409 idempotency-conflict"

    def test_all_together_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(idempotency, "MAX_KEYS", 10)
        store = IdempotencyStore()
        for owner in range(7):
            for key in range(5):
                store.begin(str(owner), str(key), b"f", 0.0)
                assert len(store) <= 10

    @settings(max_examples=50)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["begin", "done", "failed"]), st.sampled_from("ab"), st.sampled_from([b"f", b"g"])
            )
        )
    )
    def test_no_request_is_done_twice(self, steps: list[tuple[str, str, bytes]]) -> None:
        """Against a model: a key runs, is answered, or is free."""
        store, model = IdempotencyStore(), dict[str, tuple[bytes, bool]]()
        for what, key, fingerprint in steps:
            if what == "begin":
                try:
                    answer = store.begin("me", key, fingerprint, 0.0)
                except Problem as refused:
                    known, done = model[key]
                    assert refused.status_code == (422 if known != fingerprint else 409)
                    assert refused.status_code == 422 or not done
                else:
                    assert (answer is None) == (key not in model)
                    model.setdefault(key, (fingerprint, False))
            elif key in model and not model[key][1]:
                store.finish("me", key, ANSWER if what == "done" else None)
                if what == "done":
                    model[key] = model[key][0], True
                else:
                    del model[key]


class TestOverHttp:
    async def test_a_call_is_placed_once(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        order, key = {"to": "a", "trunk": "pbx"}, {"Idempotency-Key": "order-17"}
        first = await client.post("/v1/calls", json=order, headers=key)
        second = await client.post("/v1/calls", json=order, headers=key)
        assert len(calls.calls) == 1
        assert first.status_code == second.status_code == 201
        assert first.json() == second.json()
        assert first.headers["location"] == second.headers["location"]
        assert second.headers["content-type"] == "application/json"
        assert second.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in first.headers
        await client.post("/v1/calls", json=order)
        await client.post("/v1/calls", json=order, headers={"Idempotency-Key": "order-18"})
        assert len(calls.calls) == 3

    async def test_another_body_is_another_request(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        key = {"Idempotency-Key": "k"}
        await client.post("/v1/calls", json={"to": "a", "trunk": "pbx"}, headers=key)
        response = await client.post("/v1/calls", json={"to": "b", "trunk": "pbx"}, headers=key)
        problem(response, 422, "idempotency-key-reused")
        call = calls.calls[0]
        problem(await client.post(f"/v1/calls/{call.id}/hold", headers=key), 422, "idempotency-key-reused")
        assert len(calls.calls) == 1
        assert call.done == []

    async def test_a_failure_is_not_kept(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        calls.draining = True
        order, key = {"to": "a", "trunk": "pbx"}, {"Idempotency-Key": "k"}
        assert (await client.post("/v1/calls", json=order, headers=key)).status_code == 503
        calls.draining = False
        assert (await client.post("/v1/calls", json=order, headers=key)).status_code == 201

    async def test_a_fault_of_ours_leaves_the_key_free(
        self, client: httpx.AsyncClient, calls: FakeCalls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        call = calls.arrive()

        def broken(_self: FakeCall) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(FakeCall, "hold", broken)
            response = await client.post(f"/v1/calls/{call.id}/hold", headers={"Idempotency-Key": "k"})
            problem(response, 500, "internal")
        assert (await client.post(f"/v1/calls/{call.id}/hold", headers={"Idempotency-Key": "k"})).status_code == 202

    async def test_two_at_once_are_done_once(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        order, key = {"to": "a", "trunk": "pbx"}, {"Idempotency-Key": "k"}
        responses = await asyncio.gather(*(client.post("/v1/calls", json=order, headers=key) for _ in range(5)))
        assert len(calls.calls) == 1
        assert {response.status_code for response in responses} <= {201, 409}

    async def test_a_token_that_was_taken_back_gets_no_answer(
        self, state: ApiState, client: httpx.AsyncClient, calls: FakeCalls
    ) -> None:
        secret = token_of(state, "calls:write")
        headers = bearer(secret) | {"Idempotency-Key": "k"}
        call = calls.arrive()
        assert (await client.post(f"/v1/calls/{call.id}/hold", headers=headers)).status_code == 202
        state.tokens.remove(state.tokens.list()[-1].id)
        problem(await client.post(f"/v1/calls/{call.id}/hold", headers=headers), 401, "unauthorized")

    async def test_keys_of_another_token_tell_nothing(
        self, state: ApiState, client: httpx.AsyncClient, calls: FakeCalls
    ) -> None:
        order, key = {"to": "a", "trunk": "pbx"}, {"Idempotency-Key": "k"}
        await client.post("/v1/calls", json=order, headers=key)
        async with client_of(state, token_of(state, "calls:read")) as reader:
            problem(await reader.post("/v1/calls", json=order, headers=key), 403, "forbidden")

    @pytest.mark.parametrize("key", ["", "a" * 256, "a\tb"])
    async def test_keys_that_are_none(self, client: httpx.AsyncClient, key: str) -> None:
        response = await client.post("/v1/drain", headers={"Idempotency-Key": key})
        problem(response, 400, "bad-idempotency-key")

    async def test_other_methods_take_no_key(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        key = {"Idempotency-Key": "k"}
        assert (await client.delete("/v1/drain", headers=key)).status_code == 200
        assert (await client.post("/v1/drain", headers=key)).status_code == 202
        assert (await client.delete("/v1/drain", headers=key)).json() == {"draining": False, "calls": 0}
