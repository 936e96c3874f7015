"""The history of a training: what each validation found."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Record:
    """What a validation found, of the very parameters held after ``iteration`` steps."""

    iteration: int
    loss: float  # with the regularisers
    mse: float  # on the 0–255 scale
    psnr: float  # dB
    kernels: int
    seconds: float  # of training so far, callbacks not counted


def as_facts(history):
    """Records as a checkpoint keeps them."""
    return [asdict(record) for record in history]


def records_of(facts):
    """Records again, from what ``as_facts`` gave."""
    return [Record(**record) for record in facts]
