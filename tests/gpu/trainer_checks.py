"""The trainer on a GPU against itself on the CPU: losses, resuming to the bit, and two processes that share the GPU.

    trainer_checks.py --program build/wuneng --device cuda    appends its lines to --report
    trainer_checks.py --program build/wuneng --device cpu     a test of this program

Needs Python alone, and mpirun for the last. Exit code 0: everything passed, 1: something failed.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

STEPS = 12
TOLERANCE = 1e-4  # relative, of losses in float32 after so many steps
BASE = ("data.task.name=mqar", "data.task.vocabulary=64", "data.task.count=4", "data.task.test_samples=64", "data.sequence_length=64", "trainer.global_batch=8",
        "trainer.micro_batch=4", "trainer.validate_every=6")
MODELS = {
    "hybrid": (),
    "transformer": ("model.state.heads=0",),
    "rwkv7": ("model.attention.heads=0", "model.norm=layer", "model.embedding_norm=true", "model.init=rwkv", "model.ffn.kind=rwkv"),
    "gated, mixed middle heads": ("model.fusion.mode=gated", "model.middle.mode=mixed", "model.middle.heads=3"),
    "window, softcap, boundary states, negative eigenvalues": ("model.attention.window=16", "model.attention.softcap=10", "model.state.boundary_states=1", "model.state.negative_eigenvalues=true"),
    "gpt-2": ("model.state.heads=0", "model.attention.positions=none", "model.learned_positions=64", "model.norm=layer", "model.biases=true", "model.ffn.kind=gelu",
              "model.tied_head=true"),
}


class Trainer:
    def __init__(self, program, folder):
        self.program, self.folder, self.config = program, folder, pathlib.Path(__file__).parents[2] / "configs/tiny.yaml"

    def run(self, name, device, settings, ranks=1):
        """Trains, or goes on with, the run of this name; returns the lines of its metrics."""
        output = self.folder / name
        command = [self.program, "train", self.config, "--output", output]
        for setting in (*BASE, *settings, f"parallel.device={device}"):
            command += ["--set", setting]
        if ranks > 1:
            command = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none", *command]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise AssertionError((done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1])
        return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(lines):
    return [line.get("loss", line.get("validation_loss")) for line in lines]


def check_against_cpu(trainer, device, name, settings):
    steps = (*settings, f"trainer.steps={STEPS}")
    expected, got = losses(trainer.run(f"{name} cpu", "cpu", steps)), losses(trainer.run(f"{name} {device}", device, steps))
    worst = max(abs(a - b) / abs(b) for a, b in zip(got, expected, strict=True))
    assert worst < TOLERANCE, f"losses differ by {worst:.1e}, allowed {TOLERANCE:.0e}"
    return f"ok, losses within {worst:.1e}"


def check_resume(trainer, device):
    fixed = ("optimizer.schedule=constant",)
    whole = trainer.run("whole", device, (*fixed, f"trainer.steps={STEPS}"))
    trainer.run("parts", device, (*fixed, f"trainer.steps={STEPS // 2}"))
    parts = trainer.run("parts", device, (*fixed, f"trainer.steps={STEPS}"))
    assert losses(parts) == losses(whole), "a resumed run has other bits"
    return "ok, the same bits"


def check_shared(trainer, device, axis):
    if not shutil.which("mpirun"):
        return "not run: no mpirun"
    settings = (f"trainer.steps={STEPS}", "model.state.heads=2")
    one = losses(trainer.run(f"{axis} alone", device, settings))
    two = losses(trainer.run(axis, device, (*settings, f"parallel.{axis}=2", "parallel.share_gpus=true"), ranks=2))
    worst = max(abs(a - b) / abs(b) for a, b in zip(two, one, strict=True))
    assert worst < TOLERANCE, f"losses differ from one process's by {worst:.1e}"
    return f"ok, losses within {worst:.1e} of one process"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--report", help="the report to append to")
    arguments = parser.parse_args()
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    results, passed = [], True
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(arguments.program, pathlib.Path(folder))
        checks = [(name, lambda name=name, settings=settings: check_against_cpu(trainer, arguments.device, name, settings)) for name, settings in MODELS.items()]
        checks += [("resuming", lambda: check_resume(trainer, arguments.device)),
                   ("two data-parallel processes", lambda: check_shared(trainer, arguments.device, "data")),
                   ("two tensor-parallel processes", lambda: check_shared(trainer, arguments.device, "tensor"))]
        for name, check in checks:
            try:
                result = check()
            except AssertionError as error:
                result, passed = f"FAILED: {error}", False
            results.append(f"| {name} | {result} |")
            print(f"{name}: {result}", flush=True)
    if arguments.report:
        with open(arguments.report, "a") as report:
            report.write("\n".join(["", "## Trainer", "", "| check | result |", "|---|---|", *results, ""]))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
