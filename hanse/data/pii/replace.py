"""What stands in the place of personal data: a placeholder, or a pseudonym that is the same for the same value."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from hanse.data.pii.finding import CONSONANTS, Finding
from hanse.errors import InputError

How = Literal["mask", "pseudonym"]
KEY_BYTES = 16  # the shortest key that is taken; 32 bytes from the operating system are the usual choice

_SPELT_AT = re.compile(r"\s*[\[({]\s*at\s*[\])}]\s*", re.IGNORECASE)
_SPELT_DOT = re.compile(r"[\[({]\s*\w+\s*[\])}]")


def replace(
    text: str, findings: Sequence[Finding], how: How = "mask", key: bytes | None = None, *, language: str | None = None
) -> str:
    """The text with every finding replaced.

    A mask is the kind in angle brackets, `<email>`. A pseudonym is an HMAC-SHA-256 of the normalised value under the
    key, in a form that can belong to nobody:

        email         email-<letters>@example.invalid    the top-level domain is reserved (RFC 2606, section 2)
        ipv4          240.0.0.0 to 255.255.255.254       class E, reserved (RFC 1112, section 4)
        ipv6          2001:db8::/32                      for documentation (RFC 3849)
        iban          XX00 and letters                   XX is a user-assigned code that ISO 3166-1 gives no country;
                                                         check digits run from 02 to 98 (ISO 13616-1)
        phone         +999 and twelve digits             the ITU has assigned country code 999 to nobody (E.164)
        card          0000 and twelve digits             00 is not for card issuers (ISO/IEC 7812-1); Luhn fails
        others        the kind and letters               no such number has that many letters

    Args:
        text: the text that the findings belong to.
        findings: from `Detector.find`: sorted, none overlapping.
        how: "mask" or "pseudonym".
        key: for pseudonyms, at least KEY_BYTES long and never stored with the data; see `dataset_key`.
        language: of the text, so that 030 1234567 and +49 30 1234567 get one pseudonym in German.

    Raises:
        InputError: pseudonyms without a key, or with one that is too short; a way of replacing that is none.
        ValueError: findings that overlap, are not sorted, or lie outside the text.
    """
    if how not in ("mask", "pseudonym"):
        raise InputError(f"how = '{how}': personal data is replaced by 'mask' or 'pseudonym'.")
    if how == "pseudonym":
        _check_key(key)
    return "".join(_pieces(text, findings, key if how == "pseudonym" else None, language))


def masked(text: str, findings: Sequence[Finding], width: int) -> str:
    """The beginning of a text on one line, findings masked, at most `width` characters; "…" where more follows.

    Raises:
        ValueError: as `replace`, or a width below 1.
    """
    if width < 1:
        raise ValueError(f"a width of {width} leaves no character")
    enough = 8 * width  # characters of the text before white space is reduced
    head = ""
    # Masked before it is cut, so that no cut leaves half an item standing.
    for piece in _pieces(text, findings, None, None):
        head += piece[: enough + 1]
        if len(head) > enough:
            break
    whole = len(head) <= enough
    line = " ".join(head.split())
    return line if whole and len(line) <= width else line[: width - 1] + "…"


def dataset_key(secret: bytes, dataset: str) -> bytes:
    """A key for one dataset, so that one secret gives a person different pseudonyms in different datasets.

    Raises:
        InputError: a secret under KEY_BYTES.
    """
    _check_key(secret)
    return hmac.digest(secret, b"hanse pii\0" + dataset.encode(), hashlib.sha256)


def normalised(kind: str, value: str, language: str | None = None) -> str:
    """The value as compared with others: case, blanks and formatting that do not tell two items apart are gone."""
    if kind == "email":
        local, _, domain = _SPELT_AT.sub("@", value).rpartition("@")
        labels = re.findall(r"[\w-]+", _SPELT_DOT.sub(".", domain))
        return f"{local}@{'.'.join(labels)}".casefold()
    if kind in ("ipv4", "ipv6"):
        return ipaddress.ip_address(value).compressed
    if kind == "phone":
        return _phone(value, language)
    if kind == "url-token":
        return value
    return "".join(filter(str.isalnum, value)).upper()


def _check_key(key: bytes | None) -> None:
    if key is None or len(key) < KEY_BYTES:
        held = f"the key has {len(key)} bytes" if key else "there is no key"
        raise InputError(f"pseudonyms: {held}; give a secret of at least {KEY_BYTES} bytes, or mask instead.")


def _phone(value: str, language: str | None) -> str:
    from hanse.data.pii.phone import e164
    from hanse.data.pii.rules import countries

    return e164(value, countries(language)) or "".join(filter(str.isdigit, value))


def _pieces(text: str, findings: Sequence[Finding], key: bytes | None, language: str | None) -> Iterator[str]:
    """The text between findings and what stands for them, in turn."""
    at = 0
    for finding in findings:
        if not at <= finding.start < finding.end <= len(text):
            raise ValueError(f"{finding} overlaps another finding, or lies outside a text of {len(text)} characters")
        yield text[at : finding.start]
        yield _substitute(finding.kind, text[finding.start : finding.end], key, language)
        at = finding.end
    yield text[at:]


def _substitute(kind: str, value: str, key: bytes | None, language: str | None) -> str:
    if key is None:
        return f"<{kind}>"
    drawn = int.from_bytes(hmac.digest(key, f"{kind}\0{normalised(kind, value, language)}".encode(), hashlib.sha256))
    if kind == "email":
        return f"email-{_letters(drawn)}@example.invalid"
    if kind == "ipv4":
        return str(ipaddress.IPv4Address((0xF << 28) + drawn % (2**28 - 1)))
    if kind == "ipv6":
        return str(ipaddress.IPv6Address((0x20010DB8 << 96) + drawn % 2**96))
    if kind == "iban":
        return f"XX00{_letters(drawn).upper()}"
    if kind == "phone":
        return f"+999{drawn % 10**12:012}"
    if kind == "card":
        return _card(drawn)
    return f"{kind}-{_letters(drawn)}"


def _letters(drawn: int) -> str:
    """Sixteen consonants: 69 bits."""
    letters = []
    for _ in range(16):
        drawn, rest = divmod(drawn, len(CONSONANTS))
        letters.append(CONSONANTS[rest])
    return "".join(letters)


def _card(drawn: int) -> str:
    from stdnum import luhn

    body = f"0000{drawn % 10**11:011}"
    return body + str((int(luhn.calc_check_digit(body)) + 1 + drawn // 10**11 % 9) % 10)
