"""Weak scaling of training over processes on the CPU, fixed-tree reduction. By hand, not in CI.

  scaling.py CORPUS [build/wuneng]     CORPUS: prefix of a tokenised corpus of at most 8,192 ids

The 25M WuNeng (configs/models/25m-wuneng.yaml) on one process and on two, one thread and one core each, every process with micro-batches of its own:
twice the batch on two. Tokens/s of the median step after the warm-up; both take turns, round after round. "of ideal" is that of two processes over twice
that of one. As a ceiling the same without any communication: two runs of one process at once, each on its core.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_plm": "isolated", "OMPI_MCA_hwloc_base_binding_policy": "none"}


def command(program, corpus, output, processes, steps):
    settings = {"data.train": corpus, "data.sequence_length": 512, "trainer.steps": steps, "trainer.micro_batch": 2, "trainer.threads": 1,
                "trainer.global_batch": 8 * processes, "trainer.validate_every": 0, "optimizer.warmup_steps": 0}
    flags = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    return [program, "train", str(ROOT / "configs/models/25m-wuneng.yaml"), *flags, "--output", str(output)]


def start(program, corpus, output, cores, steps):
    arguments = command(program, corpus, output, len(cores), steps)
    job = ["mpirun"]
    for i, core in enumerate(cores):
        job += ([":"] if i else []) + ["-n", "1", "taskset", "-c", str(core), *arguments]
    return subprocess.Popen(job, env={**os.environ, **MPI}, stdout=subprocess.DEVNULL)


def tokens_per_second(job, output):
    if job.wait() != 0:
        raise SystemExit("scaling.py: the program failed; its message is above")
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line["tokens_per_second"] for line in lines if "loss" in line][1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("program", nargs="?", default=str(ROOT / "build/wuneng"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    corpus = str(pathlib.Path(options.corpus).resolve())
    rates = {"one": [], "two": [], "apart": []}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(options.rounds):
            for kind, runs in {"one": [[0]], "two": [[0, 1]], "apart": [[0], [1]]}.items():
                outputs = [pathlib.Path(folder) / f"{kind}{round_}{cores[0]}" for cores in runs]
                jobs = [start(options.program, corpus, output, cores, options.steps) for output, cores in zip(outputs, runs)]
                each = [tokens_per_second(job, output) for job, output in zip(jobs, outputs)]
                rates[kind] += [sum(steps) for steps in zip(*each)]
    one, two, apart = (statistics.median(rates[kind]) for kind in ("one", "two", "apart"))
    print(f"one process        {one:8.0f} tokens/s")
    print(f"two, one job       {two:8.0f} tokens/s  {two / 2 / one:.3f} of ideal")
    print(f"two, two jobs      {apart:8.0f} tokens/s  {apart / 2 / one:.3f} of ideal: what two busy cores leave each other")


if __name__ == "__main__":
    main()
