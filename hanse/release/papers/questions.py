"""What a lab has to say itself, because no record can: the keys of `answers.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "texts", "bool", "number", "flop", "date", "month", "table"]

#: What a value has to be, for the template and for errors.
EXPECTED: dict[Kind, str] = {
    "text": "text in quotation marks",
    "texts": "a list of texts, none of them empty",
    "bool": "true or false, without quotation marks",
    "number": "a number",
    "flop": 'a number of operations above 0, such as 2.1e24 or "2.1e24"',
    "date": "a day such as 2026-11-30, without quotation marks",
    "month": 'a month such as "11/2026"',
    "table": "a section with keys of its own",
}
#: What each section is about, in the order of the template.
SECTIONS: dict[str, str] = {
    "provider": "Who answers for the model.",
    "model": "What it is for and how it reaches people.",
    "data": "What records cannot know about the text.",
    "copyright": "How rights are kept.",
    "code": "The Code of Practice for general-purpose AI models.",
    "safety": "What was done against illegal content.",
    "summary": "About the public summary itself.",
    "compute": "Power and its price, where no meter was read.",
    "sovereignty": "Countries, chips, hosts, packages and teacher models, for the sovereignty card.",
    "contracts": "How a fund is paid out, for the shares of rights holders; what the gate asks about licences.",
}
#: Sections whose keys are checked by the papers that they are for, and an example of a line in each.
FREE = {
    "sovereignty": 'provider_country = "BE"',
    "contracts": 'rule = "tokens"',
}
_SUMMARY, _FORM, _COPYRIGHT = "public summary", "documentation form", "copyright policy"


@dataclass(frozen=True)
class Question:
    """One key of `answers.toml`.

    Attributes:
        key: `section.name`.
        asks: what is asked for, one or two sentences.
        papers: where the answer is printed.
        is_mandatory: whether every final release has to have it.
        when: the circumstance in which it is mandatory, where it is not always; empty otherwise.
        least, most: between which a number makes sense.
    """

    key: str
    kind: Kind
    asks: str
    papers: str
    is_mandatory: bool = False
    when: str = ""
    least: float | None = None
    most: float | None = None


def _always(key: str, kind: Kind, asks: str, *papers: str) -> Question:
    return Question(key, kind, asks, ", ".join(papers), is_mandatory=True)


def _once(key: str, kind: Kind, asks: str, when: str, *papers: str) -> Question:
    return Question(key, kind, asks, ", ".join(papers), when=when)


def _maybe(
    key: str, kind: Kind, asks: str, *papers: str, least: float | None = None, most: float | None = None
) -> Question:
    return Question(key, kind, asks, ", ".join(papers), least=least, most=most)


_ENERGY = "compute and energy"
_CLAIM = 'Only where a source is obtained = "unknown"; where records know, it has to agree with them.'

QUESTIONS: tuple[Question, ...] = (
    _always("provider.name", "text", "Legal name of the provider.", _SUMMARY, _FORM),
    _always("provider.contact", "text", "Address for questions; the same as [release] contact where that is set.",
            _SUMMARY, _COPYRIGHT),
    _maybe("provider.address", "text", "Postal address.", _SUMMARY),
    _always("provider.representative", "text",
            "Authorised representative in the Union, with contact; or \"not applicable: \" and why.", _SUMMARY),
    _always("provider.is_sme", "bool",
            "Whether the provider is a small or medium-sized enterprise; it decides how many domains are listed.",
            _SUMMARY),
    _always("model.union_market_date", "date", "Day of placing on the Union market.", _SUMMARY, _FORM),
    _maybe("model.release_date", "date", "Day of the first release anywhere.", _FORM),
    _once("model.base_model", "text", "Name, version and link of the model that this one continues.",
          "where the recipe continues a model", _SUMMARY, _FORM),
    _always("model.channels", "texts", "Where the model can be had, and who has access.", _FORM),
    _maybe("model.licence_url", "text", "Link to the text of the licence.", _FORM),
    _maybe("model.further_assets", "texts", "What else is published (data, code), where, under which licence.", _FORM),
    _always("model.acceptable_use_policy", "text", "The acceptable-use policy or a link to it; or that there is none.",
            _FORM),
    _always("model.intended_uses", "text", "What it is meant for, and what it is not meant for.", _FORM),
    _always("model.system_types", "text", "Kinds of AI systems it can and cannot be built into.", _FORM),
    _maybe("model.integration", "text", "Tools and instructions that a system needs to use it.", _FORM),
    _maybe("model.hardware", "text", "Hardware that using it takes.", _FORM),
    _maybe("model.software", "text", "Software and versions that using it takes.", _FORM),
    _always("model.design_rationale", "text", "Why the architecture and the main settings were chosen.", _FORM),
    _always("data.content_types", "texts", "Kinds of content, such as fiction, encyclopedias, law, dialogue.",
            _SUMMARY, _FORM),
    _once("data.latest_acquisition", "month", "Month in which the last text was obtained.",
          "where a source has no dates on record", _SUMMARY),
    _always("data.training_continues", "bool", "Whether training on new data goes on after this release.", _SUMMARY),
    _maybe("data.other_characteristics", "text", "Regions, times or groups of people that the text stands for.",
           _SUMMARY, _FORM),
    _maybe("data.public_datasets", "text", "General description of the public datasets too small to be listed.",
           _SUMMARY),
    _maybe("data.private_third_party", "texts",
           "Names of sources with obtained = \"other\" that are private datasets of third parties.", _SUMMARY, _FORM),
    _maybe("data.private_description", "text", "General description of private datasets that are not publicly known.",
           _SUMMARY),
    _once("data.crawler_purposes", "text", "What the crawlers were run for.", "where text was crawled", _SUMMARY),
    _once("data.crawler_behaviour", "text",
          "How they behaved: robots.txt, captchas, paywalls, passwords, rate.", "where text was crawled",
          _SUMMARY, _COPYRIGHT),
    _once("data.crawled_content", "text", "Kinds of sites and content crawled, with regions.",
          "where text was crawled", _SUMMARY),
    _maybe("data.from_model_interaction", "texts",
           "Names of sources with obtained = \"user\" that come from use of an AI model.", _SUMMARY),
    _maybe("data.from_other_services", "texts",
           "Names of sources with obtained = \"user\" that come from other services of the provider.", _SUMMARY),
    _once("data.user_data", "text", "Which services the user data comes from, and on what ground.",
          "where user data was used", _SUMMARY),
    _maybe("data.generator_links", "table", "For each generator model a link to its own summary: name = \"https://...\".",
           _SUMMARY),
    _maybe("data.other_sources", "text", "What the remaining sources are.", _SUMMARY),
    _maybe("data.uses_public_datasets", "bool", f"Whether public datasets were used. {_CLAIM}", _SUMMARY),
    _maybe("data.uses_licensed_data", "bool", f"Whether text was licensed from rights holders. {_CLAIM}", _SUMMARY),
    _maybe("data.uses_crawled_data", "bool", f"Whether text was crawled by or for the provider. {_CLAIM}", _SUMMARY),
    _maybe("data.uses_user_data", "bool", f"Whether user data was used. {_CLAIM}", _SUMMARY),
    _maybe("data.uses_synthetic_data", "bool", f"Whether text was written by AI models. {_CLAIM}", _SUMMARY),
    _maybe("data.uses_other_data", "bool", f"Whether there were other sources. {_CLAIM}", _SUMMARY),
    _maybe("data.selection", "text", "How the sources were chosen, and by whom.", _FORM),
    _maybe("data.unsuitable_sources", "text", "Measures against unsuitable sources.", _FORM),
    _maybe("data.bias_measures", "text", "Measures against identifiable bias.", _FORM),
    _always("copyright.lawful_access", "text",
            "How lawful access was ensured, and that no paywall or technical measure was circumvented.", _COPYRIGHT),
    _once("copyright.excluded_sites", "text", "How sites listed for persistent infringement were left out.",
          "where text was crawled", _COPYRIGHT),
    _always("copyright.complaint_contact", "text", "Where rights holders complain electronically.", _COPYRIGHT),
    _maybe("copyright.complaint_procedure", "text", "How complaints are handled, and how soon.", _COPYRIGHT),
    _always("copyright.output_safeguards", "text", "What keeps output from infringing; also what the terms forbid.",
            _COPYRIGHT),
    _maybe("copyright.reservation_measures", "text", "What is done for reservations beyond what records show.",
           _SUMMARY, _COPYRIGHT),
    _maybe("copyright.responsible", "text", "Who in the organisation answers for this policy.", _COPYRIGHT),
    _always("code.is_signatory", "bool", "Whether the provider has signed the Code of Practice.", _SUMMARY, _COPYRIGHT),
    _always("safety.illegal_content_measures", "text", "What kept illegal content out of the training text.", _SUMMARY),
    _maybe("summary.url", "text", "Where the newest summary is always found.", _SUMMARY),
    _maybe("summary.comments", "table",
           'Comments on sections of the summary, by their number: "2.1" = "...".', _SUMMARY),
    _maybe("summary.other_information", "text", "Anything else about how the data was processed.", _SUMMARY),
    _maybe("compute.power_w", "number", "Power drawn by the machines while training, in W.", _ENERGY, least=0,
           most=1e10),
    _maybe("compute.peak_flops", "number", "Peak of one accelerator at the precision of training, in FLOP/s.", _ENERGY,
           least=1, most=1e21),
    _maybe("compute.utilisation", "number", "Share of the peak that was reached, by a hardware counter.", _ENERGY,
           least=1e-6, most=1),
    _maybe("compute.utilisation_source", "text", "Which counter that was.", _ENERGY),
    _maybe("compute.pue", "number", "Power usage effectiveness of the data centre; 1 is perfect.", _ENERGY, least=1,
           most=10),
    _maybe("compute.grid_g_co2e_per_kwh", "number", "Grid factor in g CO2e per kWh.", _ENERGY, least=0, most=10_000),
    _maybe("compute.grid_source", "text", "Who published the grid factor.", _ENERGY),
    _maybe("compute.grid_date", "date", "Day that the grid factor is of.", _ENERGY),
    _maybe("compute.parent_flop", "flop", "Training compute of the model that this one continues.", _ENERGY),
    _maybe("compute.parent_is_systemic", "bool", "Whether that model is one with systemic risk.", _ENERGY),
    _maybe("compute.exploratory_flop", "flop", "Compute of runs that only taught people something.", _ENERGY),
    _maybe("compute.synthetic", "table",
           "For each source of synthetic text what writing it took: NAME = { flop = \"1e18\", is_public = false }.",
           _ENERGY),
    _maybe("compute.price_eur_per_kwh", "number", "Price in euros per kWh.", _ENERGY, least=0, most=1000),
)  # fmt: skip

BY_KEY: dict[str, Question] = {question.key: question for question in QUESTIONS}
