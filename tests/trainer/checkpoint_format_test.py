"""The checkpoint format as trainer/checkpoint/README.md describes it, read with safetensors' own package and nothing of ours."""
import json
import os
import shutil
import subprocess
import tempfile
import unittest

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

PROGRAM = os.environ["WUNENG"]
SOURCE = os.environ["WUNENG_SOURCE"]


def run(*command):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_plm="isolated")
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert done.returncode == 0, done.stdout


def read_checkpoint(folder):
    """{(section, name): array}, put together from the slices."""
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    tensors = {}
    for tensor in manifest["tensors"]:
        whole = np.full(tensor["shape"], np.nan, dtype=np.float32)
        assert tensor["dtype"] == "F32"
        for piece in tensor["slices"]:
            ranges = [(b, b + n) for b, n in zip(piece["begin"], piece["shape"])]
            key = tensor["name"]
            if piece["shape"] != tensor["shape"]:
                key += "[" + ",".join(f"{b}:{e}" for b, e in ranges) + "]"
            path = os.path.join(folder, piece["file"])
            with safe_open(path, framework="numpy") as file:
                data = file.get_tensor(key)
            raw = np.fromfile(path, dtype="<f4", count=data.size, offset=piece["offset"]).reshape(piece["shape"])
            assert np.array_equal(data, raw), key
            whole[tuple(slice(b, e) for b, e in ranges)] = data
        tensors[tensor["section"], tensor["name"]] = whole
    for name, record in manifest["files"].items():
        assert os.path.getsize(os.path.join(folder, name)) == record["bytes"]
    return manifest, tensors


class CheckpointFormat(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.scratch)
        text = os.path.join(self.scratch, "text")
        with open(text, "w", encoding="utf-8") as file:
            file.write("all work and no play " * 400)
        self.corpus = os.path.join(self.scratch, "corpus")
        run(PROGRAM, "tokenize", "--output", self.corpus, text)

    def train(self, name, launcher, *settings):
        output = os.path.join(self.scratch, name)
        sets = [word for s in (f"data.train={self.corpus}", "trainer.steps=2", "model.state.heads=2", *settings) for word in ("--set", s)]
        run(*launcher, PROGRAM, "train", os.path.join(SOURCE, "configs/tiny.yaml"), *sets, "--output", output)
        exported = output + ".safetensors"
        run(PROGRAM, "export", output, exported)
        manifest, tensors = read_checkpoint(os.path.join(output, "checkpoints", "step-00000002"))
        return manifest, tensors, load_file(exported)

    def test_every_mesh(self):
        mpirun = ("mpirun", "--oversubscribe", "--bind-to", "none", "-n")
        for name, launcher, settings in (("one", (), ()), ("two", (*mpirun, "2"), ()),
                                         ("four", (*mpirun, "4"), ("parallel.tensor=2",))):
            with self.subTest(name):
                manifest, tensors, exported = self.train(name, launcher, *settings)
                self.assertEqual(manifest["position"], {"step": 2, "samples": 16, "tokens": 1024})
                model = {key[1]: value for key, value in tensors.items() if key[0] == "model"}
                self.assertEqual(model.keys(), exported.keys())
                for key, value in model.items():
                    self.assertTrue(np.array_equal(value, exported[key]), key)
                for (section, key), value in tensors.items():
                    self.assertTrue(np.isfinite(value).all(), key)
                    if key.endswith(".exp_avg_sq"):
                        self.assertTrue((value >= 0).all(), key)
                self.assertEqual(len(tensors), 3 * len(model))


if __name__ == "__main__":
    unittest.main()
