"""Keys: who gets in, how much they may use, and what of them lies on the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest
from served import MODEL, Scripted, Served, serving, until
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.serve.api import keys
from hanse.serve.api.errors import ApiError
from hanse.serve.api.keys import Allowance, Key, KeyFile
from hanse.serve.api.limits import Places, Quotas
from hanse.serve.request import Output
from hanse.tune.template import encode_text

USER = [{"role": "user", "content": "x"}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keys.json"


@pytest.fixture
def backend(tokenizer: Tokenizer) -> Scripted:
    return Scripted(tokenizer, [Output(tokens=tuple(encode_text(tokenizer, "AB")), text="AB")])


@pytest.fixture
def key(file: Path) -> str:
    return keys.add(file, "anna")


@pytest.fixture
def api(file: Path, key: str, backend: Scripted) -> Iterator[Served]:
    with serving(backend, keys=KeyFile(file)) as served:
        yield served


def ask(api: Served, key: str) -> openai.types.chat.ChatCompletion:
    return api.client(key).chat.completions.create(model=MODEL, messages=USER)


def test_the_right_key_opens_and_a_wrong_one_does_not(api: Served, key: str) -> None:
    assert ask(api, key).choices[0].message.content == "AB"
    for wrong in ("none", key + "x", key[:-1], key.upper(), "hanse-", "ключ".encode().hex()):
        with pytest.raises(openai.AuthenticationError) as refused:
            ask(api, wrong)
        assert refused.value.code == "invalid_api_key"


@pytest.mark.parametrize("value", ["", "Bearer", "Basic KEY", "KEY", "Bearer KEY KEY", "bearer\tKEY", "Bearer é"])
def test_only_a_bearer_with_the_key_counts(api: Served, key: str, value: str) -> None:
    headers = {"Authorization": value.replace("KEY", key).encode("latin-1")}
    answer = api.get("/v1/models", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert api.get("/v1/models", headers={"Authorization": f"bearer {key}"}).status_code == 200


def test_without_a_key_nothing_is_told_but_that_the_server_is_up(api: Served) -> None:
    for path in (
        "/v1/models",
        "/metrics",
        "/record",
        "/v1/nothing",
        "/nothing",
        "//v1/models",
        "/v1/models/",
        "/V1/models",
    ):
        assert api.get(path).status_code == 401, path
    assert api.post("/v1/chat/completions", content=b"{").status_code == 401  # before the body is looked at
    assert api.get("/health").status_code == 200


def test_an_expired_key_is_told_so(file: Path, backend: Scripted) -> None:
    old = keys.add(file, "old", expires="2020-01-01")
    last_day = keys.add(file, "new", expires="2999-12-31")
    with serving(backend, keys=KeyFile(file)) as api:
        with pytest.raises(openai.AuthenticationError) as refused:
            ask(api, old)
        assert refused.value.code == "expired_api_key"
        ask(api, last_day)


def test_keys_come_and_go_while_the_server_runs(api: Served, file: Path, key: str) -> None:
    second = keys.add(file, "bea")
    ask(api, second)
    keys.remove(file, "anna")
    with pytest.raises(openai.AuthenticationError):
        ask(api, key)
    ask(api, second)
    file.write_text("broken")
    with pytest.raises(openai.AuthenticationError):
        ask(api, second)


def test_the_file_holds_no_key_and_is_for_its_owner_alone(file: Path, key: str) -> None:
    text = file.read_text()
    assert key not in text
    assert key.removeprefix("hanse-") not in text
    assert file.stat().st_mode & 0o777 == 0o600
    second = keys.add(file, "bea")
    assert second != key
    assert [each["name"] for each in json.loads(file.read_text())["keys"]] == ["anna", "bea"]
    assert len({each["salt"] for each in json.loads(file.read_text())["keys"]}) == 2
    assert list(file.parent.iterdir()) == [file]


def test_every_entry_is_compared_whichever_matches(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [keys.add(file, name) for name in ("a", "b", "c")]
    compared: list[str] = []
    inner = Key.matches

    def matches(self: Key, token: bytes) -> bool:
        compared.append(self.name)
        return inner(self, token)

    monkeypatch.setattr(Key, "matches", matches)
    found = KeyFile(file)
    for token in (*tokens, "wrong"):
        compared.clear()
        found.find(token.encode())
        assert compared == ["a", "b", "c"]


def test_a_file_that_cannot_be_trusted_is_refused(file: Path, key: str) -> None:
    good = file.read_text()
    entry = json.loads(good)["keys"][0]
    for text in ("", "[]", '{"keys": 3}', '{"keys": [{}]}', json.dumps({"keys": [{**entry, "salt": "xy"}]}),
                 json.dumps({"keys": [{**entry, "sha256": "00"}]}),
                 json.dumps({"keys": [{**entry, "expires": "soon"}]}),
                 json.dumps({"keys": [{**entry, "allowance": {"concurrent": 0}}]})):  # fmt: skip
        file.write_text(text)
        with pytest.raises(InputError, match="is no file of keys"):
            KeyFile(file)
    file.write_text(good)
    file.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        KeyFile(file)
    with pytest.raises(InputError, match="--new-key"):
        KeyFile(file.with_name("none.json"))


def test_a_key_that_cannot_be_made_is_refused_and_the_file_stays(file: Path, key: str) -> None:
    before = file.read_text()
    for name, options, why in (
        ("anna", {}, "has a key of this name"),
        ("", {}, "give a name"),
        ("a b", {}, "give a name"),
        ("b", {"expires": "tomorrow"}, "is no date"),
        ("b", {"allowance": Allowance(tokens_per_day=0)}, "--tokens-per-day 0"),
    ):
        with pytest.raises(InputError, match=why):
            keys.add(file, name, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no key of this name"):
        keys.remove(file, "nobody")
    assert file.read_text() == before


# --------------------------------------------------------------------------- what a key may use


ANNA = Key("anna", "00", "0" * 64, "2026-01-01")


def test_requests_of_a_minute_are_counted_over_any_sixty_seconds() -> None:
    now = [1000.0]
    quotas = Quotas(lambda: now[0])
    key = replace(ANNA, allowance=Allowance(requests_per_minute=2))
    quotas.begin(key)()
    now[0] += 30
    quotas.begin(key)()
    now[0] += 29
    with pytest.raises(ApiError) as refused:
        quotas.begin(key)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "2")
    now[0] += 2
    quotas.begin(key)()
    with pytest.raises(ApiError):
        quotas.begin(key)
    quotas.begin(replace(key, name="bea"))()


def test_tokens_of_a_day_begin_anew_at_midnight() -> None:
    now = [86_400.0 * 100 + 86_000]
    quotas = Quotas(lambda: now[0])
    key = replace(ANNA, allowance=Allowance(tokens_per_day=100))
    assert quotas.spend(key, 99)
    quotas.begin(key)()
    assert not quotas.spend(key, 1)
    with pytest.raises(ApiError) as refused:
        quotas.begin(key)
    assert refused.value.headers["Retry-After"] == "401"
    assert refused.value.code == "insufficient_quota"
    now[0] += 400
    quotas.begin(key)()
    assert quotas.spend(None, 10**9)


def test_places_are_taken_and_given_back() -> None:
    places = Places(3)
    give_back = places.take(2)
    with pytest.raises(ApiError) as busy:
        places.take(2)
    assert (busy.value.status, busy.value.headers["Retry-After"]) == (503, "1")
    with pytest.raises(ApiError) as never:
        places.take(4)
    assert never.value.status == 400
    give_back()
    places.take(3)


def test_a_key_that_has_used_its_requests_is_told_when_to_come_back(file: Path, backend: Scripted) -> None:
    key = keys.add(file, "anna", allowance=Allowance(requests_per_minute=1))
    with serving(backend, keys=KeyFile(file)) as api:
        ask(api, key)
        with pytest.raises(openai.RateLimitError) as refused:
            ask(api, key)
        assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 60
        api.client(key).models.list()  # costs nothing


def test_a_key_has_so_many_requests_at_once(file: Path, tokenizer: Tokenizer) -> None:
    key = keys.add(file, "anna", allowance=Allowance(concurrent=1))
    other = keys.add(file, "bea")
    backend = Scripted(tokenizer, [Output(tokens=(65,), text="A")], then="hang")
    with serving(backend, keys=KeyFile(file)) as api:
        running = api.client(key).chat.completions.create(model=MODEL, messages=USER, stream=True)
        next(iter(running))
        with pytest.raises(openai.RateLimitError):
            ask(api, key)
        second = api.client(other).chat.completions.create(model=MODEL, messages=USER, stream=True)
        next(iter(second))
        second.close()
        running.close()
        until(lambda: backend.running == 0)
        third = api.client(key).chat.completions.create(model=MODEL, messages=USER, stream=True)
        next(iter(third))
        third.close()


def test_an_answer_ends_where_the_tokens_of_the_day_do(file: Path, tokenizer: Tokenizer) -> None:
    key = keys.add(file, "anna", allowance=Allowance(tokens_per_day=20))
    backend = Scripted(tokenizer, [Output(tokens=(65,) * 5, text="A" * 5)] * 10)
    with serving(backend, keys=KeyFile(file)) as api:
        answer = api.client(key).completions.create(model=MODEL, prompt=[1] * 8)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.total_tokens == 23  # the piece that reaches the limit is the last
        with pytest.raises(openai.RateLimitError) as refused:
            api.client(key).completions.create(model=MODEL, prompt=[1])
        assert refused.value.code == "insufficient_quota"
        assert backend.running == 0


def test_the_log_names_the_key_and_counts_and_holds_no_text(file: Path, tokenizer: Tokenizer) -> None:
    key = keys.add(file, "anna")
    lines: list[dict[str, object]] = []
    backend = Scripted(tokenizer, [Output(tokens=(65, 66), text="AB")])
    with serving(backend, keys=KeyFile(file), log=lambda record: lines.append(dict(record))) as api:
        api.client(key).completions.create(model=MODEL, prompt="Valletta")
        api.get("/Valletta?q=Valletta", headers={"Authorization": "Bearer Valletta"})
        until(lambda: len(lines) == 2)
    assert {name: lines[0][name] for name in ("key", "path", "status", "prompt_tokens", "generated_tokens")} == {
        "key": "anna", "path": "/v1/completions", "status": 200, "prompt_tokens": 9, "generated_tokens": 2,
    }  # fmt: skip
    assert lines[1]["status"] == 401
    assert "Valletta" not in str(lines)
    assert key not in str(lines)


def test_keys_do_not_share_cached_prefixes(file: Path, backend: Scripted) -> None:
    first, second = keys.add(file, "anna"), keys.add(file, "bea")
    with serving(backend, keys=KeyFile(file)) as api:
        ask(api, first)
        ask(api, second)
    assert [request.salt for request in backend.requests] == ["anna", "bea"]
