#!/usr/bin/env python3
"""lint.py finds what it promises to find, and nothing in what is allowed."""
import unittest

import lint

MEMBERS = {'pages', 'key'}


def finds(body, signature='__global__ void k(const float *from, Params p)'):
    return [message for _, message in lint.check(f'{signature} {{ {body} }}', 'cuda.cu', MEMBERS)]


class Lint(unittest.TestCase):
    def test_finds(self):
        for body in ['float x = from[3];', 'float x = *from;', 'f(1, *from);', 'return *(from + 1);', 'int32_t i = p.pages[2];', 'x = *p.key;', 'x = p.key->y;',
                     'const float *at = from + 2; float x = at[1];', 'float x = *static_cast<const float *>(v);',
                     'memcpy(&x, from, 4);',
                     'asm volatile("nop;");', 'int t = threadIdx.x;', '__syncthreads();', '__shared__ float s[3];',
                     'atomicAdd(from, 1);', 'float x = __ldg(from);',
                     'k<<<1, 2>>>();', 'float y = 2 * *from;', 'const T *a = from, *b = from; b[1];']:
            self.assertTrue(finds(body), body)

    def test_allows(self):
        for body in ['const float *at = from + 3 * n;', 'float x = load_global(from + i);', 'float x = load_global(&from[i]);', 'int32_t s = p.stride[2];',
                     'float sum[4]; sum[1] = a * b;', '// from[3] in a comment', 'const T *a = from, *b = from + 1;', 'float x = y * (z + 1);',
                     'const char *at = static_cast<const char *>(p.key) + n * p.row;', 'x = a > b * c;', 'const Shared<float> s = t + 4;',
                     'load_global(static_cast<const Words4 *>(static_cast<const void *>(from)) + lane);', 'f(n * from_bytes, m * p.rows);']:
            self.assertEqual(finds(body), [], body)

    def test_only_device_functions(self):
        self.assertEqual(finds('return *from + from[1];', 'int32_t host(const float *from)'), [])
        self.assertTrue(finds('return *from;', 'template <class T> THINK_DEVICE T f(const T *from)'))

    def test_the_functions_themselves(self):
        self.assertEqual(list(lint.check('__device__ void f() { asm("x"); }', 'ptx_device.cuh', MEMBERS)), [])

    def test_members(self):
        names = lint.members(lint.ROOT)
        self.assertIn('pages', names)
        self.assertNotIn('stride', names)


if __name__ == '__main__':
    unittest.main()
