"""An HTTP server on loopback that speaks as Ollama, OpenAI and Anthropic do, well or badly."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPLY = "Here are some:\n1. a news story about\n2. this article covers\n3. headlines from the world of"
CANDIDATES = ["a news story about", "this article covers", "headlines from the world of"]


def asks_for_structure(body):
    return any(body.get(name) for name in ("format", "response_format", "tools"))


class LLMServer:
    """Answers every request with `reply`, or as its fields say; `start` and `stop` keep the port."""

    def __init__(self):
        self.reply = REPLY
        self.status = 200
        self.error = "it went wrong"
        self.delay = 0.0
        """Seconds before an answer begins."""
        self.drip = 0.0
        """Seconds between the pieces of an answer: lines where it is streamed, else bytes."""
        self.models = ["m:latest", "some-model:latest", "stand-in:latest"]
        """What Ollama has; a pull adds to it."""
        self.structured = None
        """What an answer with a schema holds, as JSON; None ignores the schema, False refuses it."""
        self.thoughts = ""
        """What Ollama and Anthropic send apart from the answer."""
        self.is_cut = False
        """The answer reached its maximum length."""
        self.usage = (70, 20)
        """Tokens in and out."""
        self.requests = []
        """(path, headers, body) of each POST."""
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

    def do_GET(self):
        if self.path == "/api/version":
            self._send({"version": "0.13.0"})
        elif self.path == "/api/tags":
            self._send({"models": [{"model": name, "name": name} for name in self.llm.models]})
        else:
            self._send_text("404 page not found", 404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.llm.requests.append((self.path, dict(self.headers), body))
        time.sleep(self.llm.delay)
        answer = {
            "/api/chat": self._ollama,
            "/api/pull": self._pull,
            "/v1/chat/completions": self._openai,
            "/v1/messages": self._anthropic,
        }.get(self.path)
        try:
            if answer is None:
                self._send_text("404 page not found", 404)
            elif self.llm.status != 200:
                self._refuse(self.llm.error, self.llm.status)
            elif self.llm.structured is False and asks_for_structure(body):
                self._refuse("format: structured output is not supported", 400)
            else:
                answer(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client had enough

    def _refuse(self, error, status):
        if self.path.startswith("/api/"):
            self._send({"error": error}, status)
        else:
            self._send({"error": {"message": error, "type": "x", "code": "y"}}, status)

    def _text(self, body):
        """The answer; with a schema, what `structured` says."""
        if self.llm.structured and asks_for_structure(body):
            return json.dumps(self.llm.structured)
        return self.llm.reply

    def _ollama(self, body):
        self._begin_lines()
        start = {"model": body["model"], "created_at": "2025-01-01T00:00:00Z"}
        if self.llm.thoughts:
            message = {"role": "assistant", "content": "", "thinking": self.llm.thoughts}
            self._line({**start, "message": message, "done": False})
        for piece in self._text(body).splitlines(keepends=True):
            time.sleep(self.llm.drip)
            self._line({**start, "message": {"role": "assistant", "content": piece}, "done": False})
        reason = "length" if self.llm.is_cut else "stop"
        tokens_in, tokens_out = self.llm.usage
        end = {"done": True, "done_reason": reason, "prompt_eval_count": tokens_in, "eval_count": tokens_out}
        self._line({**start, "message": {"role": "assistant", "content": ""}, **end})

    def _pull(self, body):
        self._begin_lines()
        self._line({"status": "pulling manifest"})
        for completed in (0, 500, 1000):
            self._line({"status": "pulling x", "digest": "x", "total": 1000, "completed": completed})
        self.llm.models.append(f"{body['model']}:latest")
        self._line({"status": "success"})

    def _begin_lines(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()

    def _line(self, value):
        self.wfile.write(json.dumps(value).encode() + b"\n")
        self.wfile.flush()

    def _openai(self, body):
        reason = "length" if self.llm.is_cut else "stop"
        message = {"role": "assistant", "content": self._text(body)}
        tokens_in, tokens_out = self.llm.usage
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
        completion = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        self._send({**completion, "choices": [choice], "usage": usage})

    def _anthropic(self, body):
        content = [{"type": "text", "text": self.llm.reply}]
        reason = "max_tokens" if self.llm.is_cut else "end_turn"
        if self.llm.structured and asks_for_structure(body):
            call = {"type": "tool_use", "id": "t", "name": body["tools"][0]["name"], "input": self.llm.structured}
            content, reason = [call], "tool_use"
        if self.llm.thoughts:
            content.insert(0, {"type": "thinking", "thinking": self.llm.thoughts, "signature": "s"})
        tokens_in, tokens_out = self.llm.usage
        message = {"id": "m", "type": "message", "role": "assistant", "model": body["model"], "stop_reason": reason}
        self._send({**message, "content": content, "usage": {"input_tokens": tokens_in, "output_tokens": tokens_out}})

    def _send(self, value, status=200):
        self._send_text(json.dumps(value), status, "application/json")

    def _send_text(self, text, status, kind="text/plain"):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not self.llm.drip:
            self.wfile.write(body)
            return
        for byte in body:
            time.sleep(self.llm.drip)
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def log_message(self, *_):
        pass
