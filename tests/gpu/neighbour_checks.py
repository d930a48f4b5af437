"""What surrounds WKV-7 in a state head, on device tensors, against the definitions."""
import torch

import reference

EPS = 64e-5
PREPARE = ("decay_logit", "rate_logit", "k", "removal", "replacement")
FINISH = ("y", "r", "k", "v", "gate", "bonus", "weight", "bias")


def tensors(checks, dtype, activations, parameters, shape=(2, 21, 3, 64)):
    """`activations` tensors of the shape and `parameters` of its last two dimensions."""
    x = [checks.draw(*shape, seed=i) for i in range(activations)] + [checks.draw(*shape[-2:], seed=50 + i) for i in range(parameters)]
    return [i.to(dtype) for i in x]


def cotangents(checks, shapes, dtype):
    return [checks.draw(*shape, seed=70 + i).to(dtype) for i, shape in enumerate(shapes)]


def token_shift(checks):
    for dtype in checks.dtypes:
        for shape, mixes, starts in (((2, 33, 128), 6, ()), ((3, 40, 64), 1, (0, 1, 17, 40, 99)), ((1, 1, 256), 6, (0,))):
            B, T, C = shape
            for previous in (None, checks.draw(B, C, seed=3).to(dtype)):
                inputs = [checks.draw(*shape).to(dtype), checks.draw(mixes, C, seed=1).sigmoid().to(dtype), previous]
                table = torch.tensor(starts, dtype=torch.int64)
                checks.compare(lambda x, mix, before: torch.ops.wuneng.token_shift(x, mix, before, table),
                               lambda x, mix, before: reference.token_shift(x, mix, before, starts), inputs,
                               cotangents(checks, [shape] * mixes, dtype), ("x", "mix", "previous"), [f"shifted {i}" for i in range(mixes)], dtype)


def prepare(checks):
    for dtype in checks.dtypes:
        for shape in ((2, 21, 3, 64), (1, 130, 2, 128)):
            inputs = tensors(checks, dtype, 3, 2, shape)
            checks.compare(torch.ops.wuneng.prepare_state_head, reference.prepare_state_head, inputs, cotangents(checks, [shape] * 4, dtype),
                           PREPARE, ("log_decay", "k'", "a", "b"), dtype)


def prepare_of_zero_keys(checks):
    for dtype in checks.dtypes:
        inputs = tensors(checks, dtype, 3, 2)
        inputs[2][:, ::2] = 0
        inputs[0][0], inputs[1][0] = 1e4, -1e4
        found = checks.evaluate(torch.ops.wuneng.prepare_state_head, inputs, cotangents(checks, [inputs[0].shape] * 4, dtype), PREPARE, ("log_decay", "k'", "a", "b"))
        for what, x in found.items():
            assert x.isfinite().all(), f"{what} ({dtype})"


def finish(checks):
    for dtype in checks.dtypes:
        for shape in ((2, 21, 3, 64), (1, 130, 2, 128)):
            inputs = tensors(checks, dtype, 5, 3, shape)
            checks.compare(lambda *x: [torch.ops.wuneng.finish_state_head(*x, EPS)], lambda *x: [reference.finish_state_head(*x, EPS)], inputs,
                           cotangents(checks, [shape], dtype), FINISH, ("head output",), dtype)


def mix_values(checks):
    for dtype in checks.dtypes:
        inputs = tensors(checks, dtype, 3, 0)
        checks.compare(lambda *x: [torch.ops.wuneng.mix_values(*x)], lambda *x: [reference.mix_values(*x)], inputs,
                       cotangents(checks, [inputs[0].shape], dtype), ("v", "first", "logit"), ("mixed v",), dtype)


def reruns(checks):
    """The sums over tokens, too, are the same bits each time."""
    T = 3000 if checks.large else 100
    for dtype in checks.dtypes:
        inputs = tensors(checks, dtype, 5, 3, (2, T, 3, 64))

        def run(op, inputs, outputs):
            checks.poison()
            return checks.evaluate(op, inputs, cotangents(checks, [inputs[0].shape] * outputs, dtype), [str(i) for i in range(len(inputs))],
                                   [f"output {i}" for i in range(outputs)])

        for op, x, outputs in ((lambda *x: [torch.ops.wuneng.finish_state_head(*x, EPS)], inputs, 1),
                               (torch.ops.wuneng.prepare_state_head, inputs[:3] + inputs[5:7], 4),
                               (torch.ops.wuneng.token_shift, [inputs[0].flatten(2), checks.draw(6, 192).to(dtype)], 6)):
            first, second = run(op, x, outputs), run(op, x, outputs)
            for what in first:
                assert torch.equal(first[what], second[what]), f"{what} differs between runs ({dtype})"


def misuse(checks):
    dtype = checks.dtypes[0]
    x = tensors(checks, dtype, 3, 2)
    checks.refused("removal", torch.ops.wuneng.prepare_state_head, *x[:3], x[3].new_zeros(2, 64), x[4])
    checks.refused("rate_logit", torch.ops.wuneng.prepare_state_head, x[0], x[1][:1], *x[2:])
    checks.refused("not contiguous", torch.ops.wuneng.mix_values, x[0], x[1], x[2].new_zeros(2, 3, 21, 64).transpose(1, 2))
    if checks.device.type == "cuda":
        checks.refused("is on", torch.ops.wuneng.mix_values, x[0], x[1].cpu(), x[2])


SMALL = (token_shift, prepare, finish, mix_values)
ALL = (token_shift, prepare, prepare_of_zero_keys, finish, mix_values, reruns, misuse)
