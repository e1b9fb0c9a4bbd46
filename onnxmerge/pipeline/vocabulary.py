"""Parents whose vocabularies differ: all are brought to one token list before they are paired up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxmerge.axes.operators import read_operators
from onnxmerge.errors import UsageError
from onnxmerge.merging.combine import combine, shares_of
from onnxmerge.model.network import Network
from onnxmerge.model.owned import OwnedRows
from onnxmerge.model.sample import SampleInput
from onnxmerge.model.scheme import Scheme
from onnxmerge.model.tokens import (
    MergedTokens,
    TokenList,
    TokenSource,
    is_json,
    merged_tokens,
    read_tokens,
    require_lines,
    token_file,
)
from onnxmerge.pipeline.options import MergeOptions, VocabChoice
from onnxmerge.pipeline.prepare import Base, Prepared
from onnxmerge.resizing.vocabulary import looked_up, vocabulary_axes, vocabulary_rows, with_vocabulary
from onnxmerge.units.zips import Matchings


@dataclass(frozen=True, slots=True)
class VocabularyReport:
    """The merged vocabulary: how many ``tokens``, which those are, and the digest of the list.

    ``rows`` and ``lacking`` are of each model, and of the base behind them: how many rows it had, and how many of the
    merged tokens it lacks.
    """

    tokens: int
    kept: VocabChoice
    rows: tuple[int, ...]
    lacking: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """The one vocabulary of the parents, and of the base behind them; ``rows`` are how many each had.

    ``as_json``: the merged list is written as a mapping, as the first was read. ``notes`` say what is odd about lists.
    """

    tokens: MergedTokens
    rows: tuple[int, ...]
    as_json: bool
    notes: tuple[str, ...]

    def report(self, kept: VocabChoice) -> VocabularyReport:
        """What a report says of it."""
        lacking = tuple(int((rows < 0).sum()) for rows in self.tokens.rows)
        return VocabularyReport(len(self.tokens.tokens), kept, self.rows, lacking, self.tokens.sha256)

    def file(self, model: Path) -> Path:
        """Where the merged list goes beside a model that is written."""
        return token_file(model, json_=self.as_json)

    def text(self, model: Path) -> str:
        """What stands there."""
        return self.tokens.text(self.file(model))


def token_files(lists: Sequence[TokenSource], model: Path) -> tuple[Path, ...]:
    """The token list that is written beside a merged ``model`` of models with these ``lists``, if there are any."""
    return (token_file(model, json_=is_json(lists[0])),) if lists else ()


def require_lists(lists: Sequence[TokenSource] | None, models: int, options: MergeOptions, *, based: bool) -> None:
    """Raise UsageError for lists that are not one for each model, or options that do not go with them."""
    if lists is None:
        if options.merged_vocab != "union":
            raise UsageError("--merged-vocab says what becomes of several vocabularies: give each model's (--vocab)")
        return
    expected = models + based
    if len(lists) != expected:
        of = f"each of the {models} models" + (", and that of the base behind them" if based else "")
        raise UsageError(f"--vocab: expected the token list of {of}; found {len(lists)}; give --vocab once for each")
    if options.heads == "separate" or options.until:
        raise UsageError("--vocab brings heads to one vocabulary; leave --heads separate and --until out")


def in_one_vocabulary(
    networks: Sequence[Network],
    schemes: Sequence[Scheme | None],
    lists: Sequence[TokenSource],
    options: MergeOptions,
    inputs: Mapping[str, SampleInput],
    *,
    based: bool,
) -> tuple[tuple[Network, ...], Vocabulary]:
    """The networks (the base the last, where there is one) with the tokens of the merged vocabulary.

    Raises InputError for a list that cannot be read or does not fit its model, or a model whose vocabulary cannot be
    told or brought to another one; UsageError where the merged model is to be quantised again.
    """
    if schemes[0] is not None and options.output_type == "keep":
        raise UsageError(
            f"{schemes[0].label} is quantised, and what has another vocabulary cannot be quantised as that was: add "
            "--output-type float, and quantise the result"
        )
    read = [read_tokens(source, f"token list {place}") for place, source in enumerate(lists, start=1)]
    rows = [
        vocabulary_rows(network, len(own.tokens), whole=own.whole, label=own.label)
        for network, own in zip(networks, read, strict=True)
    ]
    merged = len(networks) - based
    full = [own.over(count) for own, count in zip(read, rows, strict=True)]
    tokens = merged_tokens(full, union=options.merged_vocab == "union", merged=merged)
    as_json = is_json(lists[0])
    if not as_json:
        require_lines(tokens.tokens, read[0].label)
    first = [str(value.name) for value in networks[0].graph.inputs]
    table = None if options.operators is None else read_operators(options.operators)
    made = []
    for network, own, count in zip(networks, tokens.rows, rows, strict=True):
        names = dict(zip(first, (str(value.name) for value in network.graph.inputs), strict=False))
        given = {names[name]: value for name, value in inputs.items() if name in names}
        made.append(with_vocabulary(network, own, count, given, table))
    notes = tuple(note for own, count in zip(read, rows, strict=True) for note in _unnamed(own, count))
    return tuple(made), Vocabulary(tokens, tuple(rows), as_json, notes)


def _unnamed(own: TokenList, rows: int) -> list[str]:
    """A note on rows that a mapping gives no token to."""
    named = sum(token is not None for token in own.tokens)
    told = f"{own.label}: names {named:,} of {rows:,} rows; the others are called <unused ID>, by their ids"
    return [told] if named < rows else []


def with_owners(prepared: Prepared, vocabulary: Vocabulary, *, based: bool) -> Prepared:
    """The paired parents with a note of which tokens are whose, and which the base has where there is one."""
    models, tokens = prepared.models, vocabulary.tokens
    every = np.array([rows >= 0 for rows in tokens.rows])
    if every.all():
        return prepared
    count = len(models.weights)
    trace = prepared.trace
    found, _ = vocabulary_axes(trace, models.weights, len(tokens.tokens), prepared.operators)
    owned = OwnedRows(found.axes, every[:count], every[count] if based else None)
    return replace(prepared, models=replace(models, owned=owned))


def filled_from_base(prepared: Prepared, base: Base) -> tuple[Prepared, Base]:
    """Models in the order of their base, and the base, with the rows of what it or they lack filled in."""
    models, owned = prepared.models, prepared.models.owned
    if owned is None:
        return prepared, base
    still: Matchings = [{}] * (len(models.weights) - 1)
    means = combine(models, prepared.typing, still, weights=shares_of(None, len(models.weights)))
    start, weights = owned.from_base(base.weights, means, models.weights)
    return replace(prepared, models=replace(models, weights=weights)), replace(base, weights=start)


def tables_differ(networks: Sequence[Network]) -> str | None:
    """What helps where tables that ids look up differ in width, else in rows; None where none does."""
    first, *others = ([table for found in looked_up(network.graph).values() for table in found] for network in networks)
    for network, own in zip(networks[1:], others, strict=True):
        for one, other in zip(first, own, strict=False):
            if one.width != other.width:
                return (
                    f"their widths differ ({one.width} numbers in a row of {one.value.name!r} against {other.width} in "
                    f"{network.label}): merge models of one configuration, or fine-tunes of one model"
                )
            if one.rows != other.rows:
                return (
                    f"their vocabularies differ ({one.rows:,} rows of {one.value.name!r} against {other.rows:,} in "
                    f"{network.label}): give the token list of each model (--vocab)"
                )
    return None
