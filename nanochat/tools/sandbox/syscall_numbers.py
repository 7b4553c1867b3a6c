"""Numbers of the system calls that confined programs may use, and of those that confine them."""

import platform
from functools import cache

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""`AUDIT_ARCH_…` of linux/audit.h, by machine."""

_TABLE = """
read 0 63
write 1 64
readv 19 65
writev 20 66
pread64 17 67
pwrite64 18 68
preadv 295 69
pwritev 296 70
close 3 57
lseek 8 62
fstat 5 80
newfstatat 262 79
stat 4 -
lstat 6 -
statx 332 291
access 21 -
faccessat 269 48
faccessat2 439 439
readlink 89 -
readlinkat 267 78
open 2 -
openat 257 56
getdents64 217 61
getcwd 79 17
chdir 80 49
fchdir 81 50
dup 32 23
dup2 33 -
dup3 292 24
fcntl 72 25
flock 73 32
fsync 74 82
fdatasync 75 83
ftruncate 77 46
fadvise64 221 223
sendfile 40 71
copy_file_range 326 285
pipe 22 -
pipe2 293 59
poll 7 -
ppoll 271 73
select 23 -
pselect6 270 72
epoll_create1 291 20
epoll_create 213 -
epoll_ctl 233 21
epoll_wait 232 -
epoll_pwait 281 22
eventfd2 290 19
timerfd_create 283 85
timerfd_settime 286 86
timerfd_gettime 287 87
socketpair 53 199
sendto 44 206
recvfrom 45 207
sendmsg 46 211
recvmsg 47 212
shutdown 48 210
getsockopt 55 209
setsockopt 54 208
getsockname 51 204
getpeername 52 205
mmap 9 222
munmap 11 215
mprotect 10 226
mremap 25 216
madvise 28 233
brk 12 214
mincore 27 232
rt_sigaction 13 134
rt_sigprocmask 14 135
rt_sigreturn 15 139
rt_sigpending 127 136
rt_sigtimedwait 128 137
rt_sigsuspend 130 133
sigaltstack 131 132
pause 34 -
alarm 37 -
getitimer 36 102
setitimer 38 103
restart_syscall 219 128
futex 202 98
set_robust_list 273 99
get_robust_list 274 100
rseq 334 293
membarrier 324 283
sched_yield 24 124
sched_getaffinity 204 123
sched_getparam 143 121
sched_getscheduler 145 120
sched_get_priority_max 146 125
sched_get_priority_min 147 126
set_tid_address 218 96
getcpu 309 168
nanosleep 35 101
clock_nanosleep 230 115
clock_gettime 228 113
clock_getres 229 114
gettimeofday 96 169
time 201 -
times 100 153
getrusage 98 165
getpid 39 172
getppid 110 173
gettid 186 178
getuid 102 174
geteuid 107 175
getgid 104 176
getegid 108 177
getresuid 118 148
getresgid 120 150
getgroups 115 158
getpgrp 111 -
getpgid 121 155
getsid 124 156
getpriority 140 141
umask 95 166
uname 63 160
sysinfo 99 179
getrlimit 97 163
getrandom 318 278
exit 60 93
exit_group 231 94
wait4 61 260
waitid 247 95
mkdir 83 -
mkdirat 258 34
rmdir 84 -
unlink 87 -
unlinkat 263 35
rename 82 -
renameat 264 38
renameat2 316 276
link 86 -
linkat 265 37
symlink 88 -
symlinkat 266 36
chmod 90 -
fchmod 91 52
fchmodat 268 53
truncate 76 45
utimensat 280 88
fallocate 285 47
statfs 137 43
fstatfs 138 44
clone 56 220
ioctl 16 29
prctl 157 167
prlimit64 302 261
kill 62 129
tgkill 234 131
capset 126 91
setns 308 268
pivot_root 155 41
landlock_create_ruleset 444 444
landlock_add_rule 445 445
landlock_restrict_self 446 446
"""
FIRST_NEW = 424
"""From here on, numbers are the same on every machine, and libraries expect a kernel without them."""


@cache
def numbers() -> dict[str, int]:
    """Number of each system call on this machine; those that it does not have are left out.

    Raises `OSError` on a machine without a table.
    """
    column = list(AUDIT_ARCH).index(machine()) + 1
    rows = (line.split() for line in _TABLE.split("\n") if line)
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def machine() -> str:
    """`x86_64` or `aarch64`. Raises `OSError` for another machine."""
    found = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine())
    if platform.system() != "Linux" or found not in AUDIT_ARCH:
        raise OSError(f"no table of system calls for {platform.system()} on {platform.machine()}")
    return found
