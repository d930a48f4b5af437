"""The peer of the training-step benchmark: the same models in eager PyTorch, as a competent user would write them.

  step_peer.py --check              WKV-7 in chunks against the plain recurrence: values and gradients in float64
  step_peer.py llama|hybrid|rwkv7   trains on random tokens on one thread; prints a JSON line per step

tests/bench/step_compare.py measures it against our program and sets the environment that PyTorch needs (PYTHONPATH=.deps/libtorch:.deps/python,
LD_LIBRARY_PATH with the folders .deps/cuda/nvidia/*/lib).
"""
import argparse
import dataclasses
import functools
import json
import math
import time

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, LAYERS, HEAD, VOCABULARY, HIDDEN = 384, 8, 64, 8192, 1536
BATCH, TOKENS = 4, 512
EPS = 1e-5
CHUNK = 32  # of WKV-7: as fast as 64, faster than 16


@dataclasses.dataclass(frozen=True)
class Shape:
    attention_heads: int = 0
    state_heads: int = 0

    @property
    def rwkv(self):  # with RWKV's norms and feed-forward
        return self.attention_heads == 0


SHAPES = {"llama": Shape(attention_heads=6), "hybrid": Shape(attention_heads=6, state_heads=2), "rwkv7": Shape(state_heads=6)}


# ------------------------------------------------------------------------- WKV-7 ----


def wkv7_plain(r, log_decay, k, v, a, b):
    """S_t = S_{t-1} (diag(w_t) + a_t b_t^T) + v_t k_t^T, y_t = S_t r_t, with w = exp(log_decay); all [B, T, H, N]."""
    w, (B, T, H, N) = log_decay.exp(), r.shape
    state, y = r.new_zeros(B, H, N, N), []
    for t in range(T):
        r_t, v_t, a_t = (x[:, t].unsqueeze(-1) for x in (r, v, a))  # columns
        w_t, k_t, b_t = (x[:, t].unsqueeze(-2) for x in (w, k, b))  # rows
        state = state * w_t + (state @ a_t) @ b_t + v_t @ k_t
        y.append((state @ r_t).squeeze(-1))
    return torch.stack(y, 1)


def by_chunk(x):
    """[B, T, H, N] -> [B * H, chunks, CHUNK, N]."""
    B, T, H, N = x.shape
    return x.view(B, T // CHUNK, CHUNK, H, N).permute(0, 3, 1, 2, 4).reshape(B * H, -1, CHUNK, N)


def wkv7(r, log_decay, k, v, a, b):
    """wkv7_plain, chunk by chunk. With G the decays' logarithms summed from the chunk's start, P_t = S_t exp(-G_t) has no decay left:

      P_t = P_{t-1} + u_t (b_t exp(-G_t))^T + v_t (k_t exp(-G_t))^T,   u_t = P_{t-1} (a_t exp(G_{t-1})),   y_t = P_t (r_t exp(G_t))

    so the u of a chunk (rows of U) solve a unit triangular system, whose right-hand side is linear in the state before the chunk:
    U = W S_0^T + X. The state after it is S_0 M + J, with M and J of all chunks at once; only that last product goes from chunk to chunk.
    """
    B, T, H, N = r.shape
    r, log_decay, k, v, a, b = (by_chunk(x) for x in (r, log_decay, k, v, a, b))
    G = log_decay.cumsum(2)
    grown, shrunk = G.exp(), G.neg().exp()
    a, r, b, k = a * (G - log_decay).exp(), r * grown, b * shrunk, k * shrunk
    ab, ak = (a @ b.mT).tril(-1), (a @ k.mT).tril(-1)
    one = torch.eye(CHUNK, dtype=r.dtype).expand_as(ab)
    # The inverse of I - ab costs less than solving for 2 N right-hand sides.
    inverse = torch.linalg.solve_triangular(-ab, one, upper=False, unitriangular=True)
    W, X = (inverse @ torch.cat((a, ak @ v), -1)).split(N, -1)
    gamma = grown[:, :, -1:]  # the whole chunk's decay
    b_end, k_end = b * gamma, k * gamma
    M = torch.diag_embed(gamma.squeeze(2)) + W.mT @ b_end
    J = X.mT @ b_end + v.mT @ k_end
    state, before = r.new_zeros(B * H, N, N), []
    for step, write in zip(M.unbind(1), J.unbind(1)):
        before.append(state)
        state = torch.baddbmm(write, state, step)
    before = torch.stack(before, 1).mT
    U = X + W @ before
    y = r @ before + (r @ b.mT).tril() @ U + (r @ k.mT).tril() @ v
    return y.view(B, H, -1, CHUNK, N).permute(0, 2, 3, 1, 4).reshape(B, T, H, N)


def check():
    """Raises if wkv7 is not wkv7_plain."""
    torch.manual_seed(0)
    x = [torch.randn(2, 4 * CHUNK, 3, HEAD, dtype=torch.float64) for _ in range(7)]
    kappa = F.normalize(x[4], dim=-1)
    inputs = [x[0], -math.exp(-0.5) * x[1].sigmoid(), x[2], x[3], -kappa, kappa * x[5].sigmoid()]
    for i in inputs:
        i.requires_grad_()
    results = []
    for form in wkv7_plain, wkv7:
        y = form(*inputs)
        results.append((y, *torch.autograd.grad(y, inputs, x[6])))
    for name, plain, chunked in zip(("y", "r", "log_decay", "k", "v", "a", "b"), *results):
        error = ((plain - chunked).norm() / plain.norm()).item()
        print(f"{'' if name == 'y' else 'gradient of '}{name}: relative error {error:.1e}")
        assert error < 1e-11, name


# ------------------------------------------------------------------------- model ----


class Attention(nn.Module):
    """Heads of causal attention with rotary positions, [B, T, H * N], before the output projection."""

    def __init__(self, heads, norm):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(WIDTH, 3 * heads * HEAD, bias=False)
        self.norm = nn.Parameter(torch.ones(heads, HEAD)) if norm else None
        angles = torch.outer(torch.arange(TOKENS), 10000.0 ** (-torch.arange(0, HEAD, 2) / HEAD))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def rotate(self, x):
        first, second = x.chunk(2, -1)
        return torch.cat((first * self.cos - second * self.sin, second * self.cos + first * self.sin), -1)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True).transpose(1, 2)
        if self.norm is not None:  # one kind of heads must not drown the other
            y = F.rms_norm(y, (HEAD,), eps=EPS) * self.norm
        return y.reshape(B, T, -1)


def shift_difference(x):
    """x_{t-1} - x_t, with zero before the first token."""
    return F.pad(x, (0, 0, 1, -1)) - x


class LowRank(nn.Module):
    def __init__(self, factor, channels, bias, between=nn.Identity):
        super().__init__()
        rank = max(32, 32 * round(factor * (WIDTH * channels) ** 0.25 / 32))  # RWKV-7's formula
        self.down, self.between, self.up = nn.Linear(WIDTH, rank, bias=False), between(), nn.Linear(rank, channels, bias=bias)

    def forward(self, x):
        return self.up(self.between(self.down(x)))


class StateHeads(nn.Module):
    """RWKV-7's time mix (arXiv 2503.14456, section 4.1), [B, T, H * N], before the output projection."""

    def __init__(self, heads, first):
        super().__init__()
        self.heads, channels = heads, heads * HEAD
        self.mix = nn.Parameter(torch.rand(6, WIDTH))
        self.receptance, self.key, self.value = (nn.Linear(WIDTH, channels, bias=False) for _ in range(3))
        self.decay = LowRank(2.5, channels, True, nn.Tanh)
        self.rate = LowRank(2.5, channels, True)
        self.value_residual = None if first else LowRank(1.7, channels, True)
        self.gate = LowRank(5.0, channels, False, nn.Sigmoid)
        self.removal = nn.Parameter(torch.full((heads, HEAD), 0.85))
        self.replacement, self.bonus = nn.Parameter(torch.ones(heads, HEAD)), nn.Parameter(torch.zeros(heads, HEAD))
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(heads, HEAD)), nn.Parameter(torch.zeros(heads, HEAD))

    def per_head(self, x):
        return x.unflatten(-1, (self.heads, HEAD))

    def forward(self, x, first_values):
        difference = shift_difference(x)
        for_r, for_w, for_k, for_v, for_a, for_g = (torch.addcmul(x, difference, mix) for mix in self.mix)
        r, k, v = (self.per_head(y) for y in (self.receptance(for_r), self.key(for_k), self.value(for_v)))
        if self.value_residual is None:
            first_values = v
        else:
            v = torch.lerp(v, first_values, self.per_head(self.value_residual(for_v)).sigmoid())
        log_decay = -math.exp(-0.5) * self.per_head(self.decay(for_w)).sigmoid()
        rate = self.per_head(self.rate(for_a)).sigmoid()
        kappa = F.normalize(k * self.removal, dim=-1)
        k = k * (1 + (rate - 1) * self.replacement)
        y = wkv7(r, log_decay, k, v, -kappa, kappa * rate)
        # A group norm; F.group_norm does the same in more time.
        y = torch.addcmul(self.norm_bias, F.layer_norm(y, (HEAD,), eps=HEAD * EPS), self.norm_weight)
        y = y + (r * k * self.bonus).sum(-1, keepdim=True) * v
        return y.flatten(2) * self.gate(for_g), first_values


class Mixer(nn.Module):
    """Attention and state heads side by side, and one output projection."""

    def __init__(self, shape, layer):
        super().__init__()
        hybrid = shape.attention_heads > 0 and shape.state_heads > 0
        self.attention = Attention(shape.attention_heads, norm=hybrid) if shape.attention_heads else None
        self.state = StateHeads(shape.state_heads, first=layer == 0) if shape.state_heads else None
        self.output = nn.Linear((shape.attention_heads + shape.state_heads) * HEAD, WIDTH, bias=False)

    def forward(self, x, first_values):
        heads = [] if self.attention is None else [self.attention(x)]
        if self.state is not None:
            y, first_values = self.state(x, first_values)
            heads.append(y)
        return self.output(torch.cat(heads, -1) if len(heads) > 1 else heads[0]), first_values


class SwiGlu(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class ChannelMix(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.rand(WIDTH))
        self.key, self.value = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x):
        return self.value(F.relu(self.key(torch.addcmul(x, shift_difference(x), self.mix))).square())


class Layer(nn.Module):
    def __init__(self, shape, layer, norm):
        super().__init__()
        self.mixer_norm, self.mixer = norm(), Mixer(shape, layer)
        self.ffn_norm, self.ffn = norm(), ChannelMix() if shape.rwkv else SwiGlu()

    def forward(self, x, first_values):
        y, first_values = self.mixer(self.mixer_norm(x), first_values)
        x = x + y
        return x + self.ffn(self.ffn_norm(x)), first_values


class Model(nn.Module):
    def __init__(self, shape):
        super().__init__()
        norm = functools.partial(nn.LayerNorm if shape.rwkv else nn.RMSNorm, WIDTH, eps=EPS)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.embedding_norm = norm() if shape.rwkv else nn.Identity()
        self.layers = nn.ModuleList(Layer(shape, layer, norm) for layer in range(LAYERS))
        self.norm, self.head = norm(), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens):
        x, first_values = self.embedding_norm(self.embedding(tokens)), None
        for layer in self.layers:
            x, first_values = layer(x, first_values)
        return self.head(self.norm(x))

    def loss(self, tokens, targets):
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())


# ---------------------------------------------------------------------- training ----


def sgemm_peak():
    """FLOP/s of large float32 matrix products, the fastest of some, by CPU time."""
    a, b, best = torch.randn(1536, 1536), torch.randn(1536, 1536), math.inf
    for _ in range(10):
        begin = time.thread_time()
        torch.mm(a, b)
        best = min(best, time.thread_time() - begin)
    return 2 * 1536**3 / best


def train(name, steps, compiled, log):
    def say(**line):
        print(json.dumps(line), file=log, flush=True)

    peak = sgemm_peak()
    torch.manual_seed(0)
    model = Model(SHAPES[name])
    say(parameters=sum(p.numel() for p in model.parameters()), sgemm_peak=peak)
    matrices = [module.weight for module in model.modules() if isinstance(module, (nn.Linear, nn.Embedding))]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    loss_of = torch.compile(model.loss) if compiled else model.loss
    for _ in range(steps):
        begin = time.perf_counter()
        tokens = torch.randint(VOCABULARY, (BATCH, TOKENS + 1))
        loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        say(loss=loss.item(), step_seconds=time.perf_counter() - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=SHAPES)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="by torch.compile, which needs a C++ compiler")
    parser.add_argument("--log", type=argparse.FileType("w"), default="-", help="where the lines go (default: standard output)")
    parser.add_argument("--check", action="store_true", help="only compare WKV-7 with its recurrence")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.check:
        check()
    elif arguments.model:
        train(arguments.model, arguments.steps, arguments.compile, arguments.log)
    else:
        parser.error("a model, or --check")


if __name__ == "__main__":
    main()
