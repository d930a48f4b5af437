"""The program's models against implementations that were not written here.

A plain Transformer and a plain RWKV-7 are trained for some steps, exported, and run by transformers' Llama and by the rwkv package; the logits of a sequence must be
those that the program computes itself. WUNENG names the program, WUNENG_SOURCE the repository.
"""
import os
import random
import subprocess
import tempfile
import unittest

os.environ.update(RWKV_V7_ON="1", RWKV_JIT_ON="0", RWKV_CUDA_ON="0", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

import torch
from safetensors.torch import load_file

PROGRAM = os.environ["WUNENG"]
SOURCE = os.environ["WUNENG_SOURCE"]
BAR = 2e-4  # largest difference of a logit, float32
TOKENS = 150  # more than a checkpoint interval of the state heads, and no multiple of a chunk


def run(*arguments):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"wuneng {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


class OutsideLogits(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        rng = random.Random(7)
        words = ["".join(rng.choice("etaoinshrdlu") for _ in range(rng.randint(2, 7))) for _ in range(60)]
        with open(self.path("text"), "w") as file:
            file.write(" ".join(rng.choice(words) for _ in range(4000)))
        run("tokenize", "--output", self.path("corpus"), self.path("text"))
        self.ids = [rng.randrange(256) for _ in range(TOKENS)]
        with open(self.path("ids"), "w") as file:
            file.write(" ".join(map(str, self.ids)))

    def path(self, name):
        return os.path.join(self.scratch.name, name)

    def train_and_export(self, config, export, *overrides):
        """Trains long enough that no part is at its (often zero) initial value. Returns our logits [T, V]."""
        settings = [f"data.train={self.path('corpus')}", "trainer.steps=30", "optimizer.lr=1e-2", *overrides]
        run("train", os.path.join(SOURCE, "configs/models", config), "--output", self.path("run"), *(f"--set={s}" for s in settings))
        run("export", self.path("run"), self.path(export), "--format", "rwkv" if export == "model.pth" else export)
        run("evaluate", self.path("run"), "--tokens", self.path("ids"), "--logits", self.path("logits.safetensors"))
        return load_file(self.path("logits.safetensors"))["logits"]

    def assert_same(self, ours, theirs, name):
        self.assertEqual(ours.shape, theirs.shape)
        largest = (ours - theirs.float()).abs().max().item()
        print(f"{name}: largest difference {largest:.2e} (bar {BAR:.0e}, logits up to {ours.abs().max():.1f})")
        self.assertGreater(ours.std().item(), 0.1, "the logits say nothing")
        self.assertLess(largest, BAR)

    def check_llama(self, *overrides):
        from transformers import LlamaForCausalLM

        ours = self.train_and_export("tiny-transformer.yaml", "llama", *overrides)
        model = LlamaForCausalLM.from_pretrained(self.path("llama"), dtype=torch.float32)
        with torch.no_grad():
            theirs = model(torch.tensor([self.ids])).logits[0]
        self.assert_same(ours, theirs, f"Llama {' '.join(overrides)}")

    def test_llama(self):
        self.check_llama()

    def test_llama_with_grouped_keys_and_tied_head(self):
        self.check_llama("model.attention.heads=4", "model.attention.kv_heads=2", "model.tied_head=true", "model.attention.rope_base=500.0")

    def test_gpt2(self):
        from transformers import GPT2LMHeadModel

        ours = self.train_and_export("tiny-gpt2.yaml", "gpt2", "model.learned_positions=160", "data.sequence_length=160")
        model = GPT2LMHeadModel.from_pretrained(self.path("gpt2"), dtype=torch.float32)
        with torch.no_grad():
            theirs = model(torch.tensor([self.ids])).logits[0]
        self.assert_same(ours, theirs, "GPT-2")

    def test_rwkv7(self):
        from rwkv.model import RWKV

        ours = self.train_and_export("tiny-rwkv7.yaml", "model.pth", "model.width=128", "model.state.heads=2", "model.layers=3")
        model = RWKV(model=self.path("model"), strategy="cpu fp32")
        theirs, _ = model.forward(self.ids, None, full_output=True)
        self.assert_same(ours, theirs, "RWKV-7")


if __name__ == "__main__":
    unittest.main()
