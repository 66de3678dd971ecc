"""The tokenizer: byte-level BPE with the Llama-3 split, trained so that small languages get their share.

The split pattern is exactly Llama 3's: llama.cpp knows it by the name `llama-bpe`, and fast encoders accept
nothing else.
Control tokens come first, so their ids do not move with the size of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

from hanse.data.premium import measure, table
from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.recipe import Tokenizer as Settings
    from hanse.store.stage import Work

Progress = Callable[[str, int, int | None], None]

# From the Llama 3 tokenizer (Meta, 2024), as in llama.cpp's LLAMA_VOCAB_PRE_TYPE_LLAMA3.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
BEGIN_OF_TEXT, END_OF_TEXT, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"
SPECIAL_TOKENS = (
    BEGIN_OF_TEXT, END_OF_TEXT, PAD, "<|system|>", "<|user|>", "<|assistant|>", "<|end_of_turn|>", "<|tool_call|>",
    "<|/tool_call|>", "<|tool_result|>", "<|/tool_result|>", "<think>", "</think>",
    *(f"<|reserved_{number}|>" for number in range(3)),
)  # fmt: skip
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
MIN_FREQUENCY = 2  # of a pair, to become a token
MAX_REPEATS = 4  # of a small language's text, to reach its share


class Tokenizer:
    """Text to token ids and back. Round trips are exact for every string that UTF-8 can hold.

    Control tokens spelled out in a text are text, unless `special` asks to read them.
    """

    def __init__(self, definition: str) -> None:
        """Args: definition: the content of a `tokenizer.json`."""
        self.hf = HFTokenizer.from_str(definition)
        self._plain = HFTokenizer.from_str(definition)
        self._plain.encode_special_tokens = True
        self.vocab_size = 1 + max(self.hf.get_vocab(with_added_tokens=True).values())  # another's may have gaps
        self.end_of_text = self.id_of(END_OF_TEXT)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read the `tokenizer.json` of a tokenizer or model folder. Raises InputError if there is none that works."""
        path = folder / "tokenizer.json"
        try:
            return cls(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
        except (UnicodeDecodeError, KeyError) as error:
            raise InputError(f"{path}: is no tokenizer of ours ({error}).") from None
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise InputError(f"{path}: is not a tokenizer file ({error}).") from None

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; `special` reads control tokens in it as such."""
        return (self.hf if special else self._plain).encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Token ids of many texts, in parallel."""
        coder = self.hf if special else self._plain
        return [encoding.ids for encoding in coder.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of token ids; bytes that are not UTF-8 (a cut character) become U+FFFD."""
        return self.hf.decode(list(ids), skip_special_tokens=skip_special)

    def special_ids(self) -> dict[str, int]:
        """The ids that a model's config.json names."""
        names = {"bos_token_id": BEGIN_OF_TEXT, "eos_token_id": END_OF_TEXT, "pad_token_id": PAD}
        return {key: self.id_of(token) for key, token in names.items()}

    def id_of(self, special: str) -> int:
        """Id of a control token. Raises KeyError if the tokenizer has none of that name."""
        token_id = self.hf.token_to_id(special)
        if token_id is None:
            raise KeyError(special)
        return token_id


def train_tokenizer(
    work: Work,
    dataset: Path,
    settings: Settings,
    *,
    chat_template: str,
    extra_texts: Iterable[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write a tokenizer artifact, trained on a dataset's train split.

    Args:
        work: the folder to fill.
        dataset: folder of a dataset artifact.
        settings: the recipe's [tokenizer].
        chat_template: Jinja source that goes with the tokenizer.
        extra_texts: more training text, taken whole, such as conversations.
        seed: chooses the sample.
        progress: called with a phrase, the bytes done, and their total.

    Raises:
        InputError: the data does not support a vocabulary of that size, or there is no text.
    """
    say = progress or (lambda phrase, done, total: None)
    say("training the tokenizer", 0, None)
    texts = sample(dataset, sample_bytes=settings.sample_bytes, temperature=settings.language_temperature, seed=seed)
    trained = train([*texts, *extra_texts], settings.vocab_size)
    save(trained, work.folder, chat_template=chat_template)
    say("measuring the tokenizer", 0, None)
    vocab_size = write_premium(work, dataset)
    work.note(vocab_size=vocab_size, training_bytes=sum(len(text.encode()) for text in texts))


def write_premium(work: Work, dataset: Path) -> int:
    """Measure the tokenizer in `work.folder` on a dataset's text and write `premium.json`. Returns its size."""
    from hanse.data.encoder import Encoder  # which stands on this file

    tokenizer = Tokenizer.load(work.folder)
    premium = measure(Encoder(tokenizer), dataset)
    (work.folder / "premium.json").write_text(json.dumps(premium, indent=1) + "\n", encoding="utf-8")
    (work.run / "premium.txt").write_text(table(premium) + "\n", encoding="utf-8")
    return tokenizer.vocab_size


def train(texts: Iterable[str], vocab_size: int) -> HFTokenizer:
    """Train on texts; the same texts in the same order give the same tokenizer.

    Raises:
        InputError: the texts hold fewer than `vocab_size` tokens worth learning.
    """
    tokenizer = HFTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    largest = tokenizer.get_vocab_size()
    if largest < vocab_size:
        raise InputError(
            f"[tokenizer] vocab_size: {vocab_size} is larger than the data supports; set it to {largest} or less, "
            "or add text."
        )
    smallest = len(SPECIAL_TOKENS) + 256
    if vocab_size < smallest:
        raise InputError(
            f"[tokenizer] vocab_size: {vocab_size} is less than bytes and control tokens need ({smallest})."
        )
    return tokenizer


def save(tokenizer: HFTokenizer, folder: Path, *, chat_template: str) -> None:
    """Write the files by which transformers loads the same tokenizer."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    names = {"bos_token": BEGIN_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PAD}
    config = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                "special": True,
            }
            for token in SPECIAL_TOKENS
        },
    }  # fmt: skip
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", names)
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8", newline="\n")


def sample(dataset: Path, *, sample_bytes: int, temperature: float, seed: int) -> list[str]:
    """Training text: each language gets a share that grows with its bytes to the power 1/temperature.

    A language with less text than its share is repeated up to MAX_REPEATS times; what it then leaves over goes to the
    others. Documents are taken in a keyed order, and the last one of a language is cut to fit.

    Raises:
        InputError: the dataset has no training text.
    """
    sizes, places = _places(dataset, seed)
    quotas = share_out(sizes, sample_bytes, temperature)
    wanted: dict[int, list[tuple[int, int]]] = {}  # file number -> (row, repeats)
    for language, quota in quotas.items():
        for file, row, size, repeats in _fill(places[language], quota):
            wanted.setdefault(file, []).extend([(row, size)] * repeats)
    paths = _text_files(dataset)
    texts: list[str] = []
    for number, path in enumerate(paths):
        rows = sorted(wanted.get(number, ()))
        texts += _take(path, rows)
    return texts


def share_out(sizes: dict[str, int], total: int, temperature: float) -> dict[str, int]:
    """Bytes for each language: proportional to size^(1/temperature), at most MAX_REPEATS times its size."""
    total = min(total, sum(sizes.values()))
    quotas: dict[str, int] = {}
    open_ = dict(sizes)
    while open_:
        weights = {language: size ** (1 / temperature) for language, size in open_.items()}
        left = total - sum(quotas.values())
        shares = {language: left * weight / sum(weights.values()) for language, weight in weights.items()}
        full = [language for language in open_ if shares[language] >= MAX_REPEATS * open_[language]]
        if not full:
            return {**quotas, **{language: int(share) for language, share in shares.items()}}
        for language in full:
            quotas[language] = MAX_REPEATS * open_.pop(language)
    return quotas


def _text_files(dataset: Path) -> list[Path]:
    paths = sorted((dataset / "text").glob("train-*.parquet"))
    if not paths:
        raise InputError(f"{dataset}: holds no training text for a tokenizer; the dataset has too few documents.")
    return paths


def _places(dataset: Path, seed: int) -> tuple[dict[str, int], dict[str, list[tuple[int, int, int]]]]:
    """Per language: bytes in all, and (file, row, bytes) of its documents in keyed order."""
    found: dict[str, list[tuple[int, int, int, int]]] = {}
    for number, path in enumerate(_text_files(dataset)):
        row = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["id", "language", "text"]):
                sizes = batch.column("text").cast("binary")
                columns = zip(batch.column("id").to_pylist(), batch.column("language").to_pylist(), sizes, strict=True)
                for name, language, text in columns:
                    size = len(text.as_buffer())
                    found.setdefault(language, []).append((_key(name, seed), number, row, size))
                    row += 1
    places = {language: [place[1:] for place in sorted(rows)] for language, rows in sorted(found.items())}
    return {language: sum(size for *_, size in rows) for language, rows in places.items()}, places


def _key(document_id: str, seed: int) -> int:
    # The id is a hash already; an odd multiplier turns it into another order for another seed.
    return (int(document_id, 16) * (2 * seed + 0x9E3779B97F4A7C15)) % 2**128


def _fill(places: list[tuple[int, int, int]], quota: int) -> Iterator[tuple[int, int, int, int]]:
    """(file, row, bytes to take, repeats) until the quota is reached."""
    whole = sum(size for *_, size in places)
    repeats, rest = divmod(quota, whole)
    for file, row, size in places:
        taken = min(size, rest)
        rest -= taken
        if taken == size:
            yield file, row, size, repeats + 1
        else:
            if repeats:
                yield file, row, size, repeats
            if taken:
                yield file, row, taken, 1


def _take(path: Path, rows: list[tuple[int, int]]) -> Iterator[str]:
    """The texts of sorted (row, bytes) pairs; a text cut within a character loses that character."""
    if not rows:
        return
    start = 0
    at = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["text"]):
            end = start + batch.num_rows
            while at < len(rows) and rows[at][0] < end:
                row, size = rows[at]
                text = batch.column(0)[row - start].as_py()
                yield text.encode()[:size].decode(errors="ignore")
                at += 1
            start = end


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")
