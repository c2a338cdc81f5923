"""Chat completions (OpenAI's API) by rote: each tool is asked for in turn, then an answer."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ASKED = (
    ("read_file", {"path": "report.md"}),
    ("add", {"numbers": [1, 2, 3]}),
    ("write_file", {"path": "answer.md", "text": "six"}),
)


class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def give(self, body, kind="application/json"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.give(b"{}")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        base = {"id": "c1", "created": 1, "model": asked["model"]}
        if asked.get("stream"):
            parts = [{"role": "assistant", "content": word} for word in ("a ", "quiet ", "day")]
            lines = []
            for part in parts:
                choice = {"index": 0, "delta": part, "finish_reason": None}
                chunk = base | {"object": "chat.completion.chunk", "choices": [choice]}
                lines.append(f"data: {json.dumps(chunk)}\n\n")
            self.give("".join((*lines, "data: [DONE]\n\n")).encode(), "text/event-stream")
            return
        done = sum(message["role"] == "tool" for message in asked["messages"])
        message = {"role": "assistant", "content": "The quarter was quiet."}
        reason = "stop"
        if done < len(ASKED):
            name, arguments = ASKED[done]
            call = {"name": name, "arguments": json.dumps(arguments)}
            message["tool_calls"] = [{"id": f"t{done}", "type": "function", "function": call}]
            reason = "tool_calls"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        self.give(json.dumps(base | {"object": "chat.completion", "choices": [choice]}).encode())


ThreadingHTTPServer(("0.0.0.0", 80), Model).serve_forever()
