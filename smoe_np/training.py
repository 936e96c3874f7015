"""The settings of ``Smoe.train``, and of its steps."""

from .arguments import check_number, check_whole
from .steps import StepSettings


def train_settings(iterations, val_iter, base_lr, lr_div, lr_mult, l1reg, bandwidth_reg, grad_clip,
                   adam_eps):
    """Check the arguments of ``Smoe.train``, and return them as a dict of Python numbers."""
    return {
        "iterations": check_whole("iterations", iterations, 0),
        "val_iter": check_whole("val_iter", val_iter, 1),
        "base_lr": check_number("base_lr", base_lr),
        "lr_div": check_number("lr_div", lr_div, above=True),
        "lr_mult": check_number("lr_mult", lr_mult),
        "l1reg": check_number("l1reg", l1reg),
        "bandwidth_reg": check_number("bandwidth_reg", bandwidth_reg),
        "grad_clip": (None if grad_clip is None else
                      check_number("grad_clip", grad_clip, above=True)),
        "adam_eps": check_number("adam_eps", adam_eps, above=True),
    }


def train_steps(settings, options, initial_kernels):
    """The settings of the steps of ``Smoe.train``.

    Parameters
    ----------
    settings : dict
        Settings from ``train_settings``.
    options : dict
        Options of the Smoe.
    initial_kernels : int
        K₀ of the loss.

    Returns
    -------
    StepSettings
    """
    base_lr = settings["base_lr"]
    rates = {"musX": base_lr, "A": base_lr * settings["lr_mult"], "nu_e": base_lr}
    if options["train_pis"]:
        rates["pis"] = base_lr / settings["lr_div"]
    if options["train_gammas"]:
        rates["gamma_e"] = base_lr
    return StepSettings(rates, settings["adam_eps"], settings["l1reg"],
                        settings["bandwidth_reg"], initial_kernels, options["radial"],
                        settings["grad_clip"])
