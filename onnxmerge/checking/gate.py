"""A gate: one question asked of a model, and what it builds on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from onnxmerge.checking.finding import Finding
from onnxmerge.checking.settings import Settings
from onnxmerge.checking.subject import Subject, could_not
from onnxmerge.errors import InputError, OnnxmergeError
from onnxmerge.text import reason

RUNS = ("integrity.external-data", "integrity.graph", "integrity.finite-weights", "integrity.loads", "integrity.runs")
"""What must not have failed for a model to be run."""

UNSELECTED = "not selected"
"""Why a gate was skipped that ``only`` or ``skip`` leaves out."""

READ = RUNS[:2]
"""What must not have failed for a model to be read."""


@dataclass(frozen=True, slots=True)
class Gate:
    """``id`` is "family.gate", ``check`` gives findings.

    ``asked_by`` is the field of `Settings` that asks for it: then it is unsupported where it has nothing to say of this
    model, lest the model pass what nobody could look at.

    Where it raises InputError the gate could not be evaluated, and so failed. Where one of ``needs`` failed before, it
    is not asked.
    """

    id: str
    summary: str
    check: Callable[[Subject], Iterable[Finding]]
    needs: tuple[str, ...] = ()
    asked_by: str = ""

    @property
    def family(self) -> str:
        return self.id.partition(".")[0]

    def asked(self, settings: Settings) -> bool:
        """Whether the settings ask for this gate by name, or by a bound."""
        value = getattr(settings, self.asked_by) if self.asked_by else None
        return value is not None and value is not False and value != ()  # a bound of 0 is one

    def selected(self, settings: Settings) -> bool:
        """Whether ``only`` and ``skip`` leave it in."""
        return settings.selects(self.family)

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """What it finds, or why it was not asked."""
        settings = subject.settings
        if not self.selected(settings):
            yield subject.skip(self.id, UNSELECTED)
            return
        failed = next((need for need in self.needs if need in subject.failed), None)
        if failed is not None:
            yield subject.skip(self.id, f"builds on {failed}, which failed")
            return
        try:
            found = list(self.check(subject))
        except InputError as error:
            found = [could_not(self.id, str(error))]
        except OnnxmergeError:
            raise
        except Exception as error:  # noqa: BLE001 - a gate that fails at its work has not passed, and others go on
            found = [could_not(self.id, f"{type(error).__name__}: {reason(error)} (a bug: please report it)")]
        yield from found
        if self.asked(settings) and all(each.verdict == "skipped" for each in found):
            why = found[0].remedy if found else "no output holds float values"
            option = self.asked_by.replace("_", "-")
            told = f"{why}: nothing of this model can be held to it; leave out --{option}, or mend that"
            value = getattr(settings, self.asked_by)
            yield Finding(
                self.id, "error", "", None, value if isinstance(value, int | float) else None, "unsupported", told
            )
