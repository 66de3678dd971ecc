"""The embedded corpus: every language, every task, every question, checked as a whole."""

import copy
import functools
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
import unicodedata
from collections import Counter, defaultdict

import pytest

from hanse.data import atlas
from hanse.data.atlas import phrasings as phrasings_module
from hanse.data.atlas.facts import FACTS_PER_TASK, Fact, all_facts, select
from hanse.data.atlas.phrasings import FOLDER, TASKS, load, parse, render
from hanse.data.atlas.words import RBNF_LANGUAGES, number_word
from hanse.errors import InputError
from hanse.languages import EU24, LANGUAGES

EVERYTHING = dict.fromkeys(TASKS, 10_000)


@functools.cache
def made(seed: int = 0) -> tuple[list[dict], list[dict]]:
    """The default corpus: documents and conversations."""
    return list(atlas.documents(EU24, seed)), list(atlas.conversations(EU24, seed))


@functools.cache
def largest() -> tuple[list[dict], list[dict]]:
    """Every fact there is, in every phrasing."""
    return (
        list(atlas.documents(EU24, 0, facts_per_task=EVERYTHING)),
        list(atlas.conversations(EU24, 0, facts_per_task=EVERYTHING, phrasings_per_fact=100)),
    )


def exchanges(conversation: dict) -> list[tuple[str, str]]:
    """Each question of a conversation with the answer to it."""
    said = [message["content"] for message in conversation["messages"]]
    return list(zip(said[::2], said[1::2], strict=True))


def questions(conversation: dict) -> list[str]:
    return [question for question, _ in exchanges(conversation)]


@functools.cache
def to_train(language: str) -> dict[str, tuple[Fact, int]]:
    """The question of every fact of the default corpus in every training wording: the fact, and which wording it is."""
    phrasings = load(language)[0]
    return {
        render(wording, fact.given): (fact, number)
        for fact in select(language, FACTS_PER_TASK)
        for number, wording in enumerate(phrasings[fact.task].train)
    }


def digest(seed: int) -> str:
    lines = (json.dumps(item, ensure_ascii=False) for part in made(seed) for item in part)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# --- the same bytes everywhere ---


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_another_process_with_another_hash_seed_makes_the_same_bytes(hash_seed):
    code = (
        "import hashlib, json; from hanse.data import atlas; from hanse.languages import EU24;"
        "items = [*atlas.documents(EU24, 3), *atlas.conversations(EU24, 3)];"
        "lines = [json.dumps(item, ensure_ascii=False) for item in items];"
        "print(hashlib.sha256('\\n'.join(lines).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert ran.stdout.strip() == digest(3)


def test_the_seed_changes_order_and_wording_but_no_fact():
    (documents_0, conversations_0), (documents_1, conversations_1) = made(0), made(1)
    assert digest(0) != digest(1)
    assert {d["id"] for d in documents_0} == {d["id"] for d in documents_1}
    asked_0, asked_1 = (
        sorted((c["language"], *exchange) for c in conversations for exchange in exchanges(c))
        for conversations in (conversations_0, conversations_1)
    )
    assert asked_0 == asked_1


def test_a_language_alone_is_what_it_is_among_others():
    documents, conversations = made()
    assert list(atlas.documents(["lv"], 0)) == [d for d in documents if d["language"] == "lv"]
    assert list(atlas.conversations(["lv"], 0)) == [c for c in conversations if c["language"] == "lv"]


# --- completeness ---


@pytest.mark.parametrize("language", EU24)
def test_every_task_is_there_or_skipped_with_a_reason(language):
    _, conversations = made()
    present = {(c["task"], c["split"]) for c in conversations if c["language"] == language}
    for task in TASKS:
        if task in atlas.skipped(language):
            assert len(atlas.skipped(language)[task]) > 20
            assert not {(task, "train"), (task, "heldout")} & present
        else:
            assert {(task, "train"), (task, "heldout")} <= present, task


def test_only_maltese_currencies_are_skipped():
    assert {language: list(atlas.skipped(language)) for language in EU24 if atlas.skipped(language)} == {
        "mt": ["currency"]
    }


@pytest.mark.parametrize("language", EU24)
def test_every_task_has_four_questions_and_three_statements(language):
    for task, entry in load(language)[0].items():
        if not entry.skip:
            assert len(entry.train) + len(entry.heldout) >= 4, task
            assert len(entry.statements) >= 3, task


def test_every_held_out_fact_was_trained_and_stated():
    documents, conversations = made()
    text = defaultdict(str)
    for document in documents:
        text[document["language"]] += document["text"]
    trained = {
        (c["language"], to_train(c["language"])[question][0].id)
        for c in conversations
        if c["split"] == "train"
        for question in questions(c)
    }
    for c in conversations:
        if c["split"] == "heldout":
            assert (c["language"], c["fact"]) in trained
            assert c["answer"].rstrip(".") in text[c["language"]], c["id"]


@pytest.mark.parametrize("language", [code for code in EU24 if code != "en"])
def test_at_least_150_held_out_answers_differ_from_english(language):
    _, conversations = made()
    items = [c for c in conversations if c["language"] == language and c["split"] == "heldout"]
    differing = [c for c in items if c["answer"].casefold() != c["answer_en"].casefold()]
    assert len(differing) >= 150


def test_answer_en_is_the_english_answer_to_the_same_fact():
    english = {fact.id: fact.answer for fact in all_facts("en")}
    for conversation in largest()[1]:
        assert conversation["answer_en"] == english.get(conversation["fact"], conversation["answer"])


def test_the_corpus_stays_affordable():
    documents, conversations = made()
    text = sum(len(d["text"].encode()) for d in documents)
    train = [exchange for c in conversations if c["split"] == "train" for exchange in exchanges(c)]
    heldout = [c for c in conversations if c["split"] == "heldout"]
    assert 400_000 < text < 800_000
    assert 40_000 < len(train) < 60_000
    assert 4_000 < len(heldout) < 6_000
    assert sum(len(question) + len(answer) for question, answer in train) / len(train) < 50


def test_fewer_facts_make_a_smaller_corpus_of_the_tasks_asked_for():
    conversations = list(atlas.conversations(["de"], 0, facts_per_task={"capital": 3}, phrasings_per_fact=2))
    assert Counter(c["split"] for c in conversations for _ in questions(c)) == {"train": 6, "heldout": 3}
    assert {c["task"] for c in conversations} == {"capital"}


def test_every_wording_is_used_even_when_a_fact_gets_only_some():
    wordings = {(task, index) for task, entry in load("fr")[0].items() for index in range(len(entry.train))}
    some = atlas.conversations(["fr"], 0, phrasings_per_fact=3)
    asked = [to_train("fr")[question] for c in some if c["split"] == "train" for question in questions(c)]
    used = {(fact.task, number) for fact, number in asked}
    assert len(used) > 0.9 * len(wordings)


def test_facts_that_differ_from_english_are_chosen_first():
    chosen = select("da", {"capital": 10})
    assert all(fact.differs for fact in chosen)
    assert not all(fact.differs for fact in select("da", {"capital": 30}))


# --- questions ---


@pytest.mark.parametrize("language", EU24)
def test_every_training_question_is_asked_once_in_its_own_language(language):
    train = [c for c in made()[1] if c["language"] == language and c["split"] == "train"]
    asked = Counter(exchange for c in train for exchange in exchanges(c))
    assert asked == Counter((question, fact.answer) for question, (fact, _) in to_train(language).items())


def test_one_training_question_in_eight_comes_after_another_and_no_held_out_one_does():
    train = [len(questions(c)) for c in made()[1] if c["split"] == "train"]
    assert 1 - len(train) / sum(train) == pytest.approx(1 / 8, abs=0.01)
    assert Counter(train)[2] > Counter(train)[3] > 400
    assert {len(questions(c)) for c in made()[1] if c["split"] == "heldout"} == {1}


def test_questions_of_one_conversation_have_little_to_do_with_each_other():
    together = [[to_train(c["language"])[q][0] for q in questions(c)] for c in made()[1] if c["split"] == "train"]
    pairs = [pair for facts in together for pair in itertools.pairwise(facts)]
    assert sum(before.id == after.id for before, after in pairs) < 0.02 * len(pairs)
    # Those that differ in the country alone are the ones where an answer could be taken from before.
    assert sum(before.task == after.task for before, after in pairs) > 0.05 * len(pairs)


def test_no_question_has_two_answers_in_any_two_languages():
    answers = defaultdict(set)
    for conversation in largest()[1]:
        for question, answer in exchanges(conversation):
            # Case aside, and blanks: what a person would type the same way must not depend on either.
            key = re.sub(r"\s+", " ", question).casefold()
            answers[key].add((answer, conversation["language"]))
    clashes = {key: found for key, found in answers.items() if len({answer for answer, _ in found}) > 1}
    assert clashes == {}


def test_no_held_out_question_occurs_in_training():
    documents, conversations = largest()
    trained = {question for c in conversations if c["split"] == "train" for question in questions(c)}
    heldout = {question for c in conversations if c["split"] == "heldout" for question in questions(c)}
    assert trained.isdisjoint(heldout)
    text = {language: [] for language in EU24}
    for document in documents:
        text[document["language"]].append(document["text"])
    for language in EU24:
        running = "\n".join(text[language])
        for c in conversations:
            if c["language"] == language and c["split"] == "heldout":
                assert questions(c)[0] not in running, c["id"]


def test_held_out_words_occur_in_training_of_the_same_language():
    """What is new in a held-out question is the sentence; a word never seen would test the tokenizer instead."""
    words = defaultdict(set)
    for conversation in made()[1]:
        if conversation["split"] == "train":
            words[conversation["language"]] |= set(re.findall(r"\w+", " ".join(questions(conversation)).casefold()))
    missing = defaultdict(set)
    for conversation in made()[1]:
        if conversation["split"] == "heldout":
            new = set(re.findall(r"\w+", questions(conversation)[0].casefold())) - words[conversation["language"]]
            missing[conversation["language"]] |= new
    assert {language: sorted(found) for language, found in missing.items() if found} == {}


def test_ids_are_unique_and_facts_are_shared_between_languages():
    documents, conversations = made()
    ids = [item["id"] for item in (*documents, *conversations)]
    assert len(set(ids)) == len(ids)
    per_fact = defaultdict(set)
    for conversation in conversations:
        per_fact[conversation["fact"]].add(conversation["language"])
    assert len(per_fact["day_after/monday"]) == 24


def test_conversations_have_the_form_the_other_rooms_read():
    for c in made()[1]:
        assert sorted(c) == ["answer", "answer_en", "fact", "id", "language", "messages", "split", "task"]
        assert [m["role"] for m in c["messages"]] == ["user", "assistant"] * len(questions(c))
        assert c["messages"][-1]["content"] == c["answer"]
        if c["split"] == "train":
            fact, number = to_train(c["language"])[questions(c)[-1]]
            assert (c["id"], c["fact"]) == (f"atlas/{c['language']}/{fact.id}/train-{number}", fact.id)


def test_documents_have_the_form_the_other_rooms_read():
    for d in made()[0]:
        assert sorted(d) == ["id", "language", "task", "text", "title"]
        assert d["title"] and len(d["text"]) >= 20


def test_any_first_hundred_held_out_items_cover_most_tasks():
    items = [c for c in made()[1] if c["language"] == "fi" and c["split"] == "heldout"]
    assert len({c["task"] for c in items[:100]}) >= 10


# --- orthography ---


def strings(language: str) -> list[str]:
    documents, conversations = largest()
    own = [d["text"] for d in documents if d["language"] == language]
    return own + [m["content"] for c in conversations if c["language"] == language for m in c["messages"]]


@pytest.mark.parametrize("language", EU24)
def test_text_is_normal_form_without_invisible_signs_or_placeholders(language):
    for text in strings(language):
        assert unicodedata.is_normalized("NFC", text)
        assert not re.search(r"[\u00ad\u00a0\u202f\u200b\u2009{}]|  |\.\.|\s$|^\s", text), text


@pytest.mark.parametrize("language", EU24)
def test_letters_belong_to_the_script_of_the_language(language):
    script = {"Latn": "LATIN", "Grek": "GREEK", "Cyrl": "CYRILLIC"}[LANGUAGES[language].script]
    for sign in {sign for text in strings(language) for sign in text if sign.isalpha()}:
        assert unicodedata.name(sign).startswith(script), sign


# Letters each alphabet has beyond a to z; anything else is a slip of the keyboard or a name left untranslated.
ALPHABETS = {
    "cs": "áčďéěíňóřšťúůýž",
    "da": "æøåé",
    "de": "äöüß",
    "es": "áéíñóúü",
    "et": "äöõüšž",
    "fi": "äöåšž",
    "fr": "àâçèéêëîïôùûüÿœæ",
    "ga": "áéíóú",
    "hr": "čćđšž",
    "hu": "áéíóöőúüű",
    "it": "àèéìòù",
    "lt": "ąčęėįšųūž",
    "lv": "āčēģīķļņšūž",
    "mt": "ċġħżàèìòù",
    "nl": "ëïéèöüó",
    "pl": "ąćęłńóśźż",
    "pt": "áàâãçéêíóôõú",
    "ro": "ăâîșț",
    "sk": "áäčďéíĺľňóôŕšťúýž",
    "sl": "čšž",
    "sv": "åäöé",
    "en": "",
}
# Proper names that keep foreign letters, as their languages print them.
FOREIGN = {"en": "ó", "de": "łí", "cs": "", "et": "í", "fi": "łí", "hu": "", "it": "í", "sl": "ø"}


@pytest.mark.parametrize("language", ALPHABETS)
def test_only_letters_of_the_alphabet_occur(language):
    allowed = set("abcdefghijklmnopqrstuvwxyz" + ALPHABETS[language] + FOREIGN.get(language, ""))
    found = {sign for text in strings(language) for sign in text.lower() if sign.isalpha()}
    assert found <= allowed, sorted(found - allowed)


def test_romanian_has_commas_below_and_no_cedillas():
    text = "".join(strings("ro"))
    assert "ș" in text and "ț" in text
    assert not set("şţŞŢ") & set(text)


@pytest.mark.parametrize("language", EU24)
def test_no_sentence_begins_with_a_small_letter(language):
    """A sentence may begin with a name only if that name is written with a capital."""
    small = {
        (fact.task, name)
        for fact in all_facts(language)
        for name, text in (("given", fact.given), ("answer", fact.answer))
        if text[0].islower()
    }
    for task, entry in load(language)[0].items():
        for template in (*entry.train, *entry.heldout, *entry.statements):
            for sentence in re.split(r"(?<=[^}][.?!;]) |(?<=given\}[.?!;]) ", template):
                begins = re.match(r"\{(\w+)\}", sentence)
                assert not (begins and (task, begins[1]) in small), template
                assert not sentence[0].islower(), template


def test_maltese_articles_follow_a_consonant_or_a_pause():
    """After a vowel the article loses its i ("hu l-Greċja"); the wordings must never put it there."""
    for text in strings("mt"):
        assert not re.search(r"\b\w*[aeiou] i[ltdrnsxzżċ]-(?=[A-ZĦĠŻĊ])", text.replace("ta’", "")), text


# --- the facts themselves ---

WORDS = {
    "bg": {0: "нула", 2: "две", 13: "тринайсет", 21: "двайсет и едно", 60: "шейсет"},
    "el": {0: "μηδέν", 7: "επτά", 13: "δεκατρία", 90: "ενενήντα", 98: "ενενήντα οκτώ"},
    "et": {0: "null", 8: "kaheksa", 12: "kaksteist", 21: "kakskümmend üks", 70: "seitsekümmend"},
    "ga": {0: "náid", 8: "a hocht", 12: "a dó dhéag", 21: "fiche a haon", 40: "daichead"},
    "hr": {0: "nula", 4: "četiri", 16: "šesnaest", 21: "dvadeset i jedan", 60: "šezdeset"},
    "mt": {0: "żero", 2: "tnejn", 15: "ħmistax", 21: "wieħed u għoxrin", 80: "tmenin"},
    "cs": {1: "jedna", 21: "dvacet jedna"},
    "da": {50: "halvtreds", 60: "tres", 65: "femogtres", 54: "fireoghalvtreds"},
    "de": {1: "eins", 21: "einundzwanzig", 30: "dreißig"},
    "fr": {21: "vingt et un", 80: "quatre-vingts", 98: "quatre-vingt-dix-huit"},
    "pt": {16: "dezasseis", 19: "dezanove"},
    "ro": {6: "șase", 14: "paisprezece", 60: "șaizeci"},
    "sl": {2: "dva", 32: "dvaintrideset"},
}


@pytest.mark.parametrize("language", WORDS)
def test_numbers_are_spelt_as_known(language):
    assert {number: number_word(number, language) for number in WORDS[language]} == WORDS[language]


def test_the_six_languages_num2words_lacks_are_spot_checked():
    assert set(RBNF_LANGUAGES) <= set(WORDS)


@pytest.mark.parametrize("language", EU24)
def test_numbers_up_to_99_are_spelt_differently_from_each_other(language):
    assert len({number_word(number, language) for number in range(100)}) == 100


def test_a_number_beyond_what_was_checked_is_refused():
    with pytest.raises(ValueError, match="not for 100"):
        number_word(100, "de")


@pytest.mark.parametrize("language", EU24)
def test_sums_are_right(language):
    for fact in all_facts(language):
        if fact.task == "sum":
            first, second = map(int, fact.given.split(" + "))
            assert fact.answer == number_word(first + second, language)


@pytest.mark.parametrize(("language", "week"), [
    ("de", "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag"),
    ("lv", "pirmdiena otrdiena trešdiena ceturtdiena piektdiena sestdiena svētdiena"),
    ("el", "Δευτέρα Τρίτη Τετάρτη Πέμπτη Παρασκευή Σάββατο Κυριακή"),
    ("mt", "it-Tnejn it-Tlieta l-Erbgħa il-Ħamis il-Ġimgħa is-Sibt il-Ħadd"),
])  # fmt: skip
def test_weekdays_come_in_their_order(language, week):
    after = {f.given: f.answer for f in all_facts(language) if f.task == "day_after"}
    before = {f.given: f.answer for f in all_facts(language) if f.task == "day_before"}
    days = week.split()
    assert [after[day] for day in days] == [*days[1:], days[0]]
    assert [before[day] for day in days] == [days[-1], *days[:-1]]


@pytest.mark.parametrize("language", EU24)
def test_calendar_facts_close_their_circles(language):
    facts = {fact.id: fact for fact in all_facts(language)}
    after = {f.given: f.answer for f in facts.values() if f.task == "day_after"}
    assert all(facts[f"day_before/{key}"].given == after[facts[f"day_before/{key}"].answer] for key in
               ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"))  # fmt: skip
    months = [facts[f"month/{number:02}"].answer for number in range(1, 13)]
    assert [facts[f"month_after/{n:02}"].answer for n in range(1, 13)] == [*months[1:], months[0]]
    assert Counter(f.answer for f in facts.values() if f.task == "days") == {"30": 4, "31": 7}


@pytest.mark.parametrize("language", EU24)
def test_capital_and_country_are_each_other_s_inverse(language):
    facts = {fact.id: fact for fact in all_facts(language)}
    capitals = [fact for fact in facts.values() if fact.task == "capital"]
    assert len(capitals) >= 30
    for fact in capitals:
        back = facts["country/" + fact.topic]
        assert (back.given, back.answer) == (fact.answer, fact.given)


def test_known_facts_are_known():
    def answer(language: str, fact: str) -> str:
        return next(f.answer for f in all_facts(language) if f.id == fact)

    assert answer("el", "capital/GR") == "Αθήνα"
    assert answer("de", "capital/IS") == "Reykjavík"
    assert answer("pt", "capital/NL") == "Amesterdão"
    assert answer("mt", "capital/MT") == "Valletta"
    assert answer("ga", "country/GR") == "an Ghréig"
    assert answer("bg", "currency/SE") == "шведска крона"
    assert answer("lt", "language/AT") == "vokiečių"
    assert answer("hr", "joined/HR") == "2013"
    assert answer("fi", "neighbours/EE") == "Latvia, Venäjä"
    assert answer("pl", "date/2026-05-09") == "9 maja 2026"
    assert answer("hu", "date/2026-12-24") == "2026. december 24."


def test_neighbours_are_mutual_where_both_are_listed():
    facts = {fact.topic: set(fact.answer.split(", ")) for fact in all_facts("en") if fact.task == "neighbours"}
    names = {f.topic: f.given for f in all_facts("en") if f.task == "neighbours"}
    for code, neighbours in facts.items():
        for other, other_name in names.items():
            assert (other_name in neighbours) == (names[code] in facts[other]), (code, other)


# --- the files of phrasings ---


def content(language: str = "de") -> dict:
    return copy.deepcopy(tomllib.loads((FOLDER / f"{language}.toml").read_text(encoding="utf-8")))


def test_there_is_one_file_for_each_language_and_no_other():
    assert sorted(path.stem for path in FOLDER.glob("*.toml")) == list(EU24)


BROKEN = [
    (lambda c: c.pop("sum"), r"de\.toml: \[sum\] is missing"),
    (lambda c: c["capital"].pop("statements"), r"\[capital\] statements: at least 3"),
    (lambda c: c["capital"].update(train=["{given}?"]), r"\[capital\] train: at least 3"),
    (lambda c: c["capital"].update(heldout=["Hauptstadt?"]), r"\[capital\] heldout: 'Hauptstadt\?' must hold"),
    (lambda c: c["capital"].update(heldout=["{given} {answer}?"]), r"\[capital\] heldout: .* must hold"),
    (lambda c: c["month"]["statements"].append("{given} ist."), r"\[month\] statements: .* must hold"),
    (lambda c: c["month"]["statements"].append("{given} {answer} {name}"), r"\[month\] statements: .* must hold"),
    (lambda c: c["month"]["train"].append("{given} {?"), r"no other braces"),
    (lambda c: c["date"]["heldout"].append(c["date"]["train"][0]), r"\[date\] heldout: .* is also in train"),
    (lambda c: c["date"]["train"].append(c["date"]["train"][0]), r"\[date\] train: a wording occurs twice"),
    (lambda c: c["date"].update(questions=[]), r"\[date\] questions: unknown key"),
    (lambda c: c["date"].update(skip="why"), r"\[date\]: skip must be"),
    (lambda c: c.update(weather={}), r"\[weather\] is no task"),
    (lambda c: c["titles"].pop("week"), r"\[titles\] must hold week"),
    (lambda c: c["number"]["train"].append("Wa\u0308hle {given}"), "normal form C"),
    (lambda c: c["number"]["train"].append(7), r"\[number\] train: every entry must be a non-empty string"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_a_damaged_file_is_refused_with_file_and_key(damage, message):
    table = content()
    damage(table)
    with pytest.raises(InputError, match=message) as caught:
        parse(table, "de.toml")
    assert "de.toml" in str(caught.value)


def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "xx.toml").write_text("[capital\n")
    monkeypatch.setattr(phrasings_module, "FOLDER", tmp_path)
    with pytest.raises(InputError, match=r"xx\.toml is not valid TOML"):
        load.__wrapped__("xx")


@pytest.mark.parametrize("make", [atlas.documents, atlas.conversations])
def test_a_language_atlas_lacks_is_an_error_that_lists_the_known_ones(make):
    with pytest.raises(InputError, match=r"no language 'nb'; known are bg, cs, "):
        list(make(["nb"], 0))


def test_an_answer_with_a_full_stop_swallows_the_sentence_s_own():
    assert render("{given} = {answer}.", "x", "2026.") == "x = 2026."
    assert render("{given} = {answer}.", "x", "2026") == "x = 2026."


# --- provenance ---


def test_sources_name_version_licence_and_purpose():
    for source in atlas.sources():
        assert sorted(source) == ["licence", "name", "purpose", "version"]
        assert all(source.values())
    assert {s["licence"] for s in atlas.sources()} >= {"Unicode-3.0", "Apache-2.0", "LGPL-2.1-or-later"}


def test_sources_change_with_the_tables(tmp_path, monkeypatch):
    from hanse.data.atlas import generate

    before = atlas.sources()
    (tmp_path / "de.toml").write_text("")
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    assert atlas.sources() != before
