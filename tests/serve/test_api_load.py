"""A thousand requests by 64 clients, many of whom leave halfway: nothing sticks, nothing leaks, every answer ends."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served import PATIENCE_SECONDS, until
from tokenizers import Tokenizer

from hanse.model import hf
from hanse.model.transformer import Transformer

REQUESTS, CLIENTS, SEED = 1000, 64, 20
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def server(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Address and process of `hanse serve`."""
    hf.save(model, tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    command = [sys.executable, "-m", "hanse.cli", "serve", str(tmp_path), "--unverified", "--port", "0", "--json",
               "--device", "cpu", "--threads", "1", "--name", "toy"]  # fmt: skip
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        yield json.loads(running.stdout.readline())["url"], running.pid
    finally:
        running.terminate()
        assert running.wait(PATIENCE_SECONDS) == 0


def resident_bytes(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


async def one(client: httpx.AsyncClient, draw: random.Random) -> str:
    """One request of a random kind. Returns what became of it."""
    body = {
        "model": "toy", "messages": [{"role": "user", "content": "x" * draw.randrange(40)}],
        "max_tokens": draw.randrange(1, 40), "seed": draw.randrange(10**6), "n": draw.choice((1, 1, 1, 3)),
        "ignore_eos": True,
    }  # fmt: skip
    kind = draw.choice(("whole", "whole", "stream", "stream", "left", "left", "dropped", "large", "broken", "score"))
    if kind == "whole":
        answer = await client.post(CHAT, json=body)
        assert answer.json()["choices"][-1]["finish_reason"] == "length", answer.text
    elif kind == "score":
        answer = await client.post(TEXT, json={"model": "toy", "prompt": [[1, 2, 3]] * 3, "echo": True, "logprobs": 1})
        assert len(answer.json()["choices"]) == 3, answer.text
    elif kind == "large":
        assert (await client.post(CHAT, content=b"x" * 6_000_000)).status_code in (413, 415)
        body_of_json = {"Content-Type": "application/json"}
        assert (await client.post(CHAT, content=b"x" * 6_000_000, headers=body_of_json)).status_code == 413
    elif kind == "broken":
        assert (await client.post(CHAT, json={**body, "temperature": -1})).status_code == 400
    elif kind == "dropped":
        try:
            await client.post(CHAT, json={**body, "max_tokens": 80}, timeout=draw.random() * 0.2)
        except httpx.TimeoutException:
            return kind
        return "whole"
    else:
        leaves_after = draw.randrange(1, 10) if kind == "left" else None
        last = ""
        async with client.stream("POST", CHAT, json={**body, "stream": True}) as answer:
            assert answer.status_code == 200
            number = 0
            async for line in answer.aiter_lines():
                last, number = line or last, number + 1
                if leaves_after is not None and number > leaves_after:
                    return kind
        assert last == "data: [DONE]"
    return kind


async def crowd(url: str, seed: int) -> Counter[str]:
    jobs = iter(range(REQUESTS))
    found: Counter[str] = Counter()

    async def client(number: int) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as connection:
            for job in jobs:
                found[await one(connection, random.Random(seed * REQUESTS + job))] += 1

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return found


@pytest.mark.slow
def test_a_crowd_leaves_nothing_behind(server: tuple[str, int]) -> None:
    url, process = server

    def is_idle() -> bool:
        lines = httpx.get(url + "/metrics", timeout=PATIENCE_SECONDS).text.splitlines()
        figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        names = ("hanse_answers_under_way", "hanse_running", "hanse_waiting", "hanse_cache_tokens")
        return all(float(figures[name]) == 0 for name in names)

    sizes = []
    for round_number in range(3):
        found = asyncio.run(crowd(url, SEED + round_number))
        assert found.total() == REQUESTS
        assert min(found[kind] for kind in ("whole", "stream", "left", "dropped", "large", "broken", "score")) > 20
        until(is_idle)
        sizes.append(resident_bytes(process))
    until(lambda: open_files(process) < 40)
    print(f"seed {SEED}, resident MB after each {REQUESTS} requests: {[size >> 20 for size in sizes]}")
    assert sizes[2] - sizes[1] < 16 << 20, sizes
