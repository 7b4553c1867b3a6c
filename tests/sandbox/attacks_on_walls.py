"""Programs that try to reach what is outside: files, network, other processes, the kernel, secrets."""

from __future__ import annotations

from tests.sandbox.attack import X86_64, Attack

ATTACKS_ON_WALLS = (
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
            "/etc/passwd", "/etc/shadow", "/etc/hosts", "/var/log/syslog", "/dev/mem", "/dev/sda",
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
        refused(lambda: follow("/etc/passwd"), lambda: follow("/proc/1/cwd/etc"), lambda: follow("../../etc"))
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
)
