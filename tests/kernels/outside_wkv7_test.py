"""WKV-7 against the plain PyTorch forms of the package fla-core: values and gradients, on the CPU.

fla's file is loaded by its path, for the package itself needs Triton. It knows the rule as "DPLR": layout [B, H, T, N], queries scaled by
1/sqrt(N), states [N_k, N_v], everything in float32; here it is also run in float64.

usage: outside_wkv7_test.py LIBRARY, where LIBRARY is libwuneng_ops.so
"""
import contextlib
import importlib.util
import math
import pathlib
import sys
import unittest
from unittest import mock

import torch

BARS = {torch.float32: 1e-5, torch.float64: 1e-11}  # root mean square of the error over that of fla's
NAMES = ("r", "log_decay", "k", "v", "a", "b", "initial_state")


def load_fla():
    for folder in map(pathlib.Path, sys.path):
        file = folder / "fla/ops/generalized_delta_rule/dplr/naive.py"
        if file.exists():
            spec = importlib.util.spec_from_file_location("fla_naive", file)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise ImportError("no fla-core along PYTHONPATH: scripts/setup.sh --tests installs it")


@contextlib.contextmanager
def fla_computes_in(dtype):
    """fla casts to float32 by .float() and makes its buffers in the default dtype."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with mock.patch.object(torch.Tensor, "float", lambda x: x.to(dtype)):
            yield
    finally:
        torch.set_default_dtype(kept)


def realistic(B, T, H, N, dtype):
    """Inputs as RWKV-7 makes them: a = -kappa, b = kappa * alpha with |kappa| = 1, log decay within its bound."""
    generator = torch.Generator().manual_seed(B * 1000 + T)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = draw(6, B, T, H, N)
    kappa, alpha = torch.nn.functional.normalize(x[4], dim=-1), x[5].sigmoid()
    values = [x[0], -math.exp(-0.5) * (2 * x[1]).sigmoid(), 0.3 * x[2], x[3], -kappa, kappa * alpha, draw(B, H, N, N)]
    return [v.to(dtype).requires_grad_() for v in values], draw(B, T, H, N).to(dtype), draw(B, H, N, N).to(dtype)


def ours(r, log_decay, k, v, a, b, state):
    return torch.ops.wuneng.wkv7(r, log_decay, k, v, a, b, state)


def theirs(form):
    def op(r, log_decay, k, v, a, b, state):
        q, k, v, a, b, log_decay = (x.transpose(1, 2) for x in (r * math.sqrt(r.size(-1)), k, v, a, b, log_decay))
        with fla_computes_in(r.dtype):
            y, final_state = form(q, k, v, a, b, log_decay, initial_state=state.transpose(2, 3))
        return y.transpose(1, 2), final_state.transpose(2, 3)

    return op


def values_and_gradients(op, inputs, grad_y, grad_state):
    y, state = op(*inputs)
    gradients = torch.autograd.grad([y, state], inputs, [grad_y, grad_state])
    return dict(zip(("y", "final_state", *(f"gradient of {n}" for n in NAMES)), (y, state, *gradients)))


def error_ratio(x, reference):
    return ((x - reference).square().mean().sqrt() / reference.square().mean().sqrt()).item()


class OutsideWkv7(unittest.TestCase):
    def check(self, form, dtype, B, T, H, N):
        inputs, grad_y, grad_state = realistic(B, T, H, N, dtype)
        expected = values_and_gradients(theirs(form), inputs, grad_y, grad_state)
        got = values_and_gradients(ours, inputs, grad_y, grad_state)
        errors = {name: error_ratio(got[name], expected[name]) for name in expected}
        print(f"{form.__name__} {dtype} N={N}: " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
        for name, error in errors.items():
            self.assertLess(error, BARS[dtype], name)

    def test_recurrence(self):
        for dtype in BARS:
            self.check(FLA.dplr_recurrence, dtype, B=2, T=70, H=2, N=64)
            self.check(FLA.dplr_recurrence, dtype, B=1, T=40, H=1, N=128)

    def test_chunked_form(self):
        for dtype in BARS:
            self.check(FLA.dplr_chunkwise, dtype, B=1, T=64, H=2, N=64)


if __name__ == "__main__":
    torch.ops.load_library(sys.argv[1])
    FLA = load_fla()
    unittest.main(argv=sys.argv[:1])
