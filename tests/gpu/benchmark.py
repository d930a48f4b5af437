"""Times of WKV-7 on the GPU: ours, the memory floor of the same card, and fla's Triton kernels in the same process when they can be imported;
and of the output head with its loss: ours, and torch's two operators.

Every time is the median of 50 runs between CUDA events, with the second-level cache flushed before each. Floor: the bytes that any implementation
must move (inputs, outputs, gradients, a state per 64 tokens in bf16), at the bandwidth of a large copy on the same card.
"""
import dataclasses
import statistics

import torch

import reference
import wkv7_checks

RUNS, WARM_UP = 50, 10


@dataclasses.dataclass
class Shape:
    name: str
    B: int
    T: int
    H: int
    N: int
    documents: bool = False

    def token_heads(self):
        return self.B * self.T * self.H

    def floor_bytes(self):
        """(forward, forward + backward): 7 and 20 tensors, and the states written and read."""
        tensor = 2 * self.token_heads() * self.N
        states = tensor * self.N / 64
        return 7 * tensor + states, 20 * tensor + 2 * states

    def flops(self):
        """Of the chunked form at 32 tokens, upper 16 x 16 tiles left out: (forward, forward + backward)."""
        N, chunk = self.N, 0.75 * 32
        forward, backward = 8 * N * N + 16 * chunk * N, 18 * N * N + 44 * chunk * N
        return self.token_heads() * forward, self.token_heads() * (forward + backward)


SHAPES = (
    Shape("X", 8, 4096, 32, 64),
    Shape("2X", 8, 4096, 64, 64),
    Shape("long", 1, 32768, 32, 64),
    Shape("small grid", 1, 8192, 16, 64),
    Shape("X, N 128", 8, 4096, 16, 128),
    Shape("2X, N 128", 8, 4096, 32, 128),
    Shape("long, N 128", 1, 32768, 16, 128),
    Shape("small grid, N 128", 1, 8192, 8, 128),
    Shape("documents", 8, 4096, 32, 64, documents=True),
)


@dataclasses.dataclass
class Row:
    shape: Shape
    who: str
    forward: float = 0.0  # seconds
    both: float = 0.0
    memory: int = 0  # bytes at the peak of forward + backward, beside inputs and cotangent
    note: str = ""


class Clock:
    def __init__(self):
        self.flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")  # more than any card's second-level cache

    def seconds(self, call):
        for _ in range(WARM_UP):
            call()
        times = []
        for _ in range(RUNS):
            self.flush.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        return statistics.median(times)


def copy_bandwidth(clock):
    """Bytes per second, read and written, of a copy of 1 GiB."""
    source = torch.ones(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / clock.seconds(lambda: target.copy_(source))


def document_starts(shape):
    if not shape.documents:
        return ()
    generator = torch.Generator().manual_seed(7)
    cuts = torch.randperm(shape.B * shape.T, generator=generator)[: 8 * shape.B].tolist()
    return tuple(sorted(set(cuts) | {b * shape.T for b in range(shape.B)}))


def ours(shape):
    op = wkv7_checks.ours(document_starts(shape), per_document=shape.documents)
    return lambda *inputs: op(*inputs)[0]


def theirs(chunk_rwkv7, shape, **options):
    """fla wants documents as one row with the cumulative lengths."""
    starts = document_starts(shape)
    lengths = torch.tensor([*starts, shape.B * shape.T], device="cuda") if starts else None

    def op(*inputs):
        if lengths is not None:
            inputs = [x.reshape(1, shape.B * shape.T, shape.H, shape.N) for x in inputs]
        return chunk_rwkv7(*inputs, scale=1.0, output_final_state=True, cu_seqlens=lengths, **options)[0]

    return op


def measure(clock, shape, who, op, inputs, cotangent):
    row = Row(shape, who)
    cotangent = cotangent.view(op(*inputs).shape)

    def both():
        torch.autograd.grad(op(*inputs), inputs, cotangent)

    row.forward = clock.seconds(lambda: op(*inputs))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    row.both = clock.seconds(both)
    row.memory = torch.cuda.max_memory_allocated() - before
    return row


def fla_variants():
    """fla's kernel, a word about it and the options that it is run with; no kernel when fla cannot be imported."""
    try:
        import fla
        from fla.ops.rwkv7 import chunk_rwkv7
    except Exception as error:  # it imports Triton, which may fail in many ways
        return None, f"fla cannot be imported ({type(error).__name__}: {error}): not compared", ()
    variants = [{}, dict(lower_bound=-0.6066), dict(lower_bound=-0.6066, disable_recompute=True)]
    variants += [dict(safe_gate=True, chunk_size=c, disable_recompute=d) for c in (16, 32, 64) for d in (False, True)]
    return chunk_rwkv7, f"fla {getattr(fla, '__version__', '?')}, in the same process", variants


def run_shape(clock, shape, fla):
    checks = reference.Checks("cuda", [torch.bfloat16])
    inputs = [x.requires_grad_() for x in wkv7_checks.realistic(checks, torch.bfloat16, shape.B, shape.T, shape.H, shape.N)]
    cotangent = checks.draw(*inputs[0].shape, seed=91).to(torch.bfloat16)
    rows = [measure(clock, shape, "ours", ours(shape), inputs, cotangent)]
    chunk_rwkv7, _, variants = fla
    with torch.no_grad():
        y = ours(shape)(*inputs)
    for options in variants:
        name = "fla " + (" ".join(f"{k}={v}" for k, v in options.items()) or "as it comes")
        try:
            op = theirs(chunk_rwkv7, shape, **options)
            row = measure(clock, shape, name, op, inputs, cotangent)
            with torch.no_grad():
                row.note = f"y differs from ours by {reference.error_ratio(op(*inputs).view(y.shape), y):.1e}"
            rows.append(row)
        except Exception as error:  # a variant that does not compile or run says so in the table
            rows.append(Row(shape, name, note=f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"))
    return rows


def run():
    """All rows, the copy bandwidth in bytes per second, and a word about fla."""
    clock = Clock()
    bandwidth, fla, rows = copy_bandwidth(clock), fla_variants(), []
    for shape in SHAPES:
        print(f"benchmark: {shape.name}", flush=True)
        try:
            rows += run_shape(clock, shape, fla)
        except torch.OutOfMemoryError as error:
            rows.append(Row(shape, "ours", note=f"out of memory: {str(error).splitlines()[0][:80]}"))
        torch.cuda.empty_cache()
    return rows, bandwidth, fla[1]


def bars(rows, bandwidth):
    """Where X stands against what was asked of it."""
    ours_x = next((r for r in rows if r.shape.name == "X" and r.who == "ours" and r.both), None)
    if ours_x is None:
        return ["X was not measured."]
    floor = ours_x.shape.floor_bytes()[1] / bandwidth
    lines = [f"X, forward + backward: {ours_x.both * 1e3:.3f} ms, {ours_x.both / floor:.2f} times the memory floor of {floor * 1e3:.3f} ms "
             f"(bar 4: {'met' if ours_x.both <= 4 * floor else 'MISSED'})."]
    fla = [r.both for r in rows if r.shape.name == "X" and r.who != "ours" and r.both]
    if fla:
        lines.append(f"X, forward + backward: {min(fla) / ours_x.both:.2f} times as fast as fla's fastest variant, {min(fla) * 1e3:.3f} ms "
                     f"(bar 3: {'met' if min(fla) >= 3 * ours_x.both else 'MISSED'}).")
    return lines


def table(rows, bandwidth):
    lines = ["| shape | B, T, H, N | who | forward ms | forward + backward ms | ns / token-head | GB/s | GFLOP/s | % of floor | peak MB | |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        s = r.shape
        place = f"| {s.name} | {s.B}, {s.T}, {s.H}, {s.N} | {r.who} |"
        if not r.both:
            lines.append(f"{place} | | | | | | | {r.note} |")
            continue
        floor, flops = s.floor_bytes()[1], s.flops()[1]
        lines.append(f"{place} {r.forward * 1e3:.3f} | {r.both * 1e3:.3f} | {r.both / s.token_heads() * 1e9:.2f} | {floor / r.both / 1e9:.0f} | {flops / r.both / 1e9:.0f} "
                     f"| {100 * floor / bandwidth / r.both:.0f} | {r.memory / 1e6:.0f} | {r.note} |")
    return lines


LOSS_V, LOSS_SHAPES = 65536, ((8192, 1024), (8192, 4096), (32768, 2048))  # tokens, C


def loss_ops(targets):
    """Who -> the sum of the losses of (hidden, weight). Ours has its logits in float32."""
    functional = torch.nn.functional
    return {
        "ours": lambda h, w: torch.ops.wuneng.linear_cross_entropy(h, w, targets, LOSS_V)[0],
        "torch: linear, cross_entropy": lambda h, w: functional.cross_entropy(functional.linear(h, w), targets, reduction="sum"),
        "torch, logits converted to float32": lambda h, w: functional.cross_entropy(functional.linear(h, w).float(), targets, reduction="sum"),
    }


def measure_loss(clock, op, inputs):
    """Seconds of forward and backward, and bytes at their peak beside the inputs."""

    def both():
        torch.autograd.grad(op(*inputs), inputs)

    seconds = clock.seconds(both)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    both()
    return seconds, torch.cuda.max_memory_allocated() - before


def loss_table():
    """Markdown. FLOP: three products of n, C and V each."""
    clock = Clock()
    lines = [f"| n, C (V = {LOSS_V}, bf16) | who | forward + backward ms | TFLOP/s | peak MiB | |", "|---|---|---|---|---|---|"]
    for n, C in LOSS_SHAPES:
        print(f"benchmark: loss, n {n}, C {C}", flush=True)
        options = dict(device="cuda", dtype=torch.bfloat16, requires_grad=True)
        inputs = [torch.randn(n, C, **options), torch.nn.init.normal_(torch.empty(LOSS_V, C, **options), std=C**-0.5)]
        for who, op in loss_ops(torch.randint(0, LOSS_V, (n,), device="cuda")).items():
            try:
                seconds, memory = measure_loss(clock, op, inputs)
                lines.append(f"| {n}, {C} | {who} | {seconds * 1e3:.3f} | {6e-12 * n * C * LOSS_V / seconds:.0f} | {memory >> 20} | |")
            except torch.OutOfMemoryError as error:
                lines.append(f"| {n}, {C} | {who} | | | | out of memory: {str(error).splitlines()[0][:80]} |")
            torch.cuda.empty_cache()
    return lines
