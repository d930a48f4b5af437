"""WKV-7 on device tensors: every case in which such kernels were seen to go wrong."""
import torch

import reference
from reference import DECAY_BOUND, INPUTS

OUTPUTS = ("y", "final_state")
CHUNK = 32


def state_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def realistic(checks, dtype, B, T, H, N=64, seed=1):
    """r, log_decay, k, v, a, b as RWKV-7 makes them: a = -kappa, b = kappa * alpha with |kappa| = 1."""
    x = [checks.draw(B, T, H, N, seed=10 * seed + i) for i in range(6)]
    kappa, alpha = torch.nn.functional.normalize(x[4], dim=-1), x[5].sigmoid()
    return [i.to(dtype) for i in (x[0], -DECAY_BOUND * (2 * x[1]).sigmoid(), 0.3 * x[2], x[3], -kappa, kappa * alpha)]


def ours(starts=(), per_document=False):
    table = torch.tensor(starts, dtype=torch.int64)

    def op(*inputs):
        return torch.ops.wuneng.wkv7(*inputs[:6], inputs[6] if len(inputs) > 6 else None, table, per_document)

    return op


def theirs(starts=(), per_document=False):
    return lambda *inputs: reference.wkv7(*inputs[:6], inputs[6] if len(inputs) > 6 else None, starts, per_document)


def cotangents(checks, inputs, states):
    B, T, H, N = inputs[0].shape
    dtype = inputs[0].dtype
    return [checks.draw(B, T, H, N, seed=91).to(dtype), checks.draw(states, H, N, N, seed=92).to(state_dtype(dtype))]


def compare(checks, inputs, state=None, starts=(), per_document=False, limit=None):
    B, T, H, N = inputs[0].shape
    dtype = inputs[0].dtype
    states = len(reference.sequences(B, T, starts)) if per_document else B
    if state is not None:
        inputs = [*inputs, (state * checks.draw(states, H, N, N, seed=93)).to(state_dtype(dtype))]
    return checks.compare(ours(starts, per_document), theirs(starts, per_document), inputs, cotangents(checks, inputs, states), INPUTS, OUTPUTS, dtype, limit)


def evaluate(checks, inputs, starts=(), per_document=False):
    """Our outputs and gradients alone."""
    B, T = inputs[0].shape[:2]
    states = len(reference.sequences(B, T, starts)) if per_document else B
    checks.poison()
    return checks.evaluate(ours(starts, per_document), inputs, cotangents(checks, inputs, states), INPUTS, OUTPUTS)


def assert_same(one, two, why):
    for what in one:
        assert torch.equal(one[what], two[what]), f"{what} differs: {why}"


def lengths(checks):
    for dtype in checks.dtypes:
        for T in (1, CHUNK - 1, CHUNK, CHUNK + 1, 63, 2 * CHUNK + 3):
            compare(checks, realistic(checks, dtype, 2, T, 3))
            compare(checks, realistic(checks, dtype, 1, T, 1), state=1.0)
            compare(checks, realistic(checks, dtype, 1, T, 2, N=128), state=1.0)
        if checks.large:
            compare(checks, realistic(checks, dtype, 1, 1000, 2), state=1.0)
            compare(checks, realistic(checks, dtype, 2, 1000, 5, N=128), state=1.0)


def documents(checks):
    for dtype in checks.dtypes:
        inputs = realistic(checks, dtype, 2, 134, 2)
        starts = (0, 1, 17, 34, 134 + 70, 134 + 71)  # documents of 1, 16, 17 and 100 tokens; row 1 goes on with its state
        for per_document in (False, True):
            compare(checks, inputs, None, starts, per_document)
            compare(checks, inputs, 1.0, starts, per_document)
        T = 400  # one long document and many short ones
        compare(checks, realistic(checks, dtype, 1, T, 2, N=128), 1.0, tuple(range(300, T, 7)), True)


def documents_equal_separate_rows(checks):
    """The tables of documents and the arithmetic of whole rows lead to the same bits."""
    for dtype in checks.dtypes:
        B, T = 3, 70
        inputs = [*realistic(checks, dtype, B, T, 2), checks.draw(B, 2, 64, 64, seed=5).to(state_dtype(dtype))]
        assert_same(evaluate(checks, inputs), evaluate(checks, inputs, tuple(range(0, B * T, T)), True), "rows as documents")


def states(checks):
    for dtype in checks.dtypes:
        inputs = realistic(checks, dtype, 2, 65, 2)
        compare(checks, inputs, state=20.0)  # norm 1e3
        zero = torch.zeros(2, 2, 64, 64, dtype=state_dtype(dtype), device=checks.device)
        without, given = evaluate(checks, inputs), evaluate(checks, [*inputs, zero])
        assert_same(without, {what: given[what] for what in without}, "no initial state against one of zeros")


def splits(checks):
    for dtype in checks.dtypes:
        inputs = realistic(checks, dtype, 2, 150, 2)
        whole = ours()(*inputs)
        expected = theirs()(*(x.double() for x in inputs))
        for split in (1, 16, 64, 149):
            y1, state = ours()(*(x[:, :split].contiguous() for x in inputs))
            y2, state = ours()(*(x[:, split:].contiguous() for x in inputs), state)
            y = torch.cat([y1, y2], 1)
            if split % 64 == 0 or checks.device.type == "cpu":  # cut between chunks: nothing changes
                assert torch.equal(y, whole[0]) and torch.equal(state, whole[1]), f"split at {split} changes bits ({dtype})"
            checks.close(y, expected[0], dtype, "y")
            checks.close(state, expected[1], dtype, "final_state")


def either_cotangent_alone(checks):
    for dtype in checks.dtypes:
        inputs = realistic(checks, dtype, 1, 40, 2)
        for which in (0, 1):
            cotangent = [cotangents(checks, inputs, 1)[which]]
            names = (OUTPUTS[which],)
            one = lambda op: lambda *x: [op(*x)[which]]  # noqa: E731
            checks.compare(one(ours()), one(theirs()), [*inputs, checks.draw(1, 2, 64, 64).to(state_dtype(dtype))], cotangent, INPUTS, names, dtype)


def repeated_tokens(checks):
    """Identical tokens with in-context rate 1, which a careless inverse does not survive."""
    for dtype in checks.dtypes:
        limit = 0.02 if dtype == torch.bfloat16 else None
        for T in (16, 17, 64, 200):
            for noise in (0.0, 0.01):
                inputs = [x.double().expand(1, T, 2, 64) * (1 + noise * checks.draw(1, T, 2, 64)) for x in realistic(checks, dtype, 1, 1, 2)]
                inputs[1] = inputs[1].clamp(-DECAY_BOUND, 0)
                inputs[4] = torch.nn.functional.normalize(inputs[4], dim=-1)
                inputs[5] = -inputs[4]
                compare(checks, [x.to(dtype).contiguous() for x in inputs], 1.0, limit=limit)


def decay_bounds(checks):
    for dtype in checks.dtypes:
        for value in (0.0, -DECAY_BOUND):
            inputs = realistic(checks, dtype, 1, 130, 2)
            inputs[1].fill_(value)
            compare(checks, inputs, 1.0)


def zeros_and_large_values(checks):
    for dtype in checks.dtypes:
        for zeroed in ((2,), (4,), (5,), (4, 5), (3,)):
            inputs = realistic(checks, dtype, 1, 70, 2)
            for i in zeroed:
                inputs[i].zero_()
            compare(checks, inputs, 1.0)
        inputs = realistic(checks, dtype, 1, 70, 2)
        inputs[5] = -inputs[4]  # in-context rate 1
        compare(checks, inputs, 1.0)
        inputs[5] = -inputs[4] * (1 + inputs[1].exp())  # signs turn
        compare(checks, inputs, 1.0)
        compare(checks, [x * 64 if i in (0, 2, 3) else x for i, x in enumerate(realistic(checks, dtype, 1, 70, 2))], 1.0)


def drift(checks):
    """The error of the last quarter of a long sequence is that of the first."""
    T = 32768 if checks.large else 1024
    for dtype in checks.dtypes:
        inputs = realistic(checks, dtype, 1, T, 2)
        inputs[1] = (inputs[1].double() * 1e-3).to(dtype)  # slow decay: what is wrong stays
        with torch.no_grad():
            y, expected = ours()(*inputs)[0], theirs()(*(x.double() for x in inputs))[0]
        first, *_, last = (reference.error_ratio(a, b) for a, b in zip(y.chunk(4, 1), expected.chunk(4, 1)))
        assert last < reference.bar(dtype, "y") and last < 2 * first, f"error {first:.1e} in the first quarter, {last:.1e} in the last ({dtype})"


def many_heads(checks):
    B, T, H = (1032, 2, 64) if checks.large else (40, 2, 8)  # B * H beyond the limit of a grid's second dimension
    for dtype in checks.dtypes:
        if dtype != torch.float64:
            compare(checks, realistic(checks, dtype, B, T, H))


def head_sentinel(checks):
    """A change in one head changes no bit of another."""
    for dtype in checks.dtypes:
        for N in (64, 128):
            inputs = realistic(checks, dtype, 2, 70, 3, N)
            changed = [x.clone() for x in inputs]
            for x in changed:
                x[1, :, 1] *= 0.5
            one, two = evaluate(checks, inputs), evaluate(checks, changed)
            for what in one:
                part = (lambda x, b, h: x[b, h]) if what == "final_state" else (lambda x, b, h: x[b, :, h])
                for b in range(2):
                    for h in range(3):
                        same = torch.equal(part(one[what], b, h), part(two[what], b, h))
                        assert same != ((b, h) == (1, 1)), f"{what} of row {b}, head {h} ({dtype})"


def reruns(checks):
    for dtype in checks.dtypes:
        for shape in ((2, 100, 3, 64), (1, 65, 2, 128)):
            inputs = realistic(checks, dtype, *shape)
            first = evaluate(checks, inputs)
            for _ in range(5 if checks.large else 2):
                assert_same(first, evaluate(checks, inputs), f"another run ({dtype})")


def guarded_inputs(checks):
    """Inputs between bands of NaN, 16-byte aligned and no more: nothing outside is read or written."""
    for dtype in checks.dtypes:
        plain = realistic(checks, dtype, 1, 45, 3)
        buffers, inputs = [], []
        for x in plain:
            pad = 16 // x.element_size()
            buffer = torch.full((x.numel() + 2 * pad * 33,), float("nan"), dtype=dtype, device=checks.device)
            inside = buffer[33 * pad : 33 * pad + x.numel()]
            inside.copy_(x.flatten())
            buffers.append(buffer)
            inputs.append(inside.view(x.shape))
        with torch.no_grad():
            for got, expected in zip(ours()(*inputs), ours()(*plain)):
                assert torch.equal(got, expected), "the memory around the inputs changes the result"
        for buffer, x in zip(buffers, plain):
            assert buffer.isnan().sum() == buffer.numel() - x.numel(), "the memory around the inputs was written to"


def misuse(checks):
    dtype = checks.dtypes[0]
    inputs = realistic(checks, dtype, 1, 8, 2)

    def with_input(i, x):
        return [*inputs[:i], x, *inputs[i + 1 :]]

    other = torch.float32 if dtype != torch.float32 else torch.bfloat16
    checks.refused("N = 32", ours(), *(x[..., :32].contiguous() for x in inputs))
    checks.refused("[1, 9, 2, 64]", ours(), *with_input(2, inputs[2].new_zeros(1, 9, 2, 64)))
    checks.refused("dtype", ours(), *with_input(3, inputs[3].to(other)))
    checks.refused("not contiguous", ours(), *with_input(4, inputs[4].new_zeros(1, 2, 8, 64).transpose(1, 2)))
    checks.refused("initial_state", ours(), *inputs, torch.zeros(2, 2, 64, 64, dtype=state_dtype(dtype), device=checks.device))
    checks.refused("document_starts", ours((4, 4)), *inputs)
    checks.refused("document_starts", ours((8,)), *inputs)
    if checks.device.type == "cuda":
        checks.refused("is on", ours(), *with_input(1, inputs[1].cpu()))
        checks.refused("dtype", ours(), *(x.double() for x in inputs))
        shifted = torch.zeros(inputs[0].numel() + 1, dtype=dtype, device=checks.device)[1:].view(inputs[0].shape)
        checks.refused("multiple of 16", ours(), *with_input(0, shifted))


SMALL = (lengths, documents, states, repeated_tokens)  # what compute-sanitizer runs
ALL = (lengths, documents, documents_equal_separate_rows, states, splits, either_cotangent_alone, repeated_tokens, decay_bounds, zeros_and_large_values,
       drift, many_heads, head_sentinel, reruns, guarded_inputs, misuse)
