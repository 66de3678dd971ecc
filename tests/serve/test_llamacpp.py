"""llama.cpp behind the API says what transformers says, token by token, and lets go of what nobody waits for."""

from __future__ import annotations

import asyncio
import json
import math
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from babel import Locale
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hanse.data.tokenizer import train
from hanse.errors import InputError
from hanse.languages import LANGUAGES, NEIGHBOURS
from hanse.model import hf
from hanse.model.config import ApertusConfig, ModelConfig
from hanse.model.config.rotary import Llama3Scaling
from hanse.model.transformer import Transformer
from hanse.release import convert
from hanse.runtime import Runtime
from hanse.serve import llamacpp, llamacpp_stream
from hanse.serve.engine import load_engine
from hanse.serve.llamacpp import LlamaCppBackend
from hanse.serve.request import Output, Request, Sampling
from hanse.tune.template import encode_text, render

pytest.importorskip("xllamacpp")
transformers = pytest.importorskip("transformers")

COMMON: dict[str, Any] = {
    "vocab_size": 272,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # wide, so that the greedy text is not one token for ever
}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 16}
EXPERTS = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 2, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2,
}  # fmt: skip
LONG = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=20.0)
MODELS = {
    "experts": ModelConfig(**COMMON, **LATENT, **EXPERTS),
    "dense": ModelConfig(**COMMON, **LATENT),
    "apertus": ApertusConfig(**COMMON, num_key_value_heads=2, head_dim=16, rope_scaling=LONG, rope_theta=9.0),
}
PARALLEL = 4
LONG_ANSWER = 4000  # tokens: seconds of work, so that what cuts an answer short comes before its end
PATIENCE_SECONDS = 120.0  # for what has to come at all, however busy the machine is
CODES = sorted(LANGUAGES.keys() - set(NEIGHBOURS))


def write(name: str, folder: Path, tokenizer: Tokenizer, **changes: Any) -> Path:
    """A model with random weights, router biases and norms, and the tests' tokenizer."""
    config = MODELS[name]
    generator = torch.Generator().manual_seed(5)
    model = Transformer(type(config)(**{**vars(config), **changes})).init_weights(generator)
    for router in model.routers().values():
        router.e_score_correction_bias.normal_(0, 0.3, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += torch.empty_like(parameter).uniform_(-0.3, 0.3, generator=generator)
    hf.save(model, folder, token_ids={"eos_token_id": tokenizer.token_to_id("<|end_of_text|>")})
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> dict[str, Path]:
    return {name: write(name, tmp_path_factory.mktemp(name), tokenizer) for name in MODELS}


@pytest.fixture(scope="module")
def backend(folders: dict[str, Path]) -> Iterator[LlamaCppBackend]:
    opened = LlamaCppBackend.open(folders["experts"], threads=1, parallel=PARALLEL)
    yield opened
    asyncio.run(opened.close())


@pytest.fixture(scope="module")
def tireless(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A model with room for an answer that takes seconds."""
    return write("dense", tmp_path_factory.mktemp("tireless"), tokenizer, max_position_embeddings=LONG_ANSWER + 50)


async def answer(backend: LlamaCppBackend, request: Request) -> list[Output]:
    return [output async for output in backend.generate(request)]


def ask(backend: LlamaCppBackend, prompt: list[int] | tuple[int, ...], **sampling: Any) -> list[Output]:
    return asyncio.run(answer(backend, Request(tuple(prompt), Sampling(**sampling))))


def tokens_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def text_of(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs)


def reference(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def greedy(theirs: Any, ids: list[int], count: int, end_ids: frozenset[int]) -> list[int]:
    """What transformers goes on with."""
    found = theirs.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=sorted(end_ids),
        pad_token_id=0,
    )[0, len(ids) :].tolist()
    return found[:-1] if found and found[-1] in end_ids else found


def texts(count: int) -> list[str]:
    """Words of each of the 24 languages in turn: countries by their names there."""
    names = [sorted(set(Locale(code).territories.values())) for code in CODES]
    return [names[i % 24][7 * (i // 24) % len(names[i % 24])] for i in range(count)]


def prompts(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    asked = [
        render(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True).ids for text in texts(count)
    ]
    return [ids[:100] for ids in asked]


# --------------------------------------------------------------------------- the same tokens


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_transformers(name: str, folders: dict[str, Path], tokenizer: Tokenizer) -> None:
    theirs = reference(folders[name])
    with_backend = LlamaCppBackend.open(folders[name], threads=1, parallel=2)
    try:
        said = set()
        for ids in prompts(tokenizer, 12):
            expected = greedy(theirs, ids, 16, with_backend.end_ids)
            assert tokens_of(ask(with_backend, ids, max_tokens=16)) == expected
            said.add(tuple(expected))
        assert len(said) > 8, "answers that are all alike prove nothing"
    finally:
        asyncio.run(with_backend.close())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_for_200_prompts_in_24_languages_are_those_of_transformers_and_of_our_engine(
    name: str, folders: dict[str, Path], tokenizer: Tokenizer
) -> None:
    theirs = reference(folders[name])
    ours = load_engine(folders[name], Runtime(device=torch.device("cpu")))
    with_backend = LlamaCppBackend.open(folders[name], threads=1, parallel=2)
    try:
        for text, ids in zip(texts(200), prompts(tokenizer, 200), strict=True):
            expected = greedy(theirs, ids, 20, with_backend.end_ids)
            assert tokens_of(ask(with_backend, ids, max_tokens=20)) == expected, text
            assert list(ours.tokens(ids, max_tokens=20)) == expected, text
    finally:
        asyncio.run(with_backend.close())


def test_every_token_arrives_also_those_that_end_within_a_character(backend: LlamaCppBackend) -> None:
    outputs = ask(backend, [1, 2, 3], max_tokens=60, ignore_end=True, temperature=1.0, seed=4)
    tokens = tokens_of(outputs)
    assert len(tokens) == 60
    assert sum(ord(max(backend.tokenizer.id_to_token(token))) >= 128 for token in tokens if token < 256) > 5
    whole = backend.tokenizer.decode(tokens, skip_special_tokens=True)
    assert text_of(outputs) == whole


def test_requests_in_company_get_what_they_would_get_alone(backend: LlamaCppBackend, tokenizer: Tokenizer) -> None:
    asked = prompts(tokenizer, 3 * PARALLEL)
    alone = [tokens_of(ask(backend, ids, max_tokens=12)) for ids in asked]

    async def together() -> list[list[Output]]:
        requests = [Request(tuple(ids), Sampling(max_tokens=12)) for ids in asked]
        return await asyncio.gather(*(answer(backend, request) for request in requests))

    assert [tokens_of(outputs) for outputs in asyncio.run(together())] == alone


def test_an_answer_ends_at_an_end_token_at_the_limit_and_where_the_context_ends(
    backend: LlamaCppBackend, tokenizer: Tokenizer
) -> None:
    finishes = {}
    for ids in prompts(tokenizer, 40):
        outputs = ask(backend, ids, max_tokens=30, temperature=1.5, seed=1)
        assert not backend.end_ids & set(tokens_of(outputs))
        assert [output.finish for output in outputs[:-1]] == [None] * (len(outputs) - 1)
        finishes.setdefault(outputs[-1].finish, []).append(len(tokens_of(outputs)))
    assert set(finishes) == {"stop", "length"}
    assert set(finishes["length"]) == {30} and min(finishes["stop"]) < 30
    outputs = ask(backend, [1] * (backend.context - 5), max_tokens=50, ignore_end=True)
    assert len(tokens_of(outputs)) == 5 and outputs[-1].finish == "length"


def test_packed_weights_answer_too(folders: dict[str, Path], tokenizer: Tokenizer) -> None:
    opened = LlamaCppBackend.open(folders["dense"], threads=1, parallel=1, type="q8_0")
    try:
        theirs = reference(folders["dense"])
        same = 0
        for ids in prompts(tokenizer, 8):
            expected = greedy(theirs, ids, 1, frozenset())
            same += tokens_of(ask(opened, ids, max_tokens=1, ignore_end=True)) == expected
        assert same >= 6
    finally:
        asyncio.run(opened.close())


# --------------------------------------------------------------------------- sampling


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(backend: LlamaCppBackend) -> None:
    def draw(seed: int | None) -> tuple[int, ...]:
        return tuple(tokens_of(ask(backend, [1, 2, 3], max_tokens=12, temperature=1.0, seed=seed)))

    assert draw(7) == draw(7) and draw(-3) == draw(-3)
    assert len({draw(seed) for seed in range(5)}) > 1
    assert len({draw(None) for _ in range(5)}) > 1


@pytest.mark.parametrize("filtered", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_each_filter_alone_leaves_the_likeliest_token(backend: LlamaCppBackend, filtered: dict[str, Any]) -> None:
    expected = tokens_of(ask(backend, [5, 6, 7], max_tokens=12, ignore_end=True))
    found = ask(backend, [5, 6, 7], max_tokens=12, ignore_end=True, temperature=2.0, seed=3, **filtered)
    assert tokens_of(found) == expected


def test_temperature_comes_before_the_filters(backend: LlamaCppBackend) -> None:
    """Flat as the distribution gets, half of the probability is half of the vocabulary, and not one token."""
    drawn = {
        tokens_of(ask(backend, [5, 6, 7], max_tokens=1, temperature=100.0, top_p=0.5, seed=seed, ignore_end=True))[0]
        for seed in range(12)
    }
    assert len(drawn) > 6


def test_repetition_is_penalised_over_prompt_and_answer(backend: LlamaCppBackend) -> None:
    found = tokens_of(ask(backend, [5, 6, 7], max_tokens=40, ignore_end=True, repetition_penalty=100.0))
    assert len(set(found)) == len(found) and not {5, 6, 7} & set(found)


def test_logprobs_are_those_of_the_model_whatever_the_temperature(
    backend: LlamaCppBackend, folders: dict[str, Path]
) -> None:
    outputs = ask(backend, [9, 8, 7], max_tokens=6, temperature=1.7, seed=2, logprobs=3, ignore_end=True)
    tokens, found = tokens_of(outputs), [each for output in outputs for each in output.logprobs]
    assert [each.token for each in found] == tokens
    with torch.inference_mode():
        logits = reference(folders["experts"])(torch.tensor([[9, 8, 7, *tokens]])).logits[0].log_softmax(-1)
    for position, each in enumerate(found, start=2):
        best = logits[position].topk(3)
        assert each.value == pytest.approx(float(logits[position, each.token]), abs=1e-3)
        assert [number for number, _ in each.top] == best.indices.tolist()
        assert [value for _, value in each.top] == pytest.approx(best.values.tolist(), abs=1e-3)
    alone = ask(backend, [9, 8, 7], max_tokens=2, logprobs=0, ignore_end=True)
    assert [len(each.top) for output in alone for each in output.logprobs] == [0, 0]


def test_an_answer_to_a_schema_is_json_that_it_allows(backend: LlamaCppBackend) -> None:
    schema = {
        "type": "object",
        "properties": {
            "πόλη": {"enum": ["Αθήνα", "Ħal Għargħur", "Πάτρα"]},
            "n": {"type": "integer", "minimum": 0, "maximum": 9},
            "free": {"type": "string", "maxLength": 8},
        },
        "required": ["πόλη", "n", "free"],
        "additionalProperties": False,
    }
    whole = 0
    for seed in range(10):
        outputs = ask(backend, [1, 2, 3], max_tokens=120, temperature=0.7, seed=seed, schema=json.dumps(schema))
        if outputs[-1].finish == "length":  # too many blanks; the model is random
            continue
        found, whole = json.loads(text_of(outputs)), whole + 1
        assert list(found) == ["πόλη", "n", "free"]
        assert found["πόλη"] in schema["properties"]["πόλη"]["enum"]  # type: ignore[index]
        assert 0 <= found["n"] <= 9 and len(found["free"]) <= 8
    assert whole > 2


def test_properties_may_be_called_like_keywords(tokenizer: Tokenizer) -> None:
    schema = {"properties": {"patternProperties": True, "minLength": {"type": "integer"}, "ő": {"const": "λ"}}}
    text = llamacpp._grammar(json.dumps(schema), tokenizer)
    assert json.loads(text.partition("%json ")[2])["properties"] == {
        "patternProperties": True,
        "minLength": {"type": "integer"},
        "\u00c5\u0091": {"const": "\u00ce\u00bb"},
    }


@pytest.mark.parametrize("cut", [1, 3])
def test_text_ends_before_a_stop_string_and_the_request_with_it(backend: LlamaCppBackend, cut: int) -> None:
    asked = {"max_tokens": 60, "ignore_end": True, "temperature": 1.0, "seed": 9}
    whole = text_of(ask(backend, [3, 3, 3], **asked))
    stop = next(whole[i : i + cut] for i in range(5, 50) if "\ufffd" not in whole[i : i + cut])
    outputs = ask(backend, [3, 3, 3], **asked, stop=(stop,))
    assert text_of(outputs) == whole[: whole.index(stop)]
    assert outputs[-1].finish == "stop" and len(tokens_of(outputs)) < 60


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "request_, reason",
    [
        (Request(()), "empty"),
        (Request((1,) * 128), "128 tokens long, but the model sees 128"),
        (Request((1,), Sampling(temperature=math.nan)), "temperature"),
        (Request((1,), Sampling(top_p=0.0)), "top_p"),
        (Request((1,), records_routes=True), "which experts"),
        (Request((1,), Sampling(logprobs=1), prompt_logprobs=True), "no logprobs of the prompt"),
        (Request((1,), Sampling(presence_penalty=0.5)), "repetition_penalty"),
        (Request((1,), Sampling(schema="{")), "schema"),
        (Request((1,), Sampling(schema='{"type": "nonsense"}')), "schema"),
        (Request((1,), Sampling(schema='{"type": "string", "pattern": "[α-ω]+"}')), "patterns of ASCII"),
        (Request((1,), Sampling(schema='{"properties": {"a": {"minLength": 2, "type": "string"}}}')), "count bytes"),
        (Request((1, 5000)), "does not take this request"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_sentence(backend: LlamaCppBackend, request_: Request, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as told:
        asyncio.run(answer(backend, request_))
    assert "\n" not in str(told.value)
    assert backend.stats().running == 0
    assert ask(backend, [1, 2], max_tokens=2, ignore_end=True)[-1].finish == "length"  # and it goes on


@pytest.mark.parametrize(
    "options, reason",
    [({"context": 129}, "context 129"), ({"context": 1}, "context 1"), ({"parallel": 0}, "0 requests"),
     ({"threads": 0}, "0 threads"), ({"type": "q3_k"}, "q3_k: unknown"), ({"type": "q4_k"}, "rows of 64")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(folders: dict[str, Path], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        LlamaCppBackend.open(folders["dense"], **options)


def test_a_server_that_does_not_start_is_told_with_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF and nothing more")
    settings = {
        "model": str(tmp_path / "model.gguf"),
        "key": "k",
        "context": 8,
        "parallel": 1,
        "threads": 1,
        "exact": 1,
    }
    with pytest.raises(InputError, match=r"llama\.cpp does not start with this model: .+"):
        llamacpp._start(settings, tmp_path)


# --------------------------------------------------------------------------- letting go


async def first(stream: AsyncIterator[Output]) -> Output:
    return await anext(stream)


async def idle(backend: LlamaCppBackend) -> None:
    """Until all slots answer again, which a request that nobody ended would prevent."""
    requests = [Request((9, number), Sampling(max_tokens=2, ignore_end=True)) for number in range(PARALLEL)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(answer(backend, request) for request in requests))


def test_closing_the_stream_frees_the_slot(backend: LlamaCppBackend) -> None:
    async def leave() -> None:
        for number in range(3 * PARALLEL):
            stream = backend.generate(Request((1, 2, number), Sampling(max_tokens=120, ignore_end=True)))
            await first(stream)
            assert backend.stats().running == 1
            await stream.aclose()  # type: ignore[attr-defined]
        assert backend.stats().running == 0
        await idle(backend)

    asyncio.run(leave())


def test_a_cancelled_task_frees_the_slot(backend: LlamaCppBackend) -> None:
    async def leave() -> None:
        generator = random.Random(3)
        request = Request((1, 2), Sampling(max_tokens=120, ignore_end=True))
        tasks = [asyncio.create_task(answer(backend, request)) for _ in range(12)]
        for task in tasks:
            for _ in range(generator.randrange(60)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert backend.stats().running == backend.stats().waiting == 0
        await idle(backend)

    asyncio.run(leave())


def test_a_deadline_ends_the_answer_as_it_is(backend: LlamaCppBackend) -> None:
    async def run(seconds: float) -> list[Output]:
        deadline = time.monotonic() + seconds
        sampling = Sampling(max_tokens=100, ignore_end=True)
        return await answer(backend, Request((1, 2, 3), sampling, deadline=deadline))

    assert [output.finish for output in asyncio.run(run(-1))] == ["deadline"]
    assert asyncio.run(run(600))[-1].finish == "length"


def test_a_deadline_that_passes_while_an_answer_runs_cuts_it(tireless: Path) -> None:
    opened = LlamaCppBackend.open(tireless, threads=1, parallel=1)

    async def cut() -> list[Output]:
        sampling = Sampling(max_tokens=LONG_ANSWER, ignore_end=True)
        stream = opened.generate(Request((1, 2, 3), sampling, deadline=time.monotonic() + 0.02))
        found = [await first(stream)]
        while not all(each.ended for each in opened._active):
            await asyncio.sleep(0.001)
        found += [output async for output in stream]
        await opened.close()
        return found

    found = asyncio.run(cut())
    assert found[-1].finish == "deadline" and len(tokens_of(found)) < LONG_ANSWER


def test_figures_count_what_was_asked_and_answered(backend: LlamaCppBackend) -> None:
    before = backend.stats()
    prompt = list(range(20, 60))
    ask(backend, prompt, max_tokens=5, ignore_end=True)
    again = ask(backend, prompt, max_tokens=5, ignore_end=True)
    after = backend.stats()
    assert after.prompt_tokens - before.prompt_tokens == 80
    assert after.generated_tokens - before.generated_tokens == 10
    assert after.cache_capacity == PARALLEL * backend.context
    assert again[0].cached == after.cached_tokens - before.cached_tokens - (0) >= 30
    assert sum(output.cached for output in again[1:]) == 0


def test_requests_with_another_salt_share_no_prefix(folders: dict[str, Path]) -> None:
    opened = LlamaCppBackend.open(folders["dense"], threads=1, parallel=1)
    try:

        def cached(salt: str) -> int:
            request = Request(tuple(range(40)), Sampling(max_tokens=2, ignore_end=True), salt=salt)
            return asyncio.run(answer(opened, request))[0].cached

        assert (cached("a"), cached("a") > 30, cached("b"), cached("a"), cached("b")) == (0, True, 0, 0, 0)
    finally:
        asyncio.run(opened.close())


def test_a_server_that_is_killed_is_told_and_leaves_no_file(
    tireless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened = LlamaCppBackend.open(tireless, threads=1, parallel=1)
    assert not list(tmp_path.iterdir())

    async def kill() -> None:
        stream = opened.generate(Request((1, 2), Sampling(max_tokens=LONG_ANSWER, ignore_end=True)))
        await first(stream)
        opened._process.kill()
        opened._process.wait()
        with pytest.raises(RuntimeError, match=r"llama\.cpp has ended with code -9"):
            async for _ in stream:
                pass
        with pytest.raises(RuntimeError, match=r"llama\.cpp has ended"):
            await answer(opened, Request((1,)))
        await opened.close()

    asyncio.run(kill())


def test_closing_ends_running_answers_and_the_process(tireless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "_PATIENCE", PATIENCE_SECONDS)
    opened = LlamaCppBackend.open(tireless, threads=1, parallel=1)

    async def close() -> Output:
        stream = opened.generate(Request((1, 2), Sampling(max_tokens=LONG_ANSWER, ignore_end=True)))
        await first(stream)
        await opened.close()
        rest = [output async for output in stream]
        return rest[-1]

    assert asyncio.run(close()).finish == "cancelled"
    assert opened._process.poll() == 0
    asyncio.run(opened.close())  # twice is once


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")
def test_the_server_ends_with_its_parent_however_that_ends(folders: dict[str, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from hanse.serve.llamacpp import LlamaCppBackend;"
        "opened = LlamaCppBackend.open(Path(sys.argv[1]), threads=1, parallel=1);"
        "print(opened._process.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(folders["dense"])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = Path("/proc") / parent.stdout.readline().decode().strip()
    assert b"llamacpp_process" in (child / "cmdline").read_bytes()
    parent.kill()
    parent.communicate()
    ends = time.monotonic() + PATIENCE_SECONDS
    while child.exists() and b"llamacpp_process" in (child / "cmdline").read_bytes():  # a zombie has no command line
        assert time.monotonic() < ends, "the server outlives its parent"
        time.sleep(0.01)


def test_the_server_listens_on_this_machine_only_and_wants_its_key(backend: LlamaCppBackend) -> None:
    assert backend._host == "127.0.0.1"
    url = f"http://127.0.0.1:{backend._port}"
    asked = urllib.request.Request(f"{url}/completion", data=b'{"prompt": [1]}', headers={"Authorization": "Bearer x"})
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(asked)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/slots")


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.integers(1, 50))
def test_chunks_are_put_together_wherever_they_are_cut(parts: list[bytes], width: int) -> None:
    sent = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    raw, found, is_over = b"", b"", False
    for start in range(0, len(sent), width):
        if not is_over:
            body, raw, is_over = llamacpp_stream.unchunked(raw + sent[start : start + width])
            found += body
    assert (found, is_over) == (b"".join(parts), True)


# --------------------------------------------------------------------------- the split


def test_llama_cpp_cuts_real_words_of_all_languages_as_we_do(tmp_path: Path) -> None:
    words = sorted({name for code in CODES for name in Locale(code).territories.values()})
    tokenizer = train(words, 2000)
    folder = write("dense", tmp_path / "model", tokenizer, vocab_size=2000)
    convert.write_gguf(folder, tmp_path / "model.gguf", kind="f32")
    settings = {
        "model": str(tmp_path / "model.gguf"),
        "key": "k",
        "context": 128,
        "parallel": 1,
        "threads": 1,
        "exact": True,
    }
    process, address = llamacpp._start(settings, tmp_path)
    try:
        generator = random.Random(1)
        asked = [*words, *(word.upper() for word in words), *(word.title() for word in words)]
        asked = generator.sample(asked, 1500)
        asked += [
            f"{one}, {two}  — {generator.randrange(10**6)}!\n\n \t{one}’s"
            for one, two in zip(words, asked[:300], strict=False)
        ]
        wrong = []
        for text in asked:
            body = json.dumps({"content": text, "add_special": False, "parse_special": False}).encode()
            request = urllib.request.Request(f"{address}/tokenize", data=body, headers={"Authorization": "Bearer k"})
            with urllib.request.urlopen(request) as reply:
                if json.load(reply)["tokens"] != encode_text(tokenizer, text):
                    wrong.append(text)
        assert not wrong, f"{len(wrong)} of {len(asked)}, such as {wrong[:3]}"
    finally:
        llamacpp._stop(process)
