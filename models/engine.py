"""A network in OpenVINO, on a CPU: no compiler is needed on the machine, nor a file beside it.

In: a network from tensors to tensors. Out: a function from arrays to arrays, for inputs of any
size. PyTorch traces the network, OpenVINO's frontend makes a graph of the trace, its CPU plugin
compiles that: well under a second for most networks, so that nothing is kept on disk.
"""

import sys
import warnings
from collections.abc import Sequence
from threading import Lock
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
# of PyTorch's tracer (SystemError: its C++ met a warning), of OpenVINO's converter and compiler,
# of versions and machines that lack one of them
FAILURES = (RuntimeError, SystemError, AttributeError, ImportError, Warning)


class NotTaken(Exception):
    """OpenVINO cannot run this network, or cannot run at all, for the reason given."""


class Compiled:
    """A network that OpenVINO runs; calls in several threads wait for each other.

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
        self._one_at_a_time = Lock()
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # workers that share a machine would share a core
        }
        try:
            self._model = _convert(network, tuple(example))
            self._request: Any = self._open()  # openvino.InferRequest
        except FAILURES as error:
            raise NotTaken(_reason(error)) from error
        kind = self._request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
        self.precision: Precision = "bfloat16" if kind.get_type_name() == "bf16" else "float32"

    def __call__(self, *inputs: NDArray[np.generic]) -> tuple[NDArray[Any], ...]:
        """Return the outputs for inputs of the example's types and numbers of axes.

        Raises:
            RuntimeError: whatever fails; for want of memory it says "Failed to allocate".
        """
        with self._one_at_a_time:
            if self._request is None:
                self._request = self._open()
            try:
                # `infer` is no choice: on one thread it hides errors and returns older outputs
                self._request.start_async(list(inputs), share_inputs=True)
                self._request.wait()
            except RuntimeError:
                # what could not be allocated would be asked for again, however small the next
                self._request = None
                raise
            return tuple(tensor.data.copy() for tensor in self._request.output_tensors)

    def _open(self) -> Any:
        """Compile the graph; what it allocates grows with the largest inputs, and is kept."""
        return _core().compile_model(self._model, "CPU", self._options).create_infer_request()


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
    from openvino import frontend  # type: ignore[import-untyped]
    from openvino.frontend.pytorch import ts_decoder  # type: ignore[import-untyped]

    pytorch = frontend.FrontEndManager().load_by_framework("pytorch")
    decoder = ts_decoder.TorchScriptPythonDecoder(traced)  # the frontend keeps no reference
    try:
        return pytorch.convert(pytorch.load(decoder))
    except (frontend.GeneralFailure, frontend.OpConversionFailure) as error:
        raise NotTaken(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Return what was wrong, in one line."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"


def _core() -> Any:  # openvino.Core
    sys.modules.setdefault(TELLS, None)  # type: ignore[arg-type]  # None: importing it fails
    import openvino  # here, for only workers on a CPU need it

    return openvino.Core()
