#!/usr/bin/env python3
"""lint.py [FILE ...] : does device code by-pass kernels/common/ptx.cuh?

Looks at kernels/**/*.cu and *.cuh (or the files named) for two things:
  - outside of ptx.cuh, ptx_device.cuh and launch.cuh: asm, CUDA's built-in variables and functions, __shared__, <<< >>>, device libraries;
  - inside of functions for the device: a pointer that is dereferenced (*p, p[i], p->x, s.p[i]), memcpy and the like.
It reads text, not C++: a pointer behind a typedef, auto or a function's result escapes it. The emulator catches those when they run, since device
addresses are inaccessible there; this finds the rest, and sooner. `&p[i]` is arithmetic and allowed;
an array in registers is handed on as a reference to an array, not as a pointer. Exit status 1 when something was found.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
THE_FUNCTIONS = {'ptx.cuh', 'ptx_device.cuh', 'launch.cuh'}

BUILT_IN = re.compile(
    r'\b(?:asm|__asm__|threadIdx|blockIdx|blockDim|gridDim|warpSize|__shared__|__constant__|__managed__|extern\s+__shared__'
    r'|__ld(?:g|cs|cg|ca|cv|lu)|__st(?:wb|cg|cs|wt)|__shfl\w*|__(?:ballot|any|all|activemask|match\w*|reduce\w*)(?:_sync)?'
    r'|__syncthreads\w*|__syncwarp|__threadfence\w*|__nanosleep|__cvta_\w+|__pipeline_\w+|atomic(?:Add|Sub|Exch|Min|Max|Inc|Dec|CAS|And|Or|Xor)\w*'
    r'|cooperative_groups|cub|thrust|wmma|nvcuda)\b|<<<')
DEVICE = re.compile(r'\b(?:__global__|__device__|THINK_DEVICE|THINK_HOST_DEVICE)\b')
MEMORY_CALL = re.compile(r'\b(?:std::)?(?:memcpy|memset|memmove|memcmp)\s*\(')
POINTER_NAME = re.compile(r'\*\s*(?:const\s+)?(?:__restrict__\s+)?([A-Za-z_]\w*)')


def blank(match):
    return re.sub(r'[^\n]', ' ', match.group(0))


def without_comments(text):
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text, flags=re.S)


def closing(text, opening):
    """Index behind the bracket that closes text[opening]."""
    pairs = {'{': '}', '(': ')'}
    depth = 0
    for at in range(opening, len(text)):
        if text[at] == text[opening]:
            depth += 1
        elif text[at] == pairs[text[opening]]:
            depth -= 1
            if depth == 0:
                return at + 1
    return len(text)


def device_functions(text):
    """(begin, body, end) of every function for the device: signature from begin, body from its brace."""
    for match in DEVICE.finditer(text):
        at = match.end()
        while at < len(text) and text[at] not in ';{':
            at = closing(text, at) if text[at] == '(' else at + 1
        if at < len(text) and text[at] == '{' and not re.match(r'\s*#\s*define', text[text.rfind('\n', 0, match.start()) + 1:match.start()]):
            yield match.start(), at, closing(text, at)


def members(root):
    """Names of pointer members in the project's structs, less those that are also the name of an array."""
    pointers, arrays = set(), set()
    for folder in (root / 'kernels', root / 'include'):
        for path in [*folder.rglob('*.h'), *folder.rglob('*.cuh')]:
            for line in without_comments(path.read_text()).splitlines():
                line = line.strip()
                if line.endswith(';') and '(' not in line and '=' not in line and not line.startswith(('return', 'using', 'typedef')):
                    pointers |= set(POINTER_NAME.findall(line))
                    arrays |= set(re.findall(r'(\w+)\s*\[', line))
    return pointers - arrays


def is_dereference(body, star):
    """Is the * at this index a unary one, and no part of a declaration?"""
    before = body[:star].rstrip()
    if re.search(r'\b(?:return|case|co_return)$', before):
        return True
    if not before or before[-1] not in '=(,;{}+-*/%&|!<>?:~^[':
        return False
    if before[-1] == '<' or before[-1] == '>':  # T<U> *name declares; a > *b compares
        return False
    if before[-1] == ',':  # an argument, or the next name of a declaration?
        statement = before[max(before.rfind(c) for c in ';{}') + 1:]
        return statement.count('(') > statement.count(')')
    return True


def check(text, name, pointer_members):
    """Yields (offset, message)."""
    text = without_comments(text)
    if name not in THE_FUNCTIONS:
        for match in BUILT_IN.finditer(text):
            yield match.start(), f'{match.group(0)} belongs into ptx.cuh'
        for match in re.finditer(r'#\s*include\s*<(?:cub|thrust|cooperative_groups|mma|cuda_fp|cuda_bf|cuda/)', text):
            yield match.start(), 'device code uses ptx.cuh and no library'
    if name in THE_FUNCTIONS:
        return
    for begin, brace, end in device_functions(text):
        signature, body = text[begin:brace], text[brace:end]
        pointers = set(POINTER_NAME.findall(signature))
        for match in re.finditer(r'(?:^|[;{}(,])\s*(?:const\s+|constexpr\s+|static\s+)*[A-Za-z_][\w:]*(?:<[^;{}()]*>)?(?:\s+const)?\s*(\*[^;{}]*);', body):
            declarators = re.sub(r'\([^()]*\)', '', re.sub(r'\([^()]*\)', '', match.group(1)))
            pointers |= set(re.findall(r'(?:^|,)\s*\*\s*(?:const\s+)?(?:__restrict__\s+)?(\w+)', declarators))
        for match in MEMORY_CALL.finditer(body):
            yield brace + match.start(), f'{match.group(0)}...): use bit_copy() or the loads and stores of ptx.cuh'
        for match in re.finditer(r'(\.|->)?\s*\b([A-Za-z_]\w*)\s*(\[|->)', body):
            own, used = match.group(2), match.group(3)
            known = own in pointer_members if match.group(1) else own in pointers
            address_taken = re.search(r'(?:^|[=(,;{+\-?:]|return)\s*&\s*(?:[\w.]|->)*$', body[:match.start() + len(match.group(1) or '')].rstrip() or ' ')
            if known and own != 'this' and not (used == '[' and address_taken):
                yield brace + match.start(), f'{own}{used} dereferences a pointer'
        for match in re.finditer(r'\*\s*(?:\(|[A-Za-z_])', body):
            if not is_dereference(body, match.start()):
                continue
            operand = re.match(r'\*\s*([A-Za-z_]\w*)((?:\s*(?:\.|->)\s*\w+)*)', body[match.start():])
            if operand is None:  # *( ... )
                yield brace + match.start(), '*(...) dereferences a pointer'
                continue
            last = re.findall(r'\w+', operand.group(2))
            known = last[-1] in pointer_members if last else operand.group(1) in pointers or operand.group(1) in ('reinterpret_cast', 'static_cast')
            if known:
                yield brace + match.start(), f'*{operand.group(1)}{operand.group(2)} dereferences a pointer'


def main(arguments):
    files = [pathlib.Path(a) for a in arguments] or sorted([*(ROOT / 'kernels').rglob('*.cu'), *(ROOT / 'kernels').rglob('*.cuh')])
    pointer_members = members(ROOT)
    found = 0
    for path in files:
        text = path.read_text()
        for offset, message in sorted(set(check(text, path.name, pointer_members))):
            print(f'{path}:{text.count(chr(10), 0, offset) + 1}: {message}')
            found += 1
    print(f'{len(files)} files, {found} finds')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
