"""`python docs/reference.py FOLDER`, which is `make docs`: the reference, made of the docstrings of what is public."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc

import flujo_client

#: Each a page.
MODULES = ("flujo_client", "flujo_client.archive.sql", "flujo_worker")


def build(folder: Path) -> None:
    """Write the pages. Changes what `flujo_client` has: for a process of its own."""
    for name in flujo_client.__all__:  # what needs an extra is imported when it is asked for, and pdoc does not ask
        setattr(flujo_client, name, getattr(flujo_client, name))
    flujo_client.__all__.remove("BaseModel")  # pydantic's own, which pdoc cannot read
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    warnings.simplefilter("error")
    build(Path(sys.argv[1]))
