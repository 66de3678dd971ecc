"""atlas: the embedded corpus, in all 24 official languages of the European Union.

Facts about European countries, the calendar, numbers in words and small sums, as running text and as questions with
exact answers. Generated, so it needs no download and carries no personal data, and every answer can be checked.
`generate.py` makes the text, `facts.py` knows the facts, `phrasings/` holds the wordings.
"""

from hanse.data.atlas.facts import FACTS_PER_TASK, Fact
from hanse.data.atlas.generate import conversations, documents, skipped, sources
from hanse.data.atlas.phrasings import TASKS

__all__ = ["FACTS_PER_TASK", "TASKS", "Fact", "conversations", "documents", "skipped", "sources"]
