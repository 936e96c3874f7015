"""The history of a training: what each validation found."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Record:
    """What a validation found, of the very parameters held after ``iteration`` steps.

    Attributes
    ----------
    iteration : int
        Steps taken.
    loss : float
        Mean squared error of pictures in [0, 1], with the regularisers.
    mse : float
        Mean squared error alone, of pictures on the scale of 0 to 255.
    psnr : float
        dB, of that error; infinite where it is 0.
    kernels : int
        That the model has.
    seconds : float
        Of training so far, callbacks not counted.
    """

    iteration: int
    loss: float
    mse: float
    psnr: float
    kernels: int
    seconds: float


def as_facts(history):
    """Records as a checkpoint keeps them."""
    return [asdict(record) for record in history]


def records_of(facts):
    """Records again, from what ``as_facts`` gave."""
    return [Record(**record) for record in facts]
