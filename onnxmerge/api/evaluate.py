"""``evaluate``: how good models are at tasks, side by side with their parents and the parents' ensemble."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from onnxmerge.api.evaluated_models import Evaluable, EvaluatedModel, evaluated_model, named, plain_average
from onnxmerge.api.evaluation_result import Baseline, EvaluationResult, ModelScores
from onnxmerge.calibration.progress import Report
from onnxmerge.calibration.sources import BATCH_SIZE, OpenedSource, SourceSpec, open_source
from onnxmerge.errors import UsageError
from onnxmerge.evaluation.candidate import free_batch
from onnxmerge.evaluation.ensemble import how_mild
from onnxmerge.evaluation.labels import LabelSpec, read_labels
from onnxmerge.evaluation.meanings import require_fitting, told
from onnxmerge.evaluation.scaled import scaled_scores
from onnxmerge.evaluation.scorer import Scorer, Scores, scores_of_means
from onnxmerge.evaluation.side_by_side import AS_THE_TOOL, EnsembleForm, SideBySide
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.truth import Truth, truth
from onnxmerge.merging.answer.meaning import Meaning, OutputMeaning, asked_meanings
from onnxmerge.pipeline.job import Progress
from onnxmerge.pipeline.prepare import ModelSource
from onnxmerge.pipeline.tasks import Listed, TaskSpec, require_own_folder, tasks_learned, tasks_of


def evaluate(
    models: Evaluable | Sequence[Evaluable] | Mapping[str, Evaluable],
    data: SourceSpec,
    labels: LabelSpec | None = None,
    *,
    tasks: TaskSpec | None = None,
    vectors: str | Path | None = None,
    parents: Sequence[ModelSource] = (),
    top_k: Sequence[int] = (1,),
    baseline: Baseline = "mean",
    batch_size: int = BATCH_SIZE,
    outputs: str | None = None,
    image_options: Mapping[str, Any] | None = None,
    provider: str = "auto",
    progress: Progress | None = None,
) -> EvaluationResult:
    """Score models on labelled data that streams past once, in batches.

    Args:
        models: Paths, models in memory, or merges that are not written yet; a mapping gives them names.
        data: What the models run on: see `merge`. Models may name their inputs differently, but take the same data.
        labels: A label for each sample in order: a file (.npy, .npz, .csv, .txt), an array, arrays by name, or the
            folder of class folders that ``data`` is (the default if it is one).
        tasks: A task file, or tasks. By default one classification whose labels number the classes from 0.
        vectors: File of class vectors for all tasks (see `vectors.with_vectors`).
        parents: The models that the others were merged from. The task file says which of its models learned which
            task; otherwise the first learned the first task and so on, or all learned the only one.
        top_k: For which k a right class among the k highest is counted.
        baseline: What scaled scores of regressions start from: the ``mean`` of the targets as the prediction for every
            sample, as in the paper, or the plain ``average`` of the parents' weights.
        batch_size: Samples that run at once, where models do not fix it.
        outputs: What outputs are, as in `merge`: one meaning, or NAME=MEANING,... By default it is found out, and said
            in the notes. Probabilities, and so how sure an answer is, follow from it.
        image_options: ``image_size``, ``mean``, ``std`` and ``layout`` for folders of images.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.
        progress: Makes progress displays; silent by default.

    Raises:
        InputError: a model, the data, the labels or the tasks cannot be read or do not fit together.
        UsageError: the arguments contradict each other.

    """
    found, listed = tasks_of(tasks, vectors, Task("classes"))
    if not top_k or min(top_k) < 1:
        raise UsageError(f"top-k takes whole numbers of at least 1, found {list(top_k)}")
    if baseline not in get_args(Baseline):
        raise UsageError(f"there is no baseline {baseline!r}; choose one of {', '.join(get_args(Baseline))}")
    right = truth(found, read_labels(_label_spec(labels, data)))
    evaluated = _parents(parents, found, listed, provider)
    notes: list[str] = []
    if baseline == "average" and parents and _regressions(found):
        average, note = plain_average(parents, found, provider)
        evaluated += [] if average is None else [average]
        notes += [] if note is None else [note]
    evaluated += [evaluated_model(name, model, found, "model", (), provider) for name, model in named(models)]
    if not evaluated:
        raise UsageError("there is no model to evaluate")
    specs = free_batch(evaluated[0].candidate.inputs)
    beyond = right.samples + 1  # one sample more than there are labels is enough to refuse the data
    source = open_source(data, specs, endless=beyond, batch_size=batch_size, **(image_options or {}))
    asked = _asked(outputs, evaluated, found)
    with (progress or _silent)("evaluating") as report:
        seen = _stream(evaluated, found, source, lambda: Scorer(found, right, top_k), asked, report)
    lowest = _lowest(baseline, evaluated, seen.scores, found, right) if parents and _regressions(found) else None
    return EvaluationResult(
        tasks=found,
        samples=right.samples,
        top_k=tuple(top_k),
        baseline=None if lowest is None else baseline,
        models=_rows(evaluated, seen, found, lowest),
        notes=(*notes, *_said(evaluated, seen)),
    )


@contextmanager
def _silent(_title: str) -> Iterator[Report]:
    yield lambda _done, _total: None


def _regressions(tasks: Sequence[Task]) -> bool:
    return any(task.kind == "regression" for task in tasks)


def _label_spec(labels: LabelSpec | None, data: SourceSpec) -> LabelSpec:
    if labels is not None:
        require_own_folder(labels, data)
        return labels
    if not isinstance(data, str | Path) or not Path(data).is_dir():
        raise UsageError("give the labels (--labels): a file with one for each sample")
    return Path(data)


def _parents(
    parents: Sequence[ModelSource], tasks: Sequence[Task], listed: Listed, provider: str
) -> list[EvaluatedModel]:
    learned = tasks_learned(parents, tasks, listed)
    return [
        evaluated_model(name, model, tasks, "parent", own, provider)
        for (name, model), own in zip(named(parents), learned, strict=True)
    ]


def _asked(written: str | None, evaluated: Sequence[EvaluatedModel], tasks: Sequence[Task]) -> dict[str, Meaning]:
    """What ``--outputs`` says of the outputs that answer; UsageError where that is none of them, or fits no task."""
    names = dict.fromkeys(name for one in evaluated for name in one.candidate.outputs if name is not None)
    asked = asked_meanings(written, list(names))
    for one in evaluated:
        require_fitting(asked, tasks, one.candidate.outputs)
    return asked


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one pass over the data gives: scores of all and the meanings of their outputs, scores of the ensembles."""

    scores: tuple[Scores, ...]
    meanings: tuple[tuple[OutputMeaning | None, ...], ...]
    together: tuple[tuple[EnsembleForm, Scores], ...]


def _stream(
    evaluated: Sequence[EvaluatedModel],
    tasks: Sequence[Task],
    source: OpenedSource,
    scorer: Callable[[], Scorer],
    asked: Mapping[str, Meaning],
    report: Report,
) -> _Seen:
    """What one pass over the data gives; ``scorer`` makes one for each row."""
    candidates = [one.candidate for one in evaluated]
    learned = {place: one.learned for place, one in enumerate(evaluated) if one.role == "parent"}
    side = SideBySide(candidates, learned, tasks, scorer, asked)
    for done, feed in enumerate(source, start=1):
        if done == 1:
            candidates = [one.fitted(feed) for one in candidates]
        side.take([one.answers(feed, tasks) for one in candidates])
        report(done, source.batches)
    together = tuple((form, one.scores()) for form, one in side.together)
    return _Seen(tuple(one.scores() for one in side.scorers), side.meanings, together)


def _said(evaluated: Sequence[EvaluatedModel], seen: _Seen) -> list[str]:
    """What outputs were taken for, and how the ensembles were formed where that follows from it."""
    named = [(one.name, meanings) for one, meanings in zip(evaluated, seen.meanings, strict=True)]
    of_parents = [meanings for one, meanings in zip(evaluated, seen.meanings, strict=True) if one.role == "parent"]
    used = {each.meaning for meanings in of_parents for each in meanings if each is not None}
    return [*told(named), *([f"{AS_THE_TOOL.name}: {how_mild(used)}"] if used else [])]


def _lowest(
    baseline: Baseline,
    evaluated: Sequence[EvaluatedModel],
    scores: Sequence[Scores],
    tasks: Sequence[Task],
    right: Truth,
) -> Scores | None:
    """The scores from which scaled scores start; None where there is no plain average."""
    if baseline == "average":
        return next((own for one, own in zip(evaluated, scores, strict=True) if one.role == "average"), None)
    return scores_of_means(tasks, right)


def _rows(
    evaluated: Sequence[EvaluatedModel], seen: _Seen, tasks: Sequence[Task], lowest: Scores | None
) -> tuple[ModelScores, ...]:
    """Parents, their ensembles, their plain average, the models."""
    own = list(zip(evaluated, seen.scores, seen.meanings, strict=True))
    of_parents = [(one.learned, scores) for one, scores, _ in own if one.role == "parent"]
    rows = [
        ModelScores(one.name, one.role, one.learned, scores, scaled_scores(tasks, scores, lowest, of_parents), meanings)
        for one, scores, meanings in own
    ]
    rows[len(of_parents) : len(of_parents)] = [
        ModelScores(form.name, form.role, (), scores, scaled_scores(tasks, scores, lowest, of_parents))
        for form, scores in seen.together
    ]
    return tuple(rows)
