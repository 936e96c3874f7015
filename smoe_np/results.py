"""Output of a training: a folder of results, or a model file."""

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

from . import __version__
from .allocation import check_bits
from .engine import render
from .files import atomic_write, path_text, shell_line
from .folder_lock import hold, let_go
from .images import CHANNELS, write_image
from .packed import ENDING as PACKED
from .packed import USUAL_BITS, is_packed_name
from .records import Record

# All files that are written, by subfolder; no other file is ever replaced or removed.
OWN_FILES = {
    "": re.compile(r"params_(best|last)\.npz|reconstruction_best\.(png|tif)"
                   r"|history\.csv|settings\.json|loss\.png|sheet\.png|report\.html"),
    "params": re.compile(r"params_\d{6,}\.npz"),
    "reconstructions": re.compile(r"reconstruction_\d{6,}\.(png|tif)"),
    "checkpoints": re.compile(r"last\.npz"),
}
PROBE_BYTES = 1 << 16


class _Checkpoint:
    """The checkpoint file of a run, as distinct from a file that existed before.

    Parameters
    ----------
    path : str
        Name of the checkpoint file.
    given : str or os.PathLike, optional
        Checkpoint from which training continues; if it is this file, it belongs to the same run.
    """

    def __init__(self, path, given=None):
        self.path = path
        self.goes_on = given is not None and os.path.realpath(given) == os.path.realpath(path)
        self._before = self._stamp()

    @property
    def is_ours(self):
        stamp = self._stamp()
        return stamp is not None and (self.goes_on or stamp != self._before)

    def _stamp(self):
        with contextlib.suppress(OSError):
            found = os.stat(self.path)
            return found.st_ino, found.st_mtime_ns
        return None


class ResultsFolder:
    """The folder of results of a training run, in the layout of tf-smoe.

    The constructor only checks the folder; nothing is written before `create`.

    ==============================================  ================================================
    ``params/params_000100.npz``                    the model at a validation
    ``reconstructions/reconstruction_000100.png``   its reconstruction
    ``checkpoints/last.npz``                        checkpoint, from which training can continue
    ``params_best.npz reconstruction_best.png``     the model with the lowest loss
    ``params_last.npz``                             the model at the end, or when interrupted
    ``history.csv``                                 a line for each validation
    ``settings.json``                               the settings, and how the run ended
    ``loss.png sheet.png report.html``              figures and page, written by ``Gallery``
    ==============================================  ================================================

    Reconstructions are ``.tif`` files if Pillow is not installed, if they are not two-dimensional,
    and if they have other numbers of channels than 1 or 3.

    Parameters
    ----------
    path : str or os.PathLike
        Name of the folder.
    overwrite : bool
        Accept a folder that holds files. Results of an earlier run are replaced or removed when the
        first result is written; all other files stay.
    checkpoint : str or os.PathLike, optional
        Checkpoint from which training continues. If it is the one in this folder, the run is the
        same: existing files are accepted, and none is removed.

    Raises
    ------
    FileExistsError
        If the folder holds files, and neither `overwrite` nor `checkpoint` allows that.
    NotADirectoryError
        If the path is that of a file.
    """

    precision = None  # models are not rounded

    def __init__(self, path, overwrite=False, checkpoint=None):
        self.path = path_text(path)
        self.checkpoint = os.path.join(self.path, "checkpoints", "last.npz")
        self._checkpoint = _Checkpoint(self.checkpoint, checkpoint)
        self._goes_on = self._checkpoint.goes_on
        self._has_other_checkpoint = checkpoint is not None and not self._goes_on
        self._may_hold_files = overwrite or self._goes_on
        self._begun = False  # old results are kept until there is something to write
        self._written_best = self._lock = None
        self._about = {}
        if os.path.lexists(self.path) and not os.path.isdir(self.path):
            raise NotADirectoryError(
                errno.ENOTDIR, f"cannot write results to {self.path!r}: it is not a folder")
        self._refuse_files()

    def _refuse_files(self):
        if not self._may_hold_files and self._holds_files():
            going_on = ""
            if self._has_other_checkpoint and os.path.exists(self.checkpoint):
                going_on = (f", or --checkpoint-path={shell_line([self.checkpoint])} to go on with "
                            f"the run in it")
            raise FileExistsError(
                errno.EEXIST, f"the results folder {self.path!r} is not empty; give another one, "
                              f"or --overwrite to replace the results in it{going_on}")

    def owns(self, path):
        """Whether a file is one of those that this run writes, and may replace."""
        folder, name = os.path.split(os.path.realpath(path))
        return any(folder == os.path.realpath(os.path.join(self.path, sub)) and own.fullmatch(name)
                   for sub, own in OWN_FILES.items())

    def create(self, **about):
        """Make the folders, and test that they can be written to.

        Parameters
        ----------
        **about
            Additional entries of ``settings.json``.

        Raises
        ------
        OSError
            If a folder cannot be made or written to, the disk is full, or another process writes
            its results there.
        """
        self._about = about
        try:
            self._make_folders()
        except BaseException:
            self.release()
            raise
        if os.path.islink(self.checkpoint) and not self._goes_on:
            os.unlink(self.checkpoint)  # checkpoints follow links, which may lead anywhere

    def _make_folders(self):
        for sub in sorted(OWN_FILES):  # the folder itself first
            folder = os.path.join(self.path, sub) if sub else self.path
            if sub and os.path.islink(folder):  # files would be removed from wherever it leads
                raise NotADirectoryError(
                    errno.ENOTDIR, f"cannot write results to {folder!r}: it is a link; remove it, "
                                   f"or give another folder of results")
            try:
                os.makedirs(folder, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder) as probe:
                    probe.write(bytes(PROBE_BYTES))
                    probe.flush()
                    os.fsync(probe.fileno())
            except OSError as error:
                raise OSError(error.errno, f"cannot write results to {folder!r}: "
                                           f"{os.strerror(error.errno).lower()}") from None
            if not sub:
                self._lock = self._lock or hold(self.path)
                self._refuse_files()  # again, now that no other process writes here

    def release(self):
        """Allow other processes to write to this folder."""
        let_go(self._lock)
        self._lock = None

    @property
    def has_checkpoint(self):
        """Whether there is a checkpoint of this run."""
        return self._checkpoint.is_ours

    @property
    def where(self):
        """Where the results are, for messages."""
        return f"results in {self.path}"

    def validation(self, smoe):
        """Write the results of a validation; a callback for ``Smoe.train`` and ``Smoe.fit``."""
        self._begin()
        if smoe.tried and len(smoe.history) == 1:  # a new try for a PSNR starts at iteration 0
            self._remove("params", "reconstructions")
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
        """Write the results of the last checkpoint, if the run was killed before it had done so."""
        if self._goes_on and smoe.record is not None:
            self.validation(smoe)

    def finish(self, smoe):
        """Write the results at the end of training."""
        self._begin()
        smoe.params.save(os.path.join(self.path, "params_last.npz"))
        best = smoe.best_params
        best.save(os.path.join(self.path, "params_best.npz"))
        picture = render(best, smoe.shape, smoe.engine.name, smoe.options["dtype"])
        self._write_picture(smoe, picture, "", "reconstruction_best")
        self._write_history(smoe)
        self._write_settings(smoe)

    def keep(self, smoe):
        """Write the results so far when training is interrupted."""
        self.finish(smoe)

    # ---- files of an earlier run

    def _holds_files(self):
        """Whether there is anything but the empty subfolders of a run that failed at once."""
        missing = FileNotFoundError, NotADirectoryError
        with contextlib.suppress(*missing), os.scandir(self.path) as entries:
            for entry in entries:
                if not (entry.name in OWN_FILES and entry.is_dir() and not os.listdir(entry.path)):
                    return True
        return False

    def _begin(self):
        """Remove the files of an earlier run, which would mix with those of this one."""
        if self._begun or self._goes_on:
            return
        self._begun = True
        self._remove(*OWN_FILES)

    def _remove(self, *subfolders):
        for sub in subfolders:
            with os.scandir(os.path.join(self.path, sub)) as entries:
                old = [entry.path for entry in entries if OWN_FILES[sub].fullmatch(entry.name)
                       and (entry.is_symlink() or entry.is_file())]  # links, not their targets
            for path in old:
                if path != self.checkpoint or not self.has_checkpoint:
                    os.unlink(path)

    # ---- files of this run

    def _write_picture(self, smoe, picture, sub, name):
        is_plain = len(smoe.shape) == 2 and smoe.channels in CHANNELS
        ending = "png" if is_plain and importlib.util.find_spec("PIL") else "tif"
        write_image(os.path.join(self.path, sub, f"{name}.{ending}"), picture,
                    dimensions=len(smoe.shape))

    def _write_history(self, smoe):
        table = io.StringIO()
        writer = csv.DictWriter(table, [field.name for field in fields(Record)],
                                lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(record) for record in smoe.history)
        self._write_text("history.csv", table.getvalue())

    def facts(self, smoe):
        """The contents of ``settings.json``."""
        facts = {
            "smoe_np": __version__, **self._about, "shape": smoe.shape, "channels": smoe.channels,
            "image_sha256": smoe.image_sha256, "backend": smoe.engine.name,
            "model": smoe.options, "training": smoe.settings, "bits": smoe.bits,
            "iteration": smoe.iteration, "stopped": smoe.stopped,
        }
        if smoe.tried:
            facts["tried"] = [one._asdict() for one in smoe.tried]
        return facts

    def _write_settings(self, smoe):
        self._write_text("settings.json", json.dumps(self.facts(smoe), indent=2) + "\n")

    def _write_text(self, name, text):
        with atomic_write(os.path.join(self.path, name)) as stream:
            stream.write(text.encode())


class ModelFile:
    """The model file of a run, with a checkpoint next to it until the model is written.

    ``MODEL.npz`` or ``MODEL.smoe`` is written at the end. Until then there is
    ``MODEL.checkpoint.npz``, which is removed when the model has been written. If there is a folder
    of results as well, the checkpoint is there instead. The constructor only checks the names.

    Parameters
    ----------
    path : str or os.PathLike
        Name of the model file, which ends in ``.npz`` or ``.smoe``.
    overwrite : bool
        Replace existing files of these names.
    checkpoint : str or os.PathLike, optional
        Checkpoint from which training continues. If it is the one next to this model, it belongs to
        the same run: it is replaced, and removed at the end.
    results : ResultsFolder, optional
        Folder of results of the same run.
    bits : float, optional
        Mean bits per number in a ``.smoe`` file, as for ``Smoe.quantize``; 16 by default.

    Attributes
    ----------
    most_bytes : int or None
        Size limit of a ``.smoe`` file, in bytes; if given, ``bits`` is ignored.

    Raises
    ------
    FileExistsError
        If a file of one of these names exists, and neither `overwrite` nor `checkpoint` allows
        that.
    ValueError
        If `bits` is given for a ``.npz`` file, or the name is that of another file of this run.
    """

    def __init__(self, path, overwrite=False, checkpoint=None, results=None, bits=None):
        self.path, self._overwrite, self._results = path_text(path), overwrite, results
        self.bits, self.most_bytes = USUAL_BITS if bits is None else bits, None
        stem, self.is_packed = os.path.splitext(self.path)[0], is_packed_name(self.path)
        if bits is not None and not self.is_packed:
            raise ValueError(f"bits applies to {PACKED} files only; give the model a name that "
                             f"ends so instead of {self.path!r}, or leave it out")
        if bits is not None:
            check_bits(bits)
        if checkpoint is not None and os.path.realpath(checkpoint) == os.path.realpath(self.path):
            raise ValueError(f"{self.path!r} is the checkpoint; give the model another name")
        if results is not None and results.owns(self.path):
            raise ValueError(f"{self.path!r} is among the results in {results.path!r}; give the "
                             f"model another name")
        if os.path.lexists(self.path) and not overwrite:
            raise FileExistsError(errno.EEXIST, f"{self.path!r} exists; give another name, or "
                                                f"--overwrite to replace it")
        self._checkpoint = (_Checkpoint(f"{stem}.checkpoint.npz", checkpoint) if results is None
                            else results._checkpoint)
        self.checkpoint = self._checkpoint.path
        if results is None and os.path.lexists(self.checkpoint) and not (
                overwrite or self._checkpoint.goes_on):
            raise FileExistsError(
                errno.EEXIST, f"{self.checkpoint!r} exists, probably from an interrupted fit; "
                              f"continue that with -c, give the model another name, or "
                              f"--overwrite to begin anew")

    def owns(self, path):
        """Whether a file is one of those that this run writes, and may replace."""
        ours = (os.path.realpath(self.path), os.path.realpath(self.checkpoint))
        return os.path.realpath(path) in ours or (
            self._results is not None and self._results.owns(path))

    def create(self, **about):
        """Test that all files can be written, and make the folders of the results.

        Parameters
        ----------
        **about
            As for ``ResultsFolder.create``.

        Raises
        ------
        OSError
            If a file cannot be written, or the disk is full.
        """
        folder = os.path.dirname(os.path.realpath(self.path))
        among_results = (self._results is not None
                         and folder == os.path.realpath(self._results.path))
        if not among_results:
            prove_writable(self.path)
        if self._results is None:
            prove_writable(self.checkpoint)
        else:
            self._results.create(**about)
        if among_results:
            prove_writable(self.path)

    def release(self):
        """Allow other processes to write to the folder of results."""
        if self._results is not None:
            self._results.release()

    @property
    def has_checkpoint(self):
        """Whether there is a checkpoint of this run."""
        return self._checkpoint.is_ours

    @property
    def where(self):
        """Where the model, results and checkpoint are, for messages."""
        found = f"model in {self.path}"
        if self._results is not None:
            return f"{found}, {self._results.where}"
        return f"{found}, checkpoint in {self.checkpoint}" if self.has_checkpoint else found

    @property
    def precision(self):
        """The precision of a ``.smoe`` file, for messages; None for ``.npz``."""
        if not self.is_packed:
            return None
        return (f"{self.bits:g} bits a number" if self.most_bytes is None
                else f"{self.most_bytes} bytes")

    def validation(self, smoe):
        """Write the results of a validation; a callback for ``Smoe.fit``."""
        if self._results is not None:
            self._results.validation(smoe)

    def complete(self, smoe):
        """Write the results of the last checkpoint, if the run was killed before it had done so."""
        if self._results is not None:
            self._results.complete(smoe)

    def keep(self, smoe):
        """Write the results when training is interrupted; no model file, as it would be rough."""
        if self._results is not None:
            self._results.keep(smoe)

    def finish(self, smoe):
        """Write the model; if training was not cut short, remove the checkpoint next to it.

        For a packed file the model is quantized first, so that all reports describe what the file
        holds.
        """
        bits = None
        if self.is_packed:
            aim = ({"bits": self.bits} if self.most_bytes is None
                   else {"bytes": self.most_bytes})
            bits = smoe.quantize(**aim).bits
        if self._results is not None:
            self._results.finish(smoe)
        if os.path.lexists(self.path) and not self._overwrite:
            raise FileExistsError(errno.EEXIST, f"{self.path!r} has been created meanwhile, and is "
                                                f"not overwritten")
        smoe.params.save(self.path, bits=bits)
        if self._results is None and smoe.stopped is None and self.has_checkpoint and (
                not os.path.islink(self.checkpoint)):
            os.unlink(self.checkpoint)


class _Proven(Exception):
    pass


def prove_writable(path):
    """Raise OSError unless a file can be written there; an existing one is left as it is."""
    with contextlib.suppress(_Proven), atomic_write(path) as stream:
        stream.write(bytes(PROBE_BYTES))
        stream.flush()
        os.fsync(stream.fileno())
        raise _Proven
