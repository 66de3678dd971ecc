"""The gate: green for a clean release, and red for each thing that is wrong with it, one at a time."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from gate_release import LICENCE, publish, real_store  # noqa: E402
from licensed_store import QUESTION, ROWS, SOURCES, TALK, ledger_of, make_store, write_dataset  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from hanse.errors import InputError  # noqa: E402
from hanse.release.gate import audit as gate  # noqa: E402
from hanse.release.gate import checks as gate_checks  # noqa: E402
from hanse.release.gate import files as gate_files  # noqa: E402
from hanse.release.gate import model as gate_model  # noqa: E402
from hanse.release.gate import training_text  # noqa: E402
from hanse.release.gate.audit import Finding  # noqa: E402
from hanse.release.gate.licences import judge  # noqa: E402
from hanse.store.digest import RECORD, SUMS  # noqa: E402
from hanse.store.stage import Store  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def published(place):
    store = real_store(place / "store")
    return store, *publish(store, place / "key.pem")


@pytest.fixture(scope="module")
def ledger(published):
    return published[2]


@pytest.fixture
def folder(published, tmp_path) -> Path:
    """A copy of the sealed release that a test may spoil."""
    return Path(shutil.copytree(published[1].path, tmp_path / "release"))


@pytest.fixture
def unsealed(folder) -> Path:
    """The same before it is sealed."""
    for name in (SUMS, RECORD, "model.sig"):
        (folder / name).unlink()
    return folder


def told(findings, outcome="failed"):
    return [f"{each.check}: {each.what} ({each.where})" for each in findings if each.outcome == outcome]


def failures(findings):
    return told(findings, "failed")


# --------------------------------------------------------------------------- the whole, and how it is told


CHECKS = {
    "files", "export", "copies", "loads", "template", "reasoning tags", "licences", "contracts", "languages", "answers",
    "ancestors", "withdrawals", "contamination", "duplicates", "personal data", "signature",
}  # fmt: skip


def here(folder, questions):
    """What the process of its own says, said in this one: the libraries are loaded already."""
    looks = {
        "loads": lambda: gate_model.same_logits(folder),
        "template": lambda: gate_model.round_trip(folder),
        "answers": lambda: gate_model.clean_answers(folder, questions),
    }
    return {name: gate_model._tried(look) for name, look in looks.items()}


@pytest.fixture
def nobody_asked(monkeypatch):
    monkeypatch.setattr(gate_checks, "answers", lambda ledger: [Finding("answers", "passed", "nobody asked")])


def test_a_clean_release_is_green_and_every_check_says_what_it_saw(published, nobody_asked, monkeypatch):
    store, release, ledger = published
    monkeypatch.setattr(gate_files, "_examined", here)
    findings = gate.audit(release.path, ledger, store=store)
    assert failures(findings) == []
    assert {each.check for each in findings if each.outcome == "passed"} == CHECKS
    gate.require(findings)
    assert gate.text(findings).splitlines()[-1].startswith("gate: 0 failed, ")


def test_before_it_is_sealed_everything_but_the_signature_is_looked_at(published, unsealed, nobody_asked, monkeypatch):
    store, _, ledger = published
    monkeypatch.setattr(gate_files, "_examined", here)
    findings = gate.audit(unsealed, ledger, store=store)
    assert failures(findings) == [] and {each.check for each in findings} == CHECKS - {"signature"}


@pytest.mark.slow
def test_a_process_of_its_own_says_the_same(published, folder):
    _, release, ledger = published
    assert gate_files._examined(release.path, [QUESTION]) == here(release.path, [QUESTION])
    (folder / "model.safetensors").write_bytes(b"x")
    assert [each.outcome for each in gate_files.loads(folder, ledger)] == ["failed", "passed", "failed"]


def test_red_stops_with_the_list_and_the_worst_comes_first():
    findings = [Finding("a", "passed", "fine"), Finding("b", "warned", "hm"), Finding("c", "failed", "bad", "x.json")]
    assert gate.text(findings).splitlines()[0] == "failed  c: bad (x.json)"
    with pytest.raises(InputError, match=r"1 thing is in the way.*\n  failed  c: bad \(x.json\)") as refused:
        gate.require(findings)
    assert "hm" not in str(refused.value)
    gate.require(findings[:2])


def test_a_check_that_cannot_be_done_is_red(published, tmp_path, monkeypatch):
    store, _, ledger = published
    monkeypatch.setattr(gate_checks, "answers", lambda ledger: [])
    monkeypatch.setattr(gate_files, "loads", lambda folder, ledger: [])
    findings = gate.audit(tmp_path, ledger, store=store)
    assert {each.check for each in findings if each.outcome == "failed"} >= {"files", "export", "copies"}


# --------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("optimizer.pt", b"x"), ("pytorch_model.bin", b"x"), ("extra.dat", b"\x80\x04\x95"),
        ("extra.dat", b"\x80\x02}q"), ("notes", b"PK\x03\x04...."), ("evaluation/cache.pkl", b"x"),
    ],
)  # fmt: skip
def test_a_pickle_is_red_whatever_it_is_called(folder, name, content):
    (folder / name).write_bytes(content)
    assert failures(gate_files.files(folder)) == [
        f"files: is a pickle or an archive, which can run code when read ({name})"
    ]


def test_code_beside_the_verifier_is_red(unsealed):
    (unsealed / "modeling_toy.py").write_text("x = 1")
    assert failures(gate_files.files(unsealed)) == [
        "files: is code; a release carries none but its verifier (modeling_toy.py)"
    ]
    (unsealed / "modeling_toy.py").unlink()
    (unsealed / "verify.py").write_text("print('all is well')")
    assert "is not the verifier" in failures(gate_files.files(unsealed))[0]


def test_a_config_that_asks_for_outside_code_is_red(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    assert "auto_map" in failures(gate_files.files(folder))[0]


def test_a_second_metadata_key_is_red_in_every_weights_file(folder):
    save_file({"a": torch.zeros(2)}, folder / "adapter.safetensors", metadata={"format": "pt", "run": "7"})
    assert failures(gate_files.export(folder)) == [
        "export: its metadata has to be 'format' alone (found: format, run) (adapter.safetensors)"
    ]
    (folder / "adapter.safetensors").unlink()
    save_file(
        load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata={"format": "pt", "a": "b"}
    )
    (found,) = failures(gate_files.export(folder))
    assert "metadata" in found


def test_a_broken_export_contract_is_red(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "scoring_func": "softmax"}))
    assert "scoring_func" in failures(gate_files.export(folder))[0]


def test_a_file_that_is_not_the_recorded_one_is_red(folder, ledger):
    (folder / "evaluation/scores.json").write_text("[]")
    assert failures(gate_files.copies(folder, ledger)) == [
        "copies: is not the one that evaluation/toy-chat/1 was recorded with (evaluation/scores.json)"
    ]
    (folder / "chat_template.jinja").unlink()
    assert "copies: is missing (chat_template.jinja)" in failures(gate_files.copies(folder, ledger))


def test_a_signature_that_does_not_hold_is_red(folder, published):
    assert failures(gate.signature(folder)) == []
    with (folder / "README.md").open("a") as stream:
        stream.write("more")
    assert any("README.md" in each for each in failures(gate.signature(folder)))
    (folder / "README.md").unlink()
    (folder / "model.sig").unlink()
    assert any("model.sig" in each and "nobody vouches" in each for each in failures(gate.signature(folder)))


def test_a_sealed_folder_without_its_signature_is_not_taken_for_an_unsealed_one(folder, unsealed):
    assert not gate_files.is_sealed(unsealed)
    (unsealed / SUMS).write_text("")
    assert gate_files.is_sealed(unsealed)


# --------------------------------------------------------------------------- the model, looked at in this process


def test_other_weights_than_transformers_reads_are_red(folder, monkeypatch):
    from hanse.model import hf

    assert gate_model.same_logits(folder)[0] == []
    real = hf.load

    def bent(path, **options):
        model = real(path, **options)
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
        return model

    monkeypatch.setattr(hf, "load", bent)
    assert "computes other logits" in gate_model.same_logits(folder)[0][0]["what"]


def test_weights_that_are_no_numbers_are_red(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "no numbers" in gate_model.same_logits(folder)[0][0]["what"]


def test_a_folder_that_nobody_can_load_is_red_in_one_line(folder):
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    found = gate_model._tried(lambda: gate_model.same_logits(folder))
    assert found["problems"][0]["what"].startswith("cannot be done: ") and "\n" not in found["problems"][0]["what"]


def test_no_connection_is_opened():
    import socket

    with pytest.raises(OSError, match="looks at the folder alone"):
        gate_model._refuse(socket.socket(), ("127.0.0.1", 9))


def test_the_template_goes_there_and_back(folder):
    assert gate_model.round_trip(folder)[0] == []


def test_another_template_is_red(folder):
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("'<|tool_call|>{", "'<|tool_call|>[{"))
    words = [each["what"] for each in gate_model.round_trip(folder)[0]]
    assert "is not the template that training used" in words
    assert "transformers renders a conversation with other tokens" in words


def test_a_tokenizer_without_the_frame_is_red(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<think>", "<thinq>"))
    assert gate_model._tried(lambda: gate_model.round_trip(folder))["problems"]


@pytest.mark.parametrize(
    ("answer", "is_ended", "words"),
    [
        ("a<think>b</think>c", True, ""),
        ("a<think>b", False, ""),
        ("a<think>b", True, "opens <think> and never closes it"),
        ("a</think>b", True, "holds a stray </think>"),
        ("<think><think>a</think>", True, "holds a stray <think>"),
        ('<|tool_call|>{"name": "f", "arguments": {}}<|/tool_call|>', True, ""),
        ("<|/tool_call|>", True, "holds a stray <|/tool_call|>"),
    ],
)
def test_marks_of_reasoning_and_tools_have_to_match(folder, answer, is_ended, words):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = tokenizer.encode(answer, add_special_tokens=False).ids
    assert gate_model.stray(tokenizer, tokens, is_ended=is_ended) == words


def test_a_tag_that_is_spelt_as_text_is_red(folder):
    from tokenizers import Tokenizer

    from hanse.tune.template import encode_text

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = encode_text(tokenizer, "Sure. </Think> Yes")
    assert gate_model.stray(tokenizer, tokens, is_ended=True) == "spells the tag '</think' as text"
    assert gate_model.stray(tokenizer, encode_text(tokenizer, "2 < 3, and 4 > 1"), is_ended=True) == ""


def test_a_model_that_answers_with_a_stray_tag_is_red(folder):
    from tokenizers import Tokenizer

    mark = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("</think>")
    weights = load_file(folder / "model.safetensors")
    row = weights["model.embed_tokens.weight"].sum(0)
    found = []
    for head in (row, -row):  # the hidden state lies on one side or the other: there the mark is the likeliest token
        weights["lm_head.weight"] = torch.zeros_like(weights["lm_head.weight"])
        weights["lm_head.weight"][mark] = head
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        found += gate_model.clean_answers(folder, ["Hej"])[0]
    assert any(each["what"] == "the answer to 'Hej' holds a stray </think>" for each in found)


def test_a_model_that_was_never_tuned_is_asked_nothing(folder, ledger):
    assert gate_model.clean_answers(folder, []) == ([], "not tuned on conversations, so no answers to look at")
    assert gate_files._questions(ledger) == [QUESTION]


def test_what_the_other_process_does_not_say_is_red(tmp_path, monkeypatch):
    monkeypatch.setattr(gate_files.sys, "executable", shutil.which("false"))
    with pytest.raises(InputError, match="ended with code 1: no word"):
        gate_files._examined(tmp_path, [])


# --------------------------------------------------------------------------- licences


EUROPE = {"MPL-2.0": "compatible", "CC-BY-4.0": "compatible", "CC0-1.0": "compatible", "CC-BY-SA-3.0": "compatible",
          "CC-BY-SA-4.0": "compatible", "EUPL-1.2": "conditional"}  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), EUROPE.items())
def test_the_text_of_the_europe_recipe_allows_its_licence(text, wanted):
    assert judge(text, "CC-BY-SA-4.0").verdict == wanted


def test_the_recipes_that_come_with_hanse_name_licences_that_their_text_allows():
    from hanse import recipe

    folder = Path(__file__).parents[2] / "recipes"
    for name, texts in (("atlas", ["Unicode-3.0"]), ("europe", list(EUROPE))):
        released = recipe.load(folder / f"{name}.toml", []).release.licence
        assert {judge(text, released).verdict for text in texts} <= {"compatible", "conditional"}, name


@pytest.mark.parametrize(
    ("text", "released", "wanted"),
    [
        ("Unicode-3.0", "Apache-2.0", "compatible"),
        ("CC-BY-SA-3.0", "Apache-2.0", "incompatible"),
        ("CC-BY-SA-4.0", "CC-BY-SA-3.0", "incompatible"),
        ("CC-BY-SA-4.0", "GPL-3.0-only", "compatible"),
        ("CC-BY-SA-3.0", "GPL-3.0-only", "incompatible"),
        ("CC-BY-SA-1.0", "CC-BY-SA-4.0", "incompatible"),
        ("EUPL-1.2", "Apache-2.0", "incompatible"),
        ("EUPL-1.2", "CC-BY-SA-3.0", "compatible"),
        ("EUPL-1.2", "EUPL-1.2", "compatible"),
        ("MPL-2.0", "Apache-2.0", "compatible"),
        ("CC-BY-NC-4.0", "CC-BY-SA-4.0", "incompatible"),
        ("CC-BY-NC-4.0", "CC-BY-NC-4.0", "compatible"),
        ("CC-BY-NC-SA-4.0", "CC-BY-NC-4.0", "incompatible"),
        ("CC-BY-NC-SA-4.0", "CC-BY-SA-4.0", "incompatible"),
        ("CC-BY-ND-4.0", "CC-BY-ND-4.0", "incompatible"),
        ("GPL-2.0-or-later", "GPL-3.0-only", "compatible"),
        ("GPL-2.0-only", "GPL-3.0-only", "incompatible"),
        ("GPL-3.0-only", "AGPL-3.0-only", "compatible"),
        ("AGPL-3.0-only", "GPL-3.0-only", "incompatible"),
        ("LGPL-3.0-only", "GPL-2.0-only", "incompatible"),
        ("OSL-3.0", "MIT", "incompatible"),
        ("LicenseRef-own", "MIT", "unknown"),
        ("", "MIT", "unknown"),
        ("MIT AND CC-BY-SA-4.0", "MIT", "incompatible"),
        ("MIT OR CC-BY-SA-4.0", "MIT", "compatible"),
        ("CC-BY-SA-4.0", "CC-BY-SA-4.0 OR MIT", "incompatible"),
        ("(MIT", "MIT", "unknown"),
    ],
)
def test_the_matrix_answers_and_says_why(text, released, wanted):
    found = judge(text, released)
    assert found.verdict == wanted and found.why


@pytest.mark.parametrize(
    ("basis", "wanted"),
    [
        ("contract", "conditional"),
        ("public-domain", "compatible"),
        ("tdm-art-4", "conditional"),
        ("stated", "incompatible"),
    ],
)
def test_the_ground_decides_before_the_licence(basis, wanted):
    assert judge("CC-BY-ND-4.0", "MIT", basis=basis).verdict == wanted


def spoilt(tmp_path, dataset=None, **changes):
    """A ledger of a store whose last source says something else; weights do not matter."""
    sources = [*SOURCES[:2], {**SOURCES[2], **changes}]
    return ledger_of(make_store(tmp_path / "spoilt", sources=sources, dataset=dataset), licence=LICENCE)


def with_counts(**changes):
    def make(work):
        write_dataset()(work)
        counts = json.loads((work.folder / "counts.json").read_text())
        counts["groups"].append({**counts["groups"][-1], **changes})
        (work.folder / "counts.json").write_text(json.dumps(counts))

    return make


def test_share_alike_text_under_another_licence_is_red(tmp_path):
    ledger = spoilt(tmp_path, with_counts(licence="CC-BY-SA-4.0", licence_basis="stated", documents=7))
    (found,) = failures(gate_checks.licences(ledger))
    assert "7 texts under CC-BY-SA-4.0 (stated), released under CC0-1.0: share-alike" in found
    assert "dataset/toy/1 counts.json" in found
    assert failures(gate_checks.licences(replace(ledger, licence="CC-BY-SA-4.0"))) == []


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "CC-BY-ND-4.0", "LicenseRef-own"])
def test_text_that_may_not_be_used_so_is_red(tmp_path, licence):
    ledger = spoilt(tmp_path, with_counts(licence=licence, licence_basis="stated"))
    assert licence in failures(gate_checks.licences(ledger))[0]


def test_a_person_may_vouch_for_an_unknown_licence_but_not_against_a_known_one(tmp_path):
    ledger = spoilt(tmp_path, with_counts(licence="LicenseRef-own", licence_basis="stated"))
    said = {"contracts": {"licences": {"LicenseRef-own": "our own text, see file 12", "CC-BY-ND-4.0": "we like it"}}}
    found = list(gate_checks.licences(replace(ledger, answers=said)))
    assert failures(found) == [] and any("answers.toml says: our own text" in each for each in told(found, "warned"))
    other = spoilt(tmp_path / "b", with_counts(licence="CC-BY-ND-4.0", licence_basis="stated"))
    assert failures(gate_checks.licences(replace(other, answers=said)))


def test_a_continued_model_needs_its_licence_on_record(tmp_path):
    begun = ledger_of(make_store(tmp_path / "s", start=True), licence="Apache-2.0")
    assert "whose licence nobody named" in failures(gate_checks.licences(begun))[0]
    for licence, wanted in (("Apache-2.0", 0), ("CC-BY-NC-4.0", 1)):
        said = {"contracts": {"base_model_licence": licence}}
        assert len(failures(gate_checks.licences(replace(begun, answers=said)))) == wanted


# --------------------------------------------------------------------------- contracts, languages, ancestors, answers


def test_a_contract_that_ended_is_red_and_one_that_ends_soon_is_not(tmp_path):
    sources = [{**SOURCES[0], "contract_start": "2019-01-01", "contract_expiry": "2020-05-01"}, *SOURCES[1:]]
    ledger = ledger_of(make_store(tmp_path / "s", sources=sources))
    assert any("C-1 ended on 2020-05-01" in each for each in failures(gate_checks.contracts(ledger)))
    far = replace(ledger_of(make_store(tmp_path / "t")), answers={"contracts": {"warn_days": 40_000}})
    found = list(gate_checks.contracts(far))
    assert failures(found) == [] and len(told(found, "warned")) == 2


def test_a_claimed_language_without_text_or_figures_is_red(ledger):
    found = failures(gate_checks.languages(replace(ledger, languages=("da", "nb", "mt"))))
    assert any("no text to train on in: mt" in each for each in found)
    assert any("no figure in: mt" in each for each in found)
    assert failures(gate_checks.languages(replace(ledger, scores=ledger.scores[:1])))[0].endswith(
        "claimed, but no figure in: nb (evaluation/toy-chat/1)"
    )
    assert failures(gate_checks.languages(replace(ledger, languages=())))


def test_an_ancestor_that_was_changed_is_red(published, tmp_path):
    store, _, ledger = published
    copy = Store.open(shutil.copytree(store.root, tmp_path / "copy"))
    with (copy.root / "shards/toy/1/index.parquet").open("ab") as stream:
        stream.write(b"x")
    found = failures(gate_checks.ancestors(ledger_of(copy), copy))
    assert len(found) == 1 and "index.parquet changed" in found[0]
    shutil.rmtree(copy.root / "tokenizer/toy")
    assert failures(gate._done("ancestors", lambda: gate_checks.ancestors(ledger, copy)))


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


def test_unanswered_questions_and_contradictions_are_red(ledger):
    pytest.importorskip("hanse.release.papers.lint")
    found = failures(gate_checks.answers(ledger))
    assert any("answers.toml provider.name" in each for each in found)
    contradicted = replace(ledger, answers={"data": {"uses_licensed_data": False}})
    assert any("uses_licensed_data" in each for each in failures(gate_checks.answers(contradicted)))


# --------------------------------------------------------------------------- text


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


def test_documents_kept_in_spite_of_a_hit_are_red(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def make(work):
        write_dataset()(work)
        path = work.folder / "documents.parquet"
        rows = pq.read_table(path).to_pylist()
        rows[0]["contamination"] = [{"item": "exam:1", "containment": 0.9, "longest": 30}]
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)

    found = failures(training_text.contamination(spoilt(tmp_path, make)))
    assert found == [
        f"contamination: 1 documents were kept that hold items of [curate] contamination (dataset/toy/1 {0:032x})"
    ]


@pytest.mark.parametrize("column", ["id", "cluster"])
def test_a_document_that_was_kept_twice_is_red(tmp_path, column):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def make(work):
        write_dataset()(work)
        path = work.folder / "documents.parquet"
        rows = pq.read_table(path).to_pylist()
        rows[3][column] = rows[4][column]
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)

    (found,) = failures(training_text.duplicates(spoilt(tmp_path, make)))
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
