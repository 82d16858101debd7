"""What a process has once, which a node must leave alone: how to read it, and to put it back."""

from __future__ import annotations

import builtins
import gc
import locale
import logging
import math
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils import _python_dispatch

Setting = tuple[Callable[[], Any], Callable[[Any], object]]

UNREADABLE = "unreadable"
REPLACED = {"__init__", "__setstate__"}  # of nn.Module, by torch.compile
COMPILERS = ("TORCHINDUCTOR_", "_TORCHINDUCTOR_", "TRITON_")  # variables that torch.compile sets
VENDORED = os.path.join("setuptools", "_vendor")  # which torch.compile adds to the path
DEPTH = 2_000  # to which torch.compile lifts a lower limit of recursion


def _legible(read: Callable[[], Any]) -> Any:
    """A setting that cannot always be read: some flags of torch once both of their interfaces were
    used, and the working folder when it is gone.
    """
    try:
        return read()
    except (RuntimeError, FileNotFoundError):
        return UNREADABLE


def _flags(owner: str, *names: str) -> dict[str, Setting]:
    """Attributes of a part of torch, those that this version has."""
    try:
        part = attrgetter(owner)(torch)
    except AttributeError:
        return {}
    return {
        f"torch.{owner}.{name}": (partial(_legible, partial(getattr, part, name)), partial(setattr, part, name))
        for name in names
        if hasattr(part, name)
    }


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(COMPILERS)}


def _set_environment(was: Mapping[str, str]) -> None:
    for name in _environment().keys() - was.keys():
        del os.environ[name]
    os.environ.update(was)


def _path() -> list[str]:
    return [place for place in sys.path if not place.endswith(VENDORED)]


def _names(owner: Any) -> dict[str, Any]:
    """What a class or module offers, but for modules, which are imported on first use, and for what
    torch.compile replaces.
    """
    return {
        name: value
        for name, value in vars(owner).items()
        if not isinstance(value, ModuleType) and (callable(value) or name[0] != "_") and name not in REPLACED
    }


def _set_names(owner: Any, was: Mapping[str, Any]) -> None:
    present = _names(owner)
    for name in present.keys() - was.keys():
        delattr(owner, name)
    for name, value in was.items():
        if present.get(name) is not value:
            setattr(owner, name, value)


def _module_hooks() -> dict[str, dict[Any, Any]]:
    return {
        name: dict(value)
        for name, value in vars(nn.modules.module).items()
        if name.startswith("_global_") and isinstance(value, dict)
    }


def _set_module_hooks(was: Mapping[str, Mapping[Any, Any]]) -> None:
    for name, hooks in was.items():
        registered = getattr(nn.modules.module, name)
        registered.clear()
        registered.update(hooks)


def _flushes_denormals() -> bool:
    return not bool((torch.full((1,), 1e-310, dtype=torch.float64, device="cpu") * 1.0).any())


def _leave_modes(was: int) -> None:
    while torch._C._len_torch_dispatch_stack() > was:
        _python_dispatch._pop_mode()


def _dynamo() -> Any:
    """The configuration of torch.compile; None if nothing has imported it."""
    config: Any = sys.modules.get("torch._dynamo.config")
    return config.get_config_copy() if config else None


def _set_dynamo(was: Mapping[str, Any]) -> None:
    config: Any = torch._dynamo.config  # was imported when `was` was read
    for name, value in _dynamo().items():
        if value != was[name]:
            setattr(config, name, was[name])


def _numpy(read: Callable[[Any], Any]) -> Any:
    """What numpy has once; None if nothing has imported it."""
    numpy = sys.modules.get("numpy")
    return read(numpy) if numpy else None


def _numpy_state(numpy: Any) -> object:
    name, keys, *rest = numpy.random.get_state()
    return name, keys.tolist(), *rest


def _shown() -> str:
    """What becomes of warnings that no filter names."""
    plain = (one for one in warnings.filters if one[1] is None and one[3] is None and issubclass(UserWarning, one[2]))
    return next((action for action, *_ in plain), "default")


def _umask() -> int:
    mask = os.umask(0o077)  # it is read by setting another
    os.umask(mask)
    return mask


def _set_handlers(was: list[logging.Handler]) -> None:
    logging.root.handlers[:] = was


_TORCH: dict[Callable[[], Any], Callable[[Any], object]] = {
    torch.is_grad_enabled: torch.set_grad_enabled,
    torch.is_anomaly_enabled: torch.autograd.set_detect_anomaly,
    torch.get_default_dtype: torch.set_default_dtype,
    torch.get_default_device: torch.set_default_device,
    torch.get_num_threads: torch.set_num_threads,
    torch.get_float32_matmul_precision: torch.set_float32_matmul_precision,
    torch.get_deterministic_debug_mode: torch.set_deterministic_debug_mode,
    torch.is_warn_always_enabled: torch.set_warn_always,
    torch.is_autocast_cache_enabled: torch.set_autocast_cache_enabled,
}


def _print_as(options: dict[str, Any]) -> None:
    torch.set_printoptions(**options)  # type: ignore[no-untyped-call]


_CUDA = torch.backends.cuda
_SDP: dict[Callable[[], Any], Callable[[Any], object]] = {
    _CUDA.flash_sdp_enabled: _CUDA.enable_flash_sdp,
    _CUDA.mem_efficient_sdp_enabled: _CUDA.enable_mem_efficient_sdp,
    _CUDA.math_sdp_enabled: _CUDA.enable_math_sdp,
    _CUDA.cudnn_sdp_enabled: _CUDA.enable_cudnn_sdp,
    _CUDA.preferred_linalg_library: _CUDA.preferred_linalg_library,
}
_OWNERS: dict[str, Any] = {"torch": torch, "torch.nn.functional": nn.functional}
_OWNERS |= {"math": math, "warnings": warnings, "builtins": builtins}
_OWNERS |= {"torch.Tensor": torch.Tensor, "torch.nn.Module": nn.Module}

#: name -> how to read it and how to set it. The older interface of a precision stands before the
#: newer, and the general before the particular, as the former set the latter.
SETTINGS: dict[str, Setting] = {
    **{f"torch.{get.__name__}()": (partial(_legible, get), put) for get, put in _TORCH.items()},
    **{f"torch.backends.cuda.{get.__name__}()": (get, put) for get, put in _SDP.items()},
    **{
        f"torch.is_autocast_enabled('{kind}')": (
            partial(torch.is_autocast_enabled, kind),
            partial(torch.set_autocast_enabled, kind),
        )
        for kind in ("cpu", "cuda")
    },
    **_flags("backends.cudnn", "enabled", "benchmark", "benchmark_limit", "deterministic", "allow_tf32"),
    **_flags("backends.cuda.matmul", "allow_tf32", "allow_fp16_accumulation"),
    **_flags(
        "backends.cuda.matmul", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"
    ),
    **_flags("backends", "fp32_precision"),
    **_flags("backends.cudnn", "fp32_precision"),
    **_flags("backends.cudnn.conv", "fp32_precision"),
    **_flags("backends.cudnn.rnn", "fp32_precision"),
    **_flags("backends.cuda.matmul", "fp32_precision"),
    **_flags("backends.mkldnn", "enabled", "deterministic", "fp32_precision"),
    **_flags("backends.mkldnn.conv", "fp32_precision"),
    **_flags("backends.mkldnn.rnn", "fp32_precision"),
    **_flags("backends.mkldnn.matmul", "fp32_precision"),
    **_flags("backends.opt_einsum", "enabled", "strategy"),
    **_flags("backends.quantized", "engine"),
    **_flags("utils.deterministic", "fill_uninitialized_memory"),
    "torch.backends.mha.get_fastpath_enabled()": (
        torch.backends.mha.get_fastpath_enabled,
        torch.backends.mha.set_fastpath_enabled,
    ),
    "the stack of torch's dispatch modes": (torch._C._len_torch_dispatch_stack, _leave_modes),
    "whether torch flushes denormal numbers": (_flushes_denormals, torch.set_flush_denormal),
    "how torch prints": (lambda: dict(vars(torch._tensor_str.PRINT_OPTS)), _print_as),
    "torch._dynamo.config": (_dynamo, _set_dynamo),
    "torch.nn.modules.module": (_module_hooks, _set_module_hooks),
    **{f"vars({name})": (partial(_names, owner), partial(_set_names, owner)) for name, owner in _OWNERS.items()},
    "os.environ": (_environment, _set_environment),
    "os.getcwd()": (partial(_legible, os.getcwd), os.chdir),
    "the umask": (_umask, os.umask),
    "sys.stdout": (lambda: sys.stdout, partial(setattr, sys, "stdout")),
    "sys.stderr": (lambda: sys.stderr, partial(setattr, sys, "stderr")),
    "sys.path": (_path, lambda was: sys.path.__setitem__(slice(None), was)),
    "sys.getrecursionlimit()": (lambda: max(sys.getrecursionlimit(), DEPTH), sys.setrecursionlimit),
    "gc.isenabled()": (gc.isenabled, lambda was: gc.enable() if was else gc.disable()),
    "gc.get_threshold()": (gc.get_threshold, lambda was: gc.set_threshold(*was)),
    "the locale": (partial(locale.setlocale, locale.LC_ALL), partial(locale.setlocale, locale.LC_ALL)),
    "the handler of SIGINT": (partial(signal.getsignal, signal.SIGINT), partial(signal.signal, signal.SIGINT)),
    "the handler of SIGTERM": (partial(signal.getsignal, signal.SIGTERM), partial(signal.signal, signal.SIGTERM)),
    "logging.root.level": (lambda: logging.root.level, logging.root.setLevel),
    "logging.root.handlers": (lambda: [*logging.root.handlers], _set_handlers),
    "the level of logging.disable": (lambda: logging.root.manager.disable, logging.disable),
    "the action of warnings": (_shown, warnings.simplefilter),
    "numpy.geterr()": (
        lambda: _numpy(lambda numpy: numpy.geterr()),
        lambda was: _numpy(lambda numpy: numpy.seterr(**was)),
    ),
    "the state of torch's global random generator": (
        lambda: torch.get_rng_state().tolist(),
        lambda state: torch.set_rng_state(torch.tensor(state, dtype=torch.uint8, device="cpu")),
    ),
    "the state of random's": (random.getstate, random.setstate),
    "the state of numpy's": (
        partial(_numpy, _numpy_state),
        lambda state: _numpy(lambda numpy: numpy.random.set_state(state)),
    ),
}


def settings() -> dict[str, Any]:
    """Settings and states of random generators, by name."""
    return {name: get() for name, (get, _) in SETTINGS.items()}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs, in words."""
    return [text for name, was in before.items() for text in _change(name, was, after[name])]


def _change(name: str, was: Any, value: Any) -> list[str]:
    if was is None or was == UNREADABLE:  # there was nothing to read, as numpy was not imported
        return []
    if isinstance(was, dict):
        return [
            f"{name}[{key!r}]"
            for key in dict.fromkeys((*was, *value))
            if key not in was or key not in value or not (was[key] is value[key] or was[key] == value[key])
        ]
    if was == value:
        return []
    return [name if name.startswith("the state") else f"{name} from {was} to {value}"]


def put_back(before: Mapping[str, Any]) -> list[str]:
    """Set what is not as it was before; returns what that was."""
    changed = changes(before, settings())
    for name, (get, put) in SETTINGS.items() if changed else ():
        if _change(name, before[name], get()):
            put(before[name])
    return changed
