"""The gate: a last look at the very files that are to be published. What is red stops a final release.

Every check says what it found, also where it found nothing wrong, so that the list shows what was looked at. A check
that could not be done is red too: nothing passes unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.release.ledger import Ledger
    from hanse.store.stage import Store

Outcome = Literal["passed", "warned", "failed"]


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: its name, such as `licences`.
        what: a sentence.
        where: the file or record it is about; empty for the whole release.
    """

    check: str
    outcome: Outcome
    what: str
    where: str = ""

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.outcome:<6}  {self.check}: {self.what}{place}"


def audit(folder: Path, ledger: Ledger, *, store: Store) -> list[Finding]:
    """Look at a release folder, and at the records and the text behind it.

    The signature is looked at where the folder is sealed already; before that, nothing is there to look at, so ask
    `signature` afterwards.

    Args:
        folder: what is to be published.
        ledger: what the records say about it.
        store: where its ancestors lie. They have to be the ones that the ledger names.
    """
    from hanse.release.gate import checks, files, training_text

    looks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("files", lambda: files.files(folder)),
        ("export", lambda: files.export(folder)),
        ("copies", lambda: files.copies(folder, ledger)),
        ("loads", lambda: files.loads(folder, ledger)),
        ("licences", lambda: checks.licences(ledger)),
        ("contracts", lambda: checks.contracts(ledger)),
        ("languages", lambda: checks.languages(ledger)),
        ("answers", lambda: checks.answers(ledger)),
        ("ancestors", lambda: checks.ancestors(ledger, store)),
        ("withdrawals", lambda: training_text.withdrawals(ledger, store)),
        ("contamination", lambda: training_text.contamination(ledger)),
        ("duplicates", lambda: training_text.duplicates(ledger)),
        ("personal data", lambda: training_text.personal_data(ledger)),
    ]
    if files.is_sealed(folder):
        looks.append(("signature", lambda: files.signature(folder)))
    return [finding for name, look in looks for finding in _done(name, look)]


def signature(folder: Path, key: Path | None = None) -> list[Finding]:
    """Whether a finished release holds: every file by `SHA256SUMS`, the chain of records, the signature.

    Args:
        key: the public key that has to have signed; the one in the folder where None.
    """
    from hanse.release.gate import files

    return _done("signature", lambda: files.signature(folder, key))


def text(findings: Sequence[Finding]) -> str:
    """The list for people, the worst first, and a last line that counts."""
    order = {"failed": 0, "warned": 1, "passed": 2}
    lines = [str(each) for each in sorted(findings, key=lambda each: order[each.outcome])]
    counts = [f"{sum(each.outcome == name for each in findings)} {name}" for name in order]
    return "\n".join([*lines, f"gate: {', '.join(counts)}"])


def require(findings: Sequence[Finding]) -> None:
    """Stop a release that is not green.

    Raises:
        InputError: with everything that failed.
    """
    failed = [each for each in findings if each.outcome == "failed"]
    if failed:
        things = "1 thing is" if len(failed) == 1 else f"{len(failed)} things are"
        lines = "\n".join(f"  {each}" for each in failed)
        raise InputError(
            f"the gate is closed: {things} in the way of a final release. Mend, and release again.\n{lines}"
        )


def _done(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check found; its refusal is a finding too."""
    try:
        return list(check())
    except InputError as error:
        return [Finding(name, "failed", str(error).rstrip("."))]
    except OSError as error:
        return [Finding(name, "failed", f"cannot be looked at ({error.strerror})", str(error.filename or ""))]
    except Exception as error:  # a file that was edited by hand can make a library raise anything
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return [Finding(name, "failed", f"cannot be looked at, since something is not as it was written ({told})")]
