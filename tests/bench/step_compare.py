"""A training step of our program against PyTorch's (step_peer.py): same shapes, same core, one thread, in one run. By hand, not in CI.

  step_compare.py [build/wuneng]                        our program and eager PyTorch
  step_compare.py --tcmalloc --compile [build/wuneng]   and eager PyTorch's faster forms; the best of all is the "best PyTorch row"

Everything is float32, 4 x 512 tokens, width 384, 8 layers, heads of 64, 8,192 ids, AdamW, gradients clipped at 1. Each figure comes from a
process of its own, pinned to one core; all take turns, round after round, so that a machine that drifts hits all of them.

  tokens/s    of the median step after the warm-up, over all rounds, by the process's CPU time: on a core that it has for itself that is the
              time of a clock, and on one that it must share it leaves the others' share out. "by the clock" is with it
  of peak     3 x the forward pass's FLOPs (wuneng inspect), of the same core's float32 matrix product, the fastest seen in this run
  peak        the largest resident set of the process, whole: code, interpreter and start-up included

PyTorch comes from .deps/ where that exists (scripts/setup.sh --tests), else from the environment. --compile needs a C++ compiler,
--tcmalloc the library libtcmalloc_minimal.so.4 (Debian: libtcmalloc-minimal4). Exit code 1: a bar was missed.
"""
import argparse
import ctypes.util
import dataclasses
import functools
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENS = 4 * 512  # of a step
TRAIN = {  # settings of all three
    "data.sequence_length": 512, "trainer.global_batch": 4, "trainer.micro_batch": 4, "trainer.threads": 1, "trainer.checkpoint.every": 0,
    "trainer.validate_every": 0, "optimizer.warmup_steps": 0, "model.logit_pull": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Task:
    config: str
    settings: dict
    speed_bar: float  # times eager PyTorch's tokens/s, at least
    memory_bar: float = 0.0  # times eager PyTorch's peak memory, at most; 0: no bar


TASKS = {
    "llama": Task("25m-transformer", {"model.ffn.hidden": 1536}, 1.15),
    "hybrid": Task("25m-wuneng-concat", {"model.ffn.hidden": 1536}, 1.35, 0.6),
    "rwkv7": Task("25m-rwkv7", {"model.ffn.hidden": 1536}, 1.7, 0.6),
}
FORMS = {"eager": (), "tcmalloc": ("tcmalloc",), "compile": ("compile",), "compile, tcmalloc": ("compile", "tcmalloc")}
OURS = "wuneng"


@dataclasses.dataclass
class Figures:
    """Of one model and one program, over all rounds."""
    cpu: list = dataclasses.field(default_factory=list)  # seconds of each timed step
    clock: list = dataclasses.field(default_factory=list)
    peak_bytes: int = 0
    parameters: int = 0

    def tokens_per_second(self, seconds):
        return TOKENS / statistics.median(seconds)


# --------------------------------------------------------------------- processes ----


def environment(form, scratch):
    """For PyTorch: where it lies, the allocator, and a folder for what it compiles."""
    env = dict(os.environ, OMP_NUM_THREADS="1", TORCHINDUCTOR_CACHE_DIR=str(scratch / "inductor"), PYTHONDONTWRITEBYTECODE="1")
    deps = ROOT / ".deps"
    if (deps / "libtorch").exists():
        env["PYTHONPATH"] = f"{deps / 'libtorch'}:{deps / 'python'}"
        env["LD_LIBRARY_PATH"] = ":".join(map(str, sorted(deps.glob("cuda/nvidia/*/lib"))))
    if "tcmalloc" in FORMS[form]:
        env["LD_PRELOAD"] = ctypes.util.find_library("tcmalloc_minimal")
    return env


def cpu_seconds(pid):
    """That the main thread, the only one that computes, has had so far."""
    return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def step_lines(file):
    text = file.read_text() if file.exists() else ""
    return [line for line in map(json.loads, text[: text.rfind("\n") + 1].splitlines()) if "step_seconds" in line]


def run(command, env, core, log, lines, warm_up, figures):
    """Runs a process to its end and adds its steps after the warm-up, read from `lines` as it writes them, to `figures`."""
    with open(log, "w") as out:
        pin = functools.partial(os.sched_setaffinity, 0, {core})
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT, preexec_fn=pin)
        marks = [0.0]  # CPU seconds at the end of each step
        while True:
            now = cpu_seconds(process.pid)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            marks += [now] * (len(step_lines(lines)) + 1 - len(marks))
            time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {process.returncode}\n{log.read_text()[-2000:]}")
    figures.cpu += [end - begin for begin, end in zip(marks, marks[1:])][warm_up:]
    figures.clock += [line["step_seconds"] for line in step_lines(lines)][warm_up:]
    figures.peak_bytes = max(figures.peak_bytes, usage.ru_maxrss * 1024)
    print(f"  steps of {', '.join(f'{seconds:.2f}' for seconds in figures.cpu)} CPU seconds; by the clock "
          f"{', '.join(f'{seconds:.2f}' for seconds in figures.clock)}; peak {usage.ru_maxrss / 1024:,.0f} MiB", file=sys.stderr, flush=True)


# ------------------------------------------------------------------ the two sides ----


class Bench:
    def __init__(self, arguments, scratch):
        self.arguments, self.scratch, self.sgemm_peak, self.count = arguments, scratch, 0.0, 0
        self.steps = arguments.warm_up + arguments.steps

    def fresh(self, name):
        self.count += 1
        return self.scratch / f"{self.count}-{name}"

    def tool(self, *command):
        return subprocess.run([self.arguments.program, *map(str, command)], check=True, capture_output=True, text=True).stdout

    def make_corpus(self):
        """Made-up words, in ids that use the whole vocabulary."""
        draw = random.Random(0)
        words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 8))) for _ in range(8000)]
        text, tokenizer = self.scratch / "text", self.scratch / "tokenizer.json"
        text.write_text(" ".join(draw.choices(words, k=60000)))
        self.tool("tokenize", "--train", 8192, "--output", tokenizer, text)
        self.tool("tokenize", "--tokenizer", tokenizer, "--output", self.scratch / "corpus", text)

    def configuration(self, task):
        settings = {**TRAIN, **task.settings, "trainer.steps": self.steps, "data.train": self.scratch / "corpus"}
        return [ROOT / f"configs/models/{task.config}.yaml", *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]

    def inspect(self, task):
        return json.loads(self.tool("inspect", *self.configuration(task), "--json"))

    def peer(self, name, form, figures):
        log = self.fresh("peer.jsonl")
        command = [sys.executable, "-W", "ignore", ROOT / "tests/bench/step_peer.py", name, "--steps", str(self.steps), "--log", log]
        command += ["--compile"] if "compile" in FORMS[form] else []
        run(command, environment(form, self.scratch), self.arguments.core, self.fresh("log"), log, self.arguments.warm_up, figures)
        said = json.loads(log.read_text().splitlines()[0])
        figures.parameters = said["parameters"]
        self.sgemm_peak = max(self.sgemm_peak, said["sgemm_peak"])

    def ours(self, name, figures):
        folder = self.fresh("run")
        command = [self.arguments.program, "train", *self.configuration(TASKS[name]), "--output", folder]
        env = dict(os.environ, OMP_NUM_THREADS="1", OMPI_MCA_hwloc_base_binding_policy="none")
        run(command, env, self.arguments.core, self.fresh("log"), folder / "metrics.jsonl", self.arguments.warm_up, figures)
        figures.parameters = self.inspect(TASKS[name])["parameters"]

    def measure(self, name, forms):
        """{form or OURS: figures}"""
        all_figures = {who: Figures() for who in (*forms, OURS)}
        for turn in range(self.arguments.rounds):
            for who, figures in all_figures.items():
                print(f"{name}, round {turn + 1} of {self.arguments.rounds}: {who}", file=sys.stderr, flush=True)
                self.ours(name, figures) if who == OURS else self.peer(name, who, figures)
        return all_figures


# ------------------------------------------------------------------------ report ----


def table(bench, results):
    print(f"\nfloat32 matrix product of this core: {bench.sgemm_peak / 1e9:.1f} GFLOP/s")
    print("| model | program | parameters | tokens/s | by the clock | of peak | x of eager | peak MiB | x of eager |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, rows in results.items():
        flops = 3 * bench.inspect(TASKS[name])["forward_flops_per_token"]
        eager = rows["eager"]
        for who, figures in rows.items():
            speed = figures.tokens_per_second(figures.cpu)
            print(f"| {name} | {who if who == OURS else 'PyTorch ' + who} | {figures.parameters:,} | {speed:,.0f} | "
                  f"{figures.tokens_per_second(figures.clock):,.0f} | {speed * flops / bench.sgemm_peak:.0%} | "
                  f"{speed / eager.tokens_per_second(eager.cpu):.2f} | {figures.peak_bytes / 2**20:,.0f} | "
                  f"{figures.peak_bytes / eager.peak_bytes:.2f} |")


def bars(results):
    """(what, figure, bar, met) of each."""
    for name, rows in results.items():
        task, ours, eager = TASKS[name], rows[OURS], rows["eager"]
        speed = {who: figures.tokens_per_second(figures.cpu) for who, figures in rows.items()}
        best = max((who for who in rows if who != OURS), key=speed.get)
        ratio = ours.parameters / eager.parameters
        yield f"{name}: parameters, of the peer's", ratio, "within 1 %", abs(ratio - 1) < 0.01
        ratio = speed[OURS] / speed["eager"]
        yield f"{name}: tokens/s, of eager PyTorch's", ratio, f">= {task.speed_bar}", ratio >= task.speed_bar
        ratio = speed[OURS] / speed[best]
        yield f"{name}: tokens/s, of the best PyTorch row's ({best})", ratio, ">= 1", ratio >= 1
        if task.memory_bar:
            ratio = ours.peak_bytes / eager.peak_bytes
            yield f"{name}: peak memory, of eager PyTorch's", ratio, f"<= {task.memory_bar}", ratio <= task.memory_bar


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    program = os.environ.get("WUNENG", str(ROOT / "build/wuneng"))
    parser.add_argument("program", nargs="?", default=program, help="default: $WUNENG, else build/wuneng")
    parser.add_argument("--models", nargs="+", choices=TASKS, default=list(TASKS), metavar="MODEL", help=f"of {', '.join(TASKS)}; default: all")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind (default 2)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process (default 3)")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them (default 2)")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="default: the last")
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    parser.add_argument("--tcmalloc", action="store_true", help="also with tcmalloc")
    return parser.parse_args()


def main():
    chosen = arguments()
    if chosen.tcmalloc and not ctypes.util.find_library("tcmalloc_minimal"):
        raise SystemExit("--tcmalloc: no libtcmalloc_minimal on this machine")
    wanted = {word for word in ("compile", "tcmalloc") if getattr(chosen, word)}
    forms = [form for form, needs in FORMS.items() if set(needs) <= wanted]
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(chosen, pathlib.Path(scratch))
        bench.make_corpus()
        results = {name: bench.measure(name, forms) for name in chosen.models}
        table(bench, results)
    print()
    met = True
    for what, figure, bar, passed in bars(results):
        print(f"{'pass' if passed else 'FAIL'}  {what}: {figure:.3f} ({bar})")
        met &= passed
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
