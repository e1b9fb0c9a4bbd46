"""What a page of the site has a browser load from other hosts: nothing, or the site is not built.

Elements and attributes are those of the HTML standard. Style sheets are looked through for ``url(...)``, ``@import``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html.parser import HTMLParser

ELSEWHERE = re.compile(r"(?:https?:)?//")
LINKS = {"stylesheet", "preconnect", "dns-prefetch", "preload", "prefetch", "modulepreload", "icon", "manifest"}
"""Relations of a <link> that a browser acts on; what a canonical or alternate one names is not loaded."""

ATTRIBUTES = {"src", "poster", "data", "background"}
"""What is loaded, whatever element has it."""

STYLE = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", re.IGNORECASE)


class Loads(HTMLParser):
    """The addresses that a page has its browser load, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._style = tag == "style"
        self.found += [value for name, value in given.items() if name in ATTRIBUTES]
        self.found += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]
        if tag == "link" and LINKS & set(given.get("rel", "").lower().split()):
            self.found.append(given.get("href", ""))
        if tag in {"image", "use", "feimage"}:  # of SVG
            self.found += [given.get("href", ""), given.get("xlink:href", "")]
        self.found += styled(given.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self._style = self._style and tag != "style"

    def handle_data(self, data: str) -> None:
        if self._style:
            self.found += styled(data)


def styled(style: str) -> list[str]:
    """What a style sheet loads."""
    return [address or imported for address, imported in STYLE.findall(style)]


def loaded(page: str) -> list[str]:
    """What a page loads by itself from elsewhere; links that a reader may click are none of it."""
    parser = Loads()
    parser.feed(page)
    parser.close()
    return elsewhere(parser.found)


def elsewhere(addresses: Iterable[str]) -> list[str]:
    """Those of another host."""
    return [address for address in addresses if ELSEWHERE.match(address.strip().lower())]
