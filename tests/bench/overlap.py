"""How much of the communication of a training step its computing hides, over a link of a known rate. By hand, on a machine that does
nothing else (scripts/test.sh -L soak); needs root, iproute2 and tc.

  overlap.py [build/wuneng]

Two hosts (network namespaces, tests/multinode/hosts.sh) with one process of one core each, joined by a link of --mbit Mbit/s each way, train the 25M
WuNeng (configs/models/25m-wuneng.yaml) with a sharded optimizer and fixed-tree sums.

  alone           a step of one process, with as many sequences as each of the two has
  computing       a step of the two over a link without a limit, as fast as the machine copies: with the work that communication makes for the cores
  communicating   what the limit adds to a step of one token each, where nothing can hide it: the same gradients and parameters travel
  step            a step of the two over the limited link

All take turns, --rounds times, so that a machine that drifts hits each of them; the figures are medians. "hidden" is what a step takes less than
computing and communicating one after the other, over the smaller of the two. Exit code 1 below --least.
"""
import argparse
import contextlib
import itertools
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOSTS = str(ROOT / "tests/multinode/hosts.sh")
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_hwloc_base_binding_policy": "none"}
NETWORK = "10.77.0.0/24"  # of hosts.sh


class Lab:
    """Two hosts."""

    def __init__(self):
        self.name = f"overlap{os.getpid()}"

    def __enter__(self):
        subprocess.run([HOSTS, "up", self.name, "2"], check=True)
        return self

    def tc(self, verb, *words):
        for host in ("h1", "h2"):
            subprocess.run(["tc", "-n", f"{self.name}-{host}", "qdisc", verb, "dev", "wire", "root", *words], check=True)

    @contextlib.contextmanager
    def limit(self, mbit):
        self.tc("add", "tbf", "rate", f"{mbit}mbit", "burst", "1mb", "latency", "50ms")
        yield
        self.tc("del")

    def __exit__(self, *_):
        subprocess.run([HOSTS, "down", self.name], check=True)

    def job(self, arguments):
        ranks = [["-n", "1", "--host", host, "taskset", "-c", core, *arguments] for host, core in (("h1", "0"), ("h2", "1"))]
        agent = ["--mca", "plm", "rsh", "--mca", "plm_rsh_agent", f"{HOSTS} on {self.name}"]
        network = ["--mca", "btl_tcp_if_include", NETWORK, "--mca", "oob_tcp_if_include", NETWORK, "--bind-to", "none"]
        return [HOSTS, "on", self.name, "h1", "exec", *map(shell_word, ["mpirun", *agent, *network, *ranks[0], ":", *ranks[1]])]


def shell_word(word):
    return "'" + word.replace("'", "'\\''") + "'"


def arguments(options, corpus, output, processes, tokens, sequences):
    settings = {"data.train": corpus, "data.sequence_length": tokens, "trainer.steps": options.steps, "trainer.micro_batch": sequences,
                "trainer.threads": 1, "trainer.global_batch": sequences * processes, "optimizer.warmup_steps": 0}
    flags = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    return [options.program, "train", str(ROOT / "configs/models/25m-wuneng.yaml"), *flags, "--output", str(output)]


def made_up_corpus(program, folder):
    text = folder / "text"
    text.write_bytes(random.Random(1).randbytes(1 << 18))
    subprocess.run([program, "tokenize", "--tokenizer", "bytes", "--output", str(folder / "corpus"), str(text)], check=True, stdout=subprocess.DEVNULL)
    return str(folder / "corpus")


def seconds(command, output):
    """From one line of metrics to the next, so that all is counted that a step waits for; the median."""
    metrics, times = output / "metrics.jsonl", []
    with open(f"{output}.log", "w+") as log:
        job = subprocess.Popen(command, env={**os.environ, **MPI}, stdout=log, stderr=log)
        while job.poll() is None:
            lines = metrics.read_text().count('"loss"') if metrics.exists() else 0
            times += [time.monotonic()] * (lines - len(times))
            time.sleep(0.005)
        if job.returncode != 0:
            log.seek(0)
            raise SystemExit(f"overlap.py: the program failed:\n{log.read()}")
    return statistics.median(after - before for before, after in itertools.pairwise(times[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default=str(ROOT / "build/wuneng"))
    parser.add_argument("--mbit", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="of each round")
    parser.add_argument("--sequences", type=int, default=4, help="of 512 tokens, per process and step")
    parser.add_argument("--least", type=float, default=0.6)
    options = parser.parse_args()
    options.program = str(pathlib.Path(options.program).resolve())
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        corpus = made_up_corpus(options.program, pathlib.Path(folder))

        def step(processes, tokens, sequences):
            output = pathlib.Path(tempfile.mkdtemp(dir=folder)) / "run"
            command = arguments(options, corpus, output, processes, tokens, sequences)
            return seconds(["taskset", "-c", "0", *command] if processes == 1 else lab.job(command), output)

        rounds = []
        for _ in range(options.rounds):
            free = step(1, 512, options.sequences), step(2, 512, options.sequences), step(2, 1, 1)
            with lab.limit(options.mbit):
                rounds.append((*free, step(2, 512, options.sequences), step(2, 1, 1)))
    alone, computing, no_token, both, communicating = map(statistics.median, zip(*rounds))
    communicating -= no_token
    hidden = (computing + communicating - both) / min(computing, communicating)
    print(f"alone           {alone:8.3f} s\ncomputing       {computing:8.3f} s\ncommunicating   {communicating:8.3f} s over {options.mbit} Mbit/s\n"
          f"step            {both:8.3f} s\nhidden          {hidden:8.0%} of the smaller, at least {options.least:.0%} wanted")
    return 0 if hidden >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
