"""Where a text comes from, and what it means to take it out again: suffix arrays over the training text, and search."""
