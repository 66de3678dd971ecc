"""How much personal data is found, and what is found that is none: planted items in 24 languages, and decoys.

python bench/pii.py [--seed 2027] [--rounds 3] [--corpus ../shared/corpus]

Each document is a sentence, a sentence with one item or one decoy, and a sentence. The frames come from the corpus
where it is present; their own findings count against precision. Speed is CPU time over the whole corpus.
"""

from __future__ import annotations

import argparse
import gzip
import ipaddress
import json
import random
import re
import statistics
import string
import time
import tomllib
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import conditions

from hanse.data.pii.detect import Detector
from hanse.data.pii.rules import countries, national_check, national_numbers
from hanse.languages import EU24, LANGUAGES

HERE = Path(__file__).parent
PER_KIND = 30  # items of one kind in one language
PER_DECOY = 10
BARE = ", no word beside it"


@dataclass(frozen=True)
class Case:
    """One document with one item; a decoy has the kind "decoy"."""

    text: str
    language: str
    kind: str
    group: str  # the row of the table that it belongs to
    start: int
    end: int


def filled(template: str, pick: random.Random) -> str:
    date = {"YY": f"{pick.randrange(54, 100):02}", "MM": f"{pick.randint(1, 12):02}", "DD": f"{pick.randint(1, 28):02}"}
    text = re.sub("YY|MM|DD", lambda match: date[match.group()], template)
    signs = {"#": string.digits, "L": string.ascii_uppercase, "C": string.digits + string.ascii_uppercase}
    return "".join(pick.choice(signs[sign]) if sign in signs else sign for sign in text)


def national_item(number: dict[str, Any], templates: dict[str, list[str]], pick: random.Random) -> str:
    check = national_check(number["module"]) if "module" in number else None
    shape = re.compile(number["shape"])
    template = pick.choice(templates[number["name"]])
    while True:
        value = filled(template, pick)
        if shape.fullmatch(value) and (check is None or check(value)):
            return value


def email_item(language: str, pick: random.Random) -> str:
    names = {"bg": "иван.петров", "el": "μαρία.παππά"}
    local = pick.choice(("anna", "j.novak", "p_ferreira", "o'brien", "kontakt", "müller", "li2024", "a-b.c+liste"))
    if language in names and pick.random() < 0.2:
        return f"{names[language]}@{pick.choice(('поща.бг', 'γράμμα.ελ'))}"
    domain = pick.choice(("posta.eu", "firma.de", "mail.uni-town.ac.at", "büro.example-shop.nl", "a1.bg", "x-y.co.uk"))
    return f"{local} (at) {domain}" if pick.random() < 0.1 else f"{local}@{domain}"


def phone_item(language: str, pick: random.Random, form: str) -> str:
    """A valid number of the language's first country, its last five digits drawn by lot."""
    import phonenumbers as library

    kind = pick.choice((library.PhoneNumberType.FIXED_LINE, library.PhoneNumberType.MOBILE))
    example = library.example_number_for_type(countries(language)[0], kind)
    assert example is not None  # every country of ours has both kinds
    digits = library.national_significant_number(example)
    while True:
        tail = "".join(pick.choice(string.digits) for _ in range(5))
        number = library.parse(f"+{example.country_code}{digits[:-5]}{tail}")
        if library.is_valid_number(number):
            break
    if form != "random":
        return library.format_number(number, getattr(library.PhoneNumberFormat, form))
    bare = re.sub("[^0-9]", "", library.format_number(number, library.PhoneNumberFormat.NATIONAL))
    cuts = [0, *sorted(pick.sample(range(2, 8), pick.randint(0, 3))), len(bare)]
    return pick.choice(" -./").join(bare[a:b] for a, b in pairwise(cuts))


def iban_item(language: str, pick: random.Random) -> str:
    from stdnum import iban, numdb

    country = countries(language)[0]
    bban = numdb.get("iban").info(country)[0][1]["bban"]
    signs = {"n": string.digits, "a": string.ascii_uppercase, "c": string.digits}
    body = "".join(
        pick.choice(signs[kind]) for size, kind in re.findall(r"([0-9]+)!([nac])", bban) for _ in range(int(size))
    )
    number = f"{country}{iban.calc_check_digits(f'{country}00{body}')}{body}"
    return iban.format(number) if pick.random() < 0.6 else number


def card_item(pick: random.Random, *, grouped: float = 0.6) -> str:
    from stdnum import luhn

    prefix, length = pick.choice((("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("3530", 16), ("6011", 16)))
    body = prefix + "".join(pick.choice(string.digits) for _ in range(length - len(prefix) - 1))
    number = body + luhn.calc_check_digit(body)
    if pick.random() >= grouped:
        return number
    cuts = (0, 4, 10, 15) if length == 15 else (0, 4, 8, 12, 16)
    return pick.choice(" -").join(number[a:b] for a, b in pairwise(cuts))


def ipv4_item(pick: random.Random) -> str:
    while True:
        address = ipaddress.IPv4Address(pick.getrandbits(32))
        if address.is_global and not address.is_multicast:
            return str(address)


def ipv6_item(pick: random.Random) -> str:
    return str(ipaddress.IPv6Address((0x2A00 + pick.randrange(16) << 112) | pick.getrandbits(pick.choice((64, 112)))))


def url_item(pick: random.Random) -> tuple[str, str]:
    """A URL and its secret."""
    value = "".join(pick.choice(string.ascii_letters + string.digits) for _ in range(pick.choice((10, 24, 40))))
    frame, secret = pick.choice((
        ("https://portal.eu/reset?lang=x&token={}", "{}"), ("https://api.firma.de/v1/items?api_key={}&page=2", "{}"),
        ("https://anna:{}@ftp.firma.de/pub", "anna:{}"), ("https://app.eu/cb#access_token={}", "{}"),
        ("https://app.eu/x;jsessionid={}", "{}"),
    ))  # fmt: skip
    return frame.format(value), secret.format(value)


def decoys(language: str, pick: random.Random) -> dict[str, tuple[str, Callable[[], str]]]:
    """Kinds of decoys: the sentence that holds them, and how one is made."""

    def digits(low: int, high: int) -> str:
        return str(pick.randrange(1, 10)) + "".join(
            pick.choice(string.digits) for _ in range(pick.randint(low, high) - 1)
        )

    def date() -> str:
        day, month, year = pick.randint(1, 28), pick.randint(1, 12), pick.randint(1850, 2030)
        return pick.choice((f"{day:02}.{month:02}.{year}", f"{day}. {month}. {year}", f"{day}/{month}/{year}",
                            f"{year}-{month:02}-{day:02} 12:30:45"))  # fmt: skip

    def amount() -> str:
        return (
            f"{int(digits(5, 9)):,}".replace(",", LANGUAGES[language].group)
            + LANGUAGES[language].decimal
            + digits(2, 2)
        )

    def isbn() -> str:
        from stdnum import ean, isbn

        body = "978" + digits(9, 9)
        number = body + ean.calc_check_digit(body)
        return pick.choice((number, isbn.format(number), isbn.to_isbn10(number)))

    def odd() -> str:
        hexadecimal = uuid.UUID(int=pick.getrandbits(128)).hex
        return pick.choice((
            str(uuid.UUID(hexadecimal)), hexadecimal, ":".join(re.findall("..", hexadecimal)[:6]), "std::map<a::b>",
            f"52.{digits(6, 6)}, 13.{digits(6, 6)}", "1914–1918, 1939-1945", "1848 1871 1914 1918 1939 1945",
            "icon@2x.png", "anna@example.com", "root@localhost", "192.168.0.17", "2001:db8::17", "https://a.eu/?page=2&id=4711",
        ))  # fmt: skip

    return {
        "order number": ("order", lambda: digits(6, 16)),
        "grouped order number": ("order", lambda: f"{digits(4, 4)}-{digits(4, 6)}"),
        "random digits": ("plain", lambda: digits(7, 16)),
        "version": ("version", lambda: ".".join(str(pick.randrange(limit)) for limit in (140, 40, 99, 256))),
        "section": ("section", lambda: ".".join(str(pick.randint(1, 30)) for _ in range(pick.randint(3, 5)))),
        "amount": ("amount", amount),
        "date": ("date", date),
        "ISBN": ("isbn", isbn),
        "codes, ranges, reserved names": ("plain", odd),
    }


@dataclass(frozen=True)
class Planter:
    """Makes the documents of one language."""

    language: str
    phrases: dict[str, Any]
    frames: list[str]
    pick: random.Random

    def case(self, kind: str, group: str, sentence: str, item: str, secret: str | None = None) -> Case:
        """A document with one item, of which `secret` is the personal part."""
        before, after = sentence.split("{}")
        first, last = self.pick.choice(self.frames), self.pick.choice(self.frames)
        secret = secret or item
        start = len(first) + 1 + len(before) + item.index(secret)
        return Case(f"{first} {before}{item}{after} {last}", self.language, kind, group, start, start + len(secret))

    def cases(self) -> Iterator[Case]:
        pick, case, sentences = self.pick, self.case, self.phrases[self.language]
        for _ in range(PER_KIND):
            yield case("email", "email", pick.choice(sentences["email"]), email_item(self.language, pick))
            yield case("iban", "iban", pick.choice(sentences["iban"]), iban_item(self.language, pick))
            yield case("ipv4", "ipv4", pick.choice(sentences["ip"]), ipv4_item(pick))
            yield case("ipv6", "ipv6", pick.choice(sentences["ip"]), ipv6_item(pick))
            yield case("url-token", "url-token", pick.choice(sentences["url"]), *url_item(pick))
            yield case("card", "card", pick.choice(sentences["card"]), card_item(pick))
            yield case("card", "card, no word beside it", pick.choice(sentences["plain"]), card_item(pick))
            yield from self._phones()
            yield from self._national()
        for group, (key, make) in decoys(self.language, pick).items():
            for _ in range(PER_DECOY):
                yield case("decoy", group, pick.choice(sentences[key]), make())

    def _phones(self) -> Iterator[Case]:
        pick, sentences = self.pick, self.phrases[self.language]
        sentence = pick.choice(sentences["phone"])
        order = pick.choice(sentences["order"]).format(pick.randrange(10**7, 10**10))
        for group, text, form in (
            ("national", sentence, "NATIONAL"),
            ("national, grouped at random", sentence, "random"),
            ("international", sentence, pick.choice(("INTERNATIONAL", "E164"))),
            ("an order number behind it", f"{sentence} {order}", pick.choice(("NATIONAL", "INTERNATIONAL"))),
            ("no word beside it", pick.choice(sentences["plain"]), "NATIONAL"),
        ):
            yield self.case("phone", f"phone, {group}", text, phone_item(self.language, pick, form))

    def _national(self) -> Iterator[Case]:
        sentences = self.phrases["national"][self.language]
        for number in national_numbers():
            if number["name"] in sentences and (self.language == "en" or self.language in number["languages"]):
                kind, group = f"national-id-{number['country']}", f"{number['country']} {number['name']}"
                for tail, text in (
                    ("", self.pick.choice(sentences[number["name"]])),
                    (BARE, self.phrases[self.language]["plain"][0]),
                ):
                    item = national_item(number, self.phrases["templates"], self.pick)
                    yield self.case(kind, group + tail, text, item)


def frames_of(corpus: Path, language: str, pick: random.Random) -> list[str]:
    """Sentences of 30 to 200 characters, or an invented one where there is no corpus."""
    found: list[str] = []
    for path in sorted(corpus.glob(f"*.{language}.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line, _ in zip(lines, range(40), strict=False):
                text = json.loads(line)["text"][:20000]
                found += [s for s in re.split(r"(?<=[.!?])\s+", text) if 30 <= len(s) <= 200 and "@" not in s]
    pick.shuffle(found)
    return [" ".join(sentence.split()) for sentence in found[:500]] or ["Lorem ipsum dolor sit amet, anno 1984."]


def measure(tests: list[Case], detector: Detector) -> dict[str, Any]:
    planted: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    exact: Counter[str] = Counter()
    true: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    by_language: dict[str, Counter[str]] = defaultdict(Counter)
    missed, false = [], []
    found = detector.find_batch([test.text for test in tests], [test.language for test in tests])
    for test, findings in zip(tests, found, strict=True):
        right = [f for f in findings if f.kind == test.kind and f.start < test.end and test.start < f.end]
        tally = by_language[test.language]
        if test.kind != "decoy":
            planted[test.group] += 1
            hits[test.group] += bool(right)
            exact[test.group] += any((f.start, f.end) == (test.start, test.end) for f in right)
            named = not test.group.endswith(BARE)
            tally["planted"] += named
            tally["found"] += named and bool(right)
            if not right:
                missed.append((test.language, test.group, test.text[max(0, test.start - 40) : test.end + 20]))
        tally["true"] += len(right)
        true[test.kind] += len(right)
        for finding in findings:
            if finding not in right:
                wrong[finding.kind] += 1
                tally["wrong"] += 1
                value = test.text[finding.start : finding.end]
                false.append(
                    (
                        test.language,
                        test.group,
                        finding.kind,
                        value,
                        test.text[max(0, finding.start - 40) : finding.end + 15],
                    )
                )
    return {
        "groups": {g: {"planted": n, "found": hits[g], "exact": exact[g]} for g, n in sorted(planted.items())},
        "kinds": {k: {"true": true[k], "false": wrong[k]} for k in sorted(+(true | wrong))},
        "languages": {code: dict(tally) for code, tally in sorted(by_language.items())},
        "missed": missed, "false": false,
    }  # fmt: skip


def chance(templates: dict[str, list[str]], pick: random.Random, draws: int = 4000) -> dict[str, float]:
    """The share of random numbers of the right form that pass each check."""
    shares = {}
    for number in national_numbers():
        if "module" in number:
            check = national_check(number["module"])
            template = re.sub("YY|MM|DD", "##", templates[number["name"]][0])
            passed = sum(check(filled(template, pick)) for _ in range(draws))
            shares[f"{number['country']} {number['name']}"] = passed / draws
    return shares


def speed(corpus: Path, detector: Detector, rounds: int) -> dict[str, Any]:
    """MB of text per CPU second over the whole corpus, and what was found in it."""
    batches = []
    for path in sorted(corpus.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        batches.append(([row["text"] for row in rows], [row["language"] for row in rows]))
    size = sum(len(text.encode()) for texts, _ in batches for text in texts)
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        found = [detector.find_batch(texts, languages) for texts, languages in batches]
        taken.append(time.process_time() - started)
    kinds = Counter(f.kind for batch in found for findings in batch for f in findings)
    return {
        "text_bytes": size, "documents": sum(len(texts) for texts, _ in batches),
        "cpu_seconds": [round(seconds, 2) for seconds in taken],
        "megabytes_per_cpu_second": round(size / 1e6 / statistics.median(taken), 1) if size else None,
        "findings": dict(sorted(kinds.items())),
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    print(f"{'planted':<62} {'items':>6} {'found':>6} {'recall':>7} {'exact':>7}")
    for group, row in result["groups"].items():
        n = row["planted"]
        print(f"{group:<62} {n:>6} {row['found']:>6} {row['found'] / n:>7.3f} {row['exact'] / n:>7.3f}")
    print(f"\n{'kind':<20} {'true':>6} {'false':>6} {'precision':>10}")
    for kind, row in result["kinds"].items():
        print(f"{kind:<20} {row['true']:>6} {row['false']:>6} {row['true'] / (row['true'] + row['false']):>10.3f}")
    print(f"\n{'language':<9} {'items':>6} {'recall':>7} {'false':>6} {'precision':>10}")
    for code, row in result["languages"].items():
        recall, precision = row["found"] / row["planted"], row["true"] / (row["true"] + row.get("wrong", 0))
        print(f"{code:<9} {row['planted']:>6} {recall:>7.3f} {row.get('wrong', 0):>6} {precision:>10.3f}")
    print("\nshare of random numbers that pass:", ", ".join(f"{k} {v:.2%}" for k, v in result["chance"].items()))
    print("\ncorpus:", json.dumps(result["corpus"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=2027)
    parser.add_argument("--rounds", type=int, default=3)
    conditions.add_corpus(parser)
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "pii.json")
    parser.add_argument("--list", action="store_true", help="print every item missed and every false finding")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    phrases = tomllib.loads((HERE / "pii_phrases.toml").read_text(encoding="utf-8"))
    tests: list[Case] = []
    for code in EU24:
        pick = random.Random(f"{options.seed} {code}")
        tests += Planter(code, phrases, frames_of(options.corpus, code, pick), pick).cases()
    detector = Detector(LANGUAGES)
    result = measure(tests, detector)
    missed, false = result.pop("missed"), result.pop("false")
    result |= conditions.conditions() | {
        "seed": options.seed, "documents": len(tests),
        "chance": chance(phrases["templates"], random.Random(options.seed)),
        "corpus": speed(options.corpus, detector, options.rounds),
    }  # fmt: skip
    show(result)
    if options.list:
        for line in (*missed, *false):
            print(*line, sep=" | ")
    conditions.store(result, options.output)


if __name__ == "__main__":
    main()
