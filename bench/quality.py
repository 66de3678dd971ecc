"""What the quality rules drop and catch, how well the classifier tells good from damaged text, and how fast they are.

python bench/quality.py [--corpus ../shared/corpus] [--train 60] [--rounds 3]

The corpus is a folder of `<source>.<language>.jsonl.gz` files with a `text` on each line. Speeds are MB of UTF-8 per
CPU second of one process, the best of the rounds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conditions
import numpy as np
import pyarrow as pa

from hanse.data.contamination import Item, Items
from hanse.data.quality import measure, reasons
from hanse.data.quality.classifier import Classifier, train
from hanse.data.quality.damage import DAMAGES, damaged
from hanse.data.wordstream import read, slices

SAMPLE = 40  # documents of each language that are damaged, and held out from the classifier
DAMAGED_CHARACTERS = 4000
SPEED_BYTES = 3_000_000
ITEM_WORDS = 45


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    conditions.add_corpus(parser)
    parser.add_argument(
        "--train", type=int, default=60, help="documents of each language that the classifier learns from"
    )
    parser.add_argument("--items", type=int, default=100_000, help="evaluation items to look for")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "quality.json")
    options = parser.parse_args()
    documents = load(options.corpus)
    result = conditions.conditions("numpy", "pyarrow", threads=1)
    result["percentiles"], result["dropped"] = rules_on_good_text(documents)
    held_out, learned = split(documents, options.train)
    result["caught"] = rules_on_damaged_text(held_out)
    classifier, seconds = timed(lambda: train([text for _, text in learned], seed=1))
    result["training"] = {"documents": len(learned), "cpu_seconds": round(seconds, 1)}
    result["classifier"] = classified(classifier, held_out)
    result["speed"] = speeds(documents, classifier, options.items, options.rounds)
    conditions.store(result, options.output)
    print(json.dumps(result, ensure_ascii=False, indent=1))


def load(folder: Path) -> dict[str, list[str]]:
    """The texts of each language."""
    documents: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            documents.setdefault(path.name.split(".")[1], []).extend(json.loads(line)["text"] for line in file)
    return dict(sorted(documents.items()))


def split(documents: dict[str, list[str]], train_size: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Held-out documents and others to learn from, with their languages."""
    held_out, learned = [], []
    for language, texts in documents.items():
        order = random.Random(f"1 {language}").sample(texts, len(texts))
        size = min(SAMPLE, len(order) // 3)
        held_out += [(language, text) for text in order[:size]]
        learned += [(language, text) for text in order[size : size + train_size]]
    return held_out, learned


def rules_on_good_text(documents: dict[str, list[str]]) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Percentiles of each feature over all documents, and how many each rule drops by language."""
    columns: dict[str, list[np.ndarray]] = {}
    dropped: dict[str, Any] = {}
    for language, texts in documents.items():
        features = measure(pa.array(texts, pa.large_string()), [language] * len(texts))
        found = reasons(features, [language] * len(texts))
        by_reason = Counter(reason for document in found for reason in document)
        dropped[language] = {
            "documents": len(texts),
            "dropped": sum(map(bool, found)),
            **dict(sorted(by_reason.items())),
        }
        for name, values in features.items():
            columns.setdefault(name, []).append(values)
    shares = (0, 0.1, 1, 50, 99, 99.9, 100)
    return {
        name: [round(float(value), 3) for value in np.percentile(np.concatenate(values), shares)]
        for name, values in columns.items()
    }, dropped


def rules_on_damaged_text(held_out: list[tuple[str, str]]) -> dict[str, Any]:
    """The share of damaged documents that gets any reason, and each reason's share."""
    caught = {}
    for kind in DAMAGES:
        rows = spoiled(held_out, kind)
        languages = [language for language, _, _ in rows]
        found = reasons(measure(pa.array([bad for _, _, bad in rows]), languages), languages)
        counted = Counter(reason for document in found for reason in document)
        caught[kind] = {
            "documents": len(rows),
            "caught": round(sum(map(bool, found)) / len(rows), 3),
            **{reason: round(number / len(rows), 3) for reason, number in counted.most_common()},
        }
    return caught


def spoiled(held_out: list[tuple[str, str]], kind: str) -> list[tuple[str, str, str]]:
    """Language, text and damaged text, where the damage could be done."""
    rows = [(language, text[:DAMAGED_CHARACTERS]) for language, text in held_out]
    damages = [(language, text, damaged(text, kind, seed=99)) for language, text in rows]
    return [(language, text, bad) for language, text, bad in damages if bad != text]


def classified(classifier: Classifier, held_out: list[tuple[str, str]]) -> dict[str, Any]:
    """Area under the curve by language and by damage, on documents that the classifier has not seen."""
    languages = np.array([language for language, _ in held_out])
    good = classifier.score([text[:DAMAGED_CHARACTERS] for _, text in held_out])
    bad: dict[str, list[tuple[str, float]]] = {}
    for kind in DAMAGES:
        rows = spoiled(held_out, kind)
        scores = classifier.score([text for _, _, text in rows]).tolist()
        bad[kind] = [(language, score) for (language, _, _), score in zip(rows, scores, strict=True)]
    learned = [kind for kind in DAMAGES if kind != "repeated"]  # that one is left to the rules
    return {
        "by_damage": {
            kind: {"auc": auc(good, np.array([s for _, s in rows])), "below_half": share([s < 0.5 for _, s in rows])}
            for kind, rows in bad.items()
        },
        "by_language": {
            language: auc(good[languages == language],
                          np.array([s for kind in learned for code, s in bad[kind] if code == language]))
            for language in sorted(set(languages.tolist()))
        },
        "good_below_half": share((good < 0.5).tolist()),
        "good_percentiles": [round(float(value), 3) for value in np.percentile(good, (1, 5, 50))],
    }  # fmt: skip


def auc(good: np.ndarray, bad: np.ndarray) -> float:
    """The chance that a good text scores above a bad one; ties count half."""
    above = np.searchsorted(np.sort(bad), good, side="left").sum()
    ties = np.searchsorted(np.sort(bad), good, side="right").sum() - above
    return round(float(above + ties / 2) / (len(good) * len(bad)), 4)


def share(flags: list[bool]) -> float:
    return round(sum(flags) / len(flags), 3)


def speeds(documents: dict[str, list[str]], classifier: Classifier, count: int, rounds: int) -> dict[str, Any]:
    """MB per CPU second of each annotator in four languages."""
    chance = random.Random(3)
    words = [text.split() for texts in documents.values() for text in chance.sample(texts, min(len(texts), 30))]
    made = [" ".join(chance.choices(chance.choice(words), k=ITEM_WORDS)) for _ in range(count)]
    items, seconds = timed(lambda: Items(Item(f"{n}", (text, "Paris")) for n, text in enumerate(made)))
    result: dict[str, Any] = {"items": items.searched, "items_indexed_cpu_seconds": round(seconds, 1)}
    for language in ("cs", "de", "el", "en"):
        texts, held = [], 0
        for text in chance.sample(documents[language], len(documents[language])):
            texts.append(text)
            held += len(text.encode())
            if held > SPEED_BYTES:
                break
        jobs = annotators(pa.array(texts), [language] * len(texts), items, classifier)
        best = dict.fromkeys(jobs, float("inf"))
        for _ in range(rounds):
            for name, job in jobs.items():
                best[name] = min(best[name], timed(job)[1])
        result[language] = {name: round(held / 1e6 / seconds, 1) for name, seconds in best.items()}
    return result


def annotators(
    texts: pa.Array, languages: list[str], items: Items, classifier: Classifier
) -> dict[str, Callable[[], Any]]:
    return {
        "read": lambda: [read(part) for _, part in slices(texts)],
        "measure": lambda: measure(texts, languages),
        "scan": lambda: items.scan(texts),
        "score": lambda: classifier.score(texts),
    }


def timed(job: Callable[[], Any]) -> tuple[Any, float]:
    """What the job returns, and its CPU seconds."""
    started = time.process_time()
    value = job()
    return value, time.process_time() - started


if __name__ == "__main__":
    main()
