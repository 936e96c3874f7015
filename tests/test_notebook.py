"""The notebook among the examples: it runs, and is kept with what it shows."""

import pathlib
import shutil

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
NOTEBOOK = EXAMPLES / "samples.ipynb"
nbformat = pytest.importorskip("nbformat")

# of the packages that run notebooks
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning",
                                        "ignore::ResourceWarning", "ignore::UserWarning")


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def pictures(cell):
    """How many pictures a cell shows."""
    outputs = cell.get("outputs", [])
    return sum("image/png" in output.get("data", {}) for output in outputs)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_is_kept_as_it_came_out_of_a_single_run():
    notebook = read()
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code(notebook)] == list(
        range(1, len(code(notebook)) + 1))
    assert sum(map(pictures, code(notebook))) == 4
    assert not any(output.output_type == "error" or output.get("name") == "stderr"
                   for cell in code(notebook) for output in cell.outputs)


def test_the_notebook_is_smaller_than_a_megabyte():
    assert NOTEBOOK.stat().st_size < 1e6


def test_the_notebook_tells_no_path_of_the_machine_that_it_ran_on():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not [folder for folder in ("/tmp/", "/home/", "/root", "/Users/") if folder in text]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_pictures_in_the_same_cells(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    shutil.copytree(EXAMPLES / "pictures", tmp_path / "pictures")
    monkeypatch.setenv("SMOE_EXAMPLE_SIZE", "small")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    wanted = [pictures(cell) for cell in code(read())]
    notebook = read()
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [pictures(cell) for cell in code(notebook)] == wanted
    assert not any(output.get("name") == "stderr" for cell in code(notebook)
                   for output in cell.outputs)
