"""Who may connect to a trainer: answers libzmq's requests for authentication (ZAP, rfc.zeromq.org/spec/27).

CURVE alone admits every key. It checks them only with a ZAP domain, ZAP_ENFORCE_DOMAIN and a handler in the same
context; without the handler it then refuses everybody.
"""

import zmq
from zmq.utils import z85

from bus.keys import AllowList
from bus.sockets import Socket

ADDRESS = "inproc://zeromq.zap.01"
DOMAIN = b"tandem"


def secure_server(socket: Socket, secret_key: bytes) -> None:
    """Set the CURVE options of a ROUTER before it is bound."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret_key)
    socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


class Admission:
    """The ZAP handler of a context: admits the keys of `allowed`. Used from one thread after it was made."""

    def __init__(self, context: zmq.Context[Socket], allowed: AllowList) -> None:
        self._allowed = allowed
        self.socket = context.socket(zmq.REP)
        """Readable when a client asks to connect."""
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ADDRESS)

    def answer(self) -> int:
        """Answer the requests that have arrived; the number that was refused."""
        refused = 0
        while True:
            try:
                version, request, domain, _, _, mechanism, *credentials = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return refused
            key = z85.encode(credentials[0]) if mechanism == b"CURVE" and credentials else b""
            admitted = domain == DOMAIN and key in self._allowed
            status = [b"200", b"OK"] if admitted else [b"400", b"not admitted"]
            self.socket.send_multipart([version, request, *status, key if admitted else b"", b""])
            refused += not admitted

    def admits(self, frame: zmq.Frame) -> bool:
        """Whether the sender of `frame` is still admitted. Its key is the User-Id that `answer` gave the connection."""
        return str(frame.get("User-Id")).encode() in self._allowed

    def close(self) -> None:
        """Refuse everybody from now on."""
        self.socket.close()
