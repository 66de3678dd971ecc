"""The languages Hanse serves: the 24 official ones of the European Union, and four close neighbours.

The neighbours are there because language identification must be able to say "this is Serbian" about a text that
resembles Croatian; without them it has no way to reject.

Names and autonyms follow Unicode CLDR 47; decimal and group signs follow its "standard" decimal pattern. Standard
library only: the command line imports this module on every start.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_BREAK_SPACE = "\u00a0"


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        code: ISO 639-1 code.
        name: English name.
        autonym: the language's name in itself, in sentence-internal case.
        script: ISO 15924 code, "Latn", "Grek" or "Cyrl".
        decimal: the sign between units and tenths.
        group: the sign between thousands.
    """

    code: str
    name: str
    autonym: str
    script: str
    decimal: str = ","
    group: str = "."


_ALL = (
    Language("bg", "Bulgarian", "български", "Cyrl", group=NO_BREAK_SPACE),
    Language("cs", "Czech", "čeština", "Latn", group=NO_BREAK_SPACE),
    Language("da", "Danish", "dansk", "Latn"),
    Language("de", "German", "Deutsch", "Latn"),
    Language("el", "Greek", "Ελληνικά", "Grek"),
    Language("en", "English", "English", "Latn", decimal=".", group=","),
    Language("es", "Spanish", "español", "Latn"),
    Language("et", "Estonian", "eesti", "Latn", group=NO_BREAK_SPACE),
    Language("fi", "Finnish", "suomi", "Latn", group=NO_BREAK_SPACE),
    Language("fr", "French", "français", "Latn", group="\u202f"),
    Language("ga", "Irish", "Gaeilge", "Latn", decimal=".", group=","),
    Language("hr", "Croatian", "hrvatski", "Latn"),
    Language("hu", "Hungarian", "magyar", "Latn", group=NO_BREAK_SPACE),
    Language("it", "Italian", "italiano", "Latn"),
    Language("lt", "Lithuanian", "lietuvių", "Latn", group=NO_BREAK_SPACE),
    Language("lv", "Latvian", "latviešu", "Latn", group=NO_BREAK_SPACE),
    Language("mt", "Maltese", "Malti", "Latn", decimal=".", group=","),
    Language("nb", "Norwegian Bokmål", "norsk bokmål", "Latn", group=NO_BREAK_SPACE),
    Language("nl", "Dutch", "Nederlands", "Latn"),
    Language("nn", "Norwegian Nynorsk", "norsk nynorsk", "Latn", group=NO_BREAK_SPACE),
    Language("pl", "Polish", "polski", "Latn", group=NO_BREAK_SPACE),
    Language("pt", "Portuguese", "português", "Latn", group=NO_BREAK_SPACE),
    Language("ro", "Romanian", "română", "Latn"),
    Language("sk", "Slovak", "slovenčina", "Latn", group=NO_BREAK_SPACE),
    Language("sl", "Slovenian", "slovenščina", "Latn"),
    Language("sr", "Serbian", "српски", "Cyrl"),
    Language("sv", "Swedish", "svenska", "Latn", group=NO_BREAK_SPACE),
    Language("uk", "Ukrainian", "українська", "Cyrl", group=NO_BREAK_SPACE),
)

LANGUAGES: dict[str, Language] = {language.code: language for language in _ALL}
"""Every language by its code, in alphabetical order."""

NEIGHBOURS: tuple[str, ...] = ("nb", "nn", "sr", "uk")
"""Not official in the EU; known so that language identification can reject."""

EU24: tuple[str, ...] = tuple(sorted(set(LANGUAGES) - set(NEIGHBOURS)))
"""The 24 official languages of the European Union (Regulation No 1 of 1958, as amended), alphabetical."""
