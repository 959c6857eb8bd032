"""Two network namespaces joined by a cable: two hosts on one machine."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest


class TwoHosts:
    """The names of both; the first has `address` and the cable's end `t0`."""

    names = f"tandem{os.getpid()}a", f"tandem{os.getpid()}b"
    address = "10.77.0.1"

    def at(self, name):
        """What comes before a command that runs there."""
        return ["ip", "netns", "exec", name]

    def cut(self):
        """Pull the cable out."""
        self._ip("-n", self.names[0], "link", "set", "t0", "down")

    def join(self):
        """Put it in again."""
        self._ip("-n", self.names[0], "link", "set", "t0", "up")

    def slow(self, *discipline):
        """Have `tc` hold back what either end sends; skips where the kernel does not have this queueing discipline."""
        for name, device in zip(self.names, ("t0", "t1"), strict=True):
            done = run("tc", "-n", name, "qdisc", "replace", "dev", device, "root", *discipline)
            if done.returncode:
                pytest.skip(f"the kernel has no {discipline[0]}: {done.stderr.strip()}")

    def _ip(self, *arguments):
        done = run("ip", *arguments)
        assert done.returncode == 0, done.stderr


@contextmanager
def lay_cable():
    """Make both hosts, and remove them; skips where they cannot be made."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    hosts = TwoHosts()
    one, two = hosts.names
    made = run("ip", "netns", "add", one)
    if made.returncode:
        pytest.skip(f"the kernel forbids network namespaces: {made.stderr.strip()}")
    try:
        run("ip", "netns", "add", two)
        cable = run("ip", "link", "add", "t0", "netns", one, "type", "veth", "peer", "name", "t1", "netns", two)
        if cable.returncode:
            pytest.skip(f"the kernel has no veth: {cable.stderr.strip()}")
        for name, device, address in [(one, "t0", f"{hosts.address}/24"), (two, "t1", "10.77.0.2/24")]:
            run("ip", "-n", name, "address", "add", address, "dev", device)
            run("ip", "-n", name, "link", "set", device, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield hosts
    finally:
        run("ip", "netns", "del", one)
        run("ip", "netns", "del", two)


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)
