"""Checkpoints of a training: what they hold, and how it continues from them."""

import math

from .adam import Adam
from .arguments import check_dtype, check_image
from .backend import array_module
from .checkpoint import lists_of, load_checkpoint, naming, params_of, save_checkpoint
from .engine import engine_class
from .files import path_text
from .fit import Plan, settings_of
from .numerals import counted, size_in_words
from .packed import bits_of, kinds_of
from .records import as_facts, records_of
from .search import Try
from .sparsify import Round, Sparsification, sparsify_settings
from .training import train_settings


class Resumable:
    """Checkpoints of a training; ``Smoe`` builds on it."""

    def save_checkpoint(self, path):
        """Write a checkpoint: parameters, Adam's moments, history, settings.

        The image is not included.

        Parameters
        ----------
        path : str or os.PathLike
            Name of the file, a ``.npz``.

        Raises
        ------
        OSError
            If the file cannot be written. An existing file of that name is left as it was.
        """
        with self._looking.undisturbed("save it"):  # all of it is of one moment
            arrays, facts = self._state()
        save_checkpoint(path, arrays, facts)

    def _state(self):
        """The arrays and facts of a checkpoint."""
        arrays = {f"params_{name}": array for name, array in self._params.arrays().items()}
        arrays.update((f"best_{n}", array) for n, array in self._best_params.arrays().items())
        arrays.update(self.adam.arrays())
        arrays.update((f"lists_{n}", array) for n, array in self._engine_of_steps().state().items())
        return arrays, {
            "shape": list(self.shape), "channels": self.channels, "image_sha256": self.image_sha256,
            "options": self.options, "settings": self.settings, "until": self.until,
            "iteration": self.iteration, "adam_steps": self.adam.steps,
            "initial_kernels": self.initial_kernels, "best_loss": self._best_loss,
            "lowest_loss": self._lowest_loss, "seconds": self._seconds, "stopped": self.stopped,
            "history": as_facts(self.history), "recorded": self.record is not None,
            "rounds": [list(one) for one in self._rounds], "bits": self.bits, "fit": None,
            **self._plan_facts(arrays),
        }

    def _plan_facts(self, arrays):
        """The state of a fit or a sparsification by its kind; its intermediate models are added to
        ``arrays``.
        """
        if self._plan is None:
            return {}
        facts = {**self._plan.facts(), "found": None, "tried": [list(one) for one in self.tried]}
        if self._found is not None:
            params, history, rounds = self._found
            arrays.update((f"found_{n}", array) for n, array in params.arrays().items())
            facts.update(found=as_facts(history), found_rounds=[list(one) for one in rounds])
        if self._dense is not None:
            arrays.update((f"dense_{n}", array) for n, array in self._dense.arrays().items())
        return {self._plan.kind: facts}

    def _restore_plan(self, facts, arrays):
        """Return to the state that ``_plan_facts`` gave."""
        told = facts.get("fit")
        if told is not None:
            self.settings = settings_of(facts["settings"])
            self._plan = Plan(self.settings, self.shape, told["kernels"], told["planned"])
            self._plan.last_event = told["last_event"]
        else:
            told = facts["sparsify"]
            self.settings = sparsify_settings(**facts["settings"])
            self._plan = Sparsification(self.settings, self.shape, self.options["train_gammas"],
                                        told["begin"])
            self._plan.restore(told)
            if facts["iteration"] < {"train": 0, "sparsify": self._plan.trained,
                                     "tune": self._plan.sparse}[self._plan.phase]:
                raise ValueError(f"its iteration {facts['iteration']} is before its phase "
                                 f"{self._plan.phase!r}")
            if "dense_pis" in arrays:
                self._dense = params_of(arrays, "dense", facts)
        self.tried = [Try(*one) for one in told["tried"]]
        if told["found"] is not None:
            rounds = [Round(*one) for one in told["found_rounds"]]
            self._found = params_of(arrays, "found", facts), records_of(told["found"]), rounds

    @classmethod
    def from_checkpoint(cls, path, image, backend="auto", channel_axis="auto"):
        """Create a Smoe from a checkpoint and the image that it was trained on.

        Call ``resume`` to finish the interrupted call, or ``train`` to train further. On the CPU
        the results are the same, bit for bit, as without interruption.

        Parameters
        ----------
        path : str or os.PathLike
            File that ``save_checkpoint`` wrote.
        image : array
            The image of that training, as for ``Smoe``.
        backend, channel_axis
            As for ``Smoe``.

        Returns
        -------
        Smoe

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the file is not a checkpoint, is damaged, or belongs to another image.
        """
        arrays, facts = load_checkpoint(path)
        engine_class(backend, len(facts["shape"]), facts["channels"])
        with naming(path):
            params, best = (params_of(arrays, part, facts) for part in ("params", "best"))
            shape = (*facts["shape"], facts["channels"])
            dtype = check_dtype(facts["options"]["dtype"])
        given = check_image(image, dtype, channel_axis)[0].shape
        if given != shape:
            axes = ("; with another channel_axis it may fit"
                    if math.prod(given) == math.prod(shape) else "")
            raise ValueError(f"{path_text(path)!r} does not fit: its image has {_in_words(shape)}, "
                             f"the image given has {_in_words(given)}{axes}")
        with naming(path):
            start = params.map(array_module(image).asarray)
            smoe = cls(image, params=start, backend=backend, channel_axis=channel_axis,
                       **facts["options"])
            if smoe.image_sha256 != facts["image_sha256"]:
                raise ValueError("it is of another image of the same shape; give the image that "
                                 "it was made from")
            if smoe._params.num_kernels != params.num_kernels or best.dtype != dtype:
                raise ValueError("its parameters are not of its dtype")
            smoe._params, smoe._best_params = params, best
            if facts["recorded"]:
                smoe._recorded = params
            smoe._rounds = [Round(*one) for one in facts["rounds"]]
            if facts.get("fit") is not None or facts.get("sparsify") is not None:
                smoe._restore_plan(facts, arrays)
            elif facts["settings"] is not None:
                smoe.settings = train_settings(**facts["settings"])
            smoe.history = records_of(facts["history"])
            for name in ("until", "iteration", "stopped", "initial_kernels"):
                setattr(smoe, name, facts[name])
            for name in ("best_loss", "lowest_loss", "seconds"):
                setattr(smoe, "_" + name, facts[name])
            smoe.adam = Adam(params) if smoe._plan is None else smoe._plan.new_adam(params)
            smoe.adam.restore(arrays, facts["adam_steps"])
            smoe._engine_of_steps().restore(lists_of(arrays))
            if facts["bits"] is not None:
                smoe._quantized = params, bits_of(kinds_of(params.arrays()), facts["bits"])
        return smoe


def _in_words(shape):
    """The size of an image (*shape, C)."""
    return f"{size_in_words(shape[:-1])} pixels and {counted(shape[-1], 'channel')}"
