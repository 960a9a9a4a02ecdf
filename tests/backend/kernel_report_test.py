"""The script between CMake and nvcc: what it makes of ptxas' words, and that spills fail a build. Run with the script's path."""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = sys.argv.pop(1)

PTXAS = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN5think5stage10one_kernelEv' for 'sm_80'
ptxas info    : Function properties for _ZN5think5stage10one_kernelEv
    {stack} bytes stack frame, {spills} bytes spill stores, 4 bytes spill loads
ptxas info    : Used 42 registers, used 1 barriers, 128 bytes smem, 424 bytes cmem[0]
ptxas info    : Compile time = 11.010 ms
ptxas info    : Compiling entry function '_ZN5think5stage10one_kernelEv' for 'sm_90'
ptxas info    : Function properties for _ZN5think5stage10one_kernelEv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers
file.cu(3): warning: something that must be seen
"""


class KernelReport(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        self.folder = pathlib.Path(self.scratch.name)

        self.source = self.folder / "b" / "stage" / "cuda.cu"
        self.source.parent.mkdir(parents=True)
        self.source.touch()

    def compile(self, text, status=0, source=None, target="out.o"):
        """A compiler that writes the object it was asked for and says `text`."""
        nvcc = self.folder / "nvcc"
        (self.folder / "said").write_text(text)
        nvcc.write_text(f'#!/bin/sh\ntouch "{self.folder}/{target}"\ncat "{self.folder}/said" >&2\nexit {status}\n')
        nvcc.chmod(0o755)
        return subprocess.run([sys.executable, SCRIPT, "compile", str(self.folder / "reports"), str(nvcc), "-c", str(source or self.source), "-o",
                               str(self.folder / target)], capture_output=True, text=True)

    def table(self):
        return subprocess.run([sys.executable, SCRIPT, "table", str(self.folder / "reports"), str(self.folder / "kernels.txt")],
                              capture_output=True, text=True)

    def test_clean_kernels_make_a_table(self):
        run = self.compile(PTXAS.format(stack=0, spills=0).replace("4 bytes spill loads", "0 bytes spill loads"))
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("something that must be seen", run.stderr)
        self.assertNotIn("ptxas info", run.stderr)
        self.assertTrue(os.path.exists(self.folder / "out.o"))
        table = self.table()
        self.assertEqual(table.returncode, 0, table.stderr)
        self.assertRegex(table.stdout, r"sm_80 +sm_90\nb/stage/cuda.cu\n  one_kernel +42 \(128\) +40\n")
        self.assertEqual(table.stdout, (self.folder / "kernels.txt").read_text())

    def test_spills_and_stacks_fail_and_leave_no_object(self):
        for stack, spills in ((0, 8), (16, 0)):
            run = self.compile(PTXAS.format(stack=stack, spills=spills))
            self.assertEqual(run.returncode, 1)
            self.assertIn(f"one_kernel for sm_80: {spills + 4} bytes of spills, {stack} bytes of stack", run.stderr)
            self.assertNotIn("sm_90", run.stderr)
            self.assertFalse(os.path.exists(self.folder / "out.o"))

    def test_the_compiler_decides(self):
        self.assertEqual(self.compile("", 3).returncode, 3)

    def test_removed_sources_and_kernels_leave_the_table(self):
        clean = PTXAS.format(stack=0, spills=0).replace("4 bytes spill loads", "0 bytes spill loads")
        other = self.folder / "b" / "other" / "cuda.cu"
        other.parent.mkdir()
        other.touch()
        self.assertEqual(self.compile(clean).returncode, 0)
        self.assertEqual(self.compile(clean.replace("10one_kernel", "12other_kernel"), source=other, target="other.o").returncode, 0)
        self.assertIn("other_kernel", self.table().stdout)
        other.unlink()
        table = self.table().stdout
        self.assertNotIn("other", table)
        self.assertIn("one_kernel", table)
        # The source stays, the kernel in it has another name; and a compilation that fails keeps nothing of the one before.
        self.assertEqual(self.compile(clean.replace("10one_kernel", "10new_kernel")).returncode, 0)
        table = self.table().stdout
        self.assertNotIn("one_kernel", table)
        self.assertIn("new_kernel", table)
        self.assertEqual(self.compile("", 3).returncode, 3)
        self.assertEqual(self.table().returncode, 1)

    def test_nothing_is_no_table(self):
        self.assertEqual(self.compile("").returncode, 0)
        self.assertEqual(self.table().returncode, 1)


unittest.main()
