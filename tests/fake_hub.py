"""A small Hugging Face Hub for tests: one HTTP server on 127.0.0.1, with repositories in a dict and no git.

Use: `from fake_hub import fake_hub_fixture  # noqa: F401`, then take the fixture `fake_hub`. It gives the test a cache
and a token of its own, so that no test touches those of the user.
"""

import base64
import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class FakeHub(ThreadingHTTPServer):
    """The state of the Hub: `branches[repo][branch]` is a commit's hash, `trees[hash]` its files {path: bytes}."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.branches: dict[str, dict[str, str]] = {}
        self.trees: dict[str, dict[str, bytes]] = {}
        self.gated: dict[str, str] = {}  # repo -> the token that opens it
        self.requests: list[str] = []  # "METHOD /path" of every request, in order
        self.agents: set[str] = set()
        self.status: int | None = None  # the status of every answer
        self.commit_status: int | None = None  # the status of answers to commits only
        self.tamper: str | None = None  # the file of which a byte is changed whenever it is committed
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Add all of `files` as the next commit of a branch, or none on an error; return its hash."""
        branches = self.branches.setdefault(repo, {})
        tree = {**self.trees.get(branches.get(branch, ""), {}), **files}
        sha = hashlib.sha1(repr((repo, sorted(tree.items()))).encode()).hexdigest()
        self.trees[sha] = tree
        branches[branch] = sha
        return sha


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def reply(self, status: int, body: bytes = b"{}", **headers: str):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def route(self):
        hub = self.server
        hub.requests.append(f"{self.command} {self.path}")
        hub.agents.add(self.headers.get("User-Agent", ""))
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = [urllib.parse.unquote(part) for part in self.path.split("?")[0].strip("/").split("/")]
        if hub.status is not None:
            return self.reply(hub.status)
        if path == ["api", "repos", "create"]:
            wanted = json.loads(sent)
            repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            known = repo in hub.branches
            if not known:
                hub.commit(repo, {})
            return self.reply(409 if known else 200, json.dumps({"url": f"{hub.url}/{repo}"}).encode())
        if path == ["api", "validate-yaml"]:
            return self.reply(200, b'{"errors": [], "warnings": []}')
        repo = "/".join(path[2:4] if path[0] == "api" else path[:2])
        if repo not in hub.branches:
            return self.reply(404, X_Error_Code="RepoNotFound")
        if repo in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.gated[repo]}":
            return self.reply(403, X_Error_Code="GatedRepo")
        verb, revision, file = (path[4], path[5], "") if path[0] == "api" else (path[2], path[3], "/".join(path[4:]))
        sha = hub.branches[repo].get(revision, revision)
        if sha not in hub.trees:
            return self.reply(404, X_Error_Code="RevisionNotFound")
        tree = hub.trees[sha]
        if verb == "preupload":
            names = [file["path"] for file in json.loads(sent)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.reply(200, json.dumps({"files": modes}).encode())
        if verb == "commit":
            lines = [json.loads(line)["value"] for line in sent.splitlines() if json.loads(line)["key"] == "file"]
            if hub.commit_status is not None:
                return self.reply(hub.commit_status)
            files = {line["path"]: base64.b64decode(line["content"]) for line in lines}
            if hub.tamper in files:
                files[hub.tamper] = files[hub.tamper][:-1] + bytes([files[hub.tamper][-1] ^ 1])
            proposed = "create_pr=1" in self.path
            sha = hub.commit(repo, files, "refs/pr/1" if proposed else revision)
            done = {"success": True, "commitOid": sha, "commitUrl": f"{hub.url}/{repo}/commit/{sha}"}
            done |= {"pullRequestUrl": f"{hub.url}/{repo}/discussions/1"} if proposed else {}
            return self.reply(200, json.dumps(done).encode())
        if verb == "revision":
            return self.reply(200, json.dumps({"id": repo, "modelId": repo, "sha": sha, "siblings": []}).encode())
        if file not in tree:
            return self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        etag = '"' + hashlib.sha1(tree[file]).hexdigest() + '"'
        return self.reply(200, tree[file], ETag=etag, X_Repo_Commit=sha)

    do_HEAD = do_GET = do_POST = route


def point_at(url: str, monkeypatch) -> None:
    """Make `url` the Hub: set HF_ENDPOINT for new processes, and the constants that the client made of it."""
    from huggingface_hub import constants, file_download

    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    for module in (constants, file_download):  # Before 1.0 the second module has its own copy.
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture(name="fake_hub")
def fake_hub_fixture(tmp_path, monkeypatch):
    """Start an empty Hub that every call in the test talks to."""
    from huggingface_hub import constants

    hub = FakeHub()
    point_at(hub.url, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # The environment of the tests may set it.
    yield hub
    hub.shutdown()
    hub.server_close()
