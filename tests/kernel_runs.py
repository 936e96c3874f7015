"""What tests of the kernels share: engines of other builds, and what is asked of them."""

import re

import numpy as np
from helpers import picture, random_model

from smoe_np.adam import Adam
from smoe_np.engine_kernels import KernelEngine
from smoe_np.kernel_files import kernel_source
from smoe_np.launch_native import NativeLauncher
from smoe_np.params import NAMES
from smoe_np.steps import OwnFrame, StepSettings
from smoe_np.turned_adam import TurnedAdam

EMULATED = ("-DEMULATE_GPU", "-O1")  # quickly compiled


class EmulatedLauncher(NativeLauncher):
    """Launches kernels as a GPU would run them, and counts their faults."""

    threads_of = None  # the threads of every block, instead of those that the host asks for

    def __init__(self, D, C, dtype):
        super().__init__(D, C, dtype, EMULATED)
        self.threads = self.counter_sets = 1

    def record(self, launches):
        if self.threads_of is not None:
            launches = [(kernel, blocks, self.threads_of(kernel, threads), arguments)
                        for kernel, blocks, threads, arguments in launches]
        return super().record(launches)


class EmulatedEngine(KernelEngine):
    """An engine of kernels that run as on a GPU."""

    name, launcher = "emulated", EmulatedLauncher


def step_settings(l1reg=0.0, base_lr=1e-3, lr_div=10, lr_mult=100, bandwidth_reg=0.0, kernels=1,
                  radial=False, grad_clip=None):
    """Settings of training steps, all parameters trained."""
    rates = {"musX": base_lr, "A": base_lr * lr_mult, "nu_e": base_lr, "gamma_e": base_lr,
             "pis": base_lr / lr_div}
    return StepSettings(rates, 1e-15, l1reg, bandwidth_reg, kernels, radial, grad_clip)


def frame_settings(rate=0.1, expert_rate=0.03, fade_from=np.inf, fade_to=np.inf, fade_to_part=0.02,
                   least_diagonal=0.1, most_sharpness=1e3, most_beyond=0.1,
                   most_slope=0.3):
    """Settings of steps in each kernel's own frame, all parameters trained."""
    rates = {"musX": rate, "A": rate, "nu_e": expert_rate, "gamma_e": expert_rate, "pis": rate}
    frame = OwnFrame(least_diagonal, most_sharpness, fade_from, fade_to, fade_to_part,
                     most_beyond, most_slope)
    return StepSettings(rates, 1e-12, 0.0, 0.0, 1, False, None, frame)


def turned_adam(params, turn_every=2, beta2=0.9):
    """Adam along axes of all numbers."""
    return TurnedAdam(params, beta2, turn_every, NAMES)


def train(engine, params, settings, steps, adam=None):
    """The model after some steps, and the number of those taken."""
    adam, lowest, taken = adam or Adam(params), np.inf, 0
    while taken < steps:
        done = engine.advance(params, adam, settings, lowest, steps - taken)
        params, lowest, taken = done.params, done.lowest_loss, taken + done.steps
        if done.failure is not None:
            break
    return params, taken


def barriers():
    """The lines of the kernel source, counted from 1, in which a BARRIER stands."""
    lines = [line.partition("//")[0] for line in kernel_source().splitlines()]
    return [number for number, line in enumerate(lines, start=1)
            if re.search(r"\bBARRIER\b", line) and not line.startswith("#define")]


def a_bit_of_everything(Engine, D=2, C=1, dtype="float32"):
    """Ask an engine all that there is to ask, so that every phase of every kernel does its work."""
    shape = (130,) if D == 1 else (19, 26) if D == 2 else (7, 9, 6)
    target = picture(shape, C)
    for K, sigma, negative in ((60, 0.3, 0.0), (60, 0.01, 0.0), (80, 0.2, 0.3)):
        params = random_model(K, K, D, C, sigma=sigma, negative=negative)
        engine = Engine(shape, target, dtype, 2)
        yield engine, engine.loss_and_gradients(params)
        yield engine, engine.render(params)
        yield engine, engine.gating(params)
        if not negative:
            yield engine, engine.weigh(params)
            yield engine, engine.halve(params, [np.eye(D)[0], -np.eye(D)[-1]])
    wide = (64 * 40,) if D == 1 else (45, 60) if D == 2 else (13, 14, 15)  # so many tiles that the
    target_there = picture(wide, C)                         # pairs of a kernel come in disorder
    engine = Engine(wide, target_there, dtype)
    yield engine, engine.loss_and_gradients(random_model(1, 5, D, C, sigma=0.5))
    widest = (64 * 520,) if D == 1 else (170, 200) if D == 2 else (33, 33, 33)  # too many to count
    engine = Engine(widest, picture(widest, C), dtype)
    yield engine, engine.loss(random_model(1, 1, D, C, sigma=0.5))
    params = random_model(0, 300, D, C, sigma=0.05, dtype=np.dtype(dtype))
    engine = Engine(shape, target, dtype, 3)
    yield engine, train(engine, params, step_settings(l1reg=0.5, kernels=300), 4)
    engine.succeed(np.arange(100))
    params = params.select(np.arange(100))
    yield engine, train(engine, params, frame_settings(fade_from=1), 3)
    yield engine, train(engine, params, frame_settings(), 5, turned_adam(params))
