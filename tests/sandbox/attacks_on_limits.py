"""Programs that try to use up the machine: processes, memory, time, output, and crashes."""

from __future__ import annotations

from tests.sandbox.attack import X86_64, Attack

ATTACKS_ON_LIMITS = (
    # --- processes
    Attack(
        "fork bomb",
        """
        started = 0
        for _ in range(1000):
            try:
                process = os.fork()
            except OSError:
                continue
            if process == 0:
                os._exit(0)
            started += 1
        print(started or "refused")
    """,
    ),
    Attack(
        "fork bomb by system call",
        X86_64 + "refused(lambda: system_call(57) or os._exit(1), lambda: system_call(58) or os._exit(1))",
    ),
    Attack(
        "clone without a thread",
        X86_64 + "refused(lambda: system_call(56, 17, 0, 0, 0, 0) or os._exit(1), lambda: system_call(435, 0, 0))",
    ),
    Attack(
        "another program",
        """
        import subprocess
        refused(
            lambda: subprocess.run(["/bin/sh", "-c", "true"]),
            lambda: os.execv(sys.executable, ["python", "-c", "print('new')"]),
            lambda: os.posix_spawn("/bin/true", ["true"], {}),
            lambda: os.system("true") and os.fork(),  # not 0: it did not start
        )
    """,
    ),
    Attack(
        "double fork with setsid",
        """
        def detach():
            os.setsid()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    import time
                    time.sleep(1000)
                os._exit(0)
        refused(detach)
    """,
    ),
    Attack(
        "thread bomb",
        """
        import threading, time
        started = 0
        try:
            while started < 10_000:
                threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
                started += 1
        except RuntimeError:
            pass
        print("refused" if started <= 20 else started)
        sys.stdout.flush()
        os._exit(0)
    """,
        only_full=True,
    ),
    Attack(
        "thread bomb of small stacks",
        """
        import threading, time
        threading.stack_size(32768)
        started = 0
        try:
            while started < 100_000:
                threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
                started += 1
        except RuntimeError:
            pass
        print("refused" if started <= 20 else started)
        sys.stdout.flush()
        os._exit(0)
    """,
        only_full=True,
    ),
    # --- memory
    Attack("4 GB at once", "bytearray(4 << 30)", ending="memory limit", output=""),
    Attack(
        "4 GB slowly",
        """
        kept = []
        while True:
            kept.append(bytearray(1 << 20))
    """,
        ending="memory limit",
        output="",
    ),
    Attack(
        "4 GB although MemoryError is ignored",
        """
        kept = []
        for _ in range(4096):
            try:
                kept.append(b"x" * (1 << 20))
            except MemoryError:
                pass
        print("refused" if len(kept) < 600 else len(kept))
    """,
    ),
    Attack(
        "shared memory",
        """
        import mmap
        from multiprocessing import shared_memory
        refused(
            lambda: os.memfd_create("x"),
            lambda: shared_memory.SharedMemory(create=True, size=1 << 30),
            lambda: mmap.mmap(-1, 4 << 30),
            lambda: libc.shmget(0, 1 << 20, 0o1600),
            lambda: libc.mlock(ctypes.create_string_buffer(1 << 16), 1 << 16),
        )
    """,
    ),
    Attack(
        "pipes of large buffers",
        """
        import fcntl
        refused(lambda: fcntl.fcntl(os.pipe()[0], 1031, 1 << 20), lambda: [os.pipe() for _ in range(100)])
    """,
    ),
    # --- time
    Attack("endless loop", "while True: pass", ending="time limit", output=""),
    Attack(
        "sleep that ignores signals",
        """
        import signal, time
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                pass
    """,
        ending="time limit",
        output="",
    ),
    Attack(
        "regular expression without end",
        "import re; re.match('(a+)+$', 'a' * 100 + 'b')",
        ending="time limit",
        output="",
    ),
    Attack("sum without end", "print(len(str(10 ** 10 ** 10)))", ending="time limit", output=None),
    Attack("endless end", "import atexit, time; atexit.register(time.sleep, 1000)", ending="time limit", output=None),
    Attack(
        "endless thread",
        """
        import threading
        def run():
            while True: pass
        for _ in range(8): threading.Thread(target=run).start()
        run()
    """,
        ending="time limit",
        output="",
    ),
    Attack(
        "stops itself",
        """
        import signal
        os.kill(os.getpid(), signal.SIGSTOP)
        while True: pass
    """,
        ending="time limit",
        output="",
    ),
    Attack("waits for input", "try: print(input())\nexcept EOFError: print('refused')"),
    Attack(
        "waits for a lock",
        "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
        ending="time limit",
        output="",
    ),
    # --- output
    Attack(
        "1 GB of output", "for _ in range(1024): sys.stdout.write('x' * (1 << 20))", ending="output limit", output=None
    ),
    Attack("1 GB of errors", "for _ in range(1024): os.write(2, b'x' * (1 << 20))", ending="output limit", output=None),
    Attack("huge exception", "raise Exception('x' * (1 << 27))", ending="output limit", output=None, failed=True),
    Attack("binary output", "os.write(1, bytes(range(256))); os.write(1, b'\\nrefused\\n')", output=None),
    # --- crashes
    Attack(
        "deep recursion",
        """
        def f(): return f()
        try:
            f()
        except RecursionError:
            print("refused")
    """,
    ),
    Attack("crash of the interpreter", "ctypes.string_at(0)", output="", failed=True),
    Attack(
        "crash of the stack",
        """
        import threading
        sys.setrecursionlimit(10 ** 8)
        class A:
            def __getattr__(self, name): return getattr(self, name)
        A().x
    """,
        ending="ended",
        output=None,
        failed=True,
    ),
    Attack(
        "exit in a thread",
        "import threading; threading.Thread(target=os._exit, args=(3,)).start(); import time; time.sleep(60)",
        output="",
        failed=True,
    ),
)
