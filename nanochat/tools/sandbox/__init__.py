"""Runs programs that a model wrote, confined by the kernel, and judges them by tests that they cannot reach.

`sandbox.py` is what callers use. The modules under "inside" run in a launcher process, a fresh Python without our
environment, and in the processes that it forks; they import nothing else of ours.

    caller  ──►  launcher (own namespaces)  ──fork──►  program   the model's code, confined
                                            ──fork──►  tests     only for `check`: confined too, calls the program

Inside: launcher, job, confinement, namespaces, landlock, seccomp, syscall_numbers, system_calls, control_group,
program, tests_process, plain_values.

`docs/sandbox.md` describes what is enforced by what, and what is not.
"""
