"""A device that is not there: tensors on it know their shape and dtype, and compute nothing.

What brings one together with a tensor on the CPU fails, as on a GPU; so does a product of two dtypes. Tensors on the
CPU are real.
"""

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")  # the one beside the CPU for which every build of torch can run autograd
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.addmm_.default, aten.bmm.default, aten.linear.default}


class OtherDevice(FakeTensorMode):
    """Within, there is `DEVICE`. Every number that is read from it is one."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        asked = any(isinstance(leaf, torch.device) and leaf == DEVICE for leaf in leaves)
        if not asked and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return func(*args, **(kwargs or {}))
        assert func in COPIES or len({tensor.device for tensor in tensors if tensor.dim()}) <= 1, f"{func}: two devices"
        assert func not in PRODUCTS or len({tensor.dtype for tensor in tensors}) == 1, f"{func}: two dtypes"
        if func is aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        return super().__torch_dispatch__(func, types, args, kwargs)


def move(module: torch.nn.Module) -> None:
    """Moves the parameters and buffers of `module`, and of what it holds, to `DEVICE`."""
    for own in module.modules():
        for name, parameter in own._parameters.items():
            if parameter is not None:
                own._parameters[name] = torch.nn.Parameter(parameter.detach().to(DEVICE), parameter.requires_grad)
        for name, buffer in own._buffers.items():
            own._buffers[name] = buffer if buffer is None else buffer.to(DEVICE)
