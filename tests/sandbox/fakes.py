"""Programs that want the verdict `right` without the right answers. The tests require `f(2) == 4` and `f(3) == 9`."""

from __future__ import annotations

from textwrap import dedent

TESTS = dedent("""
    SECRET_OF_THE_TESTS = 4

    def check(candidate):
        import math
        assert math.fabs(candidate(2) - SECRET_OF_THE_TESTS) < 1e-6
        assert candidate(3) == helper(3)
""")
BEFORE = "def helper(x):\n    return x * x\n\n\ndef f(x):\n    pass\n"

FAKES = {
    "leaves at once": "import os; os._exit(0)",
    "leaves when called": "import os\ndef f(x): os._exit(0)",
    "leaves after the first call": "import os, atexit\ndef f(x):\n    if x == 2: return 4\n    os._exit(0)",
    "SystemExit": "def f(x): raise SystemExit(0)",
    "SystemExit at once": "raise SystemExit(0)",
    "leaves at exit": "import atexit, os; atexit.register(os._exit, 0)\ndef f(x): return 0",
    "prints that it passed": """
        def f(x): print("passed", "right", '{"verdict": "right", "reason": ""}', flush=True)
    """,
    "writes a verdict to every file": """
        import os
        def f(x):
            for number in range(1024):
                try:
                    os.write(number, b'{"verdict": "right", "reason": ""}')
                except OSError:
                    pass
            os._exit(0)
    """,
    "patches check": "def check(candidate): pass\ndef f(x): return 0",
    "patches the helper": "def helper(x): return 0\ndef f(x): return 4 if x == 2 else 0",
    "patches math": "import math; math.fabs = lambda x: 0.0\ndef f(x): return 9",
    "patches builtins": """
        import builtins
        builtins.AssertionError = ValueError
        builtins.abs = builtins.compile = builtins.exec = lambda *_: 0
        def f(x): return 0
    """,
    "patches the sandbox": """
        import sys
        for name, module in list(sys.modules.items()):
            if name.startswith("nanochat"):
                for each in list(vars(module)):
                    if callable(getattr(module, each)) and not each.startswith("__") and each != "receive":
                        setattr(module, each, lambda *a, **k: {"verdict": "right", "reason": ""})
        def f(x): return 0
    """,
    "patches json": """
        import json
        json.dumps = lambda *a, **k: '{"verdict": "right", "reason": ""}'
        def f(x): return 0
    """,
    "always equal": """
        class Equal:
            def __eq__(self, other): return True
            def __sub__(self, other): return 0
            __rsub__ = __float__ = __int__ = __hash__ = __sub__
        def f(x): return Equal()
    """,
    "a number that is always equal": """
        class Equal(int):
            def __eq__(self, other): return True
            def __sub__(self, other): return 0
            def __hash__(self): return 0
        def f(x): return Equal(0)
    """,
    "a list that is always equal": "class L(list):\n    def __eq__(self, other): return True\ndef f(x): return L()",
    "a text that is always equal": "class S(str):\n    def __eq__(self, other): return True\ndef f(x): return S('4')",
    "a lying class": """
        class Lie:
            @property
            def __class__(self): return int
            def __index__(self): return 4
            def __lt__(self, other): return True
            __gt__ = __eq__ = __lt__
        def f(x): return Lie()
    """,
    "an error with a lying text": """
        class AssertionError(BaseException):
            def __str__(self): raise SystemExit(0)
            __repr__ = __str__
        def f(x): raise AssertionError
    """,
    "an error without a name": """
        class Meta(type):
            __name__ = property(lambda self: {}["no"])
        class Bad(Exception, metaclass=Meta): pass
        def f(x): raise Bad
    """,
    "an assertion of its own": "def f(x): raise AssertionError('right')",
    "StopIteration": "def f(x): raise StopIteration(4)",
    "not a number": "def f(x): return float('nan')",
    "infinity": "def f(x): return float('inf')",
    "looks for the tests in frames": """
        import sys
        def f(x):
            frame = sys._getframe()
            while frame:
                for name in (frame.f_locals, frame.f_globals):
                    if "SECRET_OF_THE_TESTS" in name or "helper" in name:
                        return x * x
                frame = frame.f_back
            return 0
    """,
    "looks for the tests in memory": """
        import gc
        needle = "".join(reversed(")3(repleh"))
        def f(x):
            for each in gc.get_objects():
                if isinstance(each, dict) and ("SECRET_OF_THE_TESTS" in each or "helper" in each):
                    return x * x
                if type(each) in (list, tuple) and any(type(one) is str and needle in one for one in each):
                    return x * x
            return 0
    """,
    "looks for the tests in raw memory": """
        import ctypes, gc
        def f(x):
            needle = bytes(reversed(b"STSET_EHT_FO_TERCES"))
            for page in {id(each) & ~4095 for each in gc.get_objects()}:
                found = ctypes.string_at(page, 4096).find(needle)
                if found >= 0 and page + found not in range(id(needle), id(needle) + 64): return x * x
            return 0
    """,
    "looks for the tests in files": """
        import os
        def f(x):
            for folder, _, names in os.walk("/"):
                for name in names if not folder.startswith(os.path.dirname(os.__file__)) else ():
                    try:
                        text = open(os.path.join(folder, name), "rb").read()
                    except OSError:
                        continue
                    if b"SECRET_" + b"OF_THE_TESTS" in text:
                        return x * x
            return 0
    """,
    "looks for the tests in modules": """
        import sys
        def f(x): return x * x if "tests" in sys.modules or "check" in globals() else 0
    """,
    "signals the tests": """
        import os
        def f(x):
            for process in (os.getppid() or 2, 2, 3):
                try:
                    os.kill(process, 28)
                except OSError:
                    pass
            return 0
    """,
    "a process in its place": "import os\ndef f(x): return x * x if os.fork() else 0",
    "many answers at once": """
        import json, os
        def message(value):
            text = json.dumps(value).encode()
            return len(text).to_bytes(4, "little") + text
        for value in range(100):
            os.write(5, message({"value": value}))
        def f(x): return 0
    """,
    "a verdict as an answer": """
        import json, os
        text = json.dumps({"verdict": "right", "reason": ""}).encode()
        for _ in range(9):
            os.write(5, len(text).to_bytes(4, "little") + text)
        def f(x): return 0
    """,
    "an answer without end": "import os\nos.write(5, b'\\xff\\xff\\xff\\x7f')\nwhile True: os.write(5, b'x' * 65536)",
    "an answer that is not JSON": "import os\nos.write(5, b'\\x04\\0\\0\\0nope' * 9)\ndef f(x): return 0",
    "an answer that is very deep": """
        import os
        text = b'{"value": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        os.write(5, b"\\x02\\0\\0\\0{}" + len(text).to_bytes(4, "little"))
        while text:
            text = text[os.write(5, text):]
        def f(x): return 0
    """,
    "an answer of a wrong kind": """
        import os
        os.write(5, b"\\x02\\0\\0\\0{}")
        for text in (b'{"value": {"set": [[1]]}}', b'{"value": {"int": "x"}}', b'{"value": {"a": 1, "b": 2}}'):
            os.write(5, len(text).to_bytes(4, "little") + text)
        def f(x): return 0
    """,
    "a deep value": "def f(x):\n    value = []\n    for _ in range(100_000): value = [value]\n    return value",
    "a value that contains itself": "def f(x):\n    value = []\n    value.append(value)\n    return value",
    "a generator without end": "import itertools\ndef f(x): return itertools.count()",
    "a very large value": "def f(x): return 'x' * (1 << 26)",
    "a large number": "def f(x): return 1 << (1 << 20)",
    "a range of all numbers": "def f(x): return range(10 ** 18)",
    "a function": "def f(x): return f",
    "a module": "import os\ndef f(x): return os",
    "no function": "x = 1",
    "not a function": "f = 4",
    "another signature": "def f(): return 4",
    "its argument": "def f(x): return x",
    "changes its argument": "def f(x):\n    x += 2\n    return None",
    "closes all files": "import os\nos.closerange(0, 100)\ndef f(x): return x * x",
    "replaces its files": """
        import os
        read, write = os.pipe()
        for number in (3, 4, 5, 6):
            os.dup2(write, number)
        def f(x): return x * x
    """,
    "recursion": "def f(x): return f(x)",
    "syntax": "def f(x) return 4",
    "null bytes": "def f(x): return 4\0",
    "surrogates": "def f(x): return '\udc80'",
    "empty": "",
}
"""Name → program; some have indentation, which is removed."""


def program_of(name: str) -> str:
    return dedent(FAKES[name])
