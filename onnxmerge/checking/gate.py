"""A gate: one question asked of a model, and what it builds on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from onnxmerge.checking.finding import Finding
from onnxmerge.checking.subject import Subject, could_not
from onnxmerge.errors import InputError, OnnxmergeError
from onnxmerge.text import reason

RUNS = ("integrity.external-data", "integrity.graph", "integrity.finite-weights", "integrity.loads", "integrity.runs")
"""What must not have failed for a model to be run."""

READ = RUNS[:2]
"""What must not have failed for a model to be read."""


@dataclass(frozen=True, slots=True)
class Gate:
    """``id`` is "family.gate", ``check`` gives findings.

    Where it raises InputError the gate could not be evaluated, and so failed. Where one of ``needs`` failed before, it
    is not asked.
    """

    id: str
    summary: str
    check: Callable[[Subject], Iterable[Finding]]
    needs: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        return self.id.partition(".")[0]

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """What it finds, or why it was not asked."""
        settings = subject.settings
        if (settings.only and self.family not in settings.only) or self.family in settings.skip:
            yield subject.skip(self.id, "not selected")
            return
        failed = next((need for need in self.needs if need in subject.failed), None)
        if failed is not None:
            yield subject.skip(self.id, f"builds on {failed}, which failed")
            return
        try:
            yield from self.check(subject)
        except InputError as error:
            yield could_not(self.id, str(error))
        except OnnxmergeError:
            raise
        except Exception as error:  # noqa: BLE001 - a gate that fails at its work has not passed, and others go on
            yield could_not(self.id, f"{type(error).__name__}: {reason(error)} (a bug: please report it)")
