"""The notebook of the documentation runs from a search to an exported model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbclient import NotebookClient

from buildup.engine import search
from local_workers import LocalWorkers

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tutorial.ipynb"


def in_a_kernel(notebook: Any, folder: Path) -> str:
    """What the cells print in a Jupyter kernel, with Ray's workers."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))


def here(notebook: Any, folder: Path) -> str:
    """What the cells print in IPython in this process, with workers in it; a process and Ray take most of a minute."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("VIRTUAL_ENV", raising=False)  # IPython warns of one that is not its own
        shell = InteractiveShell()
        patched.chdir(folder)
        patched.setattr(search, "start_workers", LocalWorkers)
        patched.setattr("buildup.models.export._check", lambda *_: None)
        with capture_output() as captured:
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    shell.run_cell(cell.source).raise_error()
    return captured.stdout


@pytest.mark.parametrize("run", [here, pytest.param(in_a_kernel, marks=pytest.mark.slow)])
def test_the_tutorial_runs_to_its_end(run: Callable[[Any, Path], str], tmp_path: Path) -> None:
    said = run(nbformat.read(NOTEBOOK, as_version=4), tmp_path)
    assert "torch.Size([1, 10])" in said
    assert said.rstrip().endswith("True")
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def test_it_is_kept_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
