"""Batched kernels as operators of torch, with gradients by their parameters.

Suffixes: C rows of parameters (chains), P parameters, N points, D columns. Points are data: no gradient reaches them.
Second derivatives are refused. The operators run on the CPU, whatever runs behind the kernel.
"""

import itertools
from typing import Any
from weakref import WeakValueDictionary

from tracestore._extras import extra
from tracestore.errors import InvalidInputError
from tracestore.native.kernel import Kernel

with extra("train"):
    import torch
    from torch import Tensor

__all__ = ["TensorKernel"]


class TensorKernel:
    """A kernel that takes and returns tensors, through which gradients flow.

    Where the kernel puts out one number a row, values and gradient are computed in one pass over the points.

    Parameters
    ----------
    kernel
        Made by `tracestore.native.load_kernel`.

    Examples
    --------
    >>> from tracestore.native.kernel_library import KernelShape
    >>> def square(parameters, points):
    ...     return parameters[:, 0] ** 2
    >>> def square_gradient(parameters, points, weights):
    ...     return square(parameters, points), 2.0 * parameters * weights[:, None]
    >>> kernel = TensorKernel(Kernel("square", KernelShape(1), None, square, square_gradient))
    >>> x = torch.tensor([[3.0]], dtype=torch.float64, requires_grad=True)
    >>> kernel(x).sum().backward()
    >>> x.grad
    tensor([[6.]], dtype=torch.float64)
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._number = next(_numbers)
        _kernels[self._number] = self

    def __repr__(self) -> str:
        return f"<TensorKernel of {self.kernel!r}>"

    def __call__(self, parameters: Tensor, points: Tensor | None = None) -> Tensor:
        """Evaluate the formula.

        Parameters
        ----------
        parameters
            float64, shape ``(C, P)`` or ``(P,)``.
        points
            float64, contiguous, shape ``(N, D)``; None for a kernel without points.

        Returns
        -------
        Tensor
            float64, shape ``(C,)`` or ``(C, N)``; without the first axis where the parameters have none.

        Raises
        ------
        InvalidInputError
            When a tensor has another shape or type, is on another device than the CPU, or points ask for a gradient.
        KernelError
            When a gradient is asked for and the kernel has none, or it reports a failure.
        """
        places = points if points is not None else parameters.new_empty((0, 0))
        self._check(parameters, places, has_points=points is not None)
        rows = parameters.reshape(-1, self.kernel.shape.num_parameters)
        if torch.is_grad_enabled() and parameters.requires_grad and self.kernel.shape.output == "row":
            out: Tensor = torch.ops.tracestore.kernel_row_values(rows, places, self._number)[0]
        else:
            out = torch.ops.tracestore.kernel_values(rows, places, self._number)
        return out[0] if parameters.ndim == 1 else out

    def _check(self, parameters: Tensor, points: Tensor, *, has_points: bool) -> None:
        shape = self.kernel.shape
        if parameters.ndim not in (1, 2) or parameters.shape[-1] != shape.num_parameters:
            message = (
                f"`parameters` of the kernel {self.kernel.name!r} must have shape (num_rows, {shape.num_parameters}) or"
                f" ({shape.num_parameters},); got {tuple(parameters.shape)}."
            )
            raise InvalidInputError(message, argument="parameters", found=tuple(parameters.shape))
        for name, tensor in (("parameters", parameters), ("points", points)):
            if tensor.dtype != torch.float64 or tensor.device.type != "cpu":
                message = (
                    f"`{name}` of the kernel {self.kernel.name!r} must be float64 on the CPU; got {tensor.dtype} on"
                    f" {tensor.device}."
                )
                raise InvalidInputError(message, argument=name)
        if points.requires_grad:
            message = (
                f"The kernel {self.kernel.name!r} has no gradient by its points, and they ask for one; detach them."
            )
            raise InvalidInputError(message, argument="points")
        if has_points != bool(shape.num_columns) or (has_points and points.shape[1:] != (shape.num_columns,)):
            message = (
                f"`points` of the kernel {self.kernel.name!r} must have {shape.num_columns} columns (0: give none); got"
                f" shape {tuple(points.shape)}."
            )
            raise InvalidInputError(message, argument="points")


_numbers = itertools.count()
_kernels: WeakValueDictionary[int, TensorKernel] = WeakValueDictionary()
"""Kernels by number, because operators take tensors and plain numbers only."""


def _points_of(kernel: Kernel, points: Tensor) -> Any:  # noqa: ANN401
    return points.numpy() if kernel.shape.num_columns else None


@torch.library.custom_op("tracestore::kernel_values", mutates_args=())
def _values(parameters: Tensor, points: Tensor, number: int) -> Tensor:
    kernel = _kernels[number].kernel
    return torch.from_numpy(kernel.call(parameters.numpy(), _points_of(kernel, points)))


@torch.library.custom_op("tracestore::kernel_row_values", mutates_args=())
def _row_values(parameters: Tensor, points: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Values of a kernel with one number a row, and their gradients, in one pass."""
    kernel = _kernels[number].kernel
    out, gradient = kernel.gradient(parameters.numpy(), _points_of(kernel, points))
    return torch.from_numpy(out), torch.from_numpy(gradient)


@torch.library.custom_op("tracestore::kernel_point_gradient", mutates_args=())
def _point_gradient(parameters: Tensor, points: Tensor, weights: Tensor, number: int) -> Tensor:
    kernel = _kernels[number].kernel
    return torch.from_numpy(kernel.gradient(parameters.numpy(), _points_of(kernel, points), weights.numpy())[1])


@torch.library.custom_op("tracestore::kernel_row_gradient", mutates_args=())
def _row_gradient(parameters: Tensor, gradient: Tensor, weights: Tensor) -> Tensor:
    return gradient * weights[:, None]


@_values.register_fake
def _(parameters: Tensor, points: Tensor, number: int) -> Tensor:
    return parameters.new_empty(_kernels[number].kernel.shape.out(parameters.shape[0], points.shape[0]))


@_row_values.register_fake
def _(parameters: Tensor, points: Tensor, number: int) -> tuple[Tensor, Tensor]:
    return parameters.new_empty((parameters.shape[0],)), torch.empty_like(parameters)


@_point_gradient.register_fake
def _(parameters: Tensor, points: Tensor, weights: Tensor, number: int) -> Tensor:
    return torch.empty_like(parameters)


@_row_gradient.register_fake
def _(parameters: Tensor, gradient: Tensor, weights: Tensor) -> Tensor:
    return torch.empty_like(parameters)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
    parameters, points, ctx.number = inputs
    ctx.owner = _kernels[ctx.number]  # the graph may outlive the caller's object
    ctx.save_for_backward(parameters, points)


def _values_backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, None, None]:  # noqa: ANN401
    parameters, points = ctx.saved_tensors
    weights = weights.contiguous()
    if weights.ndim == 1:
        gradient = torch.ops.tracestore.kernel_row_values(parameters.detach(), points, ctx.number)[1]
        return torch.ops.tracestore.kernel_row_gradient(parameters, gradient, weights), None, None
    return torch.ops.tracestore.kernel_point_gradient(parameters, points, weights, ctx.number), None, None


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
    ctx.save_for_backward(inputs[0], output[1])
    ctx.mark_non_differentiable(output[1])


def _row_values_backward(ctx: Any, weights: Tensor, _: Any) -> tuple[Tensor, None, None]:  # noqa: ANN401
    parameters, gradient = ctx.saved_tensors
    return torch.ops.tracestore.kernel_row_gradient(parameters, gradient, weights), None, None


def _refuse_backward(ctx: Any, *_: Any) -> None:  # noqa: ANN401
    message = (
        "Kernels have first derivatives only, and a second one was asked for (a gradient of a gradient, as in a"
        " Hessian). Take differences of gradients, or write the formula in torch."
    )
    raise InvalidInputError(message)


_values.register_autograd(_values_backward, setup_context=_keep_inputs)
_row_values.register_autograd(_row_values_backward, setup_context=_keep_gradient)
_point_gradient.register_autograd(_refuse_backward)
_row_gradient.register_autograd(_refuse_backward)
