"""The command that writes a model to a small file: ``smoe quantize``."""

import os

from .allocation import BitsByBytes, allocate_bits, check_bits
from .cli_parser import UsageError
from .fit import BITS
from .images import read_image
from .metrics import psnr
from .numerals import counted
from .packed import ENDING, USUAL_BITS, is_packed_name
from .params import load_params
from .progress import say
from .results import prove_writable
from .smoe import Smoe
from .terminal import (
    DONE,
    axis_of_channels,
    print_line,
    refuse_to_replace,
    those_of,
    warn_of_another_size,
)

LOSS_WARNED_OF = 3.0  # dB lost by rounding that are worth a warning


def quantize(given):
    """``smoe quantize``."""
    output = given["output"]
    if not is_packed_name(output):
        raise UsageError(f"a quantized model is written as {ENDING}; give a name that ends so "
                         f"instead of {output!r}")
    if os.path.realpath(output) == os.path.realpath(given["params"]):
        raise UsageError(f"{output!r} is the model itself; give another name")
    refuse_to_replace(output, given)
    check_bits(given.get("bits", USUAL_BITS))
    params = load_params(given["params"])
    prove_writable(output)
    params, bits, quality = _with_picture(params, given) if "image_path" in given else (
        params, _shared_out(params, given), "")
    refuse_to_replace(output, given)  # a file written there meanwhile
    params.save(output, bits)
    print_line(f"{output}: {counted(params.num_kernels, 'kernel')}, {os.path.getsize(output):,} "
               f"bytes{quality}")
    return DONE


def _with_picture(params, given):
    """The model, trained to make up for its rounding; its bits; and its quality as text."""
    image = read_image(given["image_path"])
    smoe = Smoe(image, params=params, channel_axis=axis_of_channels(image, params, given),
                **those_of(given, ("backend",)))
    warn_of_another_size(given["image_path"], smoe.shape, params)
    aim = those_of(given, ("bytes", "bits")) or {"bits": BITS}
    drawn = smoe.reconstruction
    before = psnr(smoe.engine.picture().reshape(drawn.shape), drawn)
    now = smoe.quantize(**aim).record.psnr
    if before - now > LOSS_WARNED_OF:
        say(f"smoe: warning: {before - now:.1f} dB are lost, as there are few bits for so many "
            f"kernels; smoe fit --bytes N makes a model of fewer kernels, which is likely to be "
            f"better")
    return smoe.params, smoe.bits, f", PSNR {now:.2f} dB ({before:.2f} before)"


def _shared_out(params, given):
    """Bits for each kind of numbers, shared out by their effect on the model's picture."""
    if params.image_shape is None:
        if "bytes" in given:
            raise UsageError(f"{given['params']!r} does not hold the size of its picture, which "
                             f"is needed to share out the bits; give the picture with -i")
        return given.get("bits", USUAL_BITS)
    backend = those_of(given, ("backend",))
    if "bytes" in given:
        return BitsByBytes(params, **backend).within(given["bytes"])
    return allocate_bits(params, given.get("bits", USUAL_BITS), **backend)
