"""quality: is this running text that somebody wrote to be read?

`measure` counts, `reasons` judges by the thresholds of `thresholds.toml`; `classifier` is an optional second opinion,
trained on good text and on the same text damaged. What each catches is measured in docs/quality.md.
"""

from hanse.data.quality.measure import FEATURES, Features, measure
from hanse.data.quality.rules import Rule, load_rules, reasons

__all__ = ["FEATURES", "Features", "Rule", "load_rules", "measure", "reasons"]
