"""E-mail addresses, IP addresses, and secrets within URLs.

Each finder starts from a sign that text rarely holds ("@", "://", ":hex:", ".1.1") and looks closely only there.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Iterator

from hanse.data.pii.finding import PSEUDONYM, SYNTAX, URL, Candidate, Finding
from hanse.data.pii.rules import Rules
from hanse.data.pii.signs import COLONS, DOTTED

# RFC 5321, 4.5.3.1: a local part has at most 64 octets. Labels and their number are bounded, so is the work.
_DOMAIN = re.compile(r"@((?:[\w-]{1,63}\.){1,8}(?:xn--[a-z0-9-]{2,59}|[^\W\d_]{2,24}))(?!\w)")
_LOCAL = re.compile(r"[\w.+%'&~!#$^*-]{1,64}\Z")
_LOCAL_CHARACTERS = 64
_SPELT_AT = re.compile(
    r"[\[({][ ]?at[ ]?[\])}][ \u00a0]?"
    r"((?:[\w-]{1,63}"
    r"(?:\.|[ ]?[\[({][ ]?(?:dot|punkt|point|punto|ponto|punt|piste|pont|kropka|tečka|точка)[ ]?[\])}][ ]?)"
    r"){1,5}[^\W\d_]{2,24})(?!\w)",
    re.IGNORECASE,
)
# icon@2x.png is a picture. None of these is a top-level domain.
_FILE_ENDINGS = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "html", "htm", "php", "json", "xml", "txt", "pdf")
)
_RESERVED_TOP = frozenset(("test", "example", "invalid", "localhost"))  # RFC 2606, section 2; RFC 6761
_RESERVED_DOMAIN = re.compile(r"(?:.*\.)?example\.(?:com|net|org)")  # RFC 2606, section 3
_URL_USER = re.compile(r"://[^\s/]*\Z")
_NOBODY = frozenset(("git", "hg", "svn", "anonymous", "ftp"))

_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w])(?!\.[0-9])(?!-[0-9])")
_LABEL_CHARACTERS = 24  # how far before an address a word may say what it is
_IPV6 = re.compile(r"[0-9A-Fa-f:.]{3,64}")
_HEXADECIMAL_TAIL = re.compile(r"[0-9A-Fa-f:.]{1,40}\Z")

_URL_REST = re.compile(r"[^\s<>\"'`\\{}|^]{1,4096}")
_PARAMETER = re.compile(r"[?&;#]([\w.%\[\]-]{1,64})=([^&;#?]{1,2048})")
_SECRET_KEYS = frozenset((
    "access_key", "access_token", "api_key", "apikey", "api_token", "auth", "auth_key", "auth_token", "authtoken",
    "authorization", "bearer", "client_secret", "confirmation_token", "csrf", "csrf_token", "csrftoken", "hmac",
    "id_token", "invite_token", "jsessionid", "jwt", "login_token", "magic", "nonce_token", "oauth_token", "otp",
    "pass", "passwd", "password", "phpsessid", "private_key", "pwd", "refresh_token", "reset_token", "secret",
    "secret_key", "session", "session_id", "session_key", "session_token", "sessionid", "sid", "sig", "signature",
    "ticket", "token", "user_token", "x_amz_credential", "x_amz_security_token", "x_amz_signature",
))  # fmt: skip
_SHORTEST_SECRET = 6
_PLACEHOLDER = re.compile(
    r"(?i)^your|your[_-]|example|^x{3}|x{6}|\*{3}|\.{3}|…|%7b|%3c|^\$|changeme|insert|^\[|^(?:secret|password|token|api_?key|test|demo)$"
)
_LONG_SECRET = 24  # a value this long with letters of both cases and digits, and this much entropy, is drawn by lot
_RANDOM_VALUE = re.compile(r"(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=[^0-9]*[0-9])[A-Za-z0-9_.~+/=-]{24,}")
_BITS_A_CHARACTER = 3.8


def emails(text: str) -> Iterator[Candidate]:
    """Addresses with "@" and those that spell it out, "name (at) domain (dot) eu"; not those of RFC 2606 and 6761."""
    for match in _DOMAIN.finditer(text):
        yield from _email(text, match.start(), match.end(), match.group(1))
    for match in _SPELT_AT.finditer(text):
        blank = text[max(0, match.start() - 1)] in " \u00a0"
        yield from _email(text, match.start() - blank, match.end(), match.group(1))


def _email(text: str, at: int, end: int, domain: str) -> Iterator[Candidate]:
    local = _LOCAL.search(text[max(0, at - _LOCAL_CHARACTERS) : at])
    name = local.group().lstrip(".'-&%~!#$^*+") if local else ""
    if not name or name in _NOBODY or not any(map(str.isalnum, name)):
        return
    domain = domain.lower()
    top = domain.rpartition(".")[2]
    if top in _FILE_ENDINGS or top in _RESERVED_TOP or _RESERVED_DOMAIN.fullmatch(domain) or PSEUDONYM.fullmatch(name):
        return
    start = at - len(name)
    if text[start - 1 : start] in ("/", ":") and _URL_USER.search(text[max(0, start - _LOCAL_CHARACTERS) : start]):
        return  # the user part of a URL, which `url_tokens` judges
    yield Candidate(SYNTAX, Finding("email", start, end, False))


def ipv4(text: str, rules: Rules) -> Iterator[Candidate]:
    """Public addresses. Four numbers below 100 may be a version or a section, and need a word such as "IP" or "server".

    Private, loopback, documentation, multicast and reserved ones (IANA's special-purpose registry) name nobody.
    """
    for dots in DOTTED.finditer(text):
        start = dots.start()
        while start and dots.start() - start < 3 and text[start - 1] in "0123456789":
            start -= 1
        match = _IPV4.match(text, start)
        if match is None or (start and (text[start - 1].isalnum() or text[start - 1] in "._-,+")):
            continue
        octets = match.group().split(".")
        if any(int(octet) > 255 or (octet[0] == "0" and len(octet) > 1) for octet in octets):
            continue
        if not _is_public(match.group()):
            continue
        before = max(0, start - _LABEL_CHARACTERS)
        named = text[max(0, start - 3) : start] == "://" or rules.address.stand_in(text, before, start)
        if not named and (max(map(int, octets)) < 100 or _is_version(text, before, start, match.end(), rules)):
            continue
        yield Candidate(SYNTAX, Finding("ipv4", start, match.end(), False))


def _is_version(text: str, before: int, start: int, end: int, rules: Rules) -> bool:
    """Whether "version", "section" or the like stands before, or right after as in Hungarian."""
    return rules.version.stand_in(text, before, start) or rules.version.stand_in(
        text, end, end + _LABEL_CHARACTERS // 2
    )


def ipv6(text: str) -> Iterator[Candidate]:
    """Global unicast addresses, 2000::/3, without those for documentation. `std::vector` and 12:30:45 are none."""
    done = 0
    for colons in COLONS.finditer(text):
        if colons.start() < done:
            continue
        tail = _HEXADECIMAL_TAIL.search(text[max(0, colons.start() - 40) : colons.start()])
        start = colons.start() - (len(tail.group()) if tail else 0)
        match = _IPV6.match(text, start)
        assert match is not None  # it begins with what was found
        done = match.end()
        address = match.group().rstrip(".:") + ("::" if match.group().endswith("::") else "")
        end = start + len(address)
        if text[start] not in "23" or (start and (text[start - 1].isalnum() or text[start - 1] in "_-")):
            continue
        if text[end : end + 1].isalnum() or not _is_public(address):
            continue
        yield Candidate(SYNTAX, Finding("ipv6", start, end, False))


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 6 and (parsed.packed[0] >> 5 != 1 or parsed.packed[:2] == b"\x3f\xff"):
        # Outside 2000::/3, or within 3fff::/20 (RFC 9637), which Python 3.11 does not know yet
        return False
    return parsed.is_global and not parsed.is_multicast


def url_tokens(text: str) -> Iterator[Candidate]:
    """The secret part of a URL: its user part, values of keys such as `token`, and long random values."""
    scheme = text.find("://")
    while scheme >= 0:
        match = _URL_REST.match(text, scheme + 3)
        if match is None:
            scheme = text.find("://", scheme + 3)
            continue
        yield from _secrets(match.group(), match.start())
        scheme = text.find("://", match.end())


def _secrets(rest: str, offset: int) -> Iterator[Candidate]:
    place = offset
    for part in rest.split("://"):  # a URL may carry another in its query
        if user := _user(part):
            yield Candidate(URL, Finding("url-token", place, place + len(user), False))
        place += len(part) + len("://")
    if "=" not in rest:
        return
    for match in _PARAMETER.finditer(rest):
        value = match.group(2).rstrip(".,;:!?)]")
        if _is_secret(match.group(1), value) and not PSEUDONYM.fullmatch(value):
            start = offset + match.start(2)
            yield Candidate(URL, Finding("url-token", start, start + len(value), False))


def _user(part: str) -> str:
    """The user part that begins a URL without its scheme, "" where there is none or it names nobody."""
    if "@" not in part:
        return ""
    user = re.split("[/?#]", part, maxsplit=1)[0].rpartition("@")[0]
    name, _, password = user.partition(":")
    is_documented = name.lower() in ("user", "username") and password.lower() in ("", "pass", "password", "pw", "pwd")
    is_nobody = is_documented or (name in _NOBODY and not password) or PSEUDONYM.fullmatch(user)
    return "" if is_nobody else user


def _is_secret(key: str, value: str) -> bool:
    if len(value) < _SHORTEST_SECRET or _PLACEHOLDER.search(value):
        return False
    if key.lower().replace("-", "_").replace(".", "_") in _SECRET_KEYS:
        return True
    return len(value) >= _LONG_SECRET and bool(_RANDOM_VALUE.fullmatch(value)) and _entropy(value) > _BITS_A_CHARACTER


def _entropy(value: str) -> float:
    """Bits a character, from the value's own letter frequencies."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
