"""Reading SSML as XML, within bounds: no document type, no entities of its own, no depth or size that could hurt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast
from xml.sax import SAXParseException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

from defusedxml.common import DefusedXmlException
from defusedxml.expatreader import DefusedExpatParser

MAX_CHARS = 64_000
MAX_DEPTH = 16
MAX_ELEMENTS = 1000
MAX_ATTRIBUTES = 16
"Of one element."
NAMESPACE = "http://www.w3.org/2001/10/synthesis"
_SHOWN_CHARS = 40


class SsmlError(ValueError):
    """What is wrong with a document, in words for who wrote it, and in which line."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(f"line {line}: {message}")
        self.message = message
        self.line = line


@dataclass(frozen=True, slots=True)
class Element:
    """One element. Its name is without the prefix of SSML's own namespace; other prefixes stay."""

    name: str
    attributes: Mapping[str, str]
    line: int
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All character data within, in order."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def descendants(self) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child.descendants()


def shown(value: str) -> str:
    """A value as an error names it."""
    return repr(value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "...")


def read_document(ssml: str) -> Element:
    """The root, which is a `speak`. Raises SsmlError."""
    if len(ssml) > MAX_CHARS:
        raise SsmlError(f"the document has {len(ssml)} characters; at most {MAX_CHARS} are taken", 1)
    parser = DefusedExpatParser(forbid_dtd=True, forbid_entities=True, forbid_external=True)
    builder = _Builder(parser.getLineNumber)
    parser.setContentHandler(builder)
    try:
        parser.feed(ssml)
        parser.close()
    except SAXParseException as error:
        raise SsmlError(f"not well-formed XML: {error.getMessage()}", error.getLineNumber() or 1) from None
    except DefusedXmlException:
        raise SsmlError("document types and entities are not allowed in SSML", builder.line) from None
    except UnicodeEncodeError:
        raise SsmlError("the document holds half a surrogate pair", builder.line) from None
    root = builder.root
    if root is None or root.name != "speak":
        raise SsmlError(f"the root must be <speak>, not {shown(root.name) if root else 'nothing'}", 1)
    return root


class _Builder(ContentHandler):
    """Builds the tree; stops at the first bound that is passed."""

    def __init__(self, line: Callable[[], int | None]) -> None:
        super().__init__()
        self.root: Element | None = None
        self._line = line
        self._open: list[Element] = []
        self._count = 0
        self._prefix = ""

    @property
    def line(self) -> int:
        return self._line() or 1

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802
        # Namespaces are not resolved: SSML in the field uses vendors' prefixes without declaring them.
        attributes = cast("dict[str, str]", dict(attrs.items()))
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise SsmlError(f"more than {MAX_ELEMENTS} elements", self.line)
        if len(self._open) >= MAX_DEPTH:
            raise SsmlError(f"elements are nested more than {MAX_DEPTH} deep", self.line)
        if len(attributes) > MAX_ATTRIBUTES:
            raise SsmlError(f"an element has more than {MAX_ATTRIBUTES} attributes", self.line)
        if not self._open:
            self._prefix = _prefix_of(attributes)
        element = Element(name.removeprefix(self._prefix), attributes, self.line)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def endElement(self, name: str) -> None:  # noqa: N802
        self._open.pop()

    def characters(self, content: str) -> None:
        self._open[-1].children.append(content)


def _prefix_of(attributes: Mapping[str, str]) -> str:
    """'ssml:' where the root declares xmlns:ssml as SSML's namespace."""
    for name, value in attributes.items():
        if name.startswith("xmlns:") and value == NAMESPACE:
            return name.removeprefix("xmlns:") + ":"
    return ""
