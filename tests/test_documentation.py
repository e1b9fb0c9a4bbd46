"""What README.md and docs/ say to type works: options exist, commands and scripts run, every page has its place."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
import yaml

from onnxmerge.cli.main import commands
from tests.command_line import Cli
from tests.following import follow
from tests.standins import detector, pictures, stand_ins
from tools.website.loads import loaded

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = [CHECKOUT / "README.md", *sorted(CHECKOUT.glob("docs/*.md")), *sorted(CHECKOUT.glob("docs/*/*.md"))]
PAGES += sorted(CHECKOUT.glob("docs/examples/*/*.md"))  # and not what these install below
COMMAND = re.compile(r"(?:^ *(?:\S*python -m )?|`|&& \S*/?)onnxmerge ([a-z]+\b[^`\n]*)", re.MULTILINE)


def name(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def typed(path: Path) -> list[str]:
    """Every command on a page, in blocks and in the text, that names one of onnxmerge's."""
    found = [line.partition("  #")[0].strip() for line in COMMAND.findall(path.read_text(encoding="utf-8"))]
    return [line for line in found if line.split()[0] in commands.list_commands(click.Context(commands))]


def test_there_are_commands() -> None:
    assert sum(len(typed(page)) for page in PAGES) > 60


EVERY = [pytest.param(page, id=name(page)) for page in PAGES if typed(page) and page.name != "extending.md"]
"""Pages with commands, but one: tests/test_extending.py follows that, recipe by recipe."""

EXAMPLE = re.compile("docs/examples/")
ELSEWHERE = {"docs/tutorial.md", *filter(EXAMPLE.match, map(name, PAGES))}
"""Pages that are followed by a test of their own: the last of this file, and tests/deploying."""


@pytest.mark.parametrize("page", EVERY)
def test_options_exist_and_take_what_they_are_given(page: Path) -> None:
    for line in typed(page):
        command_name, *words = shlex.split(line)
        command = commands.get_command(click.Context(commands), command_name)
        assert command is not None
        context = click.Context(command, info_name=command_name)
        given, rest, _ = command.make_parser(context).parse_args(words)
        assert not [word for word in rest if word.startswith("-")], line
        for parameter in command.params:
            if isinstance(parameter.type, click.Choice) and given.get(str(parameter.name)) is not None:
                parameter.type_cast_value(context, given[str(parameter.name)])


def options() -> set[str]:
    top = click.Context(commands)
    every = [commands, *(commands.get_command(top, each) for each in commands.list_commands(top))]
    known = [option for each in every if each is not None for option in each.get_params(top)]
    return {flag for option in known for flag in (*option.opts, *option.secondary_opts)}


def test_options_in_the_text_exist() -> None:
    known = options()
    for page in PAGES:
        if page.name not in {"extending.md", "results.md"} and not EXAMPLE.match(name(page)):  # which have other tools'
            named = set(re.findall(r"`(--[a-z][a-z-]*)", page.read_text(encoding="utf-8")))
            assert not named - known, name(page)


@pytest.fixture(scope="module")
def files(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file under every name that pages use."""
    folder = tmp_path_factory.mktemp("files")
    stand_ins(folder, digits)
    return folder


def words(picture: Path) -> list[str]:
    """What is written in a picture, but for its numbers, which differ in their last digits from machine to machine."""
    return re.findall(r">([^<>]+)</text>", re.sub(r"\d[\d.]*(?:e[-+]\d+)?", "0", picture.read_text(encoding="utf-8")))


FAILING = ["onnxmerge compare a.onnx b.onnx --data x.npy"]
"""Commands that find what they look for: these two files are of networks that were trained apart."""


@pytest.mark.slow
@pytest.mark.parametrize("page", [each for each in EVERY if each.id not in ELSEWHERE])
def test_what_is_typed_runs(page: Path, files: Path, digits: Path, tmp_path: Path) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    shutil.copytree(digits, tmp_path / "onnxmerge" / "examples" / "digits")
    (tmp_path / "docs").mkdir()  # where pictures go
    if page.name == "detectors.md":
        for seed, (file, classes) in enumerate({"cars.onnx": 3, "fruit.onnx": 5}.items()):
            onnx.save(detector(classes, seed), tmp_path / file)
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), dtype=np.uint8)
        pictures(tmp_path / "frames", pixels)
    text = page.read_text(encoding="utf-8")
    if page.name == "README.md":  # but what installs onnxmerge anew
        text = text.partition("## Use")[2].partition("## Develop")[0]
    follow(text, tmp_path, CHECKOUT, FAILING)
    for drawn in (tmp_path / "docs").glob("*.svg"):
        assert words(drawn) == words(CHECKOUT / "docs" / drawn.name)


def test_the_picture_of_groups_is_what_its_command_draws(checkout: Path, cli: Cli, tmp_path: Path) -> None:
    text = (checkout / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^onnxmerge (inspect .*) docs/groups.svg$", text, re.MULTILINE)
    cli(*(checkout / word if word.endswith(".onnx") else word for word in command.split()), tmp_path / "groups.svg")
    assert (tmp_path / "groups.svg").read_bytes() == (checkout / "docs" / "groups.svg").read_bytes()


@pytest.mark.slow
def test_the_tutorial_begins_in_an_empty_folder(checkout: Path, tmp_path: Path) -> None:
    follow((checkout / "docs" / "tutorial.md").read_text(encoding="utf-8"), tmp_path, checkout)


def placed(entry: object) -> list[str]:
    """The pages of a navigation."""
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
    return [page for each in inner for page in placed(each)]


def test_every_page_has_its_place_on_the_site() -> None:
    settings = yaml.safe_load((CHECKOUT / "tools" / "website" / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {path.relative_to(CHECKOUT / "docs").as_posix() for path in PAGES[1:]}
    made = {"index.md", "reference/command-line.md", "reference/python.md"}
    made |= {f"notebooks/{path.stem}.md" for path in CHECKOUT.glob("docs/notebooks/*.ipynb")}
    assert sorted(placed(settings["nav"])) == sorted(pages | made)


def test_pages_that_are_named_are_there() -> None:
    """By other pages, and by messages, help and docstrings."""
    pages = {name(page) for page in PAGES}
    for file in (*PAGES, *(CHECKOUT / "onnxmerge").rglob("*.py")):
        assert not set(re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text(encoding="utf-8"))) - pages, name(file)


@pytest.mark.parametrize(
    "part",
    [
        '<script src="https://a/b"></script>',
        "<img alt='' SRC=https://a/b>",
        '<img src="own.png" srcset="own.png 1x, //a/b 2x">',
        '<link rel="stylesheet" href="https://a/b">',
        '<link href="https://a/b" type="text/css" rel="preload Stylesheet">',
        "<link rel=icon href=//a/b>",
        "<style>@import 'https://a/b';</style>",
        "<style>b { color: red }\n@import url(https://a/b);</style>",
        '<p style="background: url(&quot;https://a/b&quot;)">text</p>',
        '<video controls src="https://a/b"></video>',
        '<video poster="https://a/b"></video>',
        '<audio><source type="audio/ogg" src="https://a/b"></audio>',
        '<object data="https://a/b"></object>',
        '<iframe loading="lazy"\n src="https://a/b"></iframe>',
        '<svg><use xlink:href="https://a/b"/></svg>',
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(part: str) -> None:
    assert len(loaded(f"<!doctype html><body>{part}</body>")) == 1


@pytest.mark.parametrize(
    "part",
    [
        '<script src="own.js"></script><img src="../own.png"><img src="data:image/png;base64,AA//AA">',
        '<a href="https://a/b">a</a>',
        '<link rel="canonical" href="https://a/b">',
        "<pre><code>&lt;img src=https://a/b&gt; @import 'https://a/b'</code></pre>",
        "<!-- <img src=https://a/b> -->",
        "<style>@import 'own.css'; b { background: url(own.png) }</style>",
    ],
)
def test_what_a_reader_clicks_or_reads_is_not_loaded(part: str) -> None:
    assert not loaded(f"<!doctype html><body>{part}</body>")
