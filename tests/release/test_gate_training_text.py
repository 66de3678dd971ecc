"""The gate on the training text: withdrawn text, exam questions, duplicates, personal data."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gate_release import failures, spoilt, told
from licensed_store import QUESTION, ROWS, TALK, ledger_of, make_store, write_dataset

from hanse.release.gate import training_text
from hanse.store.stage import Store


def test_text_that_was_withdrawn_is_red(published, tmp_path):
    from hanse.trace import withdrawal

    store, _, ledger = published
    copy = Store.open(shutil.copytree(store.root, tmp_path / "copy"))
    assert failures(training_text.withdrawals(ledger, copy)) == []
    for holder, source in (("novels", "novels"), ("nothing", "elsewhere")):
        asked = withdrawal.draft({"source": source}, reason="opt-out", evidence=holder)
        withdrawal.write(copy.root, withdrawal.sealed(asked, (), {}, withdrawal.read(copy.root)))
    (found,) = failures(training_text.withdrawals(ledger_of(copy), copy))
    assert "2 of its texts were withdrawn" in found and "(opt-out) (dataset/toy/1)" in found


def test_a_question_from_the_exam_in_text_of_another_source_is_red(tmp_path):
    held = f"Man kan spørge: {QUESTION}? København er svaret."
    ledger = spoilt(tmp_path, write_dataset(texts={0: held}))
    assert failures(training_text.contamination(ledger)) == [
        "contamination: holds the question 'held-0' (dataset/toy/1 " + "0" * 32 + ")"
    ]


def test_questions_that_their_own_source_says_again_are_named_and_red_if_they_are_many(tmp_path, monkeypatch):
    import licensed_store

    def write(work):
        real(work)
        rows = [json.loads(line) for line in (work.folder / "train.jsonl").read_text().splitlines()]
        rows[0]["messages"] = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "København"}]
        (work.folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    real = licensed_store.write_conversations
    monkeypatch.setattr(licensed_store, "write_conversations", write)
    ledger = ledger_of(make_store(tmp_path / "s"))
    (found,) = failures(training_text.contamination(ledger))
    assert "100.0% of 1 questions looked for stand in training text of the source" in found
    monkeypatch.setattr(training_text, "MOST_OWN", 1.0)
    allowed = list(training_text.contamination(ledger))
    assert failures(allowed) == [] and len(told(allowed, "warned")) == 1


def with_rows(change):
    """The dataset, with rows of its table changed."""

    def make(work):
        write_dataset()(work)
        path = work.folder / "documents.parquet"
        rows = pq.read_table(path).to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)

    return make


def test_documents_kept_in_spite_of_a_hit_are_red(tmp_path):
    hit = {"item": "exam:1", "containment": 0.9, "longest": 30}
    dataset = with_rows(lambda rows: rows[0].update(contamination=[hit]))
    found = failures(training_text.contamination(spoilt(tmp_path, dataset)))
    assert found == [
        f"contamination: 1 documents were kept that hold items of [curate] contamination (dataset/toy/1 {0:032x})"
    ]


@pytest.mark.parametrize("column", ["id", "cluster"])
def test_a_document_that_was_kept_twice_is_red(tmp_path, column):
    dataset = with_rows(lambda rows: rows[3].update({column: rows[4][column]}))
    (found,) = failures(training_text.duplicates(spoilt(tmp_path, dataset)))
    assert f"{4:032x}" in found and ("more than once" if column == "id" else "near copy") in found


def test_personal_data_that_was_to_be_replaced_is_red_and_never_printed(tmp_path):
    ledger = spoilt(tmp_path, write_dataset(texts={2: "Skriv til anna.hansen@havnen.dk om båden i havnen."}))
    (found,) = failures(training_text.personal_data(ledger))
    assert (
        f"1 of {sum(row[5] == 'train' for row in ROWS)} sampled documents hold 1 email" in found
        and f"{2:032x}" in found
    )
    assert "anna" not in found


def test_a_policy_that_keeps_personal_data_is_a_warning(tmp_path, monkeypatch):
    import licensed_store

    monkeypatch.setattr(licensed_store, "CURATE", {**licensed_store.CURATE, "pii": "keep"})
    texts = {2: "Skriv til anna.hansen@havnen.dk om båden i havnen."}
    found = list(training_text.personal_data(spoilt(tmp_path, write_dataset(texts=texts))))
    assert failures(found) == [] and len(told(found, "warned")) == 2


def test_the_sample_is_spread_over_all_documents(tmp_path, monkeypatch):
    ledger = ledger_of(make_store(tmp_path / "s", talk=TALK))
    monkeypatch.setattr(training_text, "SAMPLED", 2)
    monkeypatch.setattr(training_text, "_BATCH", 4)
    (dataset,) = ledger.of_kind("dataset")
    every = [name for ids, _, _ in training_text._sample(dataset) for name in ids]
    kept = [n for n, row in enumerate(ROWS) if row[5] == "train"]
    assert every == [f"{kept[n]:032x}" for n in range(0, len(kept), 3)]
