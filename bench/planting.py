"""Real text with copies and personal data hidden in it, so that what a curation finds can be counted.

The text is that of ../shared/corpus: novels, help pages, sentence lists, treebanks and privacy statements in 28
languages. Documents above 5 kB are cut between paragraphs (sentence lists between lines) into pieces of at least
2.6 kB, which makes the average about 2.7 kB. Every language gives the same number of documents, or all it has.
Of each 100 documents

* 5 are exact duplicates: the words of another document, its white space changed;
* 5 are near duplicates: another document with 2 % of its words replaced by words of the same language;
* 5 carry two pieces of personal data of different kinds, each with the few words that stand around such things
  ("Tel.:", "IBAN") at the end of a paragraph: e-mail address, public IPv4 address, IBAN with valid check digits (half
  of them in groups of four), mobile number in international form.

Only running text of 1,000 characters and more is copied, never a help page: those resemble one another, so a removal
would not tell what was found. Copies carry no planted data, and the id of a planted document says what it is.

A larger set is made of *editions*: in each one but the first, some 35 % of the words are replaced, type by type, by a
keyed permutation of words of the same language and about the same frequency (ranks 16-31, 32-63, 64-127 and so on;
of each band, words that make up 35 % of it). Two editions of a document have 1 to 7 % of their word 5-grams in common
(23 % at most, measured on 450), so they are no near duplicates, while word lengths, letters and repetitions stay what
they were. Every edition is planted anew.

Everything follows from the seed: the same one gives the same bytes.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("email", "ipv4", "iban", "phone")
COPY_SHARE = 0.05  # exact, near, and documents with personal data: each so many of all
REPLACED_SHARE = 0.02  # of a near duplicate's words
ALTERED_SHARE = 0.35  # of an edition's words
CUT_ABOVE, PIECE_BYTES = 5000, 2620
COPIED_CHARACTERS = 1000
FILES = 8  # in an edition
HELP_PAGES = ("libreoffice-help", "gnome-user-docs")
_WORD = re.compile(r"\w+")

# Of each language: the country's domain, its calling code, how a mobile number begins, and how many digits follow.
_COUNTRIES = {
    "bg": ("bg", "359", "88", 7), "cs": ("cz", "420", "602", 6), "da": ("dk", "45", "26", 6),
    "de": ("de", "49", "151", 8), "el": ("gr", "30", "697", 7), "en": ("ie", "353", "85", 7),
    "es": ("es", "34", "612", 6), "et": ("ee", "372", "52", 6), "fi": ("fi", "358", "40", 7),
    "fr": ("fr", "33", "61", 7), "ga": ("ie", "353", "87", 7), "hr": ("hr", "385", "91", 7),
    "hu": ("hu", "36", "30", 7), "it": ("it", "39", "347", 7), "lt": ("lt", "370", "61", 6),
    "lv": ("lv", "371", "26", 6), "mt": ("mt", "356", "79", 6), "nb": ("no", "47", "41", 6),
    "nl": ("nl", "31", "61", 7), "nn": ("no", "47", "92", 6), "pl": ("pl", "48", "601", 6),
    "pt": ("pt", "351", "912", 6), "ro": ("ro", "40", "721", 6), "sk": ("sk", "421", "903", 6),
    "sl": ("si", "386", "41", 6), "sr": ("rs", "381", "63", 7), "sv": ("se", "46", "70", 7),
    "uk": ("ua", "380", "67", 7),
}  # fmt: skip
# Letters and digits of an account number. Countries whose numbers hold check digits of their own are left out.
_ACCOUNTS = {
    "AT": (0, 16), "CZ": (0, 20), "DE": (0, 18), "DK": (0, 14), "EE": (0, 16), "HU": (0, 24), "IE": (4, 14),
    "LT": (0, 16), "LV": (4, 13), "NL": (4, 10), "PL": (0, 24), "RO": (4, 16), "SE": (0, 20), "SK": (0, 20),
}  # fmt: skip
_FIRST = (
    "anna", "jan", "maria", "petr", "elena", "luca", "sofia", "tomas", "marta", "nils", "eva", "mateo", "irena",
    "paul", "katarzyna", "jonas", "aino",
)  # fmt: skip
_LAST = (
    "novak", "berg", "rossi", "kowalska", "horvat", "silva", "popescu", "nagy", "virtanen", "tamm", "kalnins",
    "jensen", "garcia", "murphy", "borg",
)  # fmt: skip
_HOSTS = ("post", "mail", "kontor", "studio", "verlag", "webnet", "atelier", "nord", "online", "praxis")
_OCTETS = (62, 77, 80, 85, 88, 91, 93, 109, 151, 178, 194, 212)  # public, most of them European
_CONTEXTS = {
    "email": ("E-mail: {}", "({})", "Info: {}", "{}"),
    "ipv4": ("IP: {}", "IP {}", "[{}]", "({})"),
    "iban": ("IBAN: {}", "IBAN {}", "(IBAN {})", "Konto {}"),
    "phone": ("Tel.: {}", "Tel. {}", "({})", "GSM: {}"),
}

Record = dict[str, Any]


@dataclass
class Planted:
    """What was written, and the answers: pairs are (copy, original), personal data is (id, kind, value)."""

    seed: int
    documents: int = 0
    text_bytes: int = 0
    languages: set[str] = field(default_factory=set)
    exact: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[str, str]] = field(default_factory=list)
    personal: list[tuple[str, str, str]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """For the results file."""
        return {
            "seed": self.seed,
            "documents": self.documents,
            "text_bytes": self.text_bytes,
            "mean_bytes": round(self.text_bytes / self.documents),
            "languages": len(self.languages),
            "exact_duplicates": len(self.exact),
            "near_duplicates": len(self.near),
            "personal_data": dict(sorted(Counter(kind for _, kind, _ in self.personal).items())),
        }


@dataclass(frozen=True)
class Outcome:
    """What a contender left: ids that its per-document filters let pass, ids that stay, and the texts asked for."""

    candidates: set[str]
    kept: set[str]
    texts: dict[str, str]


def plant(folder: Path, corpus: Path, *, documents: int, editions: int = 1, seed: int) -> Planted:
    """Write `<edition>-<n>.jsonl.gz` files.

    Args:
        folder: made if needed.
        corpus: the folder with `<source>.<language>.jsonl.gz` files.
        documents: in one edition, planted ones included.
        editions: how many times the text is used.
        seed: of everything that is drawn.

    Raises:
        SystemExit: the corpus is not there or too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copies = round(COPY_SHARE * documents)
    originals = _originals(corpus, documents - 2 * copies, seed)
    vocabularies = _vocabularies(originals)
    planted = Planted(seed)
    for edition in range(editions):
        draw = random.Random(f"{seed} edition {edition}")
        records = originals if edition == 0 else _altered(originals, vocabularies, edition, seed)
        records = [{**record, "id": f"{edition}/{record['id']}"} for record in records]
        records += _copies(records, vocabularies, copies, draw, planted)
        draw.shuffle(records)
        for number in range(FILES):
            _write(folder / f"{edition:02d}-{number}.jsonl.gz", records[number::FILES])
        planted.documents += len(records)
        planted.text_bytes += sum(len(record["text"].encode()) for record in records)
        planted.languages |= {record["language"] for record in records}
    return planted


def _write(path: Path, records: list[Record]) -> None:
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _originals(corpus: Path, count: int, seed: int) -> list[Record]:
    """Documents of the corpus, cut; of each language the same number, or all there are."""
    by_language: dict[str, list[Record]] = defaultdict(list)
    for path in sorted(corpus.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for record in map(json.loads, file):
                by_language[record["language"]] += _cut(record)
    if sum(map(len, by_language.values())) < count:
        raise SystemExit(f"{corpus}: holds fewer than {count} documents; name the corpus, or ask for fewer.")
    chosen: list[Record] = []
    rarest_first = sorted(by_language, key=lambda language: (len(by_language[language]), language))
    for place, language in enumerate(rarest_first):
        share = (count - len(chosen)) // (len(rarest_first) - place)
        records = by_language[language]
        random.Random(f"{seed} {language}").shuffle(records)
        chosen += records[:share]
    return chosen


def _cut(record: Record) -> Iterator[Record]:
    """A long document in pieces, between paragraphs, or between lines where there are none."""
    text = record["text"]
    if len(text.encode()) <= CUT_ABOVE:
        yield record
        return
    between = "\n\n" if "\n\n" in text else "\n"
    pieces: list[list[str]] = [[]]
    size = 0
    for part in text.split(between):
        if size >= PIECE_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(part)
        size += len(part.encode())
    if len(pieces) > 1 and size < PIECE_BYTES // 2:
        pieces[-2] += pieces.pop()
    for number, piece in enumerate(pieces):
        yield {**record, "id": f"{record['id']}#{number}", "text": between.join(piece)}


def _vocabularies(records: list[Record]) -> dict[str, list[tuple[str, int]]]:
    """Words in small letters of each language with their counts, the most frequent first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        counts[record["language"]].update(word for word in _WORD.findall(record["text"].lower()) if word.isalpha())
    return {language: sorted(count.items(), key=lambda item: (-item[1], item[0])) for language, count in counts.items()}


def _altered(
    records: list[Record], vocabularies: dict[str, list[tuple[str, int]]], edition: int, seed: int
) -> Iterator[Record]:
    exchanges = {
        language: _exchange(words, random.Random(f"{seed} edition {edition} {language}"))
        for language, words in sorted(vocabularies.items())
    }
    for record in records:
        exchange = exchanges[record["language"]]

        def other(match: re.Match[str], exchange: dict[str, str] = exchange) -> str:
            word = match[0]
            if word in exchange or not word[0].isupper():
                return exchange.get(word, word)
            small = exchange.get(word.lower())
            return small.capitalize() if small else word

        yield {**record, "text": _WORD.sub(other, record["text"])}


def _exchange(words: list[tuple[str, int]], draw: random.Random) -> dict[str, str]:
    """Which word becomes which: in each band of ranks, words that make up ALTERED_SHARE of it move around in a ring."""
    exchange: dict[str, str] = {}
    begin, end = 0, 16
    while begin < len(words):
        band = words[begin:end]
        draw.shuffle(band)
        left = ALTERED_SHARE * sum(count for _, count in band)
        ring = []
        for word, count in band:
            if count <= left:
                ring.append(word)
                left -= count
        exchange.update(zip(ring, ring[1:] + ring[:1], strict=True))
        begin, end = end, 2 * end
    return exchange


def _copies(
    records: list[Record],
    vocabularies: dict[str, list[tuple[str, int]]],
    count: int,
    draw: random.Random,
    planted: Planted,
) -> list[Record]:
    """Exact and near duplicates as new records; personal data goes into `records`, the answers into `planted`."""
    places = list(range(len(records)))
    draw.shuffle(places)
    worth = [
        p for p in places if records[p]["source"] not in HELP_PAGES and len(records[p]["text"]) >= COPIED_CHARACTERS
    ]
    if len(worth) < 2 * count:
        raise SystemExit("the corpus holds too little running text to copy; ask for fewer documents.")
    copied = worth[: 2 * count]
    copies = []
    for number, place in enumerate(copied):
        record = records[place]
        kind, pairs = ("exact", planted.exact) if number < count else ("near", planted.near)
        if kind == "exact":
            text = _respaced(record["text"], draw)
        else:
            text = _reworded(record["text"], vocabularies[record["language"]], draw)
        copies.append({**record, "id": f"{kind}-duplicate-of/{record['id']}", "text": text})
        pairs.append((copies[-1]["id"], record["id"]))
    taken = set(copied)
    pairs_of_kinds = [(a, b) for a in KINDS for b in KINDS if a < b]
    for number, place in enumerate([p for p in places if p not in taken][:count]):
        record = records[place]
        kinds = pairs_of_kinds[number % len(pairs_of_kinds)]
        record["id"] = f"pii-{'-'.join(kinds)}/{record['id']}"
        for kind in kinds:
            value = _personal(kind, record["language"], draw)
            record["text"] = _inserted(record["text"], draw.choice(_CONTEXTS[kind]).format(value), draw)
            planted.personal.append((record["id"], kind, value))
    return copies


def _respaced(text: str, draw: random.Random) -> str:
    return re.sub(" ", lambda match: "  " if draw.random() < 0.1 else " ", text) + "\n"


def _reworded(text: str, words: list[tuple[str, int]], draw: random.Random) -> str:
    pieces = re.split(r"(\s+)", text)
    filled = [place for place in range(0, len(pieces), 2) if pieces[place]]
    for place in draw.sample(filled, max(1, round(REPLACED_SHARE * len(filled)))):
        pieces[place] = draw.choice(words)[0]
    return "".join(pieces)


def _inserted(text: str, phrase: str, draw: random.Random) -> str:
    between = "\n\n" if "\n\n" in text else "\n"
    parts = text.split(between)
    place = draw.randrange(len(parts))
    parts[place] = f"{parts[place]} {phrase}".strip()
    return between.join(parts)


def _personal(kind: str, language: str, draw: random.Random) -> str:
    domain, calling_code, begins, more = _COUNTRIES[language]
    if kind == "email":
        name = draw.choice((".", "_", "")).join((draw.choice(_FIRST), draw.choice(_LAST)))
        host = f"{draw.choice(_HOSTS)}{draw.choice(('', '-'))}{draw.randrange(10, 1000)}"
        return f"{name}{draw.choice(('', str(draw.randrange(60, 100))))}@{host}.{draw.choice((domain, 'eu', 'com'))}"
    if kind == "ipv4":
        return ".".join(map(str, (draw.choice(_OCTETS), *(draw.randrange(1, 255) for _ in range(3)))))
    if kind == "phone":
        digits = _digits(more, draw)
        apart = draw.choice((" ", "-", ""))
        return f"+{calling_code}{draw.choice((' ', ''))}{begins}{apart}{digits[:3]}{apart}{digits[3:]}"
    country = draw.choice(sorted(_ACCOUNTS))
    letters, numbers = _ACCOUNTS[country]
    account = "".join(draw.choices("ABCDEFGHIKLMNOPRSTUVXYZ", k=letters)) + _digits(numbers, draw)
    as_number = int("".join(str(int(sign, 36)) for sign in f"{account}{country}00"))  # ISO 13616, ISO 7064 MOD 97-10
    iban = f"{country}{98 - as_number % 97:02d}{account}"
    return " ".join(iban[i : i + 4] for i in range(0, len(iban), 4)) if draw.random() < 0.5 else iban


def _digits(count: int, draw: random.Random) -> str:
    return "".join(draw.choices("0123456789", k=count))


def score(planted: Planted, outcome: Outcome) -> dict[str, Any]:
    """Shares of the planted items found, in percent, and how many there were to find."""

    def copies(pairs: list[tuple[str, str]]) -> dict[str, Any]:
        both = [pair for pair in pairs if outcome.candidates.issuperset(pair)]
        return _share(sum(not outcome.kept.issuperset(pair) for pair in both), len(both))

    personal = {}
    for kind in KINDS:
        asked = [(key, value) for key, which, value in planted.personal if which == kind]
        held = [(value, outcome.texts[key]) for key, value in asked if key in outcome.texts]
        personal[kind] = _share(sum(_is_gone(value, text) for value, text in held), len(held))
    return {
        "exact": copies(planted.exact),
        "near": copies(planted.near),
        "personal": personal,
        "passed_filters": len(outcome.candidates),
        "kept": len(outcome.kept),
    }


def _share(found: int, of: int) -> dict[str, Any]:
    return {"percent": round(100 * found / of, 1) if of else None, "of": of}


def _is_gone(value: str, text: str) -> bool:
    half = len(value) // 2
    return value[:half] not in text and value[half:] not in text
