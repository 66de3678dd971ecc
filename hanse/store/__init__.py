"""The store: what was made, from what. Artifacts, their records, and the graph over them."""
