"""``evaluate``: how good models are at tasks, side by side with their parents and the parents' ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from onnxmerge.api.entrants import Entrant, Evaluable, entrant, named, plain_average
from onnxmerge.api.evaluation_result import Baseline, EvaluationResult, ModelScores, scaled_scores
from onnxmerge.api.job import Progress
from onnxmerge.api.prepare import ModelSource
from onnxmerge.api.tasks import Listed, TaskSpec, require_own_folder, tasks_learned, tasks_of
from onnxmerge.calibration.progress import Report
from onnxmerge.calibration.sources import BATCH_SIZE, CalibrationSource, SourceSpec, open_source
from onnxmerge.errors import UsageError
from onnxmerge.evaluation.candidate import free_batch
from onnxmerge.evaluation.ensemble import ensemble
from onnxmerge.evaluation.heads import on_one_scale
from onnxmerge.evaluation.labels import LabelSpec, read_labels
from onnxmerge.evaluation.scorer import Scorer, Scores, scores_of_means
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.truth import Truth, truth

ENSEMBLE = "ensemble of the parents"


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
    entrants = _parents(parents, found, listed, provider)
    notes: list[str] = []
    if baseline == "average" and parents and _regressions(found):
        average, note = plain_average(parents, found, provider)
        entrants += [] if average is None else [average]
        notes += [] if note is None else [note]
    entrants += [entrant(name, model, found, "model", (), provider) for name, model in named(models)]
    if not entrants:
        raise UsageError("there is no model to evaluate")
    specs = free_batch(entrants[0].candidate.inputs)
    beyond = right.samples + 1  # one sample more than there are labels is enough to refuse the data
    source = open_source(data, specs, endless=beyond, batch_size=batch_size, **(image_options or {}))
    with (progress or _silent)("evaluating") as report:
        scores, together = _stream(entrants, found, right, top_k, source, report)
    lowest = _lowest(baseline, entrants, scores, found, right) if parents and _regressions(found) else None
    return EvaluationResult(
        tasks=found,
        samples=right.samples,
        top_k=tuple(top_k),
        baseline=None if lowest is None else baseline,
        models=_rows(entrants, scores, together, found, lowest),
        notes=tuple(notes),
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


def _parents(parents: Sequence[ModelSource], tasks: Sequence[Task], listed: Listed, provider: str) -> list[Entrant]:
    learned = tasks_learned(parents, tasks, listed)
    return [
        entrant(name, model, tasks, "parent", own, provider)
        for (name, model), own in zip(named(parents), learned, strict=True)
    ]


def _stream(
    entrants: Sequence[Entrant],
    tasks: Sequence[Task],
    right: Truth,
    top_k: Sequence[int],
    source: CalibrationSource,
    report: Report,
) -> tuple[list[Scores], Scores | None]:
    """The scores of all, from one pass over the data, and those of the parents' ensemble."""
    scorers = [Scorer(tasks, right, top_k) for _ in entrants]
    elders = [index for index, one in enumerate(entrants) if one.role == "parent"]
    together = Scorer(tasks, right, top_k) if elders else None
    candidates = [one.candidate for one in entrants]
    for done, feed in enumerate(source, start=1):
        if done == 1:
            candidates = [one.fitted(feed) for one in candidates]
        answers = [one.answers(feed, tasks) for one in candidates]
        for one, scorer, given in zip(entrants, scorers, answers, strict=True):
            scorer.update(on_one_scale(tasks, given, one.candidate.outputs))
        if together is not None:
            learned = [entrants[index].learned for index in elders]
            together.update(ensemble(tasks, [answers[index] for index in elders], learned))
        report(done, source.batches)
    return [scorer.scores() for scorer in scorers], None if together is None else together.scores()


def _lowest(
    baseline: Baseline, entrants: Sequence[Entrant], scores: Sequence[Scores], tasks: Sequence[Task], right: Truth
) -> Scores | None:
    """The scores from which scaled scores start; None where there is no plain average."""
    if baseline == "average":
        return next((own for one, own in zip(entrants, scores, strict=True) if one.role == "average"), None)
    return scores_of_means(tasks, right)


def _rows(
    entrants: Sequence[Entrant],
    scores: Sequence[Scores],
    together: Scores | None,
    tasks: Sequence[Task],
    lowest: Scores | None,
) -> tuple[ModelScores, ...]:
    """Parents, their ensemble, their plain average, the models."""
    elders = [(one.learned, own) for one, own in zip(entrants, scores, strict=True) if one.role == "parent"]
    rows = [
        ModelScores(one.name, one.role, one.learned, own, scaled_scores(tasks, own, lowest, elders))
        for one, own in zip(entrants, scores, strict=True)
    ]
    if together is None:
        return tuple(rows)
    scaled = scaled_scores(tasks, together, lowest, elders)
    rows.insert(len(elders), ModelScores(ENSEMBLE, "ensemble", (), together, scaled))
    return tuple(rows)
