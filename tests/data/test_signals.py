"""Signals: what sites and records say about training, read from files, headers and elements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protego import Protego

from hanse.data.rights import usage
from hanse.data.rights.evidence import RAW_CHARACTERS, Evidence
from hanse.data.rights.paths import Pattern, decoded, site, target
from hanse.data.rights.robots import MAX_BYTES, Robots, agents_of
from hanse.data.rights.signals import (
    MAX_STATEMENTS,
    SIGNALS,
    SiteFiles,
    by_kind,
    from_declared,
    from_headers,
    from_links,
    from_meta,
)
from hanse.data.rights.tables import agents

PAGE = "https://example.org/articles/one.html"
SEEN = "2026-11-20"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "rights.md"


def robots(text: str | bytes, url: str = PAGE) -> list[Evidence]:
    """What a robots.txt says about a page."""
    content = text.encode() if isinstance(text, str) else text
    return Robots(content, place="https://example.org/robots.txt", seen=SEEN).evidence(url)


def site_says(name: str, content: bytes | str, url: str = PAGE) -> list[tuple[str, str]]:
    """Kind and answer of the evidence that one site file gives."""
    content = content.encode() if isinstance(content, str) else content
    return [(e.kind, e.says) for e in SiteFiles("example.org", {name: content}, seen=SEEN).evidence(url)]


def said(found: list[Evidence], kind: str = "robots.txt") -> set[str]:
    """The answers of one kind of evidence."""
    return {evidence.says for evidence in found if evidence.kind == kind}


# robots.txt


def test_a_disallowed_agent_is_a_reservation_with_its_rule_and_the_hash_of_the_file() -> None:
    found = robots("User-agent: GPTBot\nDisallow: /articles/ # keep out\nDisallow: /\n")
    reserved = [evidence for evidence in found if evidence.says == "reserved"]
    assert [evidence.raw for evidence in reserved] == ["User-agent: GPTBot\nDisallow: /articles/"]
    assert len(reserved[0].file_digest) == 64
    assert reserved[0].seen == SEEN
    assert said(found) == {"reserved", "allowed"}  # everybody else may


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_a_byte_order_mark_hides_no_rule(mark: bytes) -> None:
    assert said(robots(mark + b"User-agent: *\nDisallow: /")) == {"reserved"}


def test_a_file_in_utf16_is_read() -> None:
    assert said(robots("User-agent: *\nDisallow: /".encode("utf-16"))) == {"reserved"}


def test_stacked_agents_and_scattered_groups_share_rules() -> None:
    found = robots("User-agent: GPTBot\nUser-agent: CCBot\nDisallow: /\n\nUser-agent: gptbot\nAllow: /articles/\n")
    by_answer = {evidence.says: agents_of(evidence.raw) for evidence in found if "*" not in agents_of(evidence.raw)}
    assert by_answer == {"allowed": ("GPTBot",), "reserved": ("CCBot",)}


@pytest.mark.parametrize("line", ["GPTBot/1.0", "Mozilla/5.0 (compatible; GPTBot/1.1)", "gptbot", "GPTBOT*"])
def test_an_agent_is_known_in_any_dress(line: str) -> None:
    assert "reserved" in said(robots(f"User-agent: {line}\nDisallow: /"))


@pytest.mark.parametrize("line", ["NotGPTBot", "GPTBotanist", "GPTBot-Image"])
def test_an_agent_with_a_similar_name_is_another(line: str) -> None:
    assert said(robots(f"User-agent: {line}\nDisallow: /")) == {"allowed"}


def test_an_empty_file_allows_and_a_page_of_html_is_unclear() -> None:
    assert said(robots("")) == said(robots("# nothing\n")) == {"allowed"}
    found = robots("<!DOCTYPE html><html><body>404</body></html>")
    assert [(evidence.says, evidence.parser) for evidence in found] == [("unclear", "robots/1; not-robots")]
    assert said(robots(b"\0" * 100_000)) == {"unclear"}


def test_five_megabytes_are_cut_and_never_allow() -> None:
    padding = b"# nothing to see here\n" * 240_000
    reserved = robots(b"User-agent: *\nDisallow: /articles/\n" + padding)
    assert [(e.says, e.parser) for e in reserved] == [("reserved", "robots/1; truncated")]
    beyond = robots(b"User-agent: *\nAllow: /\n" + padding + b"Disallow: /articles/\n")
    assert [(e.says, e.parser) for e in beyond] == [("unclear", "robots/1; truncated")]


def test_a_rule_cut_in_the_middle_does_not_count() -> None:
    head = b"User-agent: *\n"
    cut = b"Disallow: /articles/"
    padding = b"#" * (MAX_BYTES - len(head) - 1 - len(cut) + 8) + b"\n"
    assert said(robots(head + padding + cut + b"private\n")) == {"unclear"}


def test_rules_without_end_are_unclear_not_fatal() -> None:
    names = [name for name in agents() if name != "*"]
    stacked = "".join(f"user-agent: {name}\n" for name in names) + "allow: /a\n" * 30_000
    own = "".join(f"user-agent: {name}\nallow: /{name}\n" for name in names)
    found = robots(stacked + own)
    assert [(e.says, e.parser) for e in found] == [("unclear", "robots/1; too-many-rules")]
    many = robots("User-agent: *\n" + "Content-Usage: /b train-ai=n\n" * 5_000)
    assert [e.parser for e in many if e.says == "unclear"] == ["robots/1; too-many-rules"]


def test_preferences_of_the_draft_example() -> None:
    text = (
        "User-Agent: *\nAllow: /\nDisallow: /never/\nContent-Usage: / train-ai=n\nContent-Usage: /ai-ok/ train-ai=y\n\n"
        "User-Agent: GPTBot\nAllow: /\nContent-Usage: / train-ai=y\n"
    )

    def answers(path: str) -> dict[tuple[str, ...], str]:
        found = robots(text, f"https://example.org{path}")
        return {agents_of(e.raw): e.says for e in found if e.kind == "robots-content-usage"}

    assert answers("/test") == {("*",): "reserved", ("GPTBot",): "allowed"}
    assert answers("/ai-ok/test") == {("*",): "allowed", ("GPTBot",): "allowed"}
    assert answers("/never/test") == {("*",): "reserved", ("GPTBot",): "allowed"}  # and no permission where none may go


def test_equal_paths_that_contradict_are_both_kept() -> None:
    found = robots("User-agent: *\nContent-Usage: / train-ai=n\nContent-Usage: / train-ai=y\n")
    assert said(found, "robots-content-usage") == {"reserved", "allowed"}


def test_content_signals_count_with_and_without_a_group() -> None:
    for text in ("User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /\n", "Content-signal: ai-train=no\n"):
        assert said(robots(text), "robots-content-signal") == {"reserved"}
    assert said(robots("User-agent: *\nContent-Signal: search=no\n"), "robots-content-signal") == set()


def test_a_licence_line_is_unclear_until_its_file_is_read() -> None:
    text = b"License: https://example.org/rsl.xml\nUser-agent: *\nAllow: /\n"
    alone = SiteFiles("example.org", {"robots.txt": text}, seen=SEEN).evidence(PAGE)
    assert said(alone, "rsl-robots") == {"unclear"}
    both = SiteFiles("example.org", {"robots.txt": text, "rsl.xml": rsl("ai-train")}, seen=SEEN).evidence(PAGE)
    assert said(both, "rsl-robots") == set()
    assert said(both, "rsl-file") == {"allowed"}


ROBOTS_LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "User-agent: *",
                "User-agent: GPTBot",
                "User-agent: CCBot",
                "",
                "Sitemap: https://a/b",
                "junk",
                "Disallow /a",
                "Dissallow: /",
                "x: y",
                "Host: h",
                "Crawl-delay: 1",
            ]
        ),
        st.tuples(st.sampled_from(["Allow", "Disallow"]), st.text("/ab*", max_size=6)).map(": /".join),
    ),
    max_size=12,
).map("\n".join)


@given(ROBOTS_LINES, st.text("/ab", max_size=6))
def test_verdicts_equal_those_of_protego_for_the_whole_file(text: str, path: str) -> None:
    url = f"https://example.org/{path}"
    reference = Protego.parse(text)
    verdicts = {agent: e.says for e in robots(text, url) if e.kind == "robots.txt" for agent in agents_of(e.raw)}
    if not verdicts:
        assert said(robots(text, url)) == {"unclear"}  # nothing in it is a rule
        return
    for agent in ("GPTBot", "CCBot", "*"):
        expected = "allowed" if reference.can_fetch(url, agent) else "reserved"
        assert verdicts.get(agent, verdicts["*"]) == expected


@given(st.text("/ab*", max_size=8), st.booleans(), st.text("/ab", max_size=8))
def test_patterns_match_as_protego_matches_them(middle: str, is_anchored: bool, path: str) -> None:
    pattern = f"/{middle}{'$' if is_anchored else ''}"
    reference = Protego.parse(f"User-agent: *\nDisallow: {pattern}")
    address = f"https://example.org/{path}"
    assert Pattern(pattern).covers(decoded(target(address) or "")) is not reference.can_fetch(address, "x")


@given(
    st.binary(max_size=300), st.sampled_from(["robots.txt", "tdmrep.json", "ai.txt", "rsl.xml"]), st.text(max_size=20)
)
def test_no_site_file_raises_and_all_evidence_can_be_stored(content: bytes, name: str, path: str) -> None:
    found = SiteFiles("example.org", {name: content}, seen=SEEN).evidence(f"https://example.org/{path}")
    for evidence in found:
        assert evidence.kind in by_kind()
        assert evidence.parser.partition(";")[0] == by_kind()[evidence.kind].parser
        assert len(evidence.raw) <= RAW_CHARACTERS
        assert "\0" not in evidence.raw
        evidence.raw.encode()
        assert len(evidence.id) == 32


def test_every_agent_of_the_table_fits_into_one_piece_of_evidence() -> None:
    names = [name for name in agents() if name != "*"]
    found = robots("".join(f"User-agent: {name}\n" for name in names) + "Disallow: /\n")
    assert {agent for e in found if e.says == "reserved" for agent in agents_of(e.raw)} == set(names)
    assert len({name.lower() for name in names}) == len(names)


# TDMRep, ai.txt, RSL


@pytest.mark.parametrize(
    ("rules", "answers"),
    [
        ([{"location": "/", "tdm-reservation": 1}], ["reserved"]),
        ([{"location": "/articles/*.html$", "tdm-reservation": 0}], ["allowed"]),
        ([{"location": "https://example.org/articles/", "tdm-reservation": 1}], ["reserved"]),
        ([{"location": "/other/", "tdm-reservation": 1}], []),
        (
            [{"location": "/", "tdm-reservation": 0}, {"location": "/articles/", "tdm-reservation": 1}],
            ["allowed", "reserved"],
        ),
        ([{"location": "/", "tdm-reservation": 2}], ["unclear"]),
        ([{"location": "/", "tdm-reservation": True}], ["unclear"]),
        ([{"location": "/", "tdm-reservation": "1"}], ["reserved"]),
        ([{"location": "/", "tdm-policy": "https://example.org/policy.json"}], ["unclear"]),
        ([{"tdm-reservation": 1}], ["unclear"]),
        ({"location": "/", "tdm-reservation": 1}, ["unclear"]),
        ([1, 2], ["unclear"]),
    ],
)  # fmt: skip
def test_tdmrep_files(rules: object, answers: list[str]) -> None:
    assert [says for _, says in site_says("tdmrep.json", json.dumps(rules))] == answers


@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" + b" " * MAX_BYTES + b"]", b'{"a": NaN'],
)  # fmt: skip
def test_a_broken_tdmrep_file_is_unclear(content: bytes) -> None:
    assert site_says("tdmrep.json", content) == [("tdmrep-file", "unclear")]


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("User-Agent: *\nDisallow: *.txt\nDisallow: *.jpg\n", ["reserved"]),
        ("User-Agent: *\nDisallow: *.jpg\nAllow: *.txt\n", ["allowed"]),
        ("User-Agent: *\nAllow: *.txt\nDisallow: /\n", ["reserved"]),
        ("User-Agent: *\nDisallow: *.jpg\n", []),
        ("# ai.txt\nTraining: deny\n", ["unclear"]),
        ("", []),
    ],
)
def test_ai_txt_files(text: str, answers: list[str]) -> None:
    assert [says for _, says in site_says("ai.txt", text)] == answers


def rsl(permits: str = "", prohibits: str = "", payment: str = "", attributes: str = "") -> bytes:
    """An RSL licence for a whole site."""
    parts = [f'<permits type="usage">{permits}</permits>'] if permits else []
    parts += [f'<prohibits type="usage">{prohibits}</prohibits>'] if prohibits else []
    parts += [f'<payment type="{payment}"/>'] if payment else []
    licence = f"<license>{''.join(parts)}</license>"
    return f'<rsl xmlns="https://rslstandard.org/rsl"><content url="/"{attributes}>{licence}</content></rsl>'.encode()


@pytest.mark.parametrize(
    ("content", "answers"),
    [
        (rsl(prohibits="ai-train"), ["reserved"]),
        (rsl(prohibits="all"), ["reserved"]),
        (rsl(permits="search"), ["reserved"]),
        (rsl(permits="ai-train, search"), ["allowed"]),
        (rsl(permits="all", payment="free"), ["allowed"]),
        (rsl(permits="all", prohibits="ai-train"), ["reserved"]),
        (rsl(permits="ai-train", payment="subscription"), ["reserved"]),
        (rsl(permits="ai-train", payment="attribution"), ["unclear"]),
        (rsl(permits="ai-train", attributes=' server="https://olp.example.org"'), ["unclear"]),
        (rsl(prohibits="search"), ["unclear"]),
        (rsl(prohibits="all").replace(b'url="/"', b'url="/other/"'), []),
        (b"<rsl/>", ["unclear"]),
        (b"<rsl>", ["unclear"]),
        (b"", ["unclear"]),
        (b"<a>" * 10_000, ["unclear"]),
        (b'<!DOCTYPE r [<!ENTITY a "aaaa">]><rsl>&a;</rsl>', ["unclear"]),
    ],
)
def test_rsl_files(content: bytes, answers: list[str]) -> None:
    assert [says for _, says in site_says("rsl.xml", content)] == answers


def test_site_files_speak_of_their_own_site_only() -> None:
    assert site_says("robots.txt", "User-agent: *\nDisallow: /", "https://www.example.org/articles/") == []
    assert site_says("robots.txt", "User-agent: *\nDisallow: /", "https://example.org:8443/articles/") == []
    assert site_says("robots.txt", "User-agent: *\nDisallow: /", "HTTPS://Example.ORG:443/articles/") != []
    assert site("https://Bücher.example/") == "xn--bcher-kva.example"
    assert site("https://[not-an-address/") is None
    assert site_says("robots.txt", "User-agent: *\nDisallow: /", "https://example.org/\ud800") != []


# headers, elements, records


@pytest.mark.parametrize(
    ("name", "value", "kind", "says"),
    [
        ("TDM-Reservation", "1", "tdmrep-header", "reserved"),
        ("tdm-reservation", " 0 ", "tdmrep-header", "allowed"),
        ("tdm-reservation", "0, 1", "tdmrep-header", "unclear"),
        ("Content-Usage", "train-ai=n", "content-usage", "reserved"),
        ("Content-Usage", "search=n, train-ai=y", "content-usage", "allowed"),
        ("Content-Usage", 'train-ai="n"', "content-usage", "unclear"),
        ("Content-Signal", "ai-train=no", "content-signal", "reserved"),
        ("X-Robots-Tag", "noindex, noai", "robots-header", "reserved"),
        ("X-Robots-Tag", "gptbot: noai", "robots-header", "reserved"),
        ("X-Robots-Tag", "noimageai", "robots-header", "unclear"),
        ("Link", '</rsl.xml>; rel="license"; type="application/rsl+xml"', "rsl-link", "unclear"),
    ],
)
def test_headers(name: str, value: str, kind: str, says: str) -> None:
    found = from_headers([("Server", "x"), (name, value)], url=PAGE, seen=SEEN)
    assert [(e.kind, e.says, e.place, e.seen) for e in found] == [(kind, says, PAGE, SEEN)]


def test_headers_that_say_nothing_about_training_are_no_evidence() -> None:
    headers = [
        ("X-Robots-Tag", "noindex"),
        ("Content-Usage", "search=n"),
        ("Link", "</a>; rel=next"),
        ("TDM-Policy", "x"),
    ]
    assert from_headers(headers, url=PAGE, seen=SEEN) == []


def test_a_mining_policy_is_kept_with_its_reservation() -> None:
    headers = [("tdm-policy", "https://example.org/p.json"), ("tdm-reservation", "1")]
    (found,) = from_headers(headers, url=PAGE, seen=SEEN)
    assert found.raw == "tdm-reservation: 1\ntdm-policy: https://example.org/p.json"


@pytest.mark.parametrize(
    ("name", "content", "kind", "says"),
    [
        ("robots", "noai, noimageai", "robots-meta", "reserved"),
        ("ROBOTS", "NOAI", "robots-meta", "reserved"),
        ("GPTBot", "noai", "robots-meta", "reserved"),
        ("tdm-reservation", "1", "tdmrep-meta", "reserved"),
    ],
)
def test_elements(name: str, content: str, kind: str, says: str) -> None:
    found = from_meta([("description", "noai"), (name, content)], url=PAGE, seen=SEEN)
    assert [(e.kind, e.says) for e in found] == [(kind, says)]


def test_links_to_a_licence_count_when_they_name_rsl() -> None:
    links = [("license", "text/html", "/licence"), ("license", "application/rsl+xml", "/rsl.xml")]
    (found,) = from_links(links, url=PAGE, seen=SEEN)
    assert (found.kind, found.says) == ("rsl-link", "unclear")


def test_gigantic_headers_are_cut_and_never_allow() -> None:
    padding = ", x=y" * 2_000_000
    (found,) = from_headers([("Content-Usage", "train-ai=y" + padding)], url=PAGE, seen=SEEN)
    assert (found.says, found.parser) == ("unclear", "headers/1; truncated")
    assert len(found.raw) <= RAW_CHARACTERS
    (found,) = from_headers([("X-Robots-Tag", "noai" + padding)], url=PAGE, seen=SEEN)
    assert found.says == "reserved"
    many = from_headers([("tdm-reservation", f"0 {n}") for n in range(100_000)], url=PAGE, seen=SEEN)
    assert len(many) == MAX_STATEMENTS + 1
    assert many[-1].parser.endswith("too-many")


@given(
    st.lists(
        st.tuples(st.sampled_from(["link", "content-usage", "content-signal", "x-robots-tag"]), st.text()), max_size=4
    )
)
def test_no_header_hides_a_reservation_beside_it_and_all_that_is_found_can_be_stored(
    headers: list[tuple[str, str]],
) -> None:
    found = from_headers([*headers, ("TDM-Reservation", "1")], url=PAGE, seen=SEEN)
    assert ("tdmrep-header", "reserved") in [(evidence.kind, evidence.says) for evidence in found]
    for evidence in found:
        assert evidence.place == PAGE and by_kind()[evidence.kind].place in ("header", "link")
        assert "\0" not in evidence.raw and len(evidence.raw.encode()) <= 4 * RAW_CHARACTERS


def test_half_characters_and_nul_can_be_stored() -> None:
    (found,) = from_meta([("robots", "noai\0\ud800")], url=PAGE + "\udfff", seen=SEEN)
    assert "\0" not in found.raw
    found.raw.encode()
    found.place.encode()


def test_records_say_none_reserved_or_nothing() -> None:
    assert [e.says for e in from_declared("none", seen=SEEN)] == ["allowed"]
    assert [e.says for e in from_declared("reserved", seen="")] == ["reserved"]
    assert [e.says for e in from_declared("ask us", seen="")] == ["unclear"]
    assert from_declared("unknown", seen=SEEN) == []


# vocabularies


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("train-ai=n", "reserved"),
        ("train-ai=y, search=n", "allowed"),
        ("train-ai=y, train-ai=n", "reserved"),
        ("train-ai;allow=n, train-ai=y", "allowed"),
        ("train-ai=n;exceptions=cc-cr", "reserved"),
        ('train-ai=y, train-ai, search=n, search="n"', "unclear"),
        ("train-ai=?0", "unclear"),
        ("train-ai=N", "unclear"),
        ("Train-AI=n", "unclear"),
        ("train-ai=n,", "unclear"),
        ("train-ai n", "unclear"),
        ("search=n", None),
        ("", None),
        ("train-genai=n, train-ai=y", "reserved"),
        ("bots=y, train-ai=n", "reserved"),
        ("bots=n", "reserved"),
        ('a="b\\"c", train-ai=n', "reserved"),
        ("a=(x y), train-ai=n", "reserved"),
    ],
)
def test_only_the_tokens_y_and_n_are_preferences(value: str, says: str | None) -> None:
    assert usage.content_usage(value) == says


@pytest.mark.parametrize("value", ["a" * 8192, "a=" * 4096, "a;" * 4096, '"' * 8192, "a=(" * 2000, "a;b;" * 2000 + "!"])
def test_hostile_statements_are_unclear_or_nothing(value: str) -> None:
    assert usage.content_usage(value) in ("unclear", None)


KEYS = st.from_regex(r"[a-z*][a-z0-9_.*-]{0,8}", fullmatch=True)


@given(st.dictionaries(KEYS, st.sampled_from(["y", "n", '"n"', "?1", "12", "(a b)"]), max_size=6))
def test_dictionaries_are_read_back_as_written(members: dict[str, str]) -> None:
    assert usage.dictionary(", ".join(f"{key}={value}" for key, value in members.items())) == members


# the table and its page


def test_the_page_shows_the_table_of_the_code() -> None:
    rows = [f"| `{s.kind}` | {s.place} | `{s.name}` | {s.parser} | {s.specification} |" for s in SIGNALS]
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    start = lines.index("| kind | carried by | name | parser | defined in |") + 2
    assert lines[start : start + len(rows)] == rows
    assert len({s.kind for s in SIGNALS}) == len(SIGNALS)
