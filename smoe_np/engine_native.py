"""The engine of compiled kernels on the CPU."""

from .engine_kernels import KernelEngine
from .launch_native import NativeLauncher


class NativeEngine(KernelEngine):
    """``KernelEngine`` on the CPU; see there."""

    name = "native"
    launcher = NativeLauncher
