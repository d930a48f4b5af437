"""What nvcc made of the kernels, read from the compiled objects: no spills, registers and tensor-core instructions within budgets.

A budget is a comment line in the kernel's file, for every architecture alike:

    // budget wkv7_prepare<64, false>: registers 128, HMMA 64

registers: at most so many per thread. HMMA: at least so many matrix instructions in the code; none when it is not named. shared: bytes of static
shared memory, 0 when not named. A kernel without a budget, or a budget without a kernel, is an error.

usage: compiled_kernels_test.py --cuobjdump PROGRAM --sources FOLDER --architectures 80,90a OBJECT...
"""
import argparse
import collections
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import unittest

Usage = collections.namedtuple("Usage", "registers stack local shared")
Budget = collections.namedtuple("Budget", "registers hmma shared place")

RESERVED = 1024  # bytes of shared memory that the driver keeps in each block of sm_90 and later

budget_line = re.compile(r"^\s*// budget (.+?): (.+)$", re.MULTILINE)
arch_line = re.compile(r"^arch = sm_(\w+)$")
function_line = re.compile(r"^\s*Function\s*:?\s*(\w+)\s*:?$")
usage_line = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
product = re.compile(r"\bH(?:G)?MMA\.\d")


def short_name(demangled):
    """void wuneng::kernels::probe<64, wuneng::device::bf16>(float*) -> probe<64, bf16>"""
    name = re.sub(r"\(anonymous namespace\)::|\w+::", "", demangled)
    name = re.sub(r"\((?:int|bool|unsigned int|long)\)", "", name)
    depth = 0
    for i, c in enumerate(name):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            name = name[:i]
            break
    return re.sub(r"^(?:void|int|float) ", "", name)


def parse_budgets(text, place):
    budgets = []
    for name, items in budget_line.findall(text):
        values = {}
        for item in items.split(","):
            match = re.fullmatch(r"\s*(registers|HMMA|shared) (\d+)\s*", item)
            if not match or match[1] in values:
                raise ValueError(f"{place}: budget of {name}: cannot read '{item.strip()}' (registers, HMMA, shared, each once, with a number)")
            values[match[1]] = int(match[2])
        if "registers" not in values:
            raise ValueError(f"{place}: budget of {name}: names no registers")
        budgets.append((name, Budget(values["registers"], values.get("HMMA", 0), values.get("shared", 0), place)))
    return budgets


def parse_resources(text):
    """cuobjdump --dump-resource-usage -> {(arch, mangled name): Usage}"""
    found, arch, function = {}, None, None
    for line in text.splitlines():
        if match := arch_line.match(line):
            arch = match[1]
        elif match := function_line.match(line):
            function = match[1]
        elif (match := usage_line.search(line)) and function:
            registers, stack, shared, local = map(int, match.groups())
            reserved = RESERVED if int(re.match(r"\d+", arch)[0]) >= 90 else 0
            found[arch, function] = Usage(registers, stack, local, max(0, shared - reserved))
    return found


def parse_products(text):
    """cuobjdump -sass -> {(arch, mangled name): number of matrix instructions}"""
    found, arch, function = collections.Counter(), None, None
    for line in text.splitlines():
        if match := arch_line.match(line):
            arch = match[1]
        elif match := function_line.match(line):
            function = match[1]
        elif product.search(line):
            found[arch, function] += 1
    return found


def findings(kernels, budgets, architectures):
    """kernels {(name, arch): (Usage, products)}, budgets {name: Budget} -> what is wrong, as text."""
    wrong = []
    names = {name for name, _ in kernels}
    wrong += [f"{b.place}: budget of {name}, but no such kernel was compiled" for name, b in budgets.items() if name not in names]
    wrong += [f"{name}: no budget line" for name in sorted(names - set(budgets))]
    wrong += [f"{name}: not compiled for sm_{a}" for name in sorted(names) for a in architectures if (name, a) not in kernels]
    for (name, arch), (usage, products) in sorted(kernels.items()):
        if arch not in architectures:
            wrong.append(f"{name}: compiled for sm_{arch}, which nobody asked for")
        if usage.stack or usage.local:
            wrong.append(f"{name} on sm_{arch}: spills ({usage.stack} bytes of stack, {usage.local} of local memory)")
        if name not in budgets:
            continue
        budget = budgets[name]
        if usage.registers > budget.registers:
            wrong.append(f"{name} on sm_{arch}: {usage.registers} registers, the budget is {budget.registers}")
        if usage.shared > budget.shared:
            wrong.append(f"{name} on sm_{arch}: {usage.shared} bytes of static shared memory, the budget is {budget.shared}")
        if products < budget.hmma:
            wrong.append(f"{name} on sm_{arch}: {products} matrix instructions, the budget is {budget.hmma}")
        if products and not budget.hmma:
            wrong.append(f"{name} on sm_{arch}: {products} matrix instructions, but its budget names none")
    return wrong


def read_budgets(folder):
    budgets = {}
    for file in sorted([*folder.rglob("*.cuh"), *folder.rglob("*.cu")]):
        for name, budget in parse_budgets(file.read_text(), file.relative_to(folder.parent)):
            if name in budgets:
                raise ValueError(f"{budget.place}: second budget of {name}, the first is in {budgets[name].place}")
            budgets[name] = budget
    return budgets


def read_objects(cuobjdump, objects, budgets):
    """{(name, arch): (Usage, products)}. Disassembling is slow: only objects with a kernel whose budget names HMMA are."""
    environment = dict(os.environ, PATH=f"{os.path.dirname(cuobjdump)}:{os.environ['PATH']}")  # it starts nvdisasm

    def output(*command):
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    def read(file):
        usages = parse_resources(output(cuobjdump, "--dump-resource-usage", file))
        mangled = sorted({function for _, function in usages})
        names = dict(zip(mangled, map(short_name, output("c++filt", *mangled).splitlines()))) if mangled else {}
        has_products = any(name in budgets and budgets[name].hmma for name in names.values())
        products = parse_products(output(cuobjdump, "-sass", file)) if has_products else {}
        return {(names[f], arch): (usage, products.get((arch, f), 0)) for (arch, f), usage in usages.items()}

    kernels = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(read, objects):
            kernels.update(found)
    return kernels


def print_table(kernels, architectures):
    """One row per kernel, one column per architecture."""
    width = max(len(name) for name, _ in kernels)
    print(f"registers / static shared / spilled bytes / HMMA\n{'':{width}}" + "".join(f"{'sm_' + a:>18}" for a in architectures))
    for name in sorted({name for name, _ in kernels}):
        row = ""
        for arch in architectures:
            usage, products = kernels.get((name, arch), (None, 0))
            row += f"{'-' if usage is None else f'{usage.registers} / {usage.shared} / {usage.stack + usage.local} / {products}':>18}"
        print(f"{name:{width}}{row}")


class Kernels(unittest.TestCase):
    arguments = None

    def test_compiled_kernels_keep_their_budgets(self):
        a = self.arguments
        self.assertTrue(os.path.exists(a.cuobjdump), f"no cuobjdump at '{a.cuobjdump}': scripts/setup.sh --tests installs it")
        self.assertTrue(a.objects, "nothing was compiled")
        budgets = read_budgets(a.sources)
        kernels = read_objects(a.cuobjdump, a.objects, budgets)
        self.assertTrue(kernels, "no kernel in the compiled objects")
        architectures = a.architectures.split(",")
        print_table(kernels, architectures)
        if wrong := findings(kernels, budgets, architectures):
            self.fail("\n" + "\n".join(wrong))


class Reader(unittest.TestCase):
    """That this test can fail: each fault, planted in what cuobjdump prints, is named."""

    resources = """
arch = sm_80
 Function _Z5probeILi64EEvPf:
  REG:40 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:360 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
    sass = """
arch = sm_80
\t\tFunction : _Z5probeILi64EEvPf
        /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;
        /*0020*/                   HFMA2.MMA R3, -RZ, RZ, 0, 2.38e-07 ;
"""

    def wrong(self, resources=resources, sass=sass, budget="// budget probe<64>: registers 40, HMMA 1", architectures=("80",)):
        products = parse_products(sass)
        kernels = {("probe<64>", arch): (usage, products[arch, f]) for (arch, f), usage in parse_resources(resources).items()}
        return " ".join(findings(kernels, dict(parse_budgets(budget, "probe.cuh")), architectures))

    def test_a_sound_kernel_passes(self):
        self.assertEqual(self.wrong(), "")

    def test_faults_are_named(self):
        self.assertIn("spills (16 bytes", self.wrong(self.resources.replace("STACK:0", "STACK:16")))
        self.assertIn("spills (0 bytes of stack, 8", self.wrong(self.resources.replace("LOCAL:0", "LOCAL:8")))
        self.assertIn("41 registers, the budget is 40", self.wrong(self.resources.replace("REG:40", "REG:41")))
        self.assertIn("4 bytes of static shared", self.wrong(self.resources.replace("SHARED:0", "SHARED:4")))
        self.assertIn("0 matrix instructions, the budget is 1", self.wrong(sass=self.sass.replace("HMMA.16816", "FFMA")))
        self.assertIn("its budget names none", self.wrong(budget="// budget probe<64>: registers 40"))
        self.assertIn("no budget line", self.wrong(budget=""))
        self.assertIn("no such kernel", self.wrong(budget="// budget probe<64>: registers 40, HMMA 1\n// budget probe<128>: registers 40"))
        self.assertIn("not compiled for sm_90a", self.wrong(architectures=("80", "90a")))
        self.assertIn("nobody asked for", self.wrong(architectures=()))

    def test_budgets_that_cannot_be_read_are_refused(self):
        for items in ("registers", "HMMA 3", "registers 3, registers 4", "register 3"):
            with self.assertRaises(ValueError):
                parse_budgets(f"// budget probe: {items}", "probe.cuh")

    def test_names(self):
        self.assertEqual(short_name("void wuneng::kernels::probe<64, false>(wuneng::kernels::Problem<float>, float*)"), "probe<64, false>")
        self.assertEqual(short_name("void (anonymous namespace)::shift<wuneng::device::bf16, 6>(float*)"), "shift<bf16, 6>")
        self.assertEqual(short_name("wuneng::device::conformance(unsigned int*)"), "conformance")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuobjdump", required=True)
    parser.add_argument("--sources", required=True, type=pathlib.Path)
    parser.add_argument("--architectures", required=True)
    parser.add_argument("objects", nargs="*")
    Kernels.arguments = parser.parse_args()
    unittest.main(argv=sys.argv[:1])
