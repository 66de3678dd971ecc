"""Hanse: from text that may be used to a signed, open language model in Europe's languages."""

__version__ = "0.1.0"
