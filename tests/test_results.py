"""The results folder holds what it promises, and nobody's file is touched but its own."""

import csv
import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import smoe_np
from smoe_np.results import ModelFile, ResultsFolder


@pytest.fixture
def image():
    return np.linspace(0, 1, 12 * 15).reshape(12, 15)


def train(folder, image, iterations=4, **about):
    smoe = smoe_np.Smoe(image, 2)
    folder.create(**about)
    smoe.train(iterations, val_iter=2, callbacks=[folder.validation], checkpoint=folder.checkpoint)
    folder.finish(smoe)
    return smoe


def files_of(path):
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def same_params(path, params):
    read = smoe_np.load_params(path).arrays()
    return all(np.array_equal(read[name], array) for name, array in params.arrays().items())


def test_a_run_leaves_the_layout_of_tf_smoe(tmp_path, image):
    smoe = train(ResultsFolder(tmp_path / "new" / "results"), image)
    folder = tmp_path / "new" / "results"
    assert files_of(folder) == {
        "params/params_000000.npz", "params/params_000002.npz", "params/params_000004.npz",
        "reconstructions/reconstruction_000000.png", "reconstructions/reconstruction_000002.png",
        "reconstructions/reconstruction_000004.png", "checkpoints/last.npz", "params_best.npz",
        "params_last.npz", "reconstruction_best.png", "history.csv", "settings.json",
    }
    assert same_params(folder / "params_last.npz", smoe.params)
    assert same_params(folder / "params/params_000004.npz", smoe.params)
    assert same_params(folder / "params_best.npz", smoe.best_params)
    picture = smoe_np.read_image(folder / "reconstructions/reconstruction_000004.png")
    np.testing.assert_allclose(picture / 255, smoe.reconstruction, atol=0.5001 / 255)


def test_the_best_picture_is_that_of_the_best_parameters(tmp_path, image):
    smoe = smoe_np.Smoe(image, 2)
    folder = ResultsFolder(tmp_path / "results")
    folder.create()
    smoe.train(2)
    smoe._best_params = smoe.params.map(lambda array: array / 2)
    folder.finish(smoe)
    assert same_params(tmp_path / "results/params_best.npz", smoe.best_params)
    picture = smoe_np.read_image(tmp_path / "results/reconstruction_best.png")
    expected = smoe_np.render(smoe.best_params, image.shape)
    np.testing.assert_allclose(picture / 255, expected, atol=0.5001 / 255)


def test_the_history_is_a_table_of_the_records(tmp_path, image):
    smoe = train(ResultsFolder(tmp_path / "results"), image)
    with open(tmp_path / "results/history.csv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [int(row["iteration"]) for row in rows] == [0, 2, 4]
    for row, record in zip(rows, smoe.history, strict=True):
        assert {name: float(value) for name, value in row.items()} == vars(record)


def test_the_settings_tell_how_the_run_was_made_and_ended(tmp_path, image):
    smoe = train(ResultsFolder(tmp_path / "results"), image, params_file="here.npz")
    settings = json.loads((tmp_path / "results/settings.json").read_text())
    assert settings["smoe_np"] == smoe_np.__version__
    assert settings["params_file"] == "here.npz"
    assert settings["shape"] == [12, 15]
    assert settings["training"] == smoe.settings
    assert settings["model"] == smoe.options
    assert (settings["iteration"], settings["stopped"]) == (4, None)


def test_results_of_a_killed_run_are_complete_up_to_its_last_validation(tmp_path, image):
    folder = ResultsFolder(tmp_path / "results")
    folder.create()
    smoe = smoe_np.Smoe(image, 2)
    smoe.train(0, callbacks=[folder.validation], checkpoint=folder.checkpoint)
    assert files_of(tmp_path / "results") == {
        "params/params_000000.npz", "reconstructions/reconstruction_000000.png",
        "checkpoints/last.npz", "params_best.npz", "history.csv", "settings.json",
    }


def test_what_a_run_was_killed_before_writing_is_written_when_it_goes_on(tmp_path, image):
    folder = ResultsFolder(tmp_path / "results")
    smoe = train(folder, image)
    lost = tmp_path / "results/params/params_000004.npz"
    lost.unlink()
    again = ResultsFolder(tmp_path / "results", checkpoint=folder.checkpoint)
    again.create()
    again.complete(smoe_np.Smoe.from_checkpoint(folder.checkpoint, image))
    assert same_params(lost, smoe.params)


@pytest.mark.parametrize(("shape", "axis", "written"), [
    ((4, 6, 5), None, (4, 6, 5)),  # a volume
    ((4, 6, 5, 3), -1, (4, 6, 5, 3)),
    ((2, 6, 7), 0, (2, 6, 7)),  # a picture of two channels
    ((6, 7, 3), None, (6, 7, 3)),  # a volume of three slices
])
def test_what_png_cannot_hold_is_written_as_tiff(tmp_path, shape, axis, written):
    image = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    smoe = smoe_np.Smoe(image, 2, channel_axis=axis, backend="numpy")
    folder = ResultsFolder(tmp_path / "results")
    folder.create()
    smoe.train(0, callbacks=[folder.validation])
    folder.finish(smoe)
    for name in "reconstructions/reconstruction_000000.tif", "reconstruction_best.tif":
        assert smoe_np.read_image(tmp_path / "results" / name).shape == written


def test_pictures_are_tiff_without_pillow(tmp_path, image, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    train(ResultsFolder(tmp_path / "results"), image, 0)
    assert {name for name in files_of(tmp_path / "results") if "reconstruction" in name} == {
        "reconstruction_best.tif", "reconstructions/reconstruction_000000.tif"}


# ---- folders that exist


def test_looking_makes_nothing(tmp_path):
    ResultsFolder(tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="not empty.*--overwrite"):
        ResultsFolder(tmp_path)


def test_an_empty_folder_is_taken_even_with_the_empty_folders_of_a_run_that_failed(tmp_path):
    for name in "params", "checkpoints":
        (tmp_path / name).mkdir()
    ResultsFolder(tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(FileExistsError):
        ResultsFolder(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(NotADirectoryError, match="not a folder"):
        ResultsFolder(tmp_path / "results", overwrite=True)


def test_overwriting_never_deletes_a_foreign_file(tmp_path, image):
    foreign = [
        "letter.txt", "params.npz", "params_bests.npz", "params_000100.npz", "best.png",
        "params/params_12.npz", "params/params_000100.npz.bak", "params/my_params_000100.npz",
        "params/reconstruction_000100.png", "params/deep/params_000100.npz",
        "reconstructions/reconstruction_000100.jpg", "reconstructions/params_000100.npz",
        "checkpoints/older.npz", "checkpoints/checkpoint_000100.npz", "other/history.csv",
    ]
    for name in foreign:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "elsewhere.npz").write_text("linked")
    for link in ("params/params_000300.npz", "history.csv", "checkpoints/last.npz"):
        (tmp_path / link).symlink_to(tmp_path / "elsewhere.npz")
    (tmp_path / "params/params_000400.npz").mkdir()
    train(ResultsFolder(tmp_path, overwrite=True), image)
    assert {name: (tmp_path / name).read_text() for name in foreign} == {n: n for n in foreign}
    assert (tmp_path / "elsewhere.npz").read_text() == "linked"  # whatever led there
    assert not (tmp_path / "history.csv").is_symlink()
    assert (tmp_path / "params/params_000400.npz").is_dir()


@pytest.mark.parametrize("sub", ["params", "reconstructions", "checkpoints"])
def test_results_are_not_written_through_a_link(tmp_path, image, sub):
    other = tmp_path / "other"
    other.mkdir()
    (other / "params_000100.npz").write_text("another run's")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / sub).symlink_to(other)
    with pytest.raises(NotADirectoryError, match=f"{sub}': it is a link; remove it"):
        train(ResultsFolder(tmp_path / "results", overwrite=True), image)
    assert (other / "params_000100.npz").read_text() == "another run's"


def test_overwriting_leaves_nothing_of_the_earlier_run(tmp_path, image):
    train(ResultsFolder(tmp_path), image, 8)
    smoe = train(ResultsFolder(tmp_path, overwrite=True), image, 2)
    assert {name for name in files_of(tmp_path) if "_0" in name} == {
        "params/params_000000.npz", "params/params_000002.npz",
        "reconstructions/reconstruction_000000.png", "reconstructions/reconstruction_000002.png"}
    assert same_params(tmp_path / "params_last.npz", smoe.params)
    again = smoe_np.Smoe.from_checkpoint(tmp_path / "checkpoints/last.npz", image)
    assert again.iteration == 2


def test_nothing_is_removed_before_there_is_something_to_write(tmp_path, image):
    train(ResultsFolder(tmp_path), image)
    before = files_of(tmp_path)
    folder = ResultsFolder(tmp_path, overwrite=True)
    folder.create()
    assert files_of(tmp_path) == before
    assert not folder.has_checkpoint


def test_a_run_that_goes_on_in_its_folder_is_not_refused_and_removes_nothing(tmp_path, image):
    first = ResultsFolder(tmp_path)
    train(first, image)
    (tmp_path / "notes.txt").write_text("good one")
    before = files_of(tmp_path)
    folder = ResultsFolder(tmp_path, checkpoint=tmp_path / "params/../checkpoints/last.npz")
    folder.create()
    smoe = smoe_np.Smoe.from_checkpoint(folder.checkpoint, image)
    smoe.train(2, val_iter=2, callbacks=[folder.validation], checkpoint=folder.checkpoint)
    folder.finish(smoe)
    assert files_of(tmp_path) == before | {
        "params/params_000006.npz", "reconstructions/reconstruction_000006.png"}


def test_a_checkpoint_from_elsewhere_is_no_reason_to_take_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError):
        ResultsFolder(tmp_path, checkpoint=tmp_path / "other.npz")


def test_its_own_files_are_known_by_any_path(tmp_path):
    folder = ResultsFolder(tmp_path)
    assert folder.owns(tmp_path / "params/../reconstruction_best.png")
    assert folder.owns(tmp_path / "params/params_000100.npz")
    assert not folder.owns(tmp_path / "picture.png")
    assert not folder.owns(tmp_path / "reconstructions/reconstruction_best.png")


# ---- the file of a model


def fit(files, image):
    smoe = smoe_np.Smoe(image)
    files.create()
    smoe.fit(kernels=2, iterations=2, callbacks=[files.validation], checkpoint=files.checkpoint)
    files.finish(smoe)
    return smoe


def test_a_model_is_written_and_its_checkpoint_removed(tmp_path, image):
    files = ModelFile(tmp_path / "m.npz")
    assert files_of(tmp_path) == set()
    assert files.checkpoint == str(tmp_path / "m.checkpoint.npz")
    smoe = fit(files, image)
    assert files_of(tmp_path) == {"m.npz"}
    assert same_params(tmp_path / "m.npz", smoe.params)
    assert files.where == f"model in {tmp_path / 'm.npz'}"


def test_a_model_leaves_the_checkpoint_to_the_results_where_there_are_any(tmp_path, image):
    results = ResultsFolder(tmp_path / "r")
    fit(ModelFile(tmp_path / "m.npz", results=results), image)
    assert results.has_checkpoint
    assert {name for name in files_of(tmp_path) if "r/" not in name} == {"m.npz"}


def test_a_link_that_somebody_made_of_a_checkpoint_stays(tmp_path, image):
    (tmp_path / "elsewhere.npz").write_text("older")
    (tmp_path / "m.checkpoint.npz").symlink_to(tmp_path / "elsewhere.npz")
    fit(ModelFile(tmp_path / "m.npz", checkpoint=tmp_path / "elsewhere.npz"), image)
    assert files_of(tmp_path) == {"m.npz", "elsewhere.npz", "m.checkpoint.npz"}
    assert (tmp_path / "m.checkpoint.npz").is_symlink()


def test_proving_that_a_model_can_be_written_leaves_an_older_one_as_it_is(tmp_path):
    (tmp_path / "m.npz").write_text("older")
    ModelFile(tmp_path / "m.npz", overwrite=True).create()
    assert files_of(tmp_path) == {"m.npz"}
    assert (tmp_path / "m.npz").read_text() == "older"


# ---- disks


def test_a_folder_that_cannot_be_made_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="cannot write results to .*not a directory"):
        ResultsFolder(tmp_path / "file/results").create()


HOLDS = """
import sys
from smoe_np.folder_lock import hold
hold(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="such locks are those of POSIX")
def test_a_folder_that_another_run_writes_to_is_left_alone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        folder = ResultsFolder(tmp_path, overwrite=True)
        with pytest.raises(BlockingIOError, match="another run is writing to .*; wait for its end"):
            folder.create()
        other.stdin.close()
    folder.create()
    folder.release()
    folder.release()


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no such folder here")
def test_a_folder_is_let_go_of_whatever_happens_to_it(tmp_path):
    before = descriptors()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "r").mkdir()
    (tmp_path / "r/params").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotADirectoryError):
        ResultsFolder(tmp_path / "r", overwrite=True).create()
    assert descriptors() == before
    first, second = ResultsFolder(tmp_path / "s"), ResultsFolder(tmp_path / "s")
    first.create()
    second.create()
    assert descriptors() == before + 1
    (tmp_path / "s").rename(tmp_path / "t")
    first.release()
    assert descriptors() == before + 1  # the second holds it yet
    second.release()
    assert descriptors() == before


def test_a_folder_that_another_run_has_filled_meanwhile_is_left_alone(tmp_path, image):
    folder, other = ResultsFolder(tmp_path / "r"), ResultsFolder(tmp_path / "r")
    train(other, image)
    other.release()
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError, match="is not empty; give another one, or --overwrite"):
        folder.create()
    assert files_of(tmp_path) == before


def test_a_full_disk_is_told_before_training(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot write results to .*no space left") as caught:
        ResultsFolder(tmp_path).create()
    assert caught.value.errno == errno.ENOSPC


def test_a_folder_without_permission_is_told_before_training(tmp_path, monkeypatch):
    def forbidden(**where):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr("tempfile.TemporaryFile", forbidden)
    with pytest.raises(PermissionError, match="permission denied"):
        ResultsFolder(tmp_path).create()


def test_the_probe_leaves_nothing(tmp_path):
    ResultsFolder(tmp_path).create()
    assert files_of(tmp_path) == set()
