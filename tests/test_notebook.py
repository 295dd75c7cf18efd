"""The notebook of the documentation runs from a search to an exported model."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tutorial.ipynb"


WITHIN = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent / "fakes")!r}]
from buildup.engine import search
from buildup.models import export
from local_workers import LocalWorkers
search.start_workers = LocalWorkers
export._check = lambda *_: None
"""
"""Trains in the kernel itself and does not load the export in another process; Ray takes most of a minute."""


def run_all(notebook: Any, folder: Path) -> str:
    """What the cells print in a Jupyter kernel."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))


@pytest.mark.parametrize("before", [WITHIN, pytest.param("", marks=pytest.mark.slow)], ids=["within", "ray"])
def test_the_tutorial_runs_to_its_end(before: str, tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells[:0] = [nbformat.v4.new_code_cell(before)]
    said = run_all(notebook, tmp_path)
    assert "torch.Size([1, 10])" in said
    assert said.rstrip().endswith("True")
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def test_it_is_kept_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
