"""The history of a training: a record of each validation."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Record:
    """The result of a validation, for the model after ``iteration`` steps.

    Attributes
    ----------
    iteration : int
        Number of steps taken.
    loss : float
        The loss: mean squared error on the scale of 0 to 1, plus the regularisation terms.
    mse : float
        Mean squared error on the scale of 0 to 255, without regularisation terms.
    psnr : float
        PSNR in dB; infinite if the error is 0.
    kernels : int
        Number of kernels of the model.
    seconds : float
        Training time so far in seconds, without callbacks.
    """

    iteration: int
    loss: float
    mse: float
    psnr: float
    kernels: int
    seconds: float


def as_facts(history):
    """Records as a list of dicts, as a checkpoint stores them."""
    return [asdict(record) for record in history]


def records_of(facts):
    """The records from a list that ``as_facts`` returned."""
    return [Record(**record) for record in facts]
