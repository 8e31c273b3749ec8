"""What stands in an HTML page."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The text of a page, its tags, and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")]

    def handle_data(self, text: str) -> None:
        self.text += text
