"""The demo's report: one HTML page with a chart, and the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from flujo_client.cli.demo.figures import describe_figures

__all__ = ["write_report"]


def write_report(folder: Path, figures: dict[str, Any], documents: list[dict[str, Any]]) -> Path:
    """Write report.html and report.json.

    Args:
        folder: Made if missing.
        figures: The demo's figures, by name.
        documents: What the pipeline found of each document: its name, and the output of the step `report`.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps({"figures": figures, "documents": documents}, indent=2) + "\n")
    environment = Environment(
        loader=PackageLoader("flujo_client.cli.demo", "templates"), autoescape=select_autoescape()
    )
    longest = max((document["words"] for document in documents), default=1) or 1
    page = folder / "report.html"
    page.write_text(
        environment.get_template("report.html").render(
            figures=figures, rows=describe_figures(figures), documents=documents, longest=longest
        )
    )
    return page
