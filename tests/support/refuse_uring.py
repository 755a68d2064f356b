#!/usr/bin/env python3
"""Runs a command whose io_uring_setup the kernel refuses, as the seccomp profiles of container runtimes do.

    refuse_uring.py EPERM COMMAND ARGUMENT…        or ENOSYS
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_ALLOW = 0x7FFF0000
IO_URING_SETUP = 425  # on every architecture

# BPF: load the system call's number, compare, return.
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06


def main():
    refusal = getattr(errno, sys.argv[1])
    instructions = [
        (LOAD_WORD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | refusal),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in instructions))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(filters)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    set_filter = (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(program)), 0, 0)
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), set_filter):
        if prctl(*call) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    os.execvp(sys.argv[2], sys.argv[2:])


main()
