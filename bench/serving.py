"""What bench/serve.py measures: each contender as a function that answers prompts and says when each token came.

Not a benchmark itself. A run is a dictionary: `wall` seconds from the first request to the last token, `first` seconds
until each stream's first token, `gaps` seconds between one token of a stream and the next, `said` token ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Prompts = list[list[int]]
Answer = Callable[[Prompts, int], dict[str, Any]]

VOCABULARY = 8192


def make_model(folder: Path, size: str | None = None) -> None:
    """A random model with a tokenizer whose tokens all have text, so that a server has something to stream.

    `size` is that of a recipe ("100M" active parameters); None is the 11M of bench/train_cpu.py.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from train_cpu import sizes

    from hanse.model import hf
    from hanse.model.config import derive
    from hanse.model.transformer import Transformer
    from hanse.tune.template import CHAT_TEMPLATE, SPECIAL_TOKENS

    config = sizes("experts-16") if size is None else derive(size, vocab_size=VOCABULARY, max_position_embeddings=1024)
    hf.save(Transformer(config).init_weights(torch.Generator().manual_seed(0)), folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(word) for size in (2, 3) for word in product(alphabet, repeat=size)]
    words = words[: VOCABULARY - len(letters) - len(SPECIAL_TOKENS)]
    vocabulary = {text: number for number, text in enumerate([*letters, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(word[:-1], word[-1]) for word in words]))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def times(began: float, marks: list[list[tuple[float, int]]], said: list[list[int]]) -> dict[str, Any]:
    """A run from what each stream saw: (moment, tokens that came with it)."""
    gaps = []
    for stream in marks:
        for (before, _), (moment, count) in pairwise(stream):
            gaps += [(moment - before) / count] * count
    return {
        "wall": max(stream[-1][0] for stream in marks) - began,
        "first": [stream[0][0] - began for stream in marks],
        "gaps": gaps,
        "said": said,
    }


def hanse(folder: Path, settings: dict[str, Any], device: str, threads: int) -> Answer:
    """Our engine, in this process."""
    from tokenizers import Tokenizer

    from hanse.model import hf
    from hanse.runtime import Runtime
    from hanse.serve.engine import Engine
    from hanse.serve.request import Output, Request, Sampling

    runtime = Runtime.detect(device, threads)
    runtime.apply()
    speculates = bool(settings.get("speculate"))
    model = hf.load(folder, with_mtp=speculates)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    engine = Engine(model, tokenizer, runtime, speculate=speculates, compiles=bool(settings.get("compiles")))

    def answer(prompts: Prompts, tokens: int) -> dict[str, Any]:
        marks: list[list[tuple[float, int]]] = [[] for _ in prompts]
        said: list[list[int]] = [[] for _ in prompts]

        def sink(stream: int) -> Callable[[Output], None]:
            def take(output: Output) -> None:
                if output.tokens:
                    marks[stream].append((time.perf_counter(), len(output.tokens)))
                    said[stream].extend(output.tokens)

            return take

        before = engine.stats()
        began = time.perf_counter()
        sampling = Sampling(max_tokens=tokens, ignore_end=True)
        going = [engine.submit(Request(tuple(ids), sampling), sink(stream)) for stream, ids in enumerate(prompts)]
        while any(sequence.finish is None for sequence in going):
            engine.step()
        after = engine.stats()
        return times(began, marks, said) | {
            "drafted": after.drafted - before.drafted,
            "accepted": after.accepted - before.accepted,
            "cached": after.cached_tokens - before.cached_tokens,
        }

    return answer


def _their_model(folder: Path, settings: dict[str, Any], device: str):
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation=settings.get("attention", "sdpa"),
        experts_implementation=settings.get("experts", "eager"),
    )
    return model.to(device).eval()


def transformers_generate(folder: Path, settings: dict[str, Any], device: str, threads: int) -> Answer:
    """`generate` on a batch of prompts of one length; its best of sdpa and eager, caches and ways through the experts
    is for the caller to find."""
    import torch
    from transformers import CompileConfig, GenerationConfig, StoppingCriteria, StoppingCriteriaList

    torch.set_num_threads(threads)
    model = _their_model(folder, settings, device)
    further: dict[str, Any] = {"cache_implementation": settings["cache"]} if "cache" in settings else {}
    if settings.get("compile"):
        further["compile_config"] = CompileConfig(fullgraph=False, mode="default")
        further["compile_config"]._compile_all_devices = True  # else only accelerators are compiled for

    class Watch(StoppingCriteria):
        """Notes when each step of the batch was done, and stops nothing."""

        def __init__(self) -> None:
            self.moments: list[float] = []

        def __call__(self, input_ids, scores, **_):
            if input_ids.is_cuda:
                torch.cuda.synchronize()
            self.moments.append(time.perf_counter())
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def answer(prompts: Prompts, tokens: int) -> dict[str, Any]:
        watch = Watch()
        config = GenerationConfig(
            max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0,
            **further,
        )  # fmt: skip
        began = time.perf_counter()
        ids_BT = torch.tensor(prompts, device=device)
        with torch.inference_mode():
            found = model.generate(
                ids_BT, attention_mask=torch.ones_like(ids_BT), generation_config=config,
                stopping_criteria=StoppingCriteriaList([watch]), return_dict_in_generate=True,
            )  # fmt: skip
        said = found.sequences[:, ids_BT.shape[1] :].tolist()
        run = times(began, [[(moment, 1) for moment in watch.moments]] * len(prompts), said)
        cache = found.past_key_values
        return run | {"cache_bytes": _bytes(cache) / len(prompts) / int(cache.get_seq_length())}

    return answer


def _bytes(cache) -> int:
    """Memory of what a transformers cache holds."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def transformers_batching(folder: Path, settings: dict[str, Any], device: str, threads: int) -> Answer:
    """Its continuous batching."""
    import torch
    from transformers import ContinuousBatchingConfig, GenerationConfig

    torch.set_num_threads(threads)
    model = _their_model(folder, settings, device)
    # Left alone it takes most of the machine's memory, and a step of that size never ends on a CPU.
    room = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=512)

    def answer(prompts: Prompts, tokens: int) -> dict[str, Any]:
        config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        began = time.perf_counter()
        with torch.no_grad():  # it works in a thread of its own, which no inference mode reaches
            found = model.generate_batch(
                inputs=prompts, generation_config=config, continuous_batching_config=room, progress_bar=False
            )
        wall = time.perf_counter() - began
        said = [list(output.generated_tokens) for output in found.values()]
        if len(said) != len(prompts) or any(len(ids) != tokens for ids in said):
            raise RuntimeError("generate_batch gave no answers")
        return {"wall": wall, "first": [], "gaps": [], "said": said}

    return answer


def llama_bare(folder: Path, settings: dict[str, Any], device: str, threads: int) -> Answer:
    """llama.cpp's own server in a process of its own, with the parameters that our backend gives it."""
    import secrets

    from hanse.model.config import open_config
    from hanse.release.convert import fill_gguf
    from hanse.serve import llamacpp_process

    model = Path(tempfile.mkdtemp(prefix="hanse-bench-")) / "model.gguf"
    fill_gguf(folder, model, kind="f32", sends_every_token=True)
    key = secrets.token_urlsafe(32)
    given = {
        "model": str(model), "key": key, "context": open_config(folder).max_position_embeddings,
        "parallel": settings["parallel"], "threads": threads, "exact": True,
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-P", llamacpp_process.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={"GOMP_SPINCOUNT": "4000", **os.environ},  # as `hanse serve` gives it
    )  # fmt: skip
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(given) + "\n")
    process.stdin.flush()
    return over_http(json.loads(process.stdout.readline())["address"], key)


def hanse_serve(folder: Path, settings: dict[str, Any], device: str, threads: int) -> Answer:
    """`hanse serve` in a process of its own, with one of its engines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "hanse.cli", "serve", str(folder), "--port", str(port), "--threads", str(threads),
         "--engine", settings["engine"], "--unverified", *settings.get("options", ())],
        stdin=subprocess.DEVNULL, stdout=sys.stderr,
    )  # fmt: skip
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            answer = over_http(f"http://127.0.0.1:{port}", "none")
            answer.close = lambda: (process.terminate(), process.wait())  # type: ignore[attr-defined]
            return answer
        if process.poll() is not None:
            raise RuntimeError(f"hanse serve ended with code {process.returncode}")
        time.sleep(0.1)
    raise RuntimeError("hanse serve did not come up")


def over_http(url: str, key: str) -> Answer:
    """A server that speaks OpenAI's protocol, asked by as many clients as there are prompts.

    Read by hand, and parsed when all is over: a general HTTP client would be the slowest part, and would hide what the
    server costs. Tokens are counted as the server reports them; moments are those of the pieces of the stream.
    """
    place = urlsplit(url)
    asked = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(asked, timeout=60) as response:
        model = json.load(response)["data"][0]["id"]

    async def ask(ids: list[int], tokens: int) -> tuple[list[float], int]:
        body = json.dumps({
            "model": model, "prompt": ids, "max_tokens": tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, "ignore_eos": True,
        }).encode()  # fmt: skip
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {key}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        lines: list[tuple[float, bytes]] = []
        while line := await reader.readline():
            if line.startswith((b"data: {", b"{")):
                lines.append((time.perf_counter(), line))
        writer.close()
        events = [(moment, json.loads(line.removeprefix(b"data: "))) for moment, line in lines]
        if failed := [event["error"] for _, event in events if event.get("error")]:
            raise RuntimeError(str(failed[0])[:300])
        used = [event["usage"]["completion_tokens"] for _, event in events if event.get("usage")]
        said = [moment for moment, event in events if any(choice.get("text") for choice in event["choices"])]
        return said, used[-1]

    async def ask_all(prompts: Prompts, tokens: int) -> dict[str, Any]:
        began = time.perf_counter()
        found = await asyncio.gather(*(ask(ids, tokens) for ids in prompts))
        wall = time.perf_counter() - began
        marks = [[(moment, 1) for moment in moments] for moments, _ in found]
        return times(began, marks, [[0] * count for _, count in found]) | {"wall": wall}

    def answer(prompts: Prompts, tokens: int) -> dict[str, Any]:
        return asyncio.run(ask_all(prompts, tokens))

    return answer


def sampling(threads: int, *, rows: int = 64, rounds: int = 3) -> dict[str, dict[str, float]]:
    """CPU microseconds a row for choosing a token for many requests at once, by vocabulary and settings."""
    import torch

    from hanse.serve.request import Sampling
    from hanse.serve.sampler import Sampler, choose

    torch.set_num_threads(threads)
    kinds = {
        "greedy": Sampling(),
        "temperature": Sampling(temperature=1.0),
        "top_k 40": Sampling(temperature=1.0, top_k=40),
        "top_p 0.9, peaked": Sampling(temperature=0.5, top_p=0.9),
        "top_p 0.9, flat": Sampling(temperature=5.0, top_p=0.9),
        "min_p 0.05": Sampling(temperature=1.0, min_p=0.05),
        "repetition penalty, greedy": Sampling(repetition_penalty=1.1),
    }
    found: dict[str, dict[str, float]] = {}
    for vocabulary in (8192, 131072):
        logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0)) * 2
        prompt = list(range(0, 4000, 2))
        for kind, settings in kinds.items():
            samplers = [Sampler(settings, prompt, vocab_size=vocabulary) for _ in range(rows)]
            costs = []
            for _ in range(rounds + 1):
                began = time.process_time()
                choose(logits, samplers, end_ids=frozenset({1}))
                costs.append(time.process_time() - began)
            found.setdefault(str(vocabulary), {})[kind] = round(min(costs[1:]) / rows * 1e6, 1)
    return found
