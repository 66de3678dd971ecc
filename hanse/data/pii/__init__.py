"""Personal data in text: where it is, of which kind, and what may stand in its place."""
