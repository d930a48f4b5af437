"""RWKV-7 against the layers of the package flash-linear-attention: the same function, and the same initialisation.

fla's layers call Triton kernels, and its packages need Triton as soon as they are imported. Beside these kernels lie the same functions in plain
PyTorch. So only the files with the layers and with those functions are loaded; all else that they import is an empty stand-in.
WUNENG names the program, WUNENG_SOURCE the repository.
"""
import importlib
import importlib.abc
import importlib.machinery
import math
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import types
import unittest
import warnings
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import nn

PROGRAM = os.environ["WUNENG"]
SOURCE = os.environ["WUNENG_SOURCE"]
WIDTH, LAYERS, HEAD, VOCAB = 128, 3, 64, 257
TOKENS = 150  # more than a checkpoint interval of the state heads, and no multiple of a chunk
OUTPUT_BAR = 1e-6  # root mean square of the error of the logits over that of fla's
LEAST_SHARE = 2e-3  # of the logits, that of the state heads: new ones speak softly, for their gates are small
ROUNDING = 2e-6  # of formulas that fla computes in float32, with values up to 8

FILES = ("fla.layers.rwkv6", "fla.layers.rwkv7", "fla.models.rwkv7.modeling_rwkv7", "fla.modules.token_shift", "fla.ops.rwkv7.fused_addcmul",
         "fla.ops.rwkv7.fused_k_update", "fla.ops.rwkv7.gate_output_correction", "fla.ops.generalized_delta_rule.dplr.naive")

# Ours -> fla's, of one layer.
TIME_MIX = {
    "state.receptance.weight": "r_proj.weight", "state.key.weight": "k_proj.weight", "state.value.weight": "v_proj.weight",
    "output.state.weight": "o_proj.weight", "state.removal": "k_k", "state.replacement": "k_a", "state.bonus": "r_k",
    "state.norm.weight": "g_norm.weight", "state.norm.bias": "g_norm.bias",
}
LOW_RANK = {"decay": "w_lora", "rate": "a_lora", "value_residual": "v_lora", "gate": "g_lora"}
CHANNEL_MIX = {"ffn.mix": "x_k", "ffn.key.weight": "key.weight", "ffn.value.weight": "value.weight"}
ORTHOGONAL = ("r_proj.weight", "k_proj.weight", "v_proj.weight", "lora.2.weight", "key.weight")


class StandIn(types.ModuleType):
    """A module that has every name: empty classes for those that look like one, since others derive from them, and mocks."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        is_class = name[0].isupper() and not name.isupper()
        return type(name, (), {"__init__": lambda self, *arguments, **options: None}) if is_class else mock.MagicMock(name=name)


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name in FILES or name.split(".")[0] not in ("fla", "triton", "transformers"):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = StandIn(spec.name)
        module.__path__ = [os.path.join(folder, *spec.name.split(".")) for folder in sys.path]  # where FILES are searched
        return module

    def exec_module(self, module):
        pass


def load_fla():
    """fla's layer and model files, with the plain form of each kernel in the kernel's place."""
    if not any(pathlib.Path(folder, "fla/layers/rwkv7.py").exists() for folder in sys.path):
        raise ImportError("no flash-linear-attention along PYTHONPATH: scripts/setup.sh --tests installs it")
    sys.meta_path.insert(0, StandIns())  # to stay: fla's constructors import too
    # Without torch's compiler, which takes seconds to load and has nothing to do here.
    with mock.patch("torch.compile"), mock.patch("torch.compiler.disable", lambda function: function):
        _, layer, model, shift, addcmul, k_update, correction, naive = map(importlib.import_module, FILES)

    def recurrence(r, w, k, v, a, b, scale, **options):
        swapped = (x.transpose(1, 2) for x in (r * scale * math.sqrt(r.size(-1)), k, v, a, b, w))
        y, _ = naive.dplr_recurrence(*swapped)
        return y.transpose(1, 2), None

    layer.token_shift = model.token_shift = lambda x, *arguments, **options: (shift.token_shift_ref(x), None)
    layer.fused_addcmul_rwkv7 = addcmul.torch_addcmul_rwkv7
    layer.fused_k_rwkv7 = k_update.k_update_ref
    layer.gate_output_correction = correction.gate_output_correction_ref
    layer.chunk_rwkv7 = recurrence
    layer.get_layer_cache = lambda *arguments: None
    model.ACT2FN = {"sqrelu": lambda x: torch.relu(x).square()}
    return layer.RWKV7Attention, model


def run(*arguments):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"wuneng {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")


def theirs_of(ours, layer):
    """One layer's parameters under fla's names: the time mix, and the channel mix."""
    part = {name.removeprefix(f"layers.{layer}."): tensor for name, tensor in ours.items() if name.startswith(f"layers.{layer}.")}
    time_mix = {their: part[our] for our, their in TIME_MIX.items()}
    time_mix |= {f"x_{letter}": part["state.mix"][i] for i, letter in enumerate("rwkvag")}
    for our, their in LOW_RANK.items():
        if f"state.{our}.down" not in part:
            continue
        time_mix |= {f"{their}.lora.0.weight": part[f"state.{our}.down"].t(), f"{their}.lora.2.weight": part[f"state.{our}.up"].t()}
        if f"state.{our}.bias" in part:
            time_mix[f"{their}.lora.2.bias"] = part[f"state.{our}.bias"]
    return time_mix, {their: part[our] for our, their in CHANNEL_MIX.items()}


def new_time_mix(layer, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that its authors and RWKV's disagree
        return RWKV7Attention(hidden_size=WIDTH, head_dim=HEAD, layer_idx=layer, num_hidden_layers=LAYERS, **options)


def new_channel_mix(layer):
    return MODEL.RWKV7FeedForward(WIDTH, layer_idx=layer, num_hidden_layers=LAYERS)


def loaded(module, tensors):
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    module.load_state_dict({name: value.reshape(shapes[name]) for name, value in tensors.items()})  # and no name may be missing
    return module


def their_logits(ours, ids):
    def norm(x, name):
        return nn.functional.layer_norm(x, (WIDTH,), ours[f"{name}.weight"], ours[f"{name}.bias"])

    x = norm(ours["embedding.weight"][torch.tensor([ids])], "embedding_norm")
    first_values = None
    for layer in range(LAYERS):
        time_mix, channel_mix = theirs_of(ours, layer)
        out, _, _, first_values = loaded(new_time_mix(layer), time_mix)(norm(x, f"layers.{layer}.mixer_norm"), v_first=first_values)
        x = x + out
        x = x + loaded(new_channel_mix(layer), channel_mix)(norm(x, f"layers.{layer}.ffn_norm"))[0]
    return (norm(x, "final_norm") @ ours["head.weight"].t())[0]


class OutsideFlaLayer(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        rng = random.Random(7)
        words = ["".join(rng.choice("etaoinshrdlu") for _ in range(rng.randint(2, 7))) for _ in range(60)]
        with open(self.path("text"), "w") as file:
            file.write(" ".join(rng.choice(words) for _ in range(4000)))
        run("tokenize", "--output", self.path("corpus"), self.path("text"))
        self.ids = [rng.randrange(256) for _ in range(TOKENS)]

    def path(self, name):
        return os.path.join(self.scratch.name, name)

    def trained(self, *settings):
        """Our parameters by name."""
        settings = [f"data.train={self.path('corpus')}", f"model.width={WIDTH}", f"model.layers={LAYERS}", f"model.state.heads={WIDTH // HEAD}", *settings]
        run("train", os.path.join(SOURCE, "configs/models/tiny-rwkv7.yaml"), "--output", self.path("run"), *(f"--set={s}" for s in settings))
        run("export", self.path("run"), self.path("model.safetensors"), "--format", "safetensors")
        return load_file(self.path("model.safetensors"))

    def check_logits(self, steps, lr):
        ours = self.trained(f"trainer.steps={steps}", f"optimizer.lr={lr}", "optimizer.schedule=constant", "optimizer.weight_decay=0")
        with open(self.path("ids"), "w") as file:
            file.write(" ".join(map(str, self.ids)))
        run("evaluate", self.path("run"), "--tokens", self.path("ids"), "--logits", self.path("logits.safetensors"))
        got = load_file(self.path("logits.safetensors"))["logits"]
        with torch.no_grad():
            expected = their_logits(ours, self.ids)
            for name in [name for name in ours if "output.state" in name]:
                ours[name].zero_()
            without_heads = their_logits(ours, self.ids)
        error, share = ((x.square().mean() / expected.square().mean()).sqrt().item() for x in (got - expected, expected - without_heads))
        print(f"logits after {steps} steps: error {error:.1e} of their size, state heads {share:.1e}")
        self.assertGreater(share, LEAST_SHARE, "the state heads say nothing")
        self.assertLess(error, OUTPUT_BAR)

    # No gradient passes the output matrices while they are zero: the first step leaves the state heads as they were made.
    def test_a_new_layer_is_the_same_function(self):
        self.check_logits(1, 0.1)

    def test_a_trained_layer_is_the_same_function(self):
        self.check_logits(10, 0.01)

    def assert_starts_alike(self, module, tensors, place):
        expected = module.state_dict()
        self.assertEqual(set(expected), set(tensors), place)
        for name, theirs in expected.items():
            self.assertEqual(theirs.numel(), tensors[name].numel(), f"{place} {name}")
            ours, what = tensors[name].reshape(theirs.shape), f"{place} {name}"
            if name.endswith(ORTHOGONAL):
                self.assert_orthogonal_alike(ours, theirs, what)
            else:
                self.largest = max(self.largest, (ours - theirs).abs().max().item())
                self.assertLess((ours - theirs).abs().max().item(), ROUNDING, what)

    def assert_orthogonal_alike(self, ours, theirs, what):
        def gram(w):
            return w.t() @ w if w.size(0) > w.size(1) else w @ w.t()

        square = gram(theirs).diagonal().mean().item()  # of the gain
        self.assertLess((gram(ours) - square * torch.eye(min(ours.shape))).abs().max().item(), 1e-5 * square, what)
        # Orthogonal matrices without a preferred direction have about normal elements: none stands out, as those of an identity would.
        for w in (ours, theirs):
            self.assertLess(w.abs().max().item(), 6.0 * w.std().item(), what)

    # fla's layer follows the official code in all that it initialises. Its model afterwards overwrites the zeros of o_proj, in the way of GPT-2,
    # which the official code does not; so the layer alone is compared.
    def check_start(self, *settings, **options):
        ours = self.trained("trainer.steps=1", "optimizer.lr=0", *settings)
        self.largest = 0.0
        for layer in range(LAYERS):
            time_mix, channel_mix = theirs_of(ours, layer)
            self.assert_starts_alike(new_time_mix(layer, **options), time_mix, f"layer {layer}")
            self.assert_starts_alike(new_channel_mix(layer), channel_mix, f"layer {layer} channel mix")
        print(f"initial values that are no random ones: largest difference {self.largest:.1e}")
        return ours

    def test_low_rank_maps_wider_than_the_model_start_alike(self):
        self.check_start("model.state.gate_rank=160", gate_low_rank_dim=160)

    def test_layers_and_both_ends_of_the_model_start_alike(self):
        ours = self.check_start()
        embedding, head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)
        model = types.SimpleNamespace(lm_head=head, config=types.SimpleNamespace(vocab_size=VOCAB, hidden_size=WIDTH))
        for module in (embedding, head):
            MODEL.RWKV7PreTrainedModel._init_weights(model, module)
        self.assert_orthogonal_alike(ours["head.weight"], head.weight.detach(), "head")
        for w in (ours["embedding.weight"], embedding.weight.detach()):  # uniform in +-1e-4
            self.assertLessEqual(w.abs().max().item(), 1e-4)
            self.assertAlmostEqual(w.std().item() / (1e-4 / math.sqrt(3)), 1.0, delta=0.02)


if __name__ == "__main__":
    RWKV7Attention, MODEL = load_fla()
    unittest.main()
