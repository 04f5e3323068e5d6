"""Which documents the demo reads."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from flujo_client.protocol.errors import ConfigurationError

__all__ = ["find_documents"]

_ENDINGS = (".md", ".txt", ".rst")
_MOST = 40


def find_documents(folder: Path | None) -> list[tuple[str, str]]:
    """Name and text of each document.

    Args:
        folder: Read with everything below it; default: the project's README and docs in a checkout, else those that
            the installed packages bring.

    Raises:
        ConfigurationError: There is none.
    """
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix in _ENDINGS and path.is_file())
        documents = [(str(path.relative_to(folder)), path.read_text(errors="replace")) for path in paths]
    else:
        documents = _of_checkout(Path.cwd()) or _of_packages()
    documents = [(name, text) for name, text in documents if len(text.split()) >= 50][:_MOST]
    if not documents:
        raise ConfigurationError(
            f"There is no document of 50 words or more in {folder or Path.cwd()}.",
            suggestion=f"Name a folder of {', '.join(_ENDINGS)} files.",
        )
    return documents


def _of_checkout(root: Path) -> list[tuple[str, str]]:
    if not (root / "flujo_client").is_dir():
        return []
    paths = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("*/README.md")]
    return [(str(path.relative_to(root)), path.read_text(errors="replace")) for path in sorted(paths)]


def _of_packages() -> list[tuple[str, str]]:
    found = {dist.name: dist.metadata.json.get("description") for dist in metadata.distributions()}
    return [(f"{name} readme", text) for name, text in sorted(found.items()) if isinstance(text, str)]
