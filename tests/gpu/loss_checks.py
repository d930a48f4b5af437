"""The output head with its loss on device tensors, against the definition."""
import torch

import reference

INPUTS = ("hidden", "weight")
NO_PENALTIES, BOTH = (0.0, 0.0), (1e-2, 3e-2)  # z_loss, pull


def ours(targets, vocab, penalties=NO_PENALTIES):
    return lambda hidden, weight: torch.ops.wuneng.linear_cross_entropy(hidden, weight, targets, vocab, *penalties)


def problem(checks, dtype, n, V, C, vocab=None):
    """hidden, weight, and targets of which one in ten is no real token; the first is."""
    generator = torch.Generator().manual_seed(n + V)
    targets = torch.randint(0, vocab or V, (n,), generator=generator)
    targets[1::10] = -1
    return checks.draw(n, C).to(dtype), (2 * C**-0.5 * checks.draw(V, C, seed=1)).to(dtype), targets.to(checks.device)


def compare(checks, dtype, n, V, C, vocab=None, penalties=NO_PENALTIES):
    hidden, weight, targets = problem(checks, dtype, n, V, C, vocab)
    cotangent = [torch.tensor(0.37, dtype=torch.float64, device=checks.device)]  # no power of two: it is rounded
    op, definition = ours(targets, vocab or V, penalties), lambda h, w: reference.linear_cross_entropy(h, w, targets, vocab or V, *penalties)
    checks.compare(lambda h, w: [op(h, w)[0]], lambda h, w: [definition(h, w)[0]], [hidden, weight], cotangent, INPUTS, ("objective",), dtype)
    if checks.small:
        return
    with torch.no_grad():
        got, expected = op(hidden, weight), definition(hidden.double(), weight.double())
    exact = torch.float32 if dtype == torch.bfloat16 else dtype  # logits and sums are in float32
    for what, x, y in zip(("objective", "losses"), got, expected):
        assert x.dtype == exact, f"{what} is {x.dtype} ({dtype})"
        checks.close(x, y, exact, what)


def definition(checks):
    for dtype in checks.dtypes:
        for n, V, C in ((1, 2, 8), (5, 1, 8), (70, 257, 40), (33, 1000, 64), (66, 4097, 72)):
            compare(checks, dtype, n, V, C)
            compare(checks, dtype, n, V, C, penalties=BOTH)
        compare(checks, dtype, 40, 300, 64, vocab=257, penalties=BOTH)


def several_blocks(checks):
    """More tokens than logits are held of at once."""
    for dtype in checks.dtypes:
        n, V = (3000, 50257) if checks.large else (230, 70001)
        compare(checks, dtype, n, V, 24, penalties=BOTH)


def large_logits(checks):
    for dtype in checks.dtypes:
        hidden, weight, targets = problem(checks, dtype, 33, 1000, 64, 997)
        found = checks.evaluate(lambda h, w: [ours(targets, 997, BOTH)(h, w)[0]], [hidden * 1e4, weight], [torch.ones((), device=checks.device)], INPUTS, ("objective",))
        for what, x in found.items():
            assert x.isfinite().all(), f"{what} ({dtype})"
        assert not found["gradient of hidden"][1].any(), f"a token that is none has a gradient ({dtype})"
        assert not found["gradient of weight"][997:].any(), f"padding has a gradient ({dtype})"


def targets_outside(checks):
    """Named on the CPU; on CUDA, where nobody waits for the device to look, the loss is no number."""
    hidden, weight, targets = problem(checks, checks.dtypes[0], 4, 30, 16)
    targets[2] = 30
    if checks.device.type == "cpu":
        return checks.refused("target 30 at row 2", ours(targets, 30), hidden, weight)
    found = checks.evaluate(lambda h, w: [ours(targets, 30)(h, w)[0]], [hidden, weight], [torch.ones((), device=checks.device)], INPUTS, ("objective",))
    assert found["objective"].isnan() and found["gradient of weight"].isnan().all(), "a target outside the vocabulary does not show"
    assert found["gradient of hidden"][[0, 3]].isfinite().all() and found["gradient of hidden"][2].isnan().all(), "it shows in other tokens"


def reruns(checks):
    for dtype in checks.dtypes:
        hidden, weight, targets = problem(checks, dtype, 3000 if checks.large else 230, 50257 if checks.large else 70001, 64)

        def run():
            checks.poison()
            return checks.evaluate(lambda h, w: [ours(targets, weight.size(0), BOTH)(h, w)[0]], [hidden, weight], [torch.ones((), device=checks.device)], INPUTS, ("objective",))

        first, second = run(), run()
        for what in first:
            assert torch.equal(first[what], second[what]), f"{what} differs between runs ({dtype})"


def never_all_logits(checks):
    """On the CPU tests/bench/loss_bench.cpp looks at this."""
    if not checks.large:
        return
    for dtype in checks.dtypes:
        n, V, C = 16384, 65536, 128
        inputs = [x.requires_grad_() for x in problem(checks, dtype, n, V, C)[:2]]
        targets = torch.zeros(n, dtype=torch.int64, device=checks.device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(ours(targets, V)(*inputs)[0], inputs)
        used = torch.cuda.max_memory_allocated() - before
        assert used < n * V, f"{used >> 20} MiB, all logits in {dtype} would be {n * V * inputs[0].element_size() >> 20} MiB"


def misuse(checks):
    hidden, weight, targets = problem(checks, checks.dtypes[0], 4, 30, 16)
    other = torch.float64 if checks.device.type == "cuda" else torch.bfloat16
    checks.refused("weight has dtype", ours(targets, 30), hidden, weight.to(other))
    checks.refused("vocab_size = 31", ours(targets, 31), hidden, weight)
    checks.refused("targets have shape [3]", ours(targets[:3], 30), hidden, weight)
    checks.refused("targets have shape [4]", ours(targets.int(), 30), hidden, weight)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    objective = ours(targets, 30)(*leaves)[0]
    torch.autograd.grad(objective, leaves, retain_graph=True)
    checks.refused("a second backward pass", torch.autograd.grad, objective, leaves)
    checks.refused("no second derivative", lambda: torch.autograd.grad(ours(targets, 30)(*leaves)[0], leaves, create_graph=True))
    if checks.device.type == "cuda":
        checks.refused("targets is on cpu", ours(targets.cpu(), 30), hidden, weight)


SMALL = (definition, large_logits)  # what compute-sanitizer runs
ALL = (definition, several_blocks, large_logits, targets_outside, reruns, never_all_logits, misuse)
