"""The folder in which a training run leaves its results."""

import contextlib
import csv
import errno
import importlib.util
import io
import json
import os
import re
import tempfile
from dataclasses import asdict, fields

import numpy as np

from . import __version__
from .engine import render
from .files import atomic_write, path_text
from .images import write_image
from .smoe import Record

# All that is ever written there, by sub-folder; nothing else is ever replaced or removed.
OWN_FILES = {
    "": re.compile(r"params_(best|last)\.npz|reconstruction_best\.(png|tif)"
                   r"|history\.csv|settings\.json"),
    "params": re.compile(r"params_\d{6,}\.npz"),
    "reconstructions": re.compile(r"reconstruction_\d{6,}\.(png|tif)"),
    "checkpoints": re.compile(r"last\.npz"),
}
PROBE_BYTES = 1 << 16


class ResultsFolder:
    """The results of a training run, in the layout of tf-smoe; making one only looks.

    ==============================================  ================================================
    ``params/params_000100.npz``                    the model at a validation
    ``reconstructions/reconstruction_000100.png``   its picture
    ``checkpoints/last.npz``                        all that training needs to go on
    ``params_best.npz reconstruction_best.png``     of the validation with the lowest loss
    ``params_last.npz``                             the model at the end, or when interrupted
    ``history.csv``                                 a line for each validation
    ``settings.json``                               the settings, and how the run ended
    ==============================================  ================================================

    Pictures are ``.tif`` where Pillow is not installed, and where they are volumes.

    Parameters
    ----------
    path : str or os.PathLike
    overwrite : bool
        Take a folder that holds files. Those of an earlier run are replaced or removed when the
        first result is written; what this class does not write itself, stays.
    checkpoint : str or os.PathLike, optional
        The checkpoint from which training goes on. If it is the one in this very folder, it is the
        same run: the folder is taken as it is, and nothing is removed.

    Raises
    ------
    FileExistsError
        If the folder holds files, and neither `overwrite` nor `checkpoint` allows that.
    NotADirectoryError
        If the path is that of a file.
    """

    def __init__(self, path, overwrite=False, checkpoint=None):
        self.path = path_text(path)
        self.checkpoint = os.path.join(self.path, "checkpoints", "last.npz")
        self._goes_on = checkpoint is not None and (
            os.path.realpath(checkpoint) == os.path.realpath(self.checkpoint))
        self._begun = False  # nothing is removed before there is something to write
        self._written_best = None
        self._about = {}
        if os.path.lexists(self.path) and not os.path.isdir(self.path):
            raise NotADirectoryError(
                errno.ENOTDIR, f"cannot write results to {self.path!r}: it is not a folder")
        if not (overwrite or self._goes_on) and self._holds_files():
            raise FileExistsError(
                errno.EEXIST, f"the results folder {self.path!r} is not empty; give another one, "
                              f"or --overwrite to replace the results in it")
        self._checkpoint_before = self._checkpoint_stamp()

    def owns(self, path):
        """Whether a file is one of those that are written here, and may be replaced."""
        folder, name = os.path.split(os.path.realpath(path))
        return any(folder == os.path.realpath(os.path.join(self.path, sub)) and own.fullmatch(name)
                   for sub, own in OWN_FILES.items())

    def create(self, **about):
        """Make the folders, and prove that they can be written to.

        Parameters
        ----------
        **about
            What else ``settings.json`` is to hold.

        Raises
        ------
        OSError
            If a folder cannot be made or written to, or the disk is full.
        """
        self._about = about
        for sub in OWN_FILES:
            folder = os.path.join(self.path, sub) if sub else self.path
            try:
                os.makedirs(folder, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder) as probe:
                    probe.write(bytes(PROBE_BYTES))
                    probe.flush()
                    os.fsync(probe.fileno())
            except OSError as error:
                raise OSError(error.errno, f"cannot write results to {folder!r}: "
                                           f"{os.strerror(error.errno).lower()}") from None

    @property
    def has_checkpoint(self):
        """Whether there is a checkpoint of this run."""
        stamp = self._checkpoint_stamp()
        return stamp is not None and (self._goes_on or stamp != self._checkpoint_before)

    def validation(self, smoe):
        """Write what a validation leaves; a callback of ``Smoe.train``."""
        self._begin()
        if self._written_best is None:
            self._write_settings(smoe)
        number = f"{smoe.iteration:06d}"
        smoe.params.save(os.path.join(self.path, "params", f"params_{number}.npz"))
        self._write_picture(smoe, smoe.reconstruction, "reconstructions",
                            f"reconstruction_{number}")
        if smoe.best_params is not self._written_best:
            smoe.best_params.save(os.path.join(self.path, "params_best.npz"))
            self._written_best = smoe.best_params
        self._write_history(smoe)

    def complete(self, smoe):
        """Write what a run that goes on was killed before writing, after its last checkpoint."""
        if self._goes_on and smoe.history and smoe.history[-1].iteration == smoe.iteration:
            self.validation(smoe)

    def finish(self, smoe):
        """Write what the end of training leaves, whether it was interrupted or not."""
        self._begin()
        smoe.params.save(os.path.join(self.path, "params_last.npz"))
        best = smoe.best_params
        best.save(os.path.join(self.path, "params_best.npz"))
        picture = render(best, smoe.shape, smoe.engine.name, smoe.options["dtype"])
        self._write_picture(smoe, picture, "", "reconstruction_best")
        self._write_history(smoe)
        self._write_settings(smoe)

    # ---- files of an earlier run

    def _holds_files(self):
        """Whether there is anything but empty folders such as a run that failed at once leaves."""
        missing = FileNotFoundError, NotADirectoryError
        with contextlib.suppress(*missing), os.scandir(self.path) as entries:
            for entry in entries:
                if not (entry.name in OWN_FILES and entry.is_dir() and not os.listdir(entry.path)):
                    return True
        return False

    def _begin(self):
        """Remove the files of an earlier run, lest they mix with those of this one."""
        if self._begun or self._goes_on:
            return
        self._begun = True
        for sub, own in OWN_FILES.items():
            with os.scandir(os.path.join(self.path, sub)) as entries:
                old = [entry.path for entry in entries
                       if own.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)]
            for path in old:
                if path != self.checkpoint or not self.has_checkpoint:
                    os.unlink(path)

    def _checkpoint_stamp(self):
        with contextlib.suppress(OSError):
            found = os.stat(self.checkpoint)
            return found.st_ino, found.st_mtime_ns
        return None

    # ---- files of this run

    def _write_picture(self, smoe, picture, sub, name):
        is_plain = len(smoe.shape) == 2 and smoe.channels in (1, 3)
        ending = "png" if is_plain and importlib.util.find_spec("PIL") else "tif"
        if picture.ndim > len(smoe.shape) and smoe.channels not in (1, 3):
            picture = np.moveaxis(picture, -1, 0)  # no file takes them as channels: a stack
        write_image(os.path.join(self.path, sub, f"{name}.{ending}"), picture)

    def _write_history(self, smoe):
        table = io.StringIO()
        writer = csv.DictWriter(table, [field.name for field in fields(Record)],
                                lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(record) for record in smoe.history)
        self._write_text("history.csv", table.getvalue())

    def _write_settings(self, smoe):
        settings = {
            "smoe_np": __version__, **self._about, "shape": smoe.shape, "channels": smoe.channels,
            "backend": smoe.engine.name, "model": smoe.options, "training": smoe.settings,
            "iteration": smoe.iteration, "stopped": smoe.stopped,
        }
        self._write_text("settings.json", json.dumps(settings, indent=2) + "\n")

    def _write_text(self, name, text):
        with atomic_write(os.path.join(self.path, name)) as stream:
            stream.write(text.encode())
