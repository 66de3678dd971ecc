"""The one error that a person meets: what was wrong, where, and what to do."""


class InputError(Exception):
    """Bad input. The message is one sentence; the command line prints it as `hanse: ...` and exits with code 2."""


class Interrupted(Exception):
    """A person or the batch system asked to stop; the work so far is saved. The command line exits with code 0."""
