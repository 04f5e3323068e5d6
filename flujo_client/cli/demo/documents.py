"""Which documents the demo reads."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from flujo_client.protocol.errors import ConfigurationError

__all__ = ["MOST_DOCUMENTS", "MOST_WORDS", "describe_documents", "find_documents"]

_ENDINGS = (".md", ".txt", ".rst")

#: Documents that the demo reads at the most.
MOST_DOCUMENTS = 40

#: Words that a step reads of a document at the most: the upper bound that its estimate declares.
MOST_WORDS = 2_500

#: A document of fewer words is none.
_FEWEST_WORDS = 50


def find_documents(folder: Path | None) -> list[tuple[str, str]]:
    """Name and text of each document, more than `MOST_DOCUMENTS` if there are more.

    Args:
        folder: Read with everything below it; default: the project's README and docs in a checkout, else those that
            the installed packages bring.

    Raises:
        ConfigurationError: There is none, or no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise ConfigurationError(f"There is no folder {folder}.", suggestion="Name one with text documents.")
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix in _ENDINGS and path.is_file())
        documents = [(str(path.relative_to(folder)), path.read_text(errors="replace")) for path in paths]
    else:
        documents = _of_checkout(Path.cwd()) or _of_packages()
    documents = [(name, text) for name, text in documents if len(text.split()) >= _FEWEST_WORDS]
    if not documents:
        raise ConfigurationError(
            f"There is no document of {_FEWEST_WORDS} words or more in {folder or Path.cwd()}.",
            suggestion=f"Name a folder of {', '.join(_ENDINGS)} files.",
        )
    return documents


def describe_documents(documents: list[tuple[str, str]], found: int) -> str:
    """What is read, and what is not.

    Args:
        documents: What is read.
        found: How many there are.
    """
    cut = sum(len(text.split()) > MOST_WORDS for _, text in documents)
    told = f"{len(documents)} documents" if found == len(documents) else f"{len(documents)} of {found} documents"
    return f"{told}, the first {MOST_WORDS:,} words of the longest {cut}" if cut else told


def _of_checkout(root: Path) -> list[tuple[str, str]]:
    if not (root / "flujo_client").is_dir():
        return []
    paths = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("*/README.md")]
    return [(str(path.relative_to(root)), path.read_text(errors="replace")) for path in sorted(paths)]


def _of_packages() -> list[tuple[str, str]]:
    found = {dist.name: dist.metadata.json.get("description") for dist in metadata.distributions()}
    return [(f"{name} readme", text) for name, text in sorted(found.items()) if isinstance(text, str)]
