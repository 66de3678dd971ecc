"""The papers of a release: each a pure function of a `Ledger`, drawn in Markdown, HTML and JSON."""
