"""Run a command, and kill it with all its children as soon as whoever started this is gone.

That one holds the other end of standard input. Run as a program, without site packages: 20 ms.
"""

import os
import signal
import subprocess
import sys
import threading


def _end_with(child):
    code = child.wait()
    os._exit(code if code >= 0 else 128 - code)


def main(command):
    # Sockets to listen on are inherited.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_end_with, args=(child,), daemon=True).start()
    while sys.stdin.buffer.read(1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
