"""Programs that try to escape, to stay, to use up the machine, or to fake their verdict. A benchmark runs them too.

A program that is refused what it wants prints `refused`; anything else that it prints is a success of the attack. If
the sandbox were broken, a test would fail and do no harm: no attack kills, removes or hides what is not its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

from nanochat.tools.sandbox.limits import Limits

PREFIX = dedent("""
    import ctypes, os, sys
    libc = ctypes.CDLL(None, use_errno=True)

    def refused(*attempts):
        for number, attempt in enumerate(attempts):
            try:
                found = attempt()
            except (OSError, ImportError, RuntimeError, ValueError):
                continue
            if found != -1 or ctypes.get_errno() not in (1, 13, 38):  # of a C function: not permitted, or not there
                print("attempt", number, "worked:", found, ctypes.get_errno())
        print("refused")

    def system_call(number, *arguments):
        ctypes.set_errno(0)
        return libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
""")
X86_64 = "if os.uname().machine != 'x86_64': print('refused'); raise SystemExit\n"
"""For attacks that are written with the system call numbers of one machine."""


@dataclass(frozen=True)
class Attack:
    """A program, and what must come of it."""

    name: str
    text: str
    ending: str = "ended"
    output: str | None = "refused\n"
    """None: whatever it is."""
    failed: bool = False
    """Whether it ends with an error or a signal."""
    only_full: bool = False
    """Whether only the mode `full` refuses it."""

    @property
    def limits(self) -> Limits:
        """A short time for what must be stopped; enough for the rest, on a busy machine."""
        return Limits(time_s=0.5 if self.ending == "time limit" else 60)

    @property
    def program(self) -> str:
        return PREFIX + dedent(self.text)


ATTACKS = (
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
    # --- files
    Attack(
        "/proc",
        """
        refused(
            lambda: os.listdir("/proc"), lambda: os.listdir("/proc/self/fd"), lambda: open("/proc/1/environ").read(),
            lambda: open("/proc/self/mem", "r+b"), lambda: os.listdir("/sys"),
        )
    """,
    ),
    Attack(
        "files of this machine",
        """
        refused(*[lambda name=name: open(name).read() for name in (
            "/etc/passwd", "/etc/shadow", "/etc/hosts", "/root/.bashrc", "/var/log/syslog", "/dev/mem", "/dev/sda",
        )])
    """,
    ),
    Attack(
        "relative paths",
        'refused(lambda: open("../" * 40 + "etc/passwd").read(), lambda: os.listdir("../" * 9 + "etc"))',
    ),
    Attack(
        "symbolic links",
        """
        def follow(target):
            os.symlink(target, "link")
            try:
                return os.listdir("link") if os.path.isdir("link") else open("link").read()
            finally:
                os.unlink("link")
        refused(lambda: follow("/etc/passwd"), lambda: follow("/proc/1/root/etc"), lambda: follow("../../etc"))
    """,
    ),
    Attack("hard links", """refused(lambda: os.link(os.__file__, "here"), lambda: os.link("/etc/passwd", "here"))"""),
    Attack(
        "the standard library",
        """
        folder = os.path.dirname(os.__file__)
        refused(
            lambda: open(os.__file__, "a"), lambda: open(folder + "/new.py", "w"), lambda: os.mkdir(folder + "/new"),
            lambda: os.rename(os.__file__, os.__file__), lambda: os.chmod(os.__file__, os.stat(os.__file__).st_mode),
            lambda: os.truncate(os.__file__, os.path.getsize(os.__file__)), lambda: os.utime(os.__file__),
            lambda: os.mkdir("/new"), lambda: open("/new", "w"), lambda: open("/dev/new", "w"),
            lambda: os.chown(os.__file__, -1, -1), lambda: os.setxattr(os.__file__, "user.x", b""),
            lambda: os.removexattr(os.__file__, "user.x"),
        )
    """,
    ),
    Attack(
        "any place to write to",
        """
        def write(path, flags):
            os.close(os.open(path, flags))
            print("writable:", path)
            if flags & os.O_CREAT:
                os.unlink(path)

        library = os.path.dirname(os.__file__)
        folders = {os.path.join("/", *library.split("/")[:n]) for n in range(1, library.count("/") + 1)}
        walked = [each for each in os.walk(library) if "/site-packages/" not in each[0]]
        folders |= {"/", "/dev", "/empty", *(each[0] for each in walked)}
        files = [os.path.join(place, name) for place, _, names in walked for name in names]
        refused(*[lambda p=p: write(p + "/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY) for p in folders],
                *[lambda p=p: write(p, os.O_WRONLY) for p in files])
    """,
    ),
    Attack(
        "packages of this Python",
        """
        def find():
            import numpy
        refused(find, lambda: sys.path.append(os.path.dirname(os.__file__) + "/site-packages") or find(),
                lambda: __import__("nanochat.settings"))
    """,
    ),
    Attack(
        "a full disk",
        """
        written = 0
        try:
            for number in range(100):
                with open(f"file{number}", "wb") as file:
                    while True:
                        written += file.write(b"x" * (1 << 20))
                        file.flush()
        except OSError:
            pass
        print("refused" if written <= (18 << 20) else written)
    """,
        only_full=True,
    ),
    Attack(
        "no inodes left",
        """
        made = 0
        try:
            while made < 100_000:
                os.mkdir(f"folder{made}")
                made += 1
        except OSError:
            pass
        print("refused" if made <= 1024 else made)
    """,
    ),
    Attack(
        "devices",
        """
        import stat
        refused(
            lambda: os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(8, 0)),
            lambda: os.mknod("memory", stat.S_IFCHR | 0o600, os.makedev(1, 1)),
            lambda: os.mkfifo("pipe"),
        )
    """,
    ),
    # --- network
    Attack(
        "network",
        """
        import socket
        refused(
            lambda: socket.create_connection(("127.0.0.1", 22), 1),
            lambda: socket.create_connection(("1.1.1.1", 53), 1),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), lambda: socket.socket(socket.AF_INET6),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW), lambda: socket.socket(16, 3, 0),
            lambda: socket.socket(40, 1), lambda: socket.getaddrinfo("example.com", 80),
        )
    """,
    ),
    Attack(
        "sockets of other processes",
        """
        import socket
        def connect(address):
            socket.socket(socket.AF_UNIX).connect(address)
        def send(address):
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            one.sendto(b"hello", address)
        def send_stream(address):
            one, other = socket.socketpair()
            one.sendto(b"hello", address)
        refused(
            lambda: connect("\\0abstract"), lambda: connect("/var/run/docker.sock"), lambda: send("/dev/log"),
            lambda: send("\\0abstract"), lambda: send_stream("/run/systemd/notify"),
            lambda: socket.socketpair()[0].bind("\\0mine"), lambda: socket.socketpair()[0].listen(),
        )
    """,
    ),
    # --- other processes
    Attack(
        "signals to all",
        """
        import signal
        refused(*[lambda n=n, t=t: os.kill(t, n) for t in (-1, 0, os.getppid() or 2, 2, 3) for n in (0, 18, 28)],
                lambda: os.killpg(os.getpid(), 0), lambda: signal.pidfd_send_signal(os.pidfd_open(os.getpid()), 0))
    """,
    ),
    Attack(
        "signals through a file",
        """
        import fcntl
        pipe, _ = os.pipe()
        refused(lambda: fcntl.fcntl(pipe, fcntl.F_SETOWN, 2), lambda: fcntl.fcntl(pipe, 10, 9))
    """,
    ),
    Attack(
        "ptrace",
        X86_64
        + """
refused(lambda: system_call(101, 16, os.getppid() or 2, 0, 0), lambda: system_call(101, 0, 0, 0, 0),
        lambda: system_call(310, os.getppid() or 2, 0, 0, 0, 0, 0), lambda: system_call(311, 2, 0, 0, 0, 0, 0),
        lambda: system_call(438, 3, 3, 0), lambda: system_call(434, os.getpid(), 0))
""",
    ),
    # --- the kernel
    Attack(
        "limits",
        """
        import resource
        kinds = (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)
        refused(*[lambda k=k, v=v: resource.setrlimit(k, (v, v)) for k in kinds for v in (-1, 1, 1 << 40)],
                lambda: resource.prlimit(2, resource.RLIMIT_AS, (1, 1)), lambda: os.nice(-5),
                lambda: os.sched_setaffinity(0, {0}), lambda: os.setpriority(0, 0, -5))
    """,
    ),
    Attack(
        "nested namespaces",
        """
        refused(*[lambda f=f: libc.unshare(f) for f in
                  (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x10000000 | 0x20000, 0x80)],
                lambda: libc.setns(0, 0))
    """,
    ),
    Attack(
        "mounts",
        """
        refused(
            lambda: libc.mount(b"none", b"/no", b"tmpfs", 0, b""), lambda: libc.mount(b"proc", b"/no", b"proc", 0, b""),
            lambda: libc.mount(b"none", b"/no", b"", 32 | 4096, b""), lambda: libc.umount2(b"/no", 2),
            lambda: libc.pivot_root(b"/no", b"/no") if hasattr(libc, "pivot_root") else os.chroot("/no"),
            lambda: os.chroot("/"),
        )
    """,
    ),
    Attack(
        "escape from chroot",
        """
        def escape():
            os.mkdir("inside")
            root = os.open("/", os.O_RDONLY)
            os.chroot("inside")
            os.fchdir(root)
            return os.listdir("../../..")
        refused(escape)
    """,
    ),
    Attack(
        "become root",
        """
        refused(lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0),
                lambda: os.setregid(0, 0), lambda: libc.capset(0, 0), lambda: libc.prctl(8, 1, 0, 0, 0),
                lambda: libc.setresuid(-1, -1, -1))
    """,
    ),
    Attack(
        "undo the filter",
        """
        refused(lambda: libc.prctl(38, 0, 0, 0, 0), lambda: libc.prctl(22, 0, 0, 0, 0),
                lambda: libc.prctl(4, 1, 0, 0, 0),
                lambda: libc.prctl(1, 0, 0, 0, 0), lambda: libc.prctl(36, 1, 0, 0, 0))
    """,
    ),
    Attack(
        "another instruction set",
        X86_64
        + """
x32 = 0x40000000
refused(lambda: system_call(x32 | 57), lambda: system_call(x32 | 41, 2, 1, 0), lambda: system_call(x32 | 39))
""",
    ),
    Attack(
        "keys, io_uring, BPF and others",
        X86_64
        + """
numbers = (248, 249, 250, 425, 426, 321, 298, 323, 172, 173, 175, 313, 246, 169, 227, 159, 305, 167, 179,
           155, 208, 206, 237, 279, 310, 312, 304, 303, 300, 301, 253, 254, 294, 240, 68, 64, 29, 442, 428)
refused(*[lambda n=n: system_call(n, 0, 0, 0, 0, 0) for n in numbers])
""",
    ),
    # --- what it could read
    Attack(
        "inherited files",
        """
        import fcntl
        found = []
        for number in range(3, 4096):
            try:
                fcntl.fcntl(number, fcntl.F_GETFD)
                found.append(number)
            except OSError:
                pass
        print(found or "refused")
    """,
    ),
    Attack(
        "environment and arguments",
        """
        known = {"PYTHONHASHSEED", "PYTHONUTF8", "LANG", "LD_LIBRARY_PATH", "LC_CTYPE"}
        print(sorted(set(os.environ) - known) or (sys.argv != [""] and sys.argv) or "refused")
    """,
    ),
    Attack(
        "secrets in memory",
        """
        import gc
        found = [each for each in gc.get_objects() if isinstance(each, dict) and "SECRET_OF_THE_CALLER" in each]
        frame, frames = sys._getframe(), []
        while frame:
            frames += [name for name in frame.f_locals if "secret" in name.lower()]
            frame = frame.f_back
        print(found or frames or "refused")
    """,
    ),
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
