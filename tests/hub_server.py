"""A small server with the part of the Hugging Face hub's protocol that huggingface_hub uses for files of models."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class HubServer:
    """Repositories in memory; `requests` lists the requests."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        self.damaged = False  # whether contents arrive with a changed byte
        server = self

        class Handler(_Handler):
            hub = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()


def file_record(path: str, content: bytes) -> dict[str, Any]:
    """Return the hub's description of a file; weights are stored by their SHA-256."""
    record = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    if path.endswith(".safetensors"):
        record["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return record


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def _answer(self, status: int, document: Any = None, content: bytes = b"", **headers: str) -> None:
        body = content if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if document is not None else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _files(self, repository: str) -> dict[str, bytes] | None:
        files = self.hub.repositories.get(repository)
        if files is None:
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return files

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)(/revision/[^/]+)?", path):
            if self._files(match[1]) is not None:
                self._answer(200, {"id": match[1], "modelId": match[1], "sha": COMMIT, "private": True, "siblings": []})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+/?(.*)", path):
            files = self._files(match[1])
            if files is not None:
                self._answer(200, [file_record(name, content) for name, content in files.items() if "/" not in name])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            files = self._files(match[1])
            if files is not None and match[2] not in files:
                self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            elif files is not None:
                content = files[match[2]]
                damaged = content[:-1] + bytes([content[-1] ^ 1]) if self.hub.damaged else content
                etag = hashlib.sha256(content).hexdigest()
                self._answer(200, content=damaged, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
        else:
            self._answer(404, {"error": f"unknown path {path}"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"POST {path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/repos/create":
            wanted = json.loads(body)
            owner = wanted.get("organization") or "me"
            repository = f"{owner}/{wanted['name']}"
            self.hub.repositories.setdefault(repository, {})
            self.hub.private[repository] = wanted["private"]
            self._answer(200, {"url": f"{self.hub.address}/{repository}", "name": repository})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/paths-info/[^/]+", path):
            files = self._files(match[1])
            if files is not None:
                names = json.loads(body)["paths"]
                self._answer(200, [file_record(name, files[name]) for name in names if name in files])
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/[^/]+", path):
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer(200, {"files": [{"path": file["path"], **modes} for file in json.loads(body)["files"]]})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/[^/]+", path):
            for line in body.splitlines():
                operation = json.loads(line)
                if operation["key"] == "file":
                    value = operation["value"]
                    self.hub.repositories[match[1]][value["path"]] = base64.b64decode(value["content"])
            self._answer(200, {"commitUrl": f"{self.hub.address}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        else:
            self._answer(404, {"error": f"unknown path {path}"})
