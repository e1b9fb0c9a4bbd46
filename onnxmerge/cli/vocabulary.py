"""The options of language models whose vocabularies differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from onnxmerge.cli.files import InputFile
from onnxmerge.cli.own import word_option

F = TypeVar("F", bound=Callable[..., Any])


def vocab_options(command: F) -> F:
    """``--vocab`` and ``--merged-vocab``: language models whose vocabularies differ."""
    lists = click.option(
        "--vocab",
        type=InputFile("one of the token lists"),
        multiple=True,
        metavar="FILE",
        help="Token list of a language model, where vocabularies differ: one token a line, or JSON (tokenizer.json). "
        "Once for each model in order, then for the base.",
    )
    which = word_option("merged_vocab", "Tokens of the merged model: all that a model has, or those of the first.")
    return lists(which(command))
