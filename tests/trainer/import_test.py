"""`wuneng import` against implementations that were not written here.

Models are made by transformers and by torch.save() with random weights, imported, and must give the logits that transformers and the rwkv package compute from the same
file; they are exported again to the same tensors, and trained on. WUNENG names the program, WUNENG_SOURCE the repository.
"""
import collections
import json
import math
import os
import random
import shutil
import subprocess
import tempfile
import unittest

os.environ.update(RWKV_V7_ON="1", RWKV_JIT_ON="0", RWKV_CUDA_ON="0", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

import torch
from safetensors.torch import load_file, save_file

PROGRAM = os.environ["WUNENG"]
SOURCE = os.environ["WUNENG_SOURCE"]
BAR = 2e-4  # largest difference of a logit, float32
TOKENS = 150  # more than a checkpoint interval of the state heads, and no multiple of a chunk
VOCABULARY = 300  # more than the bytes that the corpus is made of
SMALL = ("data.sequence_length=32", "trainer.global_batch=2", "trainer.micro_batch=1")  # steps of no time


def call(*arguments):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, errors="replace")


def run(*arguments):
    done = call(*arguments)
    if done.returncode != 0:
        raise AssertionError(f"wuneng {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout + done.stderr


def settings(overrides):
    return [f"--set={override}" for override in overrides]


def randomised(model, seed=1):
    """A model whose logits tell every one of its parts: none is at its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() == 1 and name.endswith("weight"):
                value.copy_(1 + 0.2 * noise)
            else:
                value.copy_(noise * (0.1 if value.dim() == 1 else 1.5 / math.sqrt(max(value.shape))))
    return model.eval()


def llama(**changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = dict(vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=80, max_position_embeddings=256)
    return randomised(LlamaForCausalLM(LlamaConfig(**{**shape, **changes})))


def gpt2(**changes):
    from transformers import GPT2Config, GPT2LMHeadModel

    return randomised(GPT2LMHeadModel(GPT2Config(**{**dict(vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=4, n_positions=160), **changes})))


def rwkv7(C=128, layers=3, ranks=dict(w=32, a=24, v=16, g=40), hidden=352):
    """Tensors of the official names and shapes, with values of the size that training gives them."""
    generator = torch.Generator().manual_seed(3)
    normal = lambda *shape: torch.randn(shape, generator=generator)
    matrix = lambda out, of: normal(out, of) / math.sqrt(of)
    vector = lambda centre, spread: centre + spread * normal(1, 1, C)
    tensors = collections.OrderedDict({"emb.weight": normal(VOCABULARY, C)})
    norm = lambda name: tensors.update({f"{name}.weight": 1 + 0.2 * normal(C), f"{name}.bias": 0.1 * normal(C)})
    norm("blocks.0.ln0")
    for layer in range(layers):
        block, att, ffn = (f"blocks.{layer}.{part}" for part in ("", "att.", "ffn."))
        for name in ("ln1", "ln2", "att.ln_x"):
            norm(block + name)
        for mix in "rwkvag":
            tensors[f"{att}x_{mix}"] = torch.rand(1, 1, C, generator=generator)
        for name, rank in ranks.items():  # layer 0 has an unused v too, as in some official files
            tensors.update({f"{att}{name}1": matrix(C, rank) * 0.3, f"{att}{name}2": matrix(rank, C) * 0.3})
        tensors.update({att + "w0": vector(-3, 2), att + "a0": vector(0, 0.5), att + "v0": vector(0.7, 0.3), att + "k_k": vector(0.85, 0.1), att + "k_a": vector(1, 0.1)})
        tensors[att + "r_k"] = 0.2 * normal(C // 64, 64)
        for name in ("receptance", "key", "value", "output"):
            tensors[f"{att}{name}.weight"] = matrix(C, C)
        tensors.update({ffn + "x_k": torch.rand(1, 1, C, generator=generator), ffn + "key.weight": matrix(hidden, C), ffn + "value.weight": matrix(C, hidden)})
    norm("ln_out")
    tensors["head.weight"] = matrix(VOCABULARY, C)
    return tensors


class Import(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.shared.cleanup)
        rng = random.Random(7)
        cls.text, cls.corpus, cls.ids_file = (os.path.join(cls.shared.name, name) for name in ("text", "corpus", "ids"))
        with open(cls.text, "w") as file:
            file.write(" ".join("".join(rng.choice("etaoinshrdlu") for _ in range(5)) for _ in range(800)))
        run("tokenize", "--output", cls.corpus, cls.text)
        cls.ids = [rng.randrange(VOCABULARY) for _ in range(TOKENS)]
        with open(cls.ids_file, "w") as file:
            file.write(" ".join(map(str, cls.ids)))

    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)

    def path(self, *names):
        return os.path.join(self.scratch.name, *names)

    def imported(self, source, form, *overrides, output="run"):
        shutil.rmtree(self.path(output), ignore_errors=True)
        run("import", self.path(source), "--format", form, "--output", self.path(output), *settings([*SMALL, *overrides]))
        return self.path(output)

    def logits(self, folder):
        run("evaluate", folder, "--tokens", self.ids_file, "--logits", self.path("logits.safetensors"))
        return load_file(self.path("logits.safetensors"))["logits"]

    def hashes(self, folder):
        tensors = json.loads(run("inspect", folder, "--json", "--verify"))["tensors"]
        return {tensor["name"]: tensor["xxh3"] for tensor in tensors if tensor["section"] == "model"}

    def assert_same_logits(self, folder, theirs, name):
        ours = self.logits(folder)
        self.assertEqual(ours.shape, theirs.shape)
        largest = (ours - theirs.float()).abs().max().item()
        print(f"{name}: largest difference {largest:.2e} (bar {BAR:.0e}, logits up to {ours.abs().max():.1f})")
        self.assertGreater(ours.std().item(), 0.1, "the logits say nothing")
        self.assertLess(largest, BAR)

    def assert_same_tensors(self, ours, theirs, left_out=()):
        self.assertEqual(set(ours), set(theirs) - set(left_out))
        for name, tensor in ours.items():
            self.assertEqual(tensor.shape, theirs[name].shape, name)
            self.assertTrue(torch.equal(tensor, theirs[name].float()), name)

    def assert_trains_on(self, folder):
        """Three steps from the imported weights, and two more by the same command."""
        command = ["train", os.path.join(folder, "config.yaml"), f"--set=data.train={self.corpus}", "--output", folder]
        for steps in (3, 5):
            text = run(*command, f"--set=trainer.steps={steps}")
            self.assertIn(f"step-0000000{0 if steps == 3 else 3}", text, "where it starts from")
            with open(os.path.join(folder, "metrics.jsonl")) as file:
                lines = [json.loads(line) for line in file]
            self.assertEqual([line["step"] for line in lines], list(range(1, steps + 1)))
            self.assertTrue(all(math.isfinite(line["loss"]) for line in lines))
        self.assertIn("step 5, 10 samples", run("inspect", folder))

    def theirs(self, model):
        with torch.no_grad():
            return model(torch.tensor([self.ids])).logits[0]

    # ---- formats ----

    def check_transformers(self, model, form, name, shard="1GB", train=True):
        model.save_pretrained(self.path("source"), max_shard_size=shard)
        self.assertEqual(shard != "1GB", os.path.exists(self.path("source", "model.safetensors.index.json")))
        folder = self.imported("source", form)
        theirs = type(model).from_pretrained(self.path("source"), dtype=torch.float32)
        self.assert_same_logits(folder, self.theirs(theirs), name)
        run("export", folder, self.path("again"), "--format", form)
        stored = {}
        for file in os.listdir(self.path("source")):
            if file.endswith(".safetensors"):
                stored.update(load_file(self.path("source", file)))
        self.assert_same_tensors(load_file(self.path("again", "model.safetensors")), stored)
        again = type(model).from_pretrained(self.path("again"), dtype=torch.float32)
        self.assertEqual((self.theirs(again) - self.theirs(theirs)).abs().max().item(), 0.0, "the exported config.json says the same model")
        if train:
            self.assert_trains_on(folder)

    def test_llama_with_grouped_keys(self):
        self.check_transformers(llama(rms_norm_eps=1e-3, rope_parameters={"rope_theta": 500.0, "rope_type": "default"}), "llama", "Llama")

    def test_llama_tied_with_biases_and_stretched_positions_in_bfloat16_shards(self):
        changes = dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=16, rope_parameters={"rope_theta": 1e4, "rope_type": "linear", "factor": 3.0})
        self.check_transformers(llama(**changes).bfloat16(), "llama", "Llama, tied", shard="30KB")

    def test_gpt2(self):
        self.check_transformers(gpt2(layer_norm_epsilon=1e-3), "gpt2", "GPT-2")

    def test_gpt2_untied_with_another_feed_forward(self):
        self.check_transformers(gpt2(tie_word_embeddings=False, n_inner=100), "gpt2", "GPT-2, untied", train=False)

    def test_gpt2_with_the_names_of_openai(self):
        model = gpt2()
        model.save_pretrained(self.path("source"))
        tensors = {name: tensor.clone() for name, tensor in model.transformer.state_dict().items()}
        tensors.update({f"h.{layer}.attn.bias": torch.ones(1, 1, 160, 160).tril() for layer in range(2)}, **{"lm_head.weight": model.lm_head.weight.detach().clone()})
        save_file(tensors, self.path("source", "model.safetensors"))
        self.assert_same_logits(self.imported("source", "gpt2"), self.theirs(model), "GPT-2, OpenAI's names")

    def test_rwkv7(self):
        from rwkv.model import RWKV

        tensors = rwkv7()
        unused = [f"blocks.0.att.v{i}" for i in range(3)]
        torch.save(tensors, self.path("model.pth"))
        theirs, _ = RWKV(model=self.path("model"), strategy="cpu fp32").forward(self.ids, None, full_output=True)
        folder = self.imported("model.pth", "rwkv")
        self.assert_same_logits(folder, theirs, "RWKV-7")
        run("export", folder, self.path("again.pth"), "--format", "rwkv")
        self.assert_same_tensors(torch.load(self.path("again.pth")), tensors, left_out=unused)
        hashes = self.hashes(folder)
        save_file(tensors, self.path("model.safetensors"))
        self.assertEqual(self.hashes(self.imported("model.safetensors", "rwkv", output="other")), hashes)
        self.assert_trains_on(folder)

    def test_pth_files_of_every_kind_of_dictionary_and_view(self):
        tensors = rwkv7(layers=1)
        torch.save(tensors, self.path("model.pth"))
        hashes = self.hashes(self.imported("model.pth", "rwkv"))

        state = collections.OrderedDict(tensors)  # as Module.state_dict() makes them
        state._metadata = collections.OrderedDict({"": {"version": 1}})
        whole = torch.cat([torch.zeros(5), tensors["emb.weight"].flatten(), torch.zeros(7)])
        views = {**tensors, "emb.weight": whole[5:-7].view(VOCABULARY, -1), "head.weight": tensors["head.weight"].t().contiguous().t()}
        parameters = {name: torch.nn.Parameter(tensor.double()) for name, tensor in tensors.items()}
        for kind in (state, views, parameters):
            torch.save(kind, self.path("model.pth"))
            self.assertEqual(self.hashes(self.imported("model.pth", "rwkv")), hashes)
        for half in (torch.half, torch.bfloat16):
            torch.save({name: tensor.to(half) for name, tensor in tensors.items()}, self.path("model.pth"))
            short = self.imported("model.pth", "rwkv")
            run("export", short, self.path("again.pth"), "--format", "rwkv")
            self.assert_same_tensors(torch.load(self.path("again.pth")), torch.load(self.path("model.pth")), left_out=[f"blocks.0.att.v{i}" for i in range(3)])

    def test_our_own_export_of_mixed_middle_heads(self):
        config = os.path.join(SOURCE, "configs/models/tiny-wuneng.yaml")
        overrides = [f"data.train={self.corpus}", f"model.vocab_size={VOCABULARY}", "model.attention.heads=4", "model.fusion.mode=gated", "trainer.steps=10", "optimizer.lr=1e-2"]
        run("train", config, "--output", self.path("first"), *settings(overrides))
        run("export", self.path("first"), self.path("model.safetensors"))
        folder = self.imported("model.safetensors", "safetensors")
        self.assertTrue(torch.equal(self.logits(folder), self.logits(self.path("first"))))
        self.assertEqual(self.hashes(folder), self.hashes(self.path("first")))
        run("export", folder, self.path("again.safetensors"))
        self.assert_same_tensors(load_file(self.path("again.safetensors")), load_file(self.path("model.safetensors")))
        self.assertEqual(len(run("generate", folder, "--prompt", "et", "--tokens", 5, "--temperature", 0).splitlines()), 1, "the tokenizer came with it")
        self.assert_trains_on(folder)

    # ---- what a run of an imported model is ----

    def test_training_starts_from_the_imported_weights(self):
        llama().save_pretrained(self.path("source"))
        folder = self.imported("source", "llama", "optimizer.lr=0", "optimizer.min_lr=0")
        before = self.hashes(folder)
        run("train", os.path.join(folder, "config.yaml"), f"--set=data.train={self.corpus}", "--set=trainer.steps=1", "--output", folder)
        self.assertIn("step 1, 2 samples", run("inspect", folder))
        self.assertEqual(self.hashes(folder), before)
        run("tokenize", "--output", self.path("other"), self.ids_file)
        refused = call("train", os.path.join(folder, "config.yaml"), f"--set=data.train={self.path('other')}", "--set=trainer.steps=2", "--output", folder)
        self.assertEqual(refused.returncode, 2, "once it has seen data, its corpus is fixed")
        self.assertIn("is not the corpus", refused.stderr)

    def test_a_tokenizer_is_kept_with_the_model(self):
        llama().save_pretrained(self.path("source"))
        self.imported("source", "llama")
        self.assert_refused(("generate", self.path("run"), "--prompt", "a"), "import with --tokenizer")
        run("import", self.path("source"), "--format", "llama", "--tokenizer", "bytes", "--output", self.path("with"))
        self.assertTrue(run("generate", self.path("with"), "--prompt", "et", "--tokens", 3).startswith("et"))
        for size in (290, 320):
            run("tokenize", "--train", size, "--output", self.path(f"bpe{size}.json"), self.text)
        self.assert_refused(("import", self.path("source"), "--format", "llama", "--tokenizer", self.path("bpe320.json"), "--output", self.path("x")), "bpe320.json", "320 ids", "300")
        run("tokenize", "--tokenizer", self.path("bpe290.json"), "--output", self.path("other"), self.text)
        train = ("train", self.path("with", "config.yaml"), f"--set=data.train={self.path('other')}", "--set=trainer.steps=1", "--output", self.path("with"))
        self.assert_refused(train, "data.train", "another tokenizer", "step-00000000/tokenizer.json", "--tokenizer")

    def test_a_folder_that_is_there_is_left_alone(self):
        llama().save_pretrained(self.path("source"))
        before = self.hashes(self.imported("source", "llama"))
        self.assert_refused(("import", self.path("source"), "--format", "llama", "--output", self.path("run")), "exists", "--output")
        self.assertEqual(self.hashes(self.path("run")), before)
        os.makedirs(self.path("empty"))
        self.assertIn("step 0 of a run", run("import", self.path("source"), "--format", "llama", "--output", self.path("empty") + "/"))
        self.assertEqual(sorted(os.listdir(self.path("empty"))), ["checkpoints", "config.yaml", "run.json", "tensorboard"])

    def test_help(self):
        text = run("import", "--help")
        for word in ("Usage: wuneng import", "--format", "--set", "--tokenizer", "--output", "rwkv", "gpt2"):
            self.assertIn(word, text)

    # ---- refusals ----

    def assert_refused(self, arguments, *parts):
        done = call(*arguments)
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertEqual(done.stderr.count("wuneng: error:"), 1, done.stderr)
        for part in parts:
            self.assertIn(part, done.stderr)

    def assert_import_refused(self, source, form, *parts):
        self.assert_refused(("import", self.path(source), "--format", form, "--output", self.path("refused")), *parts)
        self.assertFalse(os.path.exists(self.path("refused")) or os.path.exists(self.path("refused.importing")))

    def test_pth_files_of_something_else(self):
        """Damage, and models of other shapes: import_refusals_test.cpp, pth_test.cpp."""
        tensors = rwkv7(layers=1)
        for content, part in (({**tensors, "step": 3}, "entry step: is no tensor"), ({"model": tensors}, "entry model: is no tensor"),
                              ([tensors["emb.weight"]], "byte"), (torch.nn.Linear(2, 2), "byte")):
            torch.save(content, self.path("model.pth"))
            self.assert_import_refused("model.pth", "rwkv", "model.pth", part)
        torch.save(tensors, self.path("model.pth"), _use_new_zipfile_serialization=False)
        self.assert_import_refused("model.pth", "rwkv", "is no zip", "torch.save()")


if __name__ == "__main__":
    unittest.main()
