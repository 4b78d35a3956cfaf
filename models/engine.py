"""A network in OpenVINO, on a CPU: no compiler is needed on the machine, nor a file beside it.

In: a network from tensors to tensors. Out: a function from arrays to arrays, for inputs of any
size. PyTorch traces the network, OpenVINO's frontend makes a graph of the trace, its CPU plugin
compiles that: well under a second for most networks, so that nothing is kept on disk.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

Precision = Literal["bfloat16", "float32"]
HINTS: dict[Precision, str] = {"bfloat16": "bf16", "float32": "f32"}
# Importing this part of OpenVINO tells its makers so, over the network. Nothing here needs it.
TELLS = "openvino.tools.ovc"


class NotTaken(Exception):
    """OpenVINO cannot run this network, or cannot run at all, for the reason given."""


class Compiled:
    """A network that OpenVINO runs, one call at a time.

    Attributes:
        precision: in which it computes; what was asked for, unless the processor cannot.
    """

    def __init__(
        self, network: nn.Module, example: Sequence[Tensor], precision: Precision, threads: int
    ) -> None:
        """Convert the network.

        Args:
            network: in float32 on the CPU, in eval mode; its weights may not change afterwards.
            example: inputs, in whose place others of other sizes may be given.
            precision: of weights and features; sums are made in float32.
            threads: that one call uses.

        Raises:
            NotTaken: with the reason.
        """
        try:
            model = _convert(network, tuple(example))
            compiled = _core().compile_model(
                model,
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": HINTS[precision],
                    "INFERENCE_NUM_THREADS": threads,
                    "ENABLE_CPU_PINNING": False,  # workers that share a machine would share a core
                },
            )
        # what PyTorch's tracer raises (SystemError: a warning in its C++), OpenVINO's converter and
        # compiler, and versions or machines that lack one of them
        except (RuntimeError, SystemError, AttributeError, ImportError, Warning) as error:
            reason = str(error).strip().splitlines() or [""]
            raise NotTaken(f"{type(error).__name__}: {reason[-1]}") from error
        kind = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision: Precision = "bfloat16" if kind == "bf16" else "float32"
        self._request = compiled.create_infer_request()

    def __call__(self, *inputs: NDArray[np.generic]) -> tuple[NDArray[Any], ...]:
        """Return the outputs for inputs of the example's types and numbers of axes.

        Raises:
            RuntimeError: whatever fails; without memory it says "Failed to allocate".
        """
        # `infer` is no choice: on one thread it keeps errors to itself and returns older outputs
        self._request.start_async(list(inputs), share_inputs=True)
        self._request.wait()
        return tuple(tensor.data.copy() for tensor in self._request.output_tensors)


def _convert(network: nn.Module, example: tuple[Tensor, ...]) -> Any:  # openvino.Model
    """Return OpenVINO's graph of a network.

    Python's own branches over values would be lost in a trace, and nobody would know: the tracer
    warns of them, and here a warning is an error.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", TracerWarning)
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    _core()
    from openvino.frontend import FrontEndManager  # type: ignore[import-untyped]
    from openvino.frontend.pytorch.ts_decoder import (  # type: ignore[import-untyped]
        TorchScriptPythonDecoder,
    )

    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # the frontend keeps no reference
    return frontend.convert(frontend.load(decoder))


def _core() -> Any:  # openvino.Core
    sys.modules.setdefault(TELLS, None)  # type: ignore[arg-type]  # None: importing it fails
    import openvino  # type: ignore[import-untyped]  # here, for only workers on a CPU need it

    return openvino.Core()
