"""The package finds its kernels, and imports little."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import smoe_np
from smoe_np import kernel_files

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """An empty folder in which `kernel_files` believes to lie, as smoe_np/kernel_files.py."""
    monkeypatch.setattr(kernel_files, "__file__", str(tmp_path / "smoe_np" / "kernel_files.py"))
    return tmp_path


def make_package(folder):
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    return folder


def test_kernels_are_found_beside_the_module_when_installed(tree):
    installed = make_package(tree / "smoe_np" / "kernels")
    assert kernel_files.kernel_folder() == installed


def test_kernels_are_found_in_the_checkout_otherwise(tree):
    in_checkout = make_package(tree / "kernels")
    assert kernel_files.kernel_folder() == in_checkout


def test_installed_kernels_come_before_another_package_named_kernels(tree):
    make_package(tree / "kernels")
    installed = make_package(tree / "smoe_np" / "kernels")
    assert kernel_files.kernel_folder() == installed


def test_an_empty_folder_beside_the_module_does_not_hide_the_checkout(tree):
    (tree / "smoe_np" / "kernels").mkdir(parents=True)
    in_checkout = make_package(tree / "kernels")
    assert kernel_files.kernel_folder() == in_checkout


def test_missing_kernels_are_reported_in_one_line_that_names_both_places(tree):
    with pytest.raises(FileNotFoundError) as caught:
        kernel_files.kernel_folder()
    message = str(caught.value)
    assert "\n" not in message
    assert str(tree / "smoe_np" / "kernels") in message
    assert str(tree / "kernels") in message


def test_every_kernel_of_the_checkout_is_in_the_folder_that_is_found():
    found = {path.name for path in kernel_files.kernel_folder().iterdir()}
    expected = {path.name for path in (CHECKOUT / "kernels").iterdir() if path.is_file()}
    assert expected <= found


def test_importing_smoe_np_loads_nothing_that_is_optional_or_slow(tmp_path):
    """Optional packages are replaced by empty ones, so that it matters not which are installed."""
    optional = ["cupy", "matplotlib", "PIL", "tqdm"]
    for name in optional:
        make_package(tmp_path / name)
    program = (
        "import sys, smoe_np\n"
        f"names = {[*optional, 'tifffile', 'scipy']}\n"
        "print(*[name for name in names if name in sys.modules])\n"
    )
    parent = Path(smoe_np.__file__).resolve().parents[1]
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(parent)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == []
