"""The sections about text: where it comes from, with which rights, and what of it stays."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hanse.recipe.base import Name, Positive, Section, Share


class Source(Section):
    """One body of text, with the rights that it came with.

    `path` is a file, a folder or a glob, relative to the recipe's folder; for kind hub, `owner/dataset`. `licence`
    (SPDX) stands for documents that carry none themselves; a document without any is quarantined. `obtained` takes the
    categories of the EU's summary of training content, each with what the summary asks for.
    """

    name: Name
    kind: Literal["atlas", "jsonl", "parquet", "text", "html", "warc", "tei", "hub", "conversations"]
    path: str = ""
    revision: str = ""  # of a hub dataset: a commit
    files: str = ""  # of a hub dataset: which of its files, a glob
    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"  # of the main text of web pages
    licence: str | None = None
    licence_basis: Literal[
        "stated", "detected", "contract", "public-domain", "generated", "tdm-art-4", "tdm-art-3", "unknown"
    ] = "unknown"
    jurisdiction: Annotated[str, Field(pattern=r"^([A-Z]{2})?$")] = ""  # ISO 3166-1 alpha-2, or EU
    rights_holder: str = ""
    obtained: Literal["public-dataset", "licensed", "crawl", "user", "synthetic", "other", "unknown"] = "unknown"
    contract: str = ""  # licensed: its identifier
    contract_start: datetime.date | None = None
    contract_expiry: datetime.date | None = None
    crawler: str = ""  # crawl: its name, as it called itself to servers
    model: str = ""  # synthetic: what wrote the text
    period: str = ""
    url: str = ""
    reservation: Literal["none", "reserved", "unknown"] = "unknown"
    heldout_share: Share = 0.05  # of conversations; the other kinds are split by [curate] validation_share

    @model_validator(mode="after")
    def _path_fits_kind(self) -> Source:
        if self.kind == "atlas" and self.path:
            raise ValueError("path: the atlas is embedded and takes no path")
        if self.kind != "atlas" and not self.path:
            what = "the dataset, as owner/name" if self.kind == "hub" else "the file, folder or glob to read"
            raise ValueError(f"path: missing; name {what}")
        if self.kind != "hub":
            for key in ("revision", "files"):
                if getattr(self, key):
                    raise ValueError(f"{key}: belongs to kind hub")
            return self
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", self.path, re.ASCII):
            raise ValueError(f"path: '{self.path}' is no dataset of the hub; write owner/name")
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(
                "revision: a hub dataset needs the commit, 40 hexadecimal digits in small letters; a branch or tag can "
                "mean another text tomorrow"
            )
        return self

    @model_validator(mode="after")
    def _obtained_is_explained(self) -> Source:
        belongs = {
            "licensed": ("contract", "contract_start", "contract_expiry"),
            "crawl": ("crawler",),
            "synthetic": ("model",),
        }
        for obtained, keys in belongs.items():
            for key in keys:
                if getattr(self, key) and self.obtained != obtained:
                    raise ValueError(f'{key}: belongs to obtained = "{obtained}", not "{self.obtained}"')
        needs = {"licensed": ("contract",), "crawl": ("crawler", "period"), "synthetic": ("model",)}
        for key in () if self.kind == "atlas" else needs.get(self.obtained, ()):  # rules wrote the atlas, no model
            if not getattr(self, key):
                raise ValueError(f'{key}: missing; obtained = "{self.obtained}" has to say it')
        if self.licence_basis == "contract" and self.obtained not in ("licensed", "unknown"):
            raise ValueError(f'licence_basis: "contract" does not go with obtained = "{self.obtained}"')
        if self.contract_start and self.contract_expiry and self.contract_expiry < self.contract_start:
            raise ValueError("contract_expiry: before contract_start")
        return self


CURATE_PATHS = ("policy", "site_files", "pii_key", "quality_model", "contamination")  # keys that name files


class Curate(Section):
    """Which documents stay. Everything read is annotated; this policy selects."""

    licences: tuple[str, ...] = (
        "CC0-1.0", "CC-BY-4.0", "CC-BY-3.0", "CC-BY-SA-4.0", "CC-BY-SA-3.0", "EUPL-1.2", "MPL-2.0", "MIT",
        "Apache-2.0", "BSD-3-Clause", "Unicode-3.0", "PDDL-1.0", "ODC-By-1.0", "Etalab-2.0",
    )  # fmt: skip
    min_characters: Positive = 20
    max_characters: Positive = 5_000_000
    identify_language: bool = True
    min_language_score: Share = 0.5
    max_quarantine_share: Share = 0.01
    validation_share: Share = 0.02
    on_unknown_reservation: Literal["keep", "drop"] = "keep"
    day: Annotated[str, Field(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = ""  # on which contracts and reservations are judged
    policy: str = ""  # a TOML file that says how evidence is weighed; the one that comes with Hanse if empty
    site_files: str = ""  # a folder of robots.txt and the like, by host and day
    pii: Literal["mask", "pseudonym", "keep"] = "mask"
    pii_key: str = ""  # a file of at least 16 bytes that pseudonyms are derived from
    quality: bool = True
    quality_model: str = ""  # a trained classifier; none if empty
    min_quality: Share = 0.5
    near_duplicates: bool = True
    contamination: tuple[str, ...] = ()  # files of evaluation items
    on_contamination: Literal["drop", "keep"] = "drop"
    canaries: Annotated[int, Field(ge=0, le=10_000)] = 0  # random texts put into training: docs/memorisation.md
    canary_repeats: Annotated[
        tuple[Annotated[int, Field(gt=0, le=10_000)], ...], Field(min_length=1, max_length=16)
    ] = (1, 4, 16)
    engine: Literal["local", "ray"] = "local"

    @model_validator(mode="after")
    def _bounds(self) -> Curate:
        if self.min_characters > self.max_characters:
            raise ValueError("min_characters: larger than max_characters")
        if not self.licences:
            raise ValueError("licences: the allow-list is empty, so no document could stay")
        if self.site_files and not self.day:
            raise ValueError("day: missing; site_files are judged as of a day, for example 2026-11-22")
        return self
