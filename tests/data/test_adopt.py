"""Another's tokenizer: text keeps its ids, and Hanse's control tokens find a place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from library import new_work, sentences
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as HFTokenizer
from transformers import AutoTokenizer

from hanse.data.adopt import adopt, import_tokenizer
from hanse.data.encoder import Encoder
from hanse.data.tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, PAD, SPECIAL_TOKENS, Tokenizer
from hanse.errors import InputError
from hanse.tune.template import render

RESERVED = [f"<|reserved_special_token_{number}|>" for number in range(20)]
#: Control tokens and roles as several families have them.
KINDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "one token for begin and end": (["<|endoftext|>"], {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}),
    "three tokens, spelled out": (
        ["<s>", "</s>", "<pad>"],
        {"eos_token": {"content": "</s>", "lstrip": False}, "bos_token": {"content": "<s>"}, "pad_token": "<pad>"},
    ),
    "ours by name, and many reserved": (
        [BEGIN_OF_TEXT, END_OF_TEXT, *RESERVED],
        {"eos_token": END_OF_TEXT, "bos_token": BEGIN_OF_TEXT, "pad_token": RESERVED[4]},
    ),
    "few reserved, another end of turn": (
        ["<unk>", "<|im_start|>", "<|im_end|>", "<SPECIAL_12>", "<SPECIAL_13>"],
        {"eos_token": "<|im_end|>", "bos_token": None},
    ),
    "nothing said": ([], {}),
}


def write(folder: Path, controls: list[str], said: dict[str, Any], **changes: Any) -> Path:
    """A byte-level tokenizer with these control tokens, the first half of them before the text's."""
    tokenizer = HFTokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = [AddedToken(token, special=True, normalized=False) for token in controls]
    first, last = tokens[: len(tokens) // 2 + 1], tokens[len(tokens) // 2 + 1 :]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=first,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((sentences(code, n) for code in ("de", "el", "en") for n in range(60)), trainer)
    tokenizer.add_special_tokens(last)
    if controls:
        begin = (controls[0], tokenizer.token_to_id(controls[0]))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{controls[0]} $A", special_tokens=[begin])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding()
    folder.mkdir(parents=True, exist_ok=True)
    definition = json.loads(tokenizer.to_str()) | changes
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module", params=KINDS)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("theirs"), *KINDS[request.param])


@given(text=st.text() | st.sampled_from(["<s>a</s>", "<|endoftext|>", "<|user|>Hi", "Guten Morgen", "το νερό 12345"]))
def test_every_text_keeps_its_ids_and_no_text_spells_a_control_token(theirs: Path, text: str) -> None:
    before = HFTokenizer.from_file(str(theirs / "tokenizer.json"))
    before.no_truncation()
    before.no_padding()
    before.encode_special_tokens = True
    after = Tokenizer(adopt(theirs)[0].to_str())
    ids = after.encode(text)
    assert ids == before.encode(text, add_special_tokens=False).ids
    assert not set(ids) & {after.id_of(token) for token in SPECIAL_TOKENS}


def test_roles_and_reserved_tokens_are_renamed_and_the_rest_stands_behind_the_last(tmp_path: Path) -> None:
    found = {}
    for kind, parts in KINDS.items():
        folder = write(tmp_path / kind, *parts)
        before = HFTokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
        after, places = adopt(folder)
        assert sorted(places) == sorted(set(SPECIAL_TOKENS) - before.keys())
        for ours, was in places.items():
            if was == "new":
                assert after.token_to_id(ours) >= len(before)
            else:
                assert after.token_to_id(ours) == before[was] and after.token_to_id(was) is None
        found[kind] = (
            places.get(END_OF_TEXT),
            places.get(BEGIN_OF_TEXT),
            places.get(PAD),
            [*places.values()].count("new"),
        )
        assert len(set(after.get_vocab().values())) == after.get_vocab_size() == len(before) + found[kind][3]
    assert found == {
        "one token for begin and end": ("<|endoftext|>", "new", "new", 15),
        "three tokens, spelled out": ("</s>", "<s>", "<pad>", 13),
        "ours by name, and many reserved": (None, None, RESERVED[4], 0),
        "few reserved, another end of turn": ("<|im_end|>", "<SPECIAL_12>", "<SPECIAL_13>", 13),
        "nothing said": ("new", "new", "new", 16),
    }


def test_the_artifact_works_like_a_tokenizer_of_our_own(theirs: Path, dataset: Path, tmp_path: Path) -> None:
    work = new_work(tmp_path)
    import_tokenizer(work, theirs, dataset, chat_template="{{ messages }}")
    tokenizer = Tokenizer.load(work.folder)
    assert tokenizer.end_of_text == tokenizer.special_ids()["eos_token_id"]
    assert (work.folder / "premium.json").is_file() and (work.folder / "chat_template.jinja").is_file()
    in_transformers = AutoTokenizer.from_pretrained(work.folder)
    text = "Guten Morgen, το νερό!\n\n 12345 and so on, longer than whoever saved it would have allowed"
    assert in_transformers(text)["input_ids"] == tokenizer.encode(text)
    assert in_transformers.eos_token_id == tokenizer.end_of_text
    ids = render(tokenizer.hf, [{"role": "user", "content": "Hi <|user|>"}], add_generation_prompt=True).ids
    assert ids[0] == tokenizer.id_of("<|user|>") and ids[-1] == tokenizer.id_of("<|assistant|>")
    assert ids.count(ids[0]) == 1
    encoded = Encoder(tokenizer).encode([text.encode(), b""])
    assert encoded.ids.tolist() == tokenizer.encode(text) and encoded.lengths.tolist() == [len(encoded.ids), 0]


def shift(folder: Path, **moved: int) -> Path:
    """Move tokens of the vocabulary to other ids."""
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["model"]["vocab"] |= moved
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    return folder


def test_the_size_is_that_of_the_model_s_table_even_where_ids_have_gaps(tmp_path: Path) -> None:
    after, _ = adopt(shift(write(tmp_path, [], {}), a_token=1000))
    assert Tokenizer(after.to_str()).vocab_size == 1001 > after.get_vocab_size()


def test_a_new_token_never_gets_the_id_of_another(tmp_path: Path) -> None:
    folder = write(tmp_path, [], {})
    size = HFTokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    with pytest.raises(InputError, match="ids would change"):
        adopt(shift(folder, a_token=size + 1))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}}, "no tokenizer that can be read"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "is not byte-level BPE"),
        ({"decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}}, "SentencePiece"),
        ({"decoder": None}, "is not byte-level BPE"),
        ({"added_tokens": None}, "no tokenizer that can be read"),
        ({"pre_tokenizer": {"type": "Nonsense"}}, "no tokenizer that can be read"),
    ],
)
def test_another_kind_of_tokenizer_is_refused(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    write(tmp_path, [], {}, **changes)
    with pytest.raises(InputError, match=complaint):
        adopt(tmp_path)


@pytest.mark.parametrize("content", [None, b"{}", b"\xff", b"[1]", b'{"model": ' * 100_000])
def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        adopt(tmp_path)
