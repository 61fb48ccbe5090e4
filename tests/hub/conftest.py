"""A local replacement of the Hub for huggingface_hub's requests."""

import base64
import hashlib
import http.server
import json
import threading
import urllib.parse
from dataclasses import dataclass, field

import huggingface_hub.constants
import pytest
import transformers.utils.hub

TOKEN = "hf_of_a_test"


@dataclass
class Repository:
    """A repository: files by path, the message and the paths of each commit, and the Space's variables."""

    is_private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[str, list[str]]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


@dataclass
class StandIn:
    """A local Hub.

    Attributes:
        repositories: By `models/owner/name` or `spaces/owner/name`.
        uploads: Path and content of each file of each commit, also of files that were replaced or deleted later.
        environment: Variables with which another process uses this Hub.
    """

    address: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}


@pytest.fixture
def hub(monkeypatch):
    """Start a local Hub, which this process uses instead of the real one."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stand_in = StandIn(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.stand_in.address)
    template = f"{server.stand_in.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server.stand_in
    server.shutdown()
    server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> StandIn:
        return self.server.stand_in

    def answer(self, value, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer({"error": code}, status, {"X-Error-Code": code, "X-Error-Message": code})

    def dispatch(self) -> None:
        """Answer requests to [api/]models/owner/name/…; without api, the paths of models have no `models/`."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        may_write = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path.startswith("objects/"):  # uploads to the address that `batch` returns have no token
            self.hub.objects[path.removeprefix("objects/")] = body
            return self.answer(b"")
        if path == "api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.command == "POST" and not may_write:
            return self.refuse(401, "Unauthorized")
        if path == "api/repos/create":
            return self.create(json.loads(body))
        is_api, parts = path.startswith("api/"), path.removeprefix("api/").split("/")
        if parts[0] not in ("models", "spaces"):
            parts.insert(0, "models")
        repository = self.hub.repositories.get("/".join(parts[:3]).removesuffix(".git"))
        if repository is None or (repository.is_private and not may_write):
            return self.refuse(401 if not may_write else 404, "RepoNotFound")
        action, rest = (parts[3] if len(parts) > 3 else "info"), parts[4:]
        if not is_api and action == "resolve":
            return self.resolve(repository, "/".join(rest[1:]))
        {
            "preupload": self.preupload,
            "info": self.batch if parts[2].endswith(".git") else self.describe,
            "revision": self.describe,
            "tree": self.tree,
            "commit": self.commit,
            "variables": self.variables,
        }[action](repository, body)

    do_GET = do_HEAD = do_POST = do_PUT = dispatch

    def create(self, asked: dict) -> None:
        kind = asked.get("type") or "model"
        name = f"{asked['organization']}/{asked['name']}"
        if f"{kind}s/{name}" in self.hub.repositories:
            return self.answer({"url": f"{self.hub.address}/{name}"}, 409)
        self.hub.repositories[f"{kind}s/{name}"] = Repository(is_private=asked.get("visibility") == "private")
        self.answer({"url": f"{self.hub.address}/{'spaces/' if kind == 'space' else ''}{name}"})

    def preupload(self, repository: Repository, body: bytes) -> None:
        """Accept large and binary files as objects of the large-file store, as the Hub does."""
        answers = []
        for file in json.loads(body)["files"]:
            is_text = b"\0" not in base64.b64decode(file["sample"]) and file["size"] < 10_000_000
            mode = "regular" if is_text else "lfs"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
        self.answer({"files": answers})

    def batch(self, repository: Repository, body: bytes) -> None:
        """Return the address to which each object is uploaded."""
        objects = [
            item | {"actions": {"upload": {"href": f"{self.hub.address}/objects/{item['oid']}"}}}
            for item in json.loads(body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def commit(self, repository: Repository, body: bytes) -> None:
        message, touched = "", []
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                message = value["summary"]
                continue
            touched.append(value["path"])
            if key == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                content = self.hub.objects[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                repository.files[value["path"]] = content
            else:
                assert key == "deletedFile"
                del repository.files[value["path"]]
                continue
            self.hub.uploads.append((value["path"], repository.files[value["path"]]))
        repository.commits.append((message, touched))
        name = urllib.parse.urlsplit(self.path).path.removeprefix("/api/").removeprefix("models/").split("/commit/")[0]
        oid = self.revision(repository)
        self.answer({"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid})

    def revision(self, repository: Repository) -> str:
        return f"{len(repository.commits):040x}"

    def describe(self, repository: Repository, body: bytes) -> None:
        siblings = [{"rfilename": name} for name in repository.files]
        facts = {"id": "owner/name", "sha": self.revision(repository), "private": repository.is_private}
        self.answer(facts | {"siblings": siblings, "tags": []})

    def tree(self, repository: Repository, body: bytes) -> None:
        self.answer(
            [
                {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
                for name, content in repository.files.items()
            ]
        )

    def variables(self, repository: Repository, body: bytes) -> None:
        asked = json.loads(body)
        repository.variables[asked["key"]] = asked["value"]
        self.answer({asked["key"]: asked})

    def resolve(self, repository: Repository, name: str) -> None:
        headers = {"X-Repo-Commit": self.revision(repository)}
        if name not in repository.files:
            return self.answer(b"", 404, headers | {"X-Error-Code": "EntryNotFound"})
        content = repository.files[name]
        self.answer(content, headers=headers | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

    def log_message(self, *args) -> None:
        pass
