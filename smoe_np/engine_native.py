"""The compiled engine on the CPU."""

from .engine_kernels import KernelEngine, why_not_these
from .launch_native import NativeLauncher, why_no_native


class NativeEngine(KernelEngine):
    """``KernelEngine`` on the CPU; see there."""

    name = "native"
    launcher = NativeLauncher

    @staticmethod
    def why_not(D=2, C=1):
        """Say in one sentence why this engine cannot be used here, or return ``None``."""
        return why_not_these(D, C) or why_no_native()
