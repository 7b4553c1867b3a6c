"""As much of the Hugging Face Hub as an upload of a model uses: create a repository, upload, commit."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
from typing import Any, ClassVar


class ModelHub(http.server.BaseHTTPRequestHandler):
    """Keeps what is uploaded in memory."""

    protocol_version = "HTTP/1.1"
    repositories: ClassVar[dict[str, dict[str, Any]]] = {}
    files: ClassVar[dict[str, bytes]] = {}
    large: ClassVar[dict[str, bytes]] = {}
    """Content of large files, by SHA-256."""
    tokens: ClassVar[set[str]] = set()
    """Tokens that were sent."""
    refusal: ClassVar[int] = 0
    """Status of each answer; 0: the Hub works."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/")
        status = self.refusal or (200 if name in self.repositories else 404)
        self.answer({"id": name, "modelId": name, "private": True, "siblings": []}, status)

    def do_HEAD(self) -> None:
        self.answer({}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.read_chunks()
        self.tokens.add(self.headers.get("Authorization", ""))
        if self.refusal:
            self.answer({"error": "no"}, self.refusal)
        elif self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            status = 409 if name in self.repositories else 200
            self.repositories.setdefault(name, wanted)
            self.answer({"url": self.url(name), "id": name, "name": name}, status)
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": mode(file["path"]), "shouldIgnore": False} for file in wanted]
            self.answer({"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": self.url(f"upload/{each['oid']}"), "header": {}}}}
                for each in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")
        elif "/commit/" in self.path:
            self.commit([json.loads(line) for line in body.splitlines()])
        else:
            self.answer({}, 404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = hashlib.sha256(content).hexdigest()
        self.large[digest] = content
        self.answer({}, 200 if self.path.endswith(digest) else 400)

    def commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.large[value["oid"]]
        self.answer(
            {"commitUrl": self.url("org/name/commit/c0ffee"), "commitOid": "c0ffee" * 6 + "c0de", "success": True}
        )

    def read_chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def url(self, path: str) -> str:
        return f"http://{self.headers['Host']}/{path}"

    def answer(self, content: Any, status: int = 200, kind: str = "application/json") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"
