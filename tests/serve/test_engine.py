"""The engine says what the model says: with and without cache, alone and in company, here and in transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.model import hf
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.serve.detokenize import Detokenizer, StopStrings
from hanse.serve.engine import Engine, load_engine
from hanse.serve.request import Output, Request
from hanse.tune.template import encode_text, render

SEED = 11


def prompts(count: int, *, lengths: range) -> list[list[int]]:
    generator = torch.Generator().manual_seed(SEED)
    sizes = torch.randint(lengths.start, lengths.stop, (count,), generator=generator).tolist()
    return [torch.randint(0, 256, (size,), generator=generator).tolist() for size in sizes]


def without_cache(engine: Engine, ids: list[int], max_tokens: int) -> list[int]:
    """Greedy by a full forward for every token."""
    found: list[int] = []
    while len(found) < max_tokens and len(ids) + len(found) < engine.context:
        with torch.inference_mode():
            token = int(engine.model.logits(engine.model(torch.tensor([ids + found])))[0, -1].argmax())
        if token in engine.end_ids:
            break
        found.append(token)
    return found


def test_cached_generation_equals_a_full_forward_for_every_token(engine: Engine) -> None:
    for ids in prompts(6, lengths=range(1, 30)):
        assert list(engine.tokens(ids, max_tokens=25)) == without_cache(engine, ids, 25)


def test_every_prompt_of_a_batch_gets_what_it_would_get_alone(engine: Engine) -> None:
    asked = prompts(40, lengths=range(3, 7))
    limits = [1 + number % 9 for number in range(len(asked))]
    alone = [list(engine.tokens(ids, max_tokens=limit)) for ids, limit in zip(asked, limits, strict=True)]
    assert engine.complete(asked, max_tokens=limits) == alone


def test_rows_that_end_leave_the_others_undisturbed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = prompts(12, lengths=range(5, 6))
    monkeypatch.setattr(engine, "end_ids", frozenset())
    free = engine.complete(asked, max_tokens=12)
    ending = free[0][3]
    monkeypatch.setattr(engine, "end_ids", frozenset({ending}))
    cut = [ids[: ids.index(ending)] if ending in ids else ids for ids in free]
    assert len({len(ids) for ids in cut}) > 1, "the token has to end some rows early for this test to mean anything"
    assert engine.complete(asked, max_tokens=12) == cut


def test_large_groups_are_split_without_changing_order(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = prompts(23, lengths=range(4, 6))
    whole = engine.complete(asked, max_tokens=5)
    monkeypatch.setattr("hanse.serve.schedule.ROWS", 4)
    assert engine.complete(asked, max_tokens=5) == whole


def test_saved_folder_gives_the_greedy_tokens_of_transformers(
    engine: Engine, model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    hf.save(model, tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = load_engine(tmp_path, Runtime(device=torch.device("cpu")))
    chats = [
        render(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True).ids
        for text in ("Ħello", "Καλημέρα, τι κάνεις;", "2 + 2 =", "ß")
    ]
    for ids in [*chats, *prompts(4, lengths=range(1, 40))]:
        expected = theirs.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=sorted(ours.end_ids),
            pad_token_id=0,
        )[0, len(ids) :].tolist()
        if expected and expected[-1] in ours.end_ids:
            expected = expected[:-1]
        assert list(ours.tokens(ids, max_tokens=20)) == expected


def test_streamed_pieces_join_to_the_text_of_the_tokens_and_are_whole_characters(engine: Engine) -> None:
    for ids in prompts(5, lengths=range(2, 20)):
        whole = engine.text(engine.tokens(ids, max_tokens=40))
        assert "".join(engine.stream(ids, max_tokens=40)) == whole


class Scripted(Engine):
    """Says a fixed text, whatever it is asked."""

    def __init__(self, engine: Engine, text: str) -> None:
        self.tokenizer = engine.tokenizer
        self._said = encode_text(engine.tokenizer, text)

    def outputs(self, request: Request) -> Iterator[Output]:
        detokenizer, stops = Detokenizer(self.tokenizer), StopStrings(request.sampling.stop)
        for token in self._said:
            yield Output((token,), stops.add(detokenizer.add(token)))
        yield Output((), stops.add(detokenizer.finish()) + stops.finish(), finish="stop")


@pytest.mark.parametrize("text", ["Ποια είναι η πρωτεύουσα;", "Ħal Għargħur, Żebbuġ", "zażółć 🇪🇺 gęślą", "Здравей"])
def test_no_piece_cuts_a_character(engine: Engine, text: str) -> None:
    pieces = list(Scripted(engine, text).stream([1]))
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert len(pieces) == len(text)  # each as soon as its last byte is there


@pytest.mark.parametrize(
    "text, stop, expected",
    [
        ("abcdef", ("cd",), "ab"),
        ("ababac", ("abac",), "ab"),
        ("abc", ("cd",), "abc"),
        ("a\n\nb", ("\n\n", "b"), "a"),
        ("Ωμέγα τέλος", ("τέλος",), "Ωμέγα "),
        ("abc", ("",), "abc"),
        ("xstop", ("x", "stop"), ""),
    ],
)
def test_text_ends_before_the_first_stop_string(
    engine: Engine, text: str, stop: tuple[str, ...], expected: str
) -> None:
    assert "".join(Scripted(engine, text).stream([1], stop=stop)) == expected


def test_of_two_stop_strings_in_one_piece_the_first_in_the_text_counts() -> None:
    stops = StopStrings(("ê", "è"))
    assert (stops.add("éèê"), stops.found, stops.add("x"), stops.finish()) == ("é", True, "", "")


def test_generation_ends_where_the_context_ends(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "end_ids", frozenset())
    ids = prompts(1, lengths=range(engine.context - 5, engine.context - 4))[0]
    assert len(list(engine.tokens(ids, max_tokens=50))) == 5
    assert len(engine.complete([ids], max_tokens=50)[0]) == 5


def test_the_same_seed_gives_the_same_text_and_another_seed_another(engine: Engine) -> None:
    def draw(seed: int) -> list[int]:
        return list(engine.tokens([1, 2, 3], max_tokens=20, temperature=1.0, seed=seed))

    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("ids", [[], [1] * 128])
def test_a_prompt_that_is_empty_or_fills_the_context_is_refused(engine: Engine, ids: list[int]) -> None:
    with pytest.raises(InputError, match="prompt"):
        list(engine.tokens(ids, max_tokens=5))
    with pytest.raises(InputError, match="prompt"):
        engine.complete([ids], max_tokens=5)


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_sampling_settings_out_of_range_are_refused_by_name(engine: Engine, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        list(engine.tokens([1], max_tokens=5, **settings))


def test_a_folder_without_a_model_or_with_a_broken_tokenizer_is_refused(model: Transformer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json is missing"):
        load_engine(tmp_path)
    hf.save(model, tmp_path)
    with pytest.raises(InputError, match=r"tokenizer\.json is missing"):
        load_engine(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizer"):
        load_engine(tmp_path)
