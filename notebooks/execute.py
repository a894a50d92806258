"""Execute the notebooks and write them with their outputs.

    python notebooks/execute.py                     # all of them
    python notebooks/execute.py segmentation        # one

Each notebook is a pair: ``NAME.py`` (Jupytext's percent format, edited and reviewed) and ``NAME.ipynb``
(the same cells with the outputs of a run from top to bottom, read on the web and opened in Jupyter).
Cells are taken from the ``.py``, unless ``--from-ipynb`` says that the other was edited. What a
notebook writes goes to ``out/notebooks/NAME``; the environment variable ``NOTEBOOK_OUT`` moves that,
and ``NOTEBOOK_FAST=1`` makes it train for fewer steps, which is for the tests and never committed.

Needs ``pip install -e ".[notebooks]"``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
CELL_SECONDS = 3600  # longest a cell may take: training beside other work takes its time
HEADER = "# ---\n# jupyter:"


def names() -> list[str]:
    """The notebooks there are: the ``.py`` files that begin with Jupytext's header."""
    return [
        path.stem
        for path in sorted(FOLDER.glob("*.py"))
        if path.read_text(encoding="utf-8").startswith(HEADER)
    ]


def from_text(name: str) -> Any:
    """The notebook that ``NAME.py`` describes, without outputs, the same ids at every call."""
    import jupytext

    notebook = jupytext.read(FOLDER / f"{name}.py")
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{name}-{index}"  # by default random: every run would change every cell
    return notebook


def stored(name: str) -> Any:
    """``NAME.ipynb`` as it lies there."""
    import nbformat

    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def cells(notebook: Any) -> list[tuple[str, str]]:
    """(kind, text) of each cell: what the two files of a pair share."""
    return [(cell.cell_type, cell.source.rstrip()) for cell in notebook.cells]


def run(notebook: Any, environment: Mapping[str, str]) -> Any:
    """Execute ``notebook`` in place, in this folder as Jupyter would, by this interpreter.

    Raises nbclient's CellExecutionError with the cell and its traceback.
    """
    from nbclient import NotebookClient

    # The kernel finds the packages from the repository, also where nothing is installed.
    paths = os.pathsep.join(p for p in (str(ROOT), environment.get("PYTHONPATH", "")) if p)
    variables = {
        **environment,
        "PYTHONPATH": paths,
        # Pictures become outputs, whatever the surroundings have chosen.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        # tqdm, which others import, would like ipywidgets; nothing here shows its bars.
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute(env=variables)
    return notebook


def write(name: str, notebook: Any) -> Path:
    """Write ``NAME.ipynb``, without what differs between machines."""
    import nbformat

    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    path = FOLDER / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def take_cells_from_ipynb(name: str) -> None:
    """Write ``NAME.py`` from the cells of ``NAME.ipynb``, which were edited in Jupyter."""
    import jupytext

    jupytext.write(stored(name), FOLDER / f"{name}.py", fmt="py:percent")


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute what the command line names; 1 where a cell failed, whose outputs are not written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; all")
    parser.add_argument("--from-ipynb", action="store_true", help="cells come from the .ipynb")
    given = parser.parse_args(arguments)
    chosen = given.names or names()
    for name in chosen:
        if name not in names():
            parser.error(f"no notebook {name}; there are: {', '.join(names())}")
    if os.environ.get("NOTEBOOK_FAST"):
        parser.error("NOTEBOOK_FAST is set: those outputs are not for reading; unset it")
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    for name in chosen:
        if given.from_ipynb:
            take_cells_from_ipynb(name)
        try:
            print(write(name, run(from_text(name), os.environ)).relative_to(ROOT))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"{name}.py: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
