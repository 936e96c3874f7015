"""The compiled engine on a GPU, through CuPy."""

import functools
import inspect

from .engine_kernels import KernelEngine, why_not_these
from .launch_cuda import CudaLauncher, why_no_cuda


class CupyEngine(KernelEngine):
    """``KernelEngine`` on the GPU that is current when it is created; see there."""

    name = "cupy"
    launcher = CudaLauncher

    def __init__(self, shape, target=None, dtype="float32", batches=None):
        import cupy

        self.device = cupy.cuda.Device().id
        super().__init__(shape, target, dtype, batches)

    def __setstate__(self, state):
        import cupy

        # a copy stays where the arrays are; those of a pickle are where it is read
        device = state["control"].device if "control" in state else cupy.cuda.Device()
        with device:
            super().__setstate__({**state, "device": device.id})

    @staticmethod
    def why_not(D=2, C=1):
        """Say in one sentence why this engine cannot be used here, or return ``None``."""
        return why_not_these(D, C) or why_no_cuda()


def _on_its_device(method):
    @functools.wraps(method)
    def there(self, *arguments, **options):
        import cupy

        with cupy.cuda.Device(self.device):
            return method(self, *arguments, **options)

    return there


for _name, _method in vars(KernelEngine).items():
    if inspect.isfunction(_method) and not _name.startswith("_"):
        setattr(CupyEngine, _name, _on_its_device(_method))
