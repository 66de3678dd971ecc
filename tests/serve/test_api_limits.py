"""Nothing holds the server for ever: no body, no head, no slow reader, no engine, and no client that left."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import openai
import pytest
from served import MODEL, Scripted, Served, serving, until
from tokenizers import Tokenizer

from hanse.serve.request import Output

USER = [{"role": "user", "content": "x"}]
CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": MODEL, "messages": USER}).encode()
STREAM = json.dumps({"model": MODEL, "messages": USER, "stream": True}).encode()
SOCKETS = Path("/proc/net/tcp")


def head(length: int | None, body_kind: str = "application/json") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {body_kind}\r\n{size}\r\n\r\n".encode()


def rest(connection: socket.socket) -> bytes:
    """What still comes until the server closes; b"" too where it resets."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionError:
        pass
    return found


@pytest.fixture
def hanging(tokenizer: Tokenizer) -> Scripted:
    return Scripted(tokenizer, [Output(tokens=(tokenizer.token_to_id("A"),), text="A")], then="hang")


@pytest.fixture
def small(tokenizer: Tokenizer) -> Iterator[Served]:
    with serving(Scripted(tokenizer), body_bytes=1000) as served:
        yield served


# --------------------------------------------------------------------------- bodies


def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_sent(small: Served) -> None:
    with small.connect() as connection:
        connection.sendall(head(100 * 2**20))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_say_how_long_it_is_is_counted(small: Served) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 100

    answer = small.post(CHAT, content=parts(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_a_body_of_a_hundred_megabytes_costs_neither_memory_nor_the_server(small: Served) -> None:
    answer = small.post(CHAT, content=b"x" * 100_000_000, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert small.get("/health").status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer), body_seconds=0.5) as api:
        with api.connect() as connection:
            connection.sendall(head(10) + b"{")
            assert rest(connection).startswith(b"HTTP/1.1 408")
        api.settle()


# --------------------------------------------------------------------------- connections


def test_a_connection_without_a_whole_head_is_closed(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer), head_seconds=1) as api:
        for opening in (b"", b"GET /health HTTP/1.1\r\nHost: loc"):
            with api.connect() as connection:
                connection.sendall(opening)
                assert rest(connection) == b""


def test_a_head_that_trickles_in_is_not_waited_for_either(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer), head_seconds=1) as api, api.connect() as connection:
        connection.settimeout(0.1)
        with pytest.raises(ConnectionError):
            for letter in b"GET /health HTTP/1.1\r\nX-Long: " + b"a" * 200:
                connection.sendall(bytes([letter]))
                try:
                    if not connection.recv(1):
                        raise ConnectionResetError
                except TimeoutError:
                    pass


def test_many_requests_on_one_connection_are_no_reason_to_close_it(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer), head_seconds=4) as api, api.connect() as connection:
        is_over = threading.Event()
        threading.Timer(8.0, is_over.set).start()
        while not is_over.is_set():
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += (part := connection.recv(65536))
                assert part, "the server closed a connection that is in use"


def test_what_is_no_http_is_refused_in_the_usual_shape(small: Served) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000):
        with small.connect() as connection:
            connection.sendall(garbage)
            text = rest(connection)
            if text:  # a reset may overtake the answer to what was sent beyond the limit
                assert text.startswith(b"HTTP/1.1 400")
                assert json.loads(text.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_http"
    assert small.get("/health").status_code == 200


def test_more_connections_than_allowed_are_turned_away(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer), connections=2) as api:
        held = [api.connect() for _ in range(2)]
        for each in held:  # answered, so the server knows them
            each.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert each.recv(65536).startswith(b"HTTP/1.1 200")
        with api.connect() as one_more:
            assert rest(one_more).startswith(b"HTTP/1.1 503")
        for each in held:
            each.close()
        until(lambda: _is_up(api))


def _is_up(api: Served) -> bool:
    try:
        return api.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_client_that_does_not_read_loses_its_connection_and_its_place(tokenizer: Tokenizer) -> None:
    backend = Scripted(tokenizer, then="endless")
    with serving(backend, send_seconds=1) as api, api.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head(len(STREAM)) + STREAM)
        connection.recv(1)
        assert backend.requests
        until(lambda: backend.running == 0)
        api.settle()


def test_a_client_that_reads_a_byte_now_and_then_does_too(tokenizer: Tokenizer) -> None:
    backend = Scripted(tokenizer, then="endless")
    with serving(backend, send_seconds=1) as api, api.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head(len(STREAM)) + STREAM)

        def has_lost_its_place() -> bool:
            with suppress(ConnectionError):
                connection.recv(1)
            return backend.running == 0 and bool(backend.requests)

        until(has_lost_its_place)
        api.settle()


# --------------------------------------------------------------------------- clients that leave


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_a_client_that_leaves_ends_its_answer(hanging: Scripted, body: bytes) -> None:
    with serving(hanging) as api:
        with api.connect() as connection:
            connection.sendall(head(len(body)) + body)
            until(lambda: hanging.running == 1)
        until(lambda: hanging.running == 0)
        api.settle()


def test_a_client_that_leaves_before_its_first_token_ends_its_answer(tokenizer: Tokenizer) -> None:
    backend = Scripted(tokenizer, then="hang")
    with serving(backend) as api:
        with api.connect() as connection:
            connection.sendall(head(len(STREAM)) + STREAM)
            until(lambda: backend.running == 1)
        until(lambda: backend.running == 0)
        api.settle()


def test_all_choices_end_when_the_client_leaves(hanging: Scripted) -> None:
    with serving(hanging) as api:
        stream = api.client().chat.completions.create(model=MODEL, messages=USER, n=5, stream=True)
        next(iter(stream))
        until(lambda: hanging.running == 5)
        stream.close()
        until(lambda: hanging.running == 0)
        api.settle()


def test_a_client_that_closes_its_sending_half_ends_its_answer(hanging: Scripted) -> None:
    with serving(hanging) as api, api.connect() as connection:
        connection.sendall(head(len(STREAM)) + STREAM)
        until(lambda: hanging.running == 1)
        connection.shutdown(socket.SHUT_WR)
        until(lambda: hanging.running == 0)
        api.settle()


@pytest.mark.skipif(not SOCKETS.exists(), reason="looks into /proc")
def test_the_kernel_looks_for_clients_that_vanished_without_a_word(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer)) as api, api.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        ends = f":{api.port:04X}", f":{connection.getsockname()[1]:04X}"

        def has_keepalive_timer() -> bool:
            rows = [line.split() for line in SOCKETS.read_text().splitlines()]
            return any(row[5].startswith("02:") for row in rows if (row[1][-5:], row[2][-5:]) == ends)

        until(has_keepalive_timer)


# --------------------------------------------------------------------------- engines that do not answer


def test_an_engine_that_does_not_answer_is_given_up(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, hanging: Scripted
) -> None:
    monkeypatch.setattr("hanse.serve.api.answers.GRACE_SECONDS", 0.2)
    with serving(hanging, answer_seconds=0.3) as api:
        with pytest.raises(openai.InternalServerError) as late:
            api.client().chat.completions.create(model=MODEL, messages=USER)
        assert late.value.status_code == 504
        text = api.post(CHAT, content=STREAM, headers={"Content-Type": "application/json"}).text
        assert '"code":"timeout"' in text and "[DONE]" not in text
        api.settle()
        assert hanging.running == 0


def test_an_answer_whose_time_is_over_ends_as_one_that_was_cut(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer, [Output(tokens=(tokenizer.token_to_id("A"),), text="A")], then="deadline")) as api:
        answer = api.client().chat.completions.create(model=MODEL, messages=USER)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("A", "length")
        assert api.backend.requests[0].deadline is not None  # type: ignore[attr-defined]


def test_more_answers_than_there_are_places_are_refused(hanging: Scripted) -> None:
    with serving(hanging, queue=3) as api:
        client = api.client()
        running = client.chat.completions.create(model=MODEL, messages=USER, n=2, stream=True)
        next(iter(running))
        with pytest.raises(openai.InternalServerError) as busy:
            client.chat.completions.create(model=MODEL, messages=USER, n=2)
        assert busy.value.status_code == 503
        assert busy.value.response.headers["Retry-After"] == "1"
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=MODEL, messages=USER, n=4)
        running.close()
        api.settle()
        again = client.chat.completions.create(model=MODEL, messages=USER, n=3, stream=True)
        next(iter(again))
        again.close()


def test_the_server_closes_its_engine_and_cuts_what_does_not_end(hanging: Scripted) -> None:
    with serving(hanging, grace_seconds=1) as api:
        stream = api.client().chat.completions.create(model=MODEL, messages=USER, stream=True)
        next(iter(stream))
    assert hanging.is_closed
    assert hanging.running == 0
