"""report.py on programs that print what the stages print, and on a table of the compiler."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parent / "report.py"

SAID = """[ RUN      ] Stage.Model
one_kernel<F16>: grid 4 x 1 x 1, 128 threads, 40960 bytes shared; read 64 B in 2 sectors, wrote 32 B in 1 sectors, 3 bank conflicts
  cuda.cu:7:3  global read                   1 instructions           64 B          2 sectors
stage of 5 tokens, f16: read 1.0100 of the model, written 1.0000 (in sectors of 32 bytes: 1.0200 and 1.1000), 3 bank conflicts in 70 wavefronts%s
[==========] 2 tests from 1 test suite ran. (7 ms total)
[  PASSED  ] 2 tests.
"""
FAULT = "test.cpp:3: race: kernel one_kernel, block (0, 0, 0), thread 1 (warp 0, lane 1), cuda.cu:3: reads 4 bytes\n"
TABLE = """registers (static shared memory in bytes, where any) of each kernel; no spills, no stack
kernel                                             sm_80       sm_90
kernels/stage/cuda.cu
  one_kernel<F16>                                     32    70 (128)
  one_kernel<a_type_of_a_name_that_is_longer_than_the_column>           -          40
"""


class Report(unittest.TestCase):
    def report(self, programs, table=None, status=0):
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch)
            stages = folder / "release/tests/simt/stages"
            stages.mkdir(parents=True)
            for name, (text, code) in programs.items():
                (stages / (name + ".txt")).write_text(text)
                program = stages / name
                program.write_text(f'#!/bin/sh\n[ "$THINK_TEST_REPORT$THINK_SIMT_REPORT" = 11 ] || exit 9\ncat "$0.txt"\nexit {code}\n')
                program.chmod(0o755)
            (folder / "cuda").mkdir()
            if table:
                (folder / "cuda/kernels.txt").write_text(table)
            run = subprocess.run([sys.executable, str(SCRIPT), "--release", str(folder / "release"), "--cuda", str(folder / "cuda"), "--output",
                                  str(folder / "out.md")], capture_output=True, text=True)
            self.assertEqual(run.returncode, status, run.stderr)
            return (folder / "out.md").read_text() if programs else run.stderr

    def test_any_stage_that_prints_is_listed(self):
        text = self.report({"simt_new": (SAID % "; launches: one_kernel 1", 0), "simt_old": (SAID % "", 0), "simt_none": ("", 0), "simt_api": (SAID, 1)}, TABLE)
        self.assertIn("| stage of 5 tokens, f16 | one_kernel 1 | 1.0100 | 1.0000 | 1.0200 | 1.1000 | 3 of 70 |", text)
        self.assertIn("| stage of 5 tokens, f16 |  | 1.0100 |", text)
        self.assertIn("Without a byte model: none.", text)
        self.assertIn("| new | 2 | 2 | 1 | 0 |", text)
        self.assertIn("| `one_kernel<F16>` | 1 | 128 | 40960 | 3 |", text)
        # 128 static and 40960 dynamic bytes and 1024 of the system: 5 times in 228 KiB; 70 registers would allow 7 blocks.
        self.assertIn("| `one_kernel<F16>` | 2 | 40 to 70 | 128 | 5 | shared memory | 31% |", text)

    def test_faults_and_failures_are_counted(self):
        text = self.report({"simt_new": ((SAID % "").replace("PASSED  ] 2", "PASSED  ] 1") + FAULT, 1)}, status=1)
        self.assertIn("| new | 2 | 1 | 1 | 1 |", text)
        self.assertIn("No CUDA build was there", text)

    def test_nothing_built_is_an_error(self):
        self.assertIn("build first", self.report({}, status=1))


unittest.main()
