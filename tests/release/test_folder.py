"""What a release holds, and that its papers say what the records say."""

import json
import shutil
import subprocess
import sys

import pytest
from toy_release import CONFIG, SCORES, TOKENIZER

from hanse.errors import InputError
from hanse.release.attribution import MOST_AUTHORS, Credit, attribution, cell, credits, flags
from hanse.release.folder import collect_ancestors, licence_text
from hanse.store.digest import sha256_file


def test_a_release_holds_the_model_its_papers_and_every_record(released, store):
    files = [p.relative_to(released.path) for p in released.path.rglob("*") if p.is_file()]
    papers = {path.name for path in files if path.parts[0] == "papers"}
    assert {"index.html", "public-summary.html", "bom.cdx.json", "sbom.spdx.json", "dataset-toy-1.md"} <= papers
    names = sorted(path.as_posix() for path in files if path.parts[0] != "papers")
    steps = ("conversations-toy-1", "dataset-toy-1", "evaluation-toy-chat-1", "model-toy-base-1", "model-toy-chat-1",
             "shards-toy-1", "tokenizer-toy-1")  # fmt: skip
    assert names == sorted([
        "ATTRIBUTION.md", "LICENSE", "README.md", "SHA256SUMS", "chat_template.jinja", "config.json",
        "evaluation/scores.json", "generation_config.json", "model.safetensors", "model.sig",
        "provenance/documents.parquet", "signing-key.pub", "step.json", "tokenizer.json", "tokenizer_config.json",
        "verify.py", *(f"provenance/{step}{end}" for step in steps for end in (".json", ".SHA256SUMS")),
    ])  # fmt: skip
    model = store.find("model/toy-chat").path
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert sha256_file(released.path / name) == sha256_file(model / name)


def test_a_release_made_twice_has_the_same_digest(make_release, released):
    shutil.rmtree(released.path)
    again = make_release()
    assert again.state == "made" and again.artifact.digest == released.digest
    assert again.artifact.record_digest != released.record_digest


def test_answers_end_where_the_tokenizer_ends_a_turn(released):
    generation = json.loads((released.path / "generation_config.json").read_text())
    ids = {token["content"]: token["id"] for token in TOKENIZER["added_tokens"]}
    assert generation["eos_token_id"] == [ids["<|end_of_turn|>"], ids["<|end_of_text|>"]]


def test_the_card_says_what_the_records_say(released):
    card = (released.path / "README.md").read_text()
    for line in (
        "# Toy: the model",
        "| Danish (da) | 97.5 % (90.0 to 100.0; 40) | not recorded |",
        "| Norwegian Bokmål (nb) | not recorded | 1.250 (1.200 to 1.300; 5) |",
        "| training | 1,500 tokens |",
        "| computation | 1.1e+18 FLOP |",
        "| energy | not recorded |",
        "| contact | lab@example.org |",
        "| novels | CC-BY-SA-4.0 | share-alike | 2 documents | 17 |",
        "| atlas | Unicode-3.0 | - | 3 conversations | 12 |",
        "model: model/toy-base/1",
    ):
        assert line in card, (line, card)
    assert "LicenseRef-closed" not in card


def test_the_front_matter_is_valid_for_the_hub(released, make_release, settings):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard((released.path / "README.md").read_text()).data
    assert (data.license, data.language, data.library_name) == ("apache-2.0", ["da", "nb"], "transformers")
    assert {"deepseek_v3", "multilingual", "conversational"} <= set(data.tags)
    odd = settings.model_copy(update={"licence": "LicenseRef-lab", "title": "---\nlicense: mit"})
    other = make_release(odd, "2", languages=("no",)).artifact
    data = hub.ModelCard((other.path / "README.md").read_text()).data
    assert (data.license, data.license_name, data.language) == ("other", "LicenseRef-lab", ["no"])


def test_attribution_names_authors_and_holders_by_licence(released):
    text = (released.path / "ATTRIBUTION.md").read_text()
    for line in (
        "| CC-BY-SA-4.0 | share-alike | 2 | 17 |",
        "| CC0-1.0 | - | 1 | 100 |",
        "Rights holder: Library (2 documents, 17 bytes)",
        "- Ana \\| Bó (1)",
        "- author not recorded (1)",
        "Rights holder: not recorded (1 documents, 100 bytes)",
        "Rights holder: Unicode, Inc. (3 conversations, 12 bytes)",
    ):
        assert line in text, (line, text)
    assert "Nobody" not in text and "LicenseRef-closed" not in text


def test_documents_that_were_dropped_and_held_out_conversations_are_not_credited(store):
    found = credits(store.artifacts())
    assert sum(credit.texts for credit in found) == 3 + 3


def test_a_long_list_of_authors_ends_with_how_many_more():
    many = [
        Credit("documents", "CC-BY-4.0", "s", "", f"author {number:05}", 1, 1) for number in range(MOST_AUTHORS + 5)
    ]
    text = attribution(many)
    assert "- and 5 more, each named in the document table" in text and text.count("- author ") == MOST_AUTHORS


@pytest.mark.parametrize(
    ("licence", "asked"),
    [("CC-BY-4.0", []), ("CC-BY-SA-4.0", ["share-alike"]), ("CC-BY-NC-SA-4.0", ["share-alike", "non-commercial"]),
     ("CC-BY-ND-3.0", ["no derivatives"]), ("GPL-3.0-only", ["share-alike"]), ("Apache-2.0", []),
     ("ODbL-1.0", ["share-alike"]), ("MIT", [])],
)  # fmt: skip
def test_what_a_licence_asks_for(licence, asked):
    assert flags(licence) == asked


def test_text_from_outside_cannot_break_a_table():
    assert cell("a | b\n# c `d` [x](y)") == "a \\| b # c \\`d\\` \\[x\\](y)"


def test_the_licence_is_written_out_or_named():
    assert "TERMS AND CONDITIONS" in licence_text("Apache-2.0")
    assert licence_text("CC-BY-4.0").startswith("SPDX-License-Identifier: CC-BY-4.0\n")


def test_a_release_without_an_ancestor_is_refused(make_release, store):
    shutil.rmtree(store.root / "shards")
    with pytest.raises(InputError, match="shards/toy/1"):
        make_release(version="2", description="new")
    assert not (store.root / "release" / "toy" / "2").exists()


def test_a_release_on_a_changed_record_is_refused(make_release, store):
    path = store.find("dataset/toy").path / "step.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(InputError, match="dataset/toy/1: is not the one that was recorded"):
        make_release(version="2", description="new")


def test_a_model_that_breaks_the_contract_is_not_released(make_release, store):
    model = store.find("model/toy-chat").path
    shutil.rmtree(store.root / "release")
    (model / "config.json").write_text(json.dumps(CONFIG | {"scoring_func": "softmax"}))
    with pytest.raises(InputError):
        make_release()
    assert not (store.root / "release" / "toy").exists()


def test_ancestors_are_all_there_once_and_sorted(store):
    refs = [a.ref for a in collect_ancestors(store, (store.find("model/toy-chat"), store.find("evaluation/toy-chat")))]
    assert refs == sorted(set(refs)) and len(refs) == 7


def test_scores_travel_with_the_release(released):
    assert json.loads((released.path / "evaluation" / "scores.json").read_text()) == SCORES


def test_the_store_and_the_release_load_no_torch():
    program = (
        "import sys; import hanse.store.check, hanse.store.graph, hanse.release.folder, hanse.release.card;"
        "sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
