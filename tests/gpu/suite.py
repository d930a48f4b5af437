"""The GPU suite: conformance of the device with the emulator, every check on device tensors, compute-sanitizer, benchmark, one report.

    suite.py --device cpu --ops build/libwuneng_ops.so             the same checks on the CPU, as a test of themselves
    suite.py --device cuda --ops ... --conformance emulator.txt --report report.md

Needs Python's torch and the library of the operators, nothing else; scripts/gpu_check.sh builds and starts it. Exit code 0: everything passed,
1: something failed, 3: no GPU.
"""
import argparse
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time
import traceback

import torch

import benchmark
import loss_checks
import neighbour_checks
import reference
import wkv7_checks

GROUPS = (("wkv7", wkv7_checks), ("neighbours", neighbour_checks), ("loss", loss_checks))
OUR_KERNELS = ["--kernel-name", "kns=wuneng"]  # torch's own are not our business; but initcheck must see what they write
SANITIZERS = {"memcheck": [*OUR_KERNELS, "--report-api-errors", "no"], "racecheck": OUR_KERNELS, "synccheck": OUR_KERNELS, "initcheck": []}


def dtypes_of(device, group):
    if device == "cuda":
        return [torch.bfloat16, torch.float32]
    return [torch.float32, torch.float64] + ([torch.bfloat16] if group == "wkv7" else [])


def run_checks(device, small, only=None):
    """One Checks per group, with all results."""
    found = []
    for group, module in GROUPS:
        checks = reference.Checks(device, dtypes_of(device, group), small)
        for check in module.SMALL if small else module.ALL:
            checks.name = f"{group}/{check.__name__}"
            if only and only not in checks.name:
                continue
            begin, wrong = time.monotonic(), "ok"
            try:
                check(checks)
            except AssertionError as error:
                wrong = str(error).splitlines()[0] if str(error) else traceback.format_exc(limit=-1)
            except Exception as error:
                traceback.print_exc()
                wrong = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            checks.results.append((checks.name, wrong, time.monotonic() - begin))
            print(f"{checks.name}: {wrong} ({checks.results[-1][2]:.1f} s)", flush=True)
        found.append(checks)
    return found


def conformance(file):
    """What is wrong, or "" when every register of every primitive is what the emulator says."""
    expected = [int(word, 16) for word in pathlib.Path(file).read_text().split()]
    got = [word & 0xFFFFFFFF for word in torch.ops.wuneng.conformance().tolist()]
    if len(got) != len(expected):
        return f"the GPU wrote {len(got)} words, the emulator {len(expected)}"
    wrong = [i for i, pair in enumerate(zip(got, expected)) if pair[0] != pair[1]]
    if not wrong:
        return ""
    places = ", ".join(f"word {i}: {got[i]:08x}, the emulator has {expected[i]:08x}" for i in wrong[:8])
    return f"{len(wrong)} of {len(got)} words differ (kernels/device/conformance.cuh names the rows of 64): {places}"


def sanitize(ops):
    """[(tool, "ok" or what is wrong)] of the small shapes, in processes of their own without the caching allocator."""
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if not program:
        return [("compute-sanitizer", "not run: no such program")]
    results = []
    for tool, options in SANITIZERS.items():
        print(f"compute-sanitizer {tool}", flush=True)
        command = [program, "--tool", tool, "--error-exitcode", "9", *options, sys.executable, __file__, "--device", "cuda", "--ops", ops, "--parts", "checks", "--small"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        output = done.stdout + done.stderr
        print(output[-4000:] if done.returncode else "  ok", flush=True)
        summary = next((line for line in reversed(output.splitlines()) if "SUMMARY" in line), "no summary").strip("= ")
        results.append((tool, "ok" if done.returncode == 0 else f"exit code {done.returncode}: {summary}"))
    return results


def gpu_facts():
    fields = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    try:
        return subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "-i", str(torch.cuda.current_device())], capture_output=True, text=True,
                              check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"{torch.cuda.get_device_name()} (no nvidia-smi)"


def head(arguments):
    device = f"GPU: {gpu_facts()}" if arguments.device == "cuda" else f"CPU: {platform.machine()}, {torch.get_num_threads()} threads"
    return ["# GPU suite", "", f"- {device}", f"- torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
            f"- commit {arguments.commit}", f"- command `{arguments.command}`", ""]


def check_lines(found):
    lines = ["## Checks", "", "| check | result | s |", "|---|---|---|"]
    lines += [f"| {name} | {wrong} | {seconds:.1f} |" for checks in found for name, wrong, seconds in checks.results]
    lines += ["", "## Largest errors against float64", "", "Root mean square of the error over that of the reference.", "", "| dtype | of | error | allowed | in |", "|---|---|---|---|---|"]
    lines += [f"| {dtype} | {what} | {ratio:.1e} | {limit:.0e} | {check} |" for checks in found for (dtype, what), (ratio, limit, check) in sorted(checks.errors.items())]
    return [*lines, ""]


def benchmark_lines():
    rows, bandwidth, fla = benchmark.run()
    return ["## Benchmark", "", f"Copy bandwidth of this card: {bandwidth / 1e12:.2f} TB/s. {fla}. Median of {benchmark.RUNS} runs, cache flushed before each.", "",
            *benchmark.table(rows, bandwidth), "", *benchmark.bars(rows, bandwidth), "",
            "Output head with its loss, the same clock:", "", *benchmark.loss_table(), ""]


def run_all(arguments, lines):
    """Appends to the report; returns whether everything passed."""
    if arguments.device == "cuda" and arguments.conformance:
        wrong = conformance(arguments.conformance)
        lines += ["## Conformance", "", wrong or "Every register of every warp primitive is what the emulator says.", ""]
        print(f"conformance: {wrong or 'ok'}", flush=True)
        if wrong:
            lines += ["Nothing else was run: the emulator's results say nothing about this device until this holds.", ""]
            return False
    parts, passed = arguments.parts.split(","), True
    if "checks" in parts:
        found = run_checks(arguments.device, arguments.small, arguments.only)
        passed = all(wrong == "ok" for checks in found for _, wrong, _ in checks.results)
        lines += check_lines(found)
    if "sanitizer" in parts and arguments.device == "cuda":
        sanitized = sanitize(arguments.ops)
        lines += ["## compute-sanitizer", "", *(f"- {tool}: {result}" for tool, result in sanitized), ""]
        passed = passed and all(result == "ok" or result.startswith("not run") for _, result in sanitized)
    if "benchmark" in parts and arguments.device == "cuda":
        lines += benchmark_lines()
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--ops", required=True, help="libwuneng_ops.so")
    parser.add_argument("--conformance", help="the emulator's dump of the conformance kernel")
    parser.add_argument("--report", help="the report to write")
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--command", default=" ".join(sys.argv))
    parser.add_argument("--parts", default="checks,sanitizer,benchmark", help="which of these to run, on a GPU")
    parser.add_argument("--small", action="store_true", help="small shapes only, for compute-sanitizer")
    parser.add_argument("--only", help="only checks whose name contains this")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts.split(",")) - {"checks", "sanitizer", "benchmark"}:
        parser.error(f"--parts: there is no part {', '.join(sorted(unknown))}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: torch.cuda.is_available() is false", file=sys.stderr)
        return 3
    torch.ops.load_library(arguments.ops)
    torch.set_num_threads(1)  # the recurrence on the CPU is a chain of small steps
    lines = head(arguments)
    try:
        passed = run_all(arguments, lines)
    except BaseException as error:
        lines += ["## Broken off", "", f"{type(error).__name__}: {error}", ""]
        raise
    finally:
        if arguments.report:
            pathlib.Path(arguments.report).write_text("\n".join(lines))
    print("passed" if passed else "FAILED", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
