"""A merge, or a model, as one page of HTML that stands alone: for a browser, a phone, a screen reader, a printer.

All of it is text and pictures drawn here; only the panel of a group is drawn in the browser, from data in the page. The
page asks nothing of any network, and its policy forbids it to. Names come from files that anybody may have made: each
is escaped where it becomes HTML (``html``), and the script puts text into the page as text alone. The same merge gives
the same bytes but for what the section of times says.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from string import Template

from onnxmerge.api.describe import KEPT, ModelReport
from onnxmerge.api.outcome import MergeResult
from onnxmerge.checking.provenance import RECIPE
from onnxmerge.checking.report import CheckReport
from onnxmerge.model.paths import short_names
from onnxmerge.report.check_section import check_card, check_section
from onnxmerge.report.html import bullets, cards, folded, paragraph, table, text
from onnxmerge.report.landscape import landscape_section
from onnxmerge.report.merge_sections import merge_sections, network
from onnxmerge.report.page_data import as_json
from onnxmerge.report.section import Section
from onnxmerge.report.styles import FRAME, PAGE, PICTURE, SCRIPT
from onnxmerge.version import __version__


def merge_page(result: MergeResult, output: str, command: str, checked: CheckReport | None = None) -> str:
    """The page of a merge that was just made.

    ``output`` is where it is written, ``command`` what repeats it, ``checked`` what `check` says of it.
    """
    names = short_names(result.report.models)
    sections = merge_sections(result, names, output, command, checked)
    return _page(" + ".join(names), f"Merged into {output}", sections, as_json(result, names))


def model_page(found: ModelReport) -> str:
    """The page of a model as it lies there; with ``found.merge`` also of the merge that made it."""
    (name,) = short_names((found.model,))
    if found.merge is not None:
        names = short_names(found.merge.report.models)
        sections = [*merge_sections(found.merge, names, name, checked=found.check), *_around(found), *_carried(found)]
        return _page(name, f"Merged from {' + '.join(names)}", sections, as_json(found.merge, names))
    made = "Merged by onnxmerge" if found.recipe else "It does not say that onnxmerge merged it"
    answer = Section("answer", "What it is", cards(list(_model_cards(found))) + bullets(found.notes))
    checked = [] if found.check is None else [check_section(found.check)]
    units = [network(found.inspection.flow(), None), _groups(found)]
    sections = [answer, *checked, *_around(found), *_carried(found), *units]
    return _page(name, made, sections, "null")


def _around(found: ModelReport) -> list[Section]:
    return [] if found.landscape is None else [landscape_section(found.landscape)]


def _page(title: str, subtitle: str, sections: Iterable[Section], data: str) -> str:
    parts = [section for section in sections if section.body]
    links = "".join(f"<li><a href=#{part.anchor}>{text(part.title)}</a></li>" for part in parts)
    body = "".join(
        f"<section id={part.anchor} aria-labelledby={part.anchor}-title><h2 id={part.anchor}-title>{text(part.title)}"
        f"</h2>{part.body}</section>"
        for part in parts
    )
    return Template(FRAME).substitute(
        title=text(title),
        subtitle=paragraph(subtitle),
        links=links,
        body=body,
        data=data,
        styles=PAGE + PICTURE,
        script=SCRIPT,
        digest=base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
        version=__version__,
    )


def _model_cards(found: ModelReport) -> Iterator[tuple[str, str, str]]:
    inspection = found.inspection
    if found.check is not None:
        yield check_card(found.check)
    if found.recipe:
        version = found.metadata.get("onnxmerge.version", "")
        yield "Merged by", found.metadata.get("onnxmerge.method", "-"), f"onnxmerge {version}"
    yield "Network", f"{inspection.nodes:,} nodes", f"{len(inspection.groups):,} groups of units"
    yield "Free", f"{inspection.coverage.free_elements:.1%}", "of weight elements can be reordered"


def _groups(found: ModelReport) -> Section:
    groups = found.inspection.groups
    rows = [
        (group.id, f"{group.size:,}", ", ".join(group.varies_with) or "-", f"{len(group.initializers):,}")
        for group in groups
    ]
    heads, anchors = ("group", "units", "varies with", "weights"), [f"group-{group.id}" for group in groups]
    return Section("groups", "Groups of units", table(heads, rows, "Groups", numbers=(1, 3), anchors=anchors))


def _carried(found: ModelReport) -> list[Section]:
    """What the file says of itself."""
    if not found.metadata:
        return []
    rows = [(key.removeprefix(KEPT), value) for key, value in sorted(found.metadata.items()) if key != RECIPE]
    options = [(str(key), str(value)) for key, value in sorted(found.recipe.items()) if value not in (None, [], {})]
    body = table(("key", "value"), rows, "Metadata", long=(1,))
    if options:
        body += folded(
            "Every option of its recipe", table(("option", "value"), options, "Options of the recipe", long=(1,))
        )
    return [Section("carried", "What the file says of itself", body)]
