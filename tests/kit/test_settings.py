"""What a process has once: the kit sees each change of it, names it, and puts it back."""

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
from functools import partial

import numpy as np
import pytest
import torch
import torch._dynamo.config
from torch.utils._python_dispatch import TorchDispatchMode
from toy_node import Toy, reference

from sj_lang.testing import NodeFailed, check_node
from sj_lang.testing.settings import SETTINGS, put_back, settings

ALL = {"causal": True, "steps": True, "carries_state": True, "takes_mask": True, "any_length": True}
BACKENDS = torch.backends
PRECISIONS = [name for name in SETTINGS if name.endswith("fp32_precision")]


def precision(name):
    owner = torch
    for part in name.split(".")[1:-1]:
        owner = getattr(owner, part)
    owner.fp32_precision = "ieee" if owner.fp32_precision == "tf32" else "tf32"


class Passes(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def negate(owner, name):
    setattr(owner, name, not getattr(owner, name))


CHANGES = {
    "torch.is_grad_enabled()": lambda: torch.set_grad_enabled(False),
    "torch.is_anomaly_enabled()": lambda: torch.autograd.set_detect_anomaly(True),
    "torch.get_default_dtype()": lambda: torch.set_default_dtype(torch.float64),
    "torch.get_default_device()": lambda: torch.set_default_device("meta"),
    "torch.get_num_threads()": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch.get_float32_matmul_precision()": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.get_deterministic_debug_mode()": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch.is_warn_always_enabled()": lambda: torch.set_warn_always(True),
    "torch.is_autocast_cache_enabled()": lambda: torch.set_autocast_cache_enabled(False),
    "torch.is_autocast_enabled('cpu')": lambda: torch.set_autocast_enabled("cpu", True),
    "torch.is_autocast_enabled('cuda')": lambda: torch.set_autocast_enabled("cuda", True),
    "torch.backends.cuda.flash_sdp_enabled()": lambda: BACKENDS.cuda.enable_flash_sdp(False),
    "torch.backends.cuda.mem_efficient_sdp_enabled()": lambda: BACKENDS.cuda.enable_mem_efficient_sdp(False),
    "torch.backends.cuda.math_sdp_enabled()": lambda: BACKENDS.cuda.enable_math_sdp(False),
    "torch.backends.cuda.cudnn_sdp_enabled()": lambda: BACKENDS.cuda.enable_cudnn_sdp(False),
    "torch.backends.cudnn.enabled": partial(negate, BACKENDS.cudnn, "enabled"),
    "torch.backends.cudnn.benchmark": partial(negate, BACKENDS.cudnn, "benchmark"),
    "torch.backends.cudnn.deterministic": partial(negate, BACKENDS.cudnn, "deterministic"),
    "torch.backends.cudnn.allow_tf32": partial(negate, BACKENDS.cudnn, "allow_tf32"),
    "torch.backends.cuda.matmul.allow_tf32": partial(negate, BACKENDS.cuda.matmul, "allow_tf32"),
    "torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction": partial(
        negate, BACKENDS.cuda.matmul, "allow_fp16_reduced_precision_reduction"
    ),
    "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction": partial(
        negate, BACKENDS.cuda.matmul, "allow_bf16_reduced_precision_reduction"
    ),
    **{name: partial(precision, name) for name in PRECISIONS},
    "torch.backends.mkldnn.enabled": partial(negate, BACKENDS.mkldnn, "enabled"),
    "torch.backends.opt_einsum.enabled": partial(setattr, BACKENDS.opt_einsum, "enabled", "changed"),
    "torch.backends.mha.get_fastpath_enabled()": lambda: BACKENDS.mha.set_fastpath_enabled(False),
    "torch.utils.deterministic.fill_uninitialized_memory": partial(
        negate, torch.utils.deterministic, "fill_uninitialized_memory"
    ),
    "the stack of torch's dispatch modes": lambda: Passes().__enter__(),
    "whether torch flushes denormal numbers": lambda: torch.set_flush_denormal(True),
    "how torch prints['precision']": lambda: torch.set_printoptions(precision=9),
    "torch._dynamo.config['suppress_errors']": partial(negate, torch._dynamo.config, "suppress_errors"),
    "torch.nn.modules.module['_global_forward_hooks']": lambda: torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: None
    ),
    "vars(torch)['sigmoid']": lambda: setattr(torch, "sigmoid", torch.tanh),
    "vars(torch.nn.functional)['softplus']": lambda: setattr(torch.nn.functional, "softplus", torch.relu),
    "vars(torch.Tensor)['sigmoid']": lambda: setattr(torch.Tensor, "sigmoid", torch.Tensor.tanh),
    "vars(torch.nn.Module)['__call__']": lambda: setattr(
        torch.nn.Module, "__call__", lambda self, *inputs: self.forward(*inputs)
    ),
    "vars(math)['exp']": lambda: setattr(math, "exp", math.expm1),
    "vars(warnings)['showwarning']": lambda: logging.captureWarnings(True),
    "vars(builtins)['print']": lambda: setattr(builtins, "print", len),
    "the umask": lambda: os.umask(0o007),
    "sys.stdout": lambda: setattr(sys, "stdout", sys.stderr),
    "sys.stderr": lambda: setattr(sys, "stderr", sys.stdout),
    "os.environ['SJ_LANG_TOY']": lambda: os.environ.update(SJ_LANG_TOY="1"),
    "os.environ['PATH']": lambda: os.environ.update(PATH="."),
    "os.environ['HOME']": lambda: os.environ.pop("HOME"),
    "os.getcwd()": lambda: os.chdir(".."),
    "sys.path": lambda: sys.path.insert(0, "elsewhere"),
    "sys.getrecursionlimit()": lambda: sys.setrecursionlimit(5000),
    "gc.isenabled()": gc.disable,
    "gc.get_threshold()": lambda: gc.set_threshold(9, 9, 9),
    "the locale": lambda: locale.setlocale(locale.LC_CTYPE, "C"),
    "the handler of SIGINT": lambda: signal.signal(signal.SIGINT, lambda number, frame: None),
    "the handler of SIGTERM": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "logging.root.level": lambda: logging.root.setLevel(logging.CRITICAL),
    "logging.root.handlers": lambda: logging.root.addHandler(logging.NullHandler()),
    "the level of logging.disable": lambda: logging.disable(logging.CRITICAL),
    "the action of warnings": lambda: warnings.simplefilter("ignore"),
    "numpy.geterr()['divide']": lambda: np.seterr(divide="raise"),
    "the state of torch's global random generator": lambda: torch.rand(1),
    "the state of random's": random.random,
    "the state of numpy's": np.random.rand,
}
ALIKE = {  # read as those beside them are
    "torch.backends.cuda.preferred_linalg_library()",
    "torch.backends.cuda.matmul.allow_fp16_accumulation",
    "torch.backends.cudnn.benchmark_limit",
    "torch.backends.mkldnn.deterministic",
    "torch.backends.opt_einsum.strategy",
    "torch.backends.quantized.engine",
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_change_is_named_and_put_back(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        before = settings()
        CHANGES[name]()
        changed = put_back(before)
        assert any(text.startswith(name) for text in changed), changed
        assert put_back(before) == []


def test_the_depth_to_which_torch_compile_lifts_the_limit_is_no_change():
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(1000)
        before = settings()
        sys.setrecursionlimit(2000)
        assert put_back(before) == []
    finally:
        sys.setrecursionlimit(limit)


def test_each_setting_has_its_change():
    assert {name.partition("['")[0] for name in CHANGES} | ALIKE >= SETTINGS.keys()


class ForwardSetsAVariable(Toy):
    def forward(self, x, mask=None):
        os.environ["SJ_LANG_TOY"] = "1"
        return super().forward(x, mask)


class SetsAVariableWhenItIsBuilt(Toy):
    def __init__(self, **options):
        super().__init__(**options)
        os.environ["SJ_LANG_TOY"] = "1"


class RoundsConvolutions(Toy):
    def functional(self, x, state=None, mask=None):
        torch.backends.cudnn.allow_tf32 = False
        return super().functional(x, state, mask)


class MixesThePrecisionsOfMatmul(Toy):
    def functional(self, x, state=None, mask=None):
        torch.backends.cuda.matmul.allow_tf32 = True
        BACKENDS.fp32_precision = "tf32"
        return super().functional(x, state, mask)


class ReplacesSigmoid(Toy):
    def decay(self, x, before, axis):
        torch.Tensor.sigmoid = torch.sigmoid
        return super().decay(x, before, axis)


class HooksEveryModule(Toy):
    def reset(self):
        super().reset()
        torch.nn.modules.module.register_module_forward_pre_hook(lambda module, inputs: None)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (ForwardSetsAVariable, r"forward, in train\(\), changes os.environ\['SJ_LANG_TOY'\]"),
        (SetsAVariableWhenItIsBuilt, r"building the node changes os.environ\['SJ_LANG_TOY'\]"),
        (RoundsConvolutions, r"torch.backends.cudnn.allow_tf32 from True to False"),
        (MixesThePrecisionsOfMatmul, r"torch.backends.fp32_precision from none to tf32"),
        (ReplacesSigmoid, r"vars\(torch.Tensor\)\['sigmoid'\]"),
        (HooksEveryModule, r"torch.nn.modules.module\['_global_forward_pre_hooks'\]"),
    ],
)
def test_a_node_that_changes_it_is_named(node, says):
    before = settings()
    with pytest.raises(NodeFailed, match=says) as caught:
        check_node(node, traits=ALL, only=["nothing_global_changes"], reference=reference)
    assert {failure.check for failure in caught.value.failures} == {"nothing_global_changes"}
    assert put_back(before) == []
