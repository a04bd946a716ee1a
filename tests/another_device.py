"""A second device for machines that have one: tensors that say they lie on it, and complain as a GPU's would.

Under `another_device()` whatever is made on or moved to `ELSEWHERE` is computed by the processor, but
- an operation on tensors of both devices raises, unless what is here is a single number or an index of what is there;
- numpy takes nothing that is there;
- a generator of the processor draws nothing there;
- there is no float64, as on Apple's GPUs;
- a copy to here has to be waited for.
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("lazy")  # any that torch knows by name and cannot compute on
HERE = torch.device("cpu")
ATEN = torch.ops.aten
COPIES = {ATEN._to_copy, ATEN.copy_, ATEN.to}
INDEXING = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}


class There(torch.Tensor):
    """A tensor of the processor that says it lies elsewhere."""

    @staticmethod
    def __new__(cls, own):
        if own.dtype == torch.float64:
            raise TypeError("there is no float64 there")
        place = {"strides": own.stride(), "storage_offset": own.storage_offset(), "device": ELSEWHERE}
        with torch.inference_mode(own.is_inference()):  # there, a view of a weight is none of inference either
            return torch.Tensor._make_wrapper_subclass(cls, own.shape, dtype=own.dtype, **place)

    def __init__(self, own):
        self.own = own

    # two that torch computes without asking: what they do, in operations that it asks for
    def tolist(self):
        return self.cpu().tolist()

    def new_tensor(self, numbers):
        return torch.tensor(numbers, dtype=self.dtype).to(self.device)

    def __repr__(self):
        return f"There({self.own})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """Sends what makes tensors on a device by its name to `compute`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


@contextmanager
def another_device():
    """The device, while tensors can be made on it."""
    with Elsewhere():
        yield ELSEWHERE


def compute(function, args, kwargs):
    """The operation, done by the processor; its result lies where a GPU would leave it."""
    leaves = tree_leaves((args, kwargs))
    there = any(isinstance(leaf, There) for leaf in leaves)
    to = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    copies = function.overloadpacket in COPIES
    if copies and there and to == HERE and (kwargs.get("non_blocking") or args[3:4] == (True,)):
        raise RuntimeError("nobody waits for this copy to the processor")
    if there and not copies:
        check_one_device(function, args, leaves)
    there = to == ELSEWHERE if to is not None else there
    if function.overloadpacket is ATEN.copy_:  # into the first, wherever the other is
        there = isinstance(args[0], There)
    if there and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{function}: a generator of the processor draws nothing there")
    mine = {id(leaf.own): leaf for leaf in leaves if isinstance(leaf, There)}  # what is changed in place is given back
    args, kwargs = tree_map(_done_here, (args, kwargs))
    found = function(*args, **kwargs)
    if copies and to is not None and found is args[0] and (id(found) in mine) != there:
        found = found.clone()  # on one device it is no copy at all
    if not there:
        return found

    def place(leaf):
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return mine[id(leaf)] if id(leaf) in mine else There(leaf)

    return tree_map(place, found)


def check_one_device(function, args, leaves):
    """Raise where a tensor of the processor meets one that lies there."""
    if function.overloadpacket in INDEXING and isinstance(args[0], There):
        return
    if any(isinstance(leaf, torch.Tensor) and not isinstance(leaf, There) and leaf.ndim for leaf in leaves):
        raise RuntimeError(f"{function}: expected all tensors to be on the same device")


def _done_here(leaf):
    return leaf.own if isinstance(leaf, There) else HERE if isinstance(leaf, torch.device) else leaf
