"""An HTTP server on loopback that speaks as Ollama, OpenAI and Anthropic do, well or badly."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPLY = "Here are some:\n1. a news story about\n2. this article covers\n3. headlines from the world of"
CANDIDATES = ["a news story about", "this article covers", "headlines from the world of"]


class LLMServer:
    """Answers every request with `reply`, or as its fields say; `start` and `stop` keep the port."""

    def __init__(self):
        self.reply = REPLY
        self.status = 200
        self.error = "it went wrong"
        self.delay = 0.0
        """Seconds before an answer begins."""
        self.drip = 0.0
        """Seconds between the pieces of a streamed answer."""
        self.requests = []
        """(path, headers, body) of each."""
        self._server = None
        self.start(0)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, port=None):
        owner = self

        class Handler(_Handler):
            llm = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port if port is None else port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    llm: LLMServer

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.llm.requests.append((self.path, dict(self.headers), body))
        time.sleep(self.llm.delay)
        try:
            if self.llm.status != 200:
                self._refuse()
            else:
                {
                    "/api/chat": self._ollama,
                    "/v1/chat/completions": self._openai,
                    "/v1/messages": self._anthropic,
                }[self.path](body["model"])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client had enough

    def _refuse(self):
        if self.path == "/api/chat":
            self._send({"error": self.llm.error}, self.llm.status)
        else:
            self._send({"error": {"message": self.llm.error, "type": "x", "code": "y"}}, self.llm.status)

    def _ollama(self, model):
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        for piece in self.llm.reply.splitlines(keepends=True):
            time.sleep(self.llm.drip)
            message = {"role": "assistant", "content": piece}
            self._line({"model": model, "created_at": "2025-01-01T00:00:00Z", "message": message, "done": False})
        end = {"model": model, "created_at": "2025-01-01T00:00:00Z", "message": {"role": "assistant", "content": ""}}
        self._line({**end, "done": True, "done_reason": "stop", "prompt_eval_count": 70, "eval_count": 20})

    def _line(self, value):
        self.wfile.write(json.dumps(value).encode() + b"\n")
        self.wfile.flush()

    def _openai(self, model):
        choice = {"index": 0, "message": {"role": "assistant", "content": self.llm.reply}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 70, "completion_tokens": 20, "total_tokens": 90}
        completion = {"id": "c", "object": "chat.completion", "created": 1, "model": model}
        self._send({**completion, "choices": [choice], "usage": usage})

    def _anthropic(self, model):
        message = {"id": "m", "type": "message", "role": "assistant", "model": model, "stop_reason": "end_turn"}
        content = [{"type": "text", "text": self.llm.reply}]
        self._send({**message, "content": content, "usage": {"input_tokens": 70, "output_tokens": 20}})

    def _send(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
