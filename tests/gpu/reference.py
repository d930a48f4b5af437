"""What the GPU suite compares with: float64 definitions in plain PyTorch on the same device, and how it compares."""
import math

import torch

DECAY_BOUND = math.exp(-0.5)
INPUTS = ("r", "log_decay", "k", "v", "a", "b", "initial_state")


class Recurrence(torch.autograd.Function):
    """S_t = S_{t-1} diag(exp(log_decay_t)) + (S_{t-1} a_t) b_t^T + v_t k_t^T, y_t = S_t r_t, token by token; states [B, H, N_v, N_k]."""

    @staticmethod
    def forward(ctx, r, log_decay, k, v, a, b, state):
        w = log_decay.exp()
        keep = any(ctx.needs_input_grad)
        states, y = [], torch.empty_like(v)
        for t in range(r.size(1)):
            if keep:
                states.append(state)
            u = state @ a[:, t].unsqueeze(-1)
            state = state * w[:, t].unsqueeze(-2) + u * b[:, t].unsqueeze(-2) + v[:, t].unsqueeze(-1) * k[:, t].unsqueeze(-2)
            y[:, t] = (state @ r[:, t].unsqueeze(-1)).squeeze(-1)
        ctx.save_for_backward(r, w, k, v, a, b, *states, state)
        return y, state

    @staticmethod
    def backward(ctx, grad_y, grad_state):
        r, w, k, v, a, b, *states = ctx.saved_tensors
        g = grad_state
        out = [torch.empty_like(r) for _ in range(6)]
        for t in reversed(range(r.size(1))):
            before, after = states[t], states[t + 1]
            row, column = (lambda x: x[:, t].unsqueeze(-2)), (lambda x: x[:, t].unsqueeze(-1))
            g = g + column(grad_y) * row(r)
            u, du = before @ column(a), g @ column(b)
            slopes = (row(grad_y) @ after, (g * before).sum(-2, keepdim=True) * row(w), row(v) @ g, (g @ column(k)).mT, du.mT @ before, u.mT @ g)
            for gradient, slope in zip(out, slopes):
                gradient[:, t] = slope.squeeze(-2)
            g = g * row(w) + du * row(a)
        return *out, g


def sequences(B, T, starts):
    """(first token, length) of each document; a row's tokens before its first start count as one."""
    cuts = sorted({b * T for b in range(B)} | set(starts)) + [B * T]
    return [(begin, end - begin) for begin, end in zip(cuts, cuts[1:])]


def wkv7(r, log_decay, k, v, a, b, state=None, starts=(), per_document=False):
    """As torch.ops.wuneng.wkv7, with the document starts as integers."""
    B, T, H, N = r.shape
    inputs = (r, log_decay, k, v, a, b)
    zero = r.new_zeros(B, H, N, N)
    if not starts:
        return Recurrence.apply(*inputs, zero if state is None else state)
    outputs, finals = [], []
    for index, (begin, length) in enumerate(sequences(B, T, starts)):
        row = begin // T
        flows_in = state is not None and (per_document or (begin % T == 0 and begin not in starts))
        initial = state[index if per_document else row].unsqueeze(0) if flows_in else zero[:1]
        flat = [x.reshape(1, B * T, H, N)[:, begin : begin + length] for x in inputs]
        y, final = Recurrence.apply(*flat, initial)
        outputs.append(y)
        if per_document or (begin + length) % T == 0:
            finals.append(final)
    return torch.cat(outputs, 1).reshape(B, T, H, N), torch.cat(finals)


def token_shift(x, mix, previous=None, starts=()):
    B, T, C = x.shape
    first = x.new_zeros(B, 1, C) if previous is None else previous.unsqueeze(1)
    before = torch.cat([first, x[:, :-1]], 1).reshape(B * T, C)
    inside = torch.ones(B * T, 1, dtype=x.dtype, device=x.device)
    inside[list(starts)] = 0
    before = (before * inside).reshape(B, T, C)
    return [x + (before - x) * m for m in mix]


def prepare_state_head(decay_logit, rate_logit, k, removal, replacement):
    alpha, removed = rate_logit.sigmoid(), k * removal
    kappa = removed / removed.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12)
    return -DECAY_BOUND * decay_logit.sigmoid(), k * (1 + (alpha - 1) * replacement), -kappa, kappa * alpha


def finish_state_head(y, r, k, v, gate, bonus, weight, bias, eps):
    centred = y - y.mean(-1, keepdim=True)
    normed = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt() * weight + bias
    return (normed + (r * k * bonus).sum(-1, keepdim=True) * v) * gate


def mix_values(v, first, logit):
    return v + (first - v) * logit.sigmoid()


def linear_cross_entropy(hidden, weight, targets, vocab_size, z_loss=0.0, pull=0.0):
    """(the sum over tokens of loss and penalties, the loss of each)."""
    logits, real = hidden @ weight[:vocab_size].T, targets >= 0
    log_sum = logits.logsumexp(1)
    losses = (log_sum - logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)) * real
    penalties = z_loss * log_sum.square() + pull * logits.amax(1).square() / 2
    return (losses + penalties * real).sum(), losses


def error_ratio(x, reference):
    """Root mean square of the error over that of the reference; not a number when x is not finite."""
    x, reference = x.detach().double(), reference.detach().double()
    error, scale = (x - reference).square().mean().sqrt().item(), reference.square().mean().sqrt().item()
    return error / scale if scale > 0 else error


def bar(dtype, what):
    """The largest error_ratio that passes."""
    if dtype == torch.float64:
        return 1e-11
    if dtype == torch.float32:
        return 1e-5
    if not what.startswith("gradient"):
        return 5e-3
    return 6e-3 if what.endswith("log_decay") else 8e-3


class Checks:
    """Runs checks and keeps what they found. A check is a function of this object; it ends at its first failure."""

    def __init__(self, device, dtypes, small=False):
        self.device, self.dtypes = torch.device(device), dtypes
        self.small = small  # for compute-sanitizer: nothing is compared, it watches
        self.large = self.device.type == "cuda" and not small
        self.results = []  # (check, "ok" or what is wrong, seconds)
        self.errors = {}  # (dtype, what) -> (worst ratio, its bar, check)
        self.name = ""

    def close(self, got, expected, dtype, what, limit=None):
        limit = limit or bar(dtype, what)
        ratio = error_ratio(got, expected)
        key = (str(dtype).removeprefix("torch."), what)
        if limit == bar(dtype, what) and not ratio < self.errors.get(key, (0.0,))[0]:
            self.errors[key] = (ratio, limit, self.name)
        assert got.shape == expected.shape, f"{what} has shape {list(got.shape)}, expected {list(expected.shape)}"
        assert ratio < limit, f"{what} ({dtype}): error {ratio:.2e}, allowed {limit:.0e}"

    def refused(self, text, call, *arguments):
        try:
            call(*arguments)
        except RuntimeError as error:
            assert text in str(error), f"refused, but the message does not say '{text}': {error}"
        else:
            raise AssertionError(f"not refused: expected an error that says '{text}'")

    def draw(self, *shape, seed=0):
        generator = torch.Generator(self.device).manual_seed(1000 * seed + len(shape) + sum(shape))
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=self.device)

    def poison(self):
        """Leaves NaN in the memory that the allocator hands out next. (On the CPU: MALLOC_PERTURB_.)"""
        if not self.large:
            return
        small = [torch.full((1 << 16,), math.nan, device=self.device) for _ in range(64)]
        large = torch.full((1 << 28,), math.nan, device=self.device)
        del small, large

    def evaluate(self, op, inputs, cotangents, names, output_names):
        """{name: tensor} of the outputs and of the gradients of those inputs that require one."""
        leaves = [x.detach().clone().requires_grad_() if x is not None else None for x in inputs]
        outputs = op(*leaves)
        wanted = [(n, x) for n, x in zip(names, leaves) if x is not None]
        gradients = torch.autograd.grad(outputs, [x for _, x in wanted], [c.to(o.dtype) for c, o in zip(cotangents, outputs)])
        found = dict(zip(output_names, (o.detach() for o in outputs)))
        return found | {f"gradient of {n}": g for (n, _), g in zip(wanted, gradients)}

    def compare(self, op, reference, inputs, cotangents, names, output_names, dtype, limit=None):
        """`op` against `reference` in float64 on the same (rounded) inputs; returns what `op` gave."""
        self.poison()
        got = self.evaluate(op, inputs, cotangents, names, output_names)
        if self.small:
            assert all(x.isfinite().all() for x in got.values()), f"not finite ({dtype})"
            return got
        expected = self.evaluate(reference, [x if x is None else x.double() for x in inputs], [c.double() for c in cotangents], names, output_names)
        for what in expected:
            self.close(got[what], expected[what], dtype, what, limit)
        return got
