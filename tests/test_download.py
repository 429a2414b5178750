"""download: whatever a server or a folder does, the end is success or one clear error, no bad file."""

import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import typer
from typer.testing import CliRunner

from genrec_cli import artifacts
from genrec_cli.artifacts import Workspace
from genrec_cli.cli import download as cli
from genrec_cli.errors import ConfigError, DownloadError, InputError, UsageError
from genrec_cli.files import sha256_file
from genrec_cli.sources import datasets
from genrec_cli.sources.base import BadRows, RemoteFile
from genrec_cli.sources.fetch import Patience, damage, fetch
from genrec_cli.stages import download as stage
from genrec_cli.stages.status import survey

REVIEWS, META = "reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"
PATIENT = Patience(timeout=5.0, retries=3, pause=0.001, longest=0.01)
ITEMS = b"".join(b"{'asin': 'B%d'}\n" % (i * 7919 % 1009) for i in range(1000))
LINES = b"".join(b'{"reviewerID": "U%d", "asin": "B%d"}\n' % (i, i * 7919 % 1009) for i in range(20_000))
CONTENT = {REVIEWS: gzip.compress(LINES, mtime=0), META: gzip.compress(ITEMS, mtime=0)}
OTHER = gzip.compress(LINES[::-1], mtime=0)


@dataclass
class Shelf:
    """What the server does: an answer by path, tricks that are used up one by one, and what it was asked."""

    files: dict[str, bytes]
    tricks: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    etags: bool = True

    def etag(self, path: str) -> str:
        return f'"{hashlib.md5(self.files[path]).hexdigest()}"'


class Handler(BaseHTTPRequestHandler):
    """A server with tricks. Without one it serves files with ETag, Range and If-Range as it should."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        shelf: Shelf = self.server.shelf
        path = self.path.split("?")[0].rpartition("/")[2]
        shelf.asked.append((path, self.headers["Range"]))
        tricks = shelf.tricks.get(path, [])
        trick, _, value = (tricks.pop(0) if len(tricks) > 1 else tricks[0] if tricks else "").partition(" ")
        self.close_connection = True
        if trick == "status":
            code, *extra = value.split()
            return self.answer(int(code), b"sorry", {"Retry-After": extra[0]} if extra else {})
        if trick == "html":
            return self.answer(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
        if trick == "text":
            return self.answer(200, b"version https://git-lfs.github.com/spec/v1", {})
        if trick == "redirect":
            return self.answer(302, b"", {"Location": value})
        if trick == "swap":
            shelf.files[path] = OTHER
        body = shelf.files.get(path)
        if body is None:
            return self.answer(404, b"no such file", {})
        headers = {"ETag": shelf.etag(path)} if shelf.etags else {}
        start = int(self.headers["Range"][6:-1]) if self.headers["Range"] else 0
        same = self.headers["If-Range"] in (None, headers.get("ETag")) or trick in (
            "ignore-if-range",
            "blind",
        )
        if trick == "ignore-if-range":
            headers = {}
        if trick == "blind":  # continues another file, under its own ETag
            headers, body = {"ETag": '"another"'}, OTHER.ljust(len(body), b"!")[: len(body)]
        if trick == "other":  # the first bytes are another file's, though the ETag is this one's
            body, trick = OTHER[:1000].ljust(len(body), b"!"), "truncate"
        if start and same and trick != "ignore-range":
            if start >= len(body):
                return self.answer(416, b"", {})
            start -= 7 * (trick == "shifted")
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.answer(206, body[start:], headers, cut=trick, value=value)
        return self.answer(200, body, headers, cut=trick, value=value)

    def answer(self, code, body, headers, cut="", value=""):
        self.send_response(code)
        for name, text in headers.items():
            self.send_header(name, text)
        if cut == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            sent = body[:1000] if value == "cut" else body + b"\r\n0\r\n\r\n"
            return self.wfile.write(b"%x\r\n%s" % (len(body), sent))
        if cut == "no-length":
            self.end_headers()
            return self.wfile.write(body[: int(value or len(body))])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: int(value)] if cut in ("truncate", "stall") else body)
        if cut == "stall":
            self.wfile.flush()
            self.server.released.wait(20)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.shelf, httpd.released = Shelf(dict(CONTENT)), threading.Event()
    httpd.url = f"http://127.0.0.1:{httpd.server_address[1]}/data"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield httpd
    httpd.released.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def ws(tmp_path):
    return Workspace(tmp_path / "artifacts")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "by-hand"
    path.mkdir()
    for name, content in CONTENT.items():
        (path / name).write_bytes(content)
    return path


def get(ws, server, *, patience=PATIENT, **options):
    """Download Beauty from the test's server, and check that the artifact is whole."""
    plan = stage.plan("amazon-2014-beauty", {})
    artifact = stage.download(ws, plan, urls=[server.url], patience=patience, **options)
    assert ws.done(plan) is not None
    assert sorted(p.name for p in artifact.path.iterdir()) == sorted([REVIEWS, META, "SHA256SUMS", "manifest.json"])
    for name in (REVIEWS, META):
        assert (artifact.path / name).read_bytes() == server.shelf.files[name]
        assert artifact.manifest["files"][name]["sha256"] == hashlib.sha256(server.shelf.files[name]).hexdigest()
    return artifact


def refused(ws, server, **options):
    """Download Beauty, which must fail with one clear error and leave nothing that looks finished."""
    with pytest.raises(DownloadError) as caught:
        get(ws, server, **options)
    error = caught.value
    assert error.exit_code == 5
    assert "reviews_Beauty_5.json.gz" in error.message
    assert server.url in error.message
    assert "--from-dir" in error.hint and "amazon-2014-beauty" in error.hint
    assert ws.all("amazon-2014-beauty", "raw") == []
    return error.message


def ranges(server):
    return [asked for name, asked in server.shelf.asked if name == REVIEWS]


# ---- a server that serves in the end --------------------------------------------------------------------


def test_downloads_records_and_is_done(ws, server):
    artifact = get(ws, server)
    assert artifact.path.name.startswith("amazon-2014-")
    assert artifact.config == {"source": {"name": "amazon-2014", "category": "Beauty"}}
    assert artifact.result["origin"][META] == f"{server.url}/{META}"
    sums = dict(reversed(line.split("  ")) for line in (artifact.path / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: hashlib.sha256(body).hexdigest() for name, body in CONTENT.items()}


def test_resumes_where_the_connection_was_cut(ws, server):
    server.shelf.tricks[REVIEWS] = ["truncate 1000", "truncate 500", ""]
    get(ws, server)
    assert ranges(server) == [None, "bytes=1000-", "bytes=1500-"]


def test_new_bytes_renew_the_patience(ws, server):
    server.shelf.tricks[REVIEWS] = ["truncate 500"] * 9 + [""]  # more cuts than retries
    get(ws, server)
    assert len(ranges(server)) == 10


def test_resumes_after_a_stall(ws, server):
    server.shelf.tricks[REVIEWS] = ["stall 1000", ""]
    get(ws, server, patience=Patience(0.2, 3, 0.001, 0.01))
    assert ranges(server) == [None, "bytes=1000-"]


def test_starts_over_when_the_server_ignores_range(ws, server):
    server.shelf.tricks[REVIEWS] = ["truncate 1000", "ignore-range"]
    get(ws, server)
    assert ranges(server) == [None, "bytes=1000-"]


def test_starts_over_without_anything_that_identifies_the_file(ws, server):
    server.shelf.etags = False
    server.shelf.tricks[REVIEWS] = ["truncate 1000", ""]
    get(ws, server)
    assert ranges(server) == [None, None]


def test_another_file_on_resume_replaces_the_first(ws, server):
    server.shelf.tricks[REVIEWS] = ["truncate 1000", "swap"]
    assert get(ws, server).manifest["files"][REVIEWS]["bytes"] == len(OTHER)
    assert ranges(server) == [None, "bytes=1000-"]


def test_another_file_on_resume_that_the_server_hides_is_not_mixed_in(ws, server):
    server.shelf.tricks[REVIEWS] = ["other 1000", "ignore-if-range", ""]
    get(ws, server)
    assert ranges(server) == [None, "bytes=1000-", None]


@pytest.mark.parametrize("trick", ["blind", "shifted"])
def test_a_continuation_of_something_else_is_told_by_its_headers(ws, server, tmp_path, trick):
    server.shelf.files["log.csv"] = b"user,item\n" * 999  # nothing in the content would tell
    server.shelf.tricks["log.csv"] = ["truncate 1000", trick, ""]
    fetch(RemoteFile("log.csv", (f"{server.url}/log.csv",)), tmp_path, patience=PATIENT, hint="")
    assert (tmp_path / "log.csv").read_bytes() == server.shelf.files["log.csv"]
    assert [asked for _, asked in server.shelf.asked] == [None, "bytes=1000-", None]


def test_a_part_from_one_mirror_is_not_continued_from_another(ws, server, tmp_path):
    server.shelf.files |= {"a.csv": b"user,item\n" * 999, "b.csv": b"item,user\n" * 999}
    server.shelf.tricks |= {"a.csv": ["truncate 1000", "status 404"], "b.csv": ["ignore-if-range"]}
    file = RemoteFile("log.csv", (f"{server.url}/a.csv", f"{server.url}/b.csv"))
    fetch(file, tmp_path, patience=PATIENT, hint="")
    assert (tmp_path / "log.csv").read_bytes() == server.shelf.files["b.csv"]


def test_a_part_that_is_longer_than_the_file_is_dropped(ws, server):
    server.shelf.tricks[REVIEWS] = ["truncate 5000", "status 416", ""]
    get(ws, server)
    assert ranges(server) == [None, "bytes=5000-", None]


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_asks_again_after_a_passing_fault(ws, server, code):
    server.shelf.tricks[REVIEWS] = [f"status {code}", f"status {code}", ""]
    get(ws, server)
    assert len(ranges(server)) == 3


def test_honours_retry_after(ws, server):
    server.shelf.tricks[REVIEWS] = ["status 503 1", ""]
    started = time.monotonic()
    get(ws, server, patience=Patience(5.0, 3, 0.001, 2.0))
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize("first", ["status 404", "status 403", "html", "text", "status 503", "redirect ftp://x/"])
def test_falls_back_to_the_next_mirror(ws, server, first):
    server.shelf.files["bad.gz"] = b""
    server.shelf.tricks["bad.gz"] = [first]
    file = RemoteFile(REVIEWS, (f"{server.url}/bad.gz", f"{server.url}/{REVIEWS}"))
    ws.root.mkdir()
    assert fetch(file, ws.root, patience=PATIENT, hint="") == file.urls[1]
    assert [p.name for p in ws.root.iterdir()] == [REVIEWS]
    assert (ws.root / REVIEWS).read_bytes() == CONTENT[REVIEWS]


def test_follows_redirects(ws, server):
    server.shelf.tricks[META] = [f"redirect {server.url}/moved.gz"]
    server.shelf.files["moved.gz"] = CONTENT[META]
    get(ws, server)


@pytest.mark.parametrize("trick", ["chunked", "no-length"])
def test_takes_a_body_of_unknown_length(ws, server, trick):
    server.shelf.tricks[REVIEWS] = [trick]
    get(ws, server)


@pytest.mark.parametrize("trick", ["chunked cut", "no-length 1000"])
def test_a_body_of_unknown_length_that_is_cut_is_noticed(ws, server, trick):
    server.shelf.tricks[REVIEWS] = [trick, ""]
    get(ws, server)
    assert len(ranges(server)) == 2


# ---- a server that never does ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        ("status 404", "answered 404"),
        ("status 500", "answered 500 Internal Server Error; 4 attempts"),
        ("status 503 3600", "wants 3,600 s"),
        ("truncate 1000", "ended the file after 1,000 of"),
        ("stall 1000", "was silent for 0.2 s"),
        ("html", "sent a web page"),
        ("text", "in place of a gzip file"),
        ("redirect {url}", "redirect"),
    ],
)
def test_gives_up_with_one_clear_error(ws, server, trick, reason):
    server.shelf.tricks[REVIEWS] = [trick.format(url=f"{server.url}/{REVIEWS}")]
    server.shelf.etags = False  # nothing to resume by: the same cut comes again
    assert reason in refused(ws, server, patience=Patience(0.2, 3, 0.001, 0.01))


def test_nobody_there(ws, server):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert "cannot be reached" in refused(ws, server)


@pytest.mark.parametrize("content", [CONTENT[REVIEWS][:-9], CONTENT[REVIEWS] + b"junk", b"\x1f\x8bjunk", b""])
def test_a_damaged_gzip_file_is_refused(ws, server, content):
    server.shelf.files[REVIEWS] = content
    message = refused(ws, server)
    assert "gzip file" in message or "is empty" in message
    assert len(ranges(server)) == 1  # the same bytes would come again


def test_a_file_of_the_wrong_length_is_refused(ws, server):
    file = RemoteFile(REVIEWS, (f"{server.url}/{REVIEWS}",), bytes=17)
    with pytest.raises(DownloadError, match="not 17"):
        fetch(file, ws.root, patience=PATIENT, hint="")


def test_a_known_checksum_is_enforced(ws, server, monkeypatch, folder):
    wrong = "0" * 64
    listed = [file._replace(sha256=wrong) for file in datasets.files("amazon-2014", "Beauty")]
    monkeypatch.setattr(datasets, "files", lambda source, category: listed)
    assert f"not {wrong}" in refused(ws, server)
    with pytest.raises(DownloadError, match=f"not {wrong}"):
        stage.download(ws, stage.plan("amazon-2014-beauty", {}), from_dir=folder)


# ---- again ----------------------------------------------------------------------------------------------


def test_what_failed_goes_on_with_the_next_call(ws, server):
    server.shelf.tricks[META] = ["truncate 50", "status 404"]
    with pytest.raises(DownloadError, match="50 bytes are kept"):
        get(ws, server)
    server.shelf.asked.clear()
    server.shelf.tricks.clear()
    get(ws, server)
    assert server.shelf.asked == [(META, "bytes=50-")]


def test_what_failed_before_the_first_byte_leaves_no_data_set(ws, server):
    server.shelf.tricks = {META: ["status 404"], REVIEWS: ["status 404"]}
    with pytest.raises(DownloadError, match="could not be fetched"):
        get(ws, server)
    assert ws.datasets() == [] and not (ws.root / "amazon-2014-beauty").exists()


def test_a_kill_leaves_a_part_that_goes_on(ws, server):
    server.shelf.tricks[REVIEWS] = ["stall 4000", ""]
    code = (
        "import sys; from pathlib import Path; from genrec_cli.stages import download as s;"
        "from genrec_cli.artifacts import Workspace;"
        "s.download(Workspace(Path(sys.argv[1])), s.plan('amazon-2014-beauty', {}), urls=[sys.argv[2]])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(ws.root), server.url], env={**os.environ, "no_proxy": "*"}
    )
    try:
        deadline = time.monotonic() + 30
        while not any(p.stat().st_size == 4000 for p in ws.root.rglob(f"{REVIEWS}.part")):
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    assert [node.state for node in survey(ws, "amazon-2014-beauty")] == ["partial"]
    get(ws, server)
    assert ranges(server) == [None, "bytes=4000-"]


def test_killed_after_the_last_byte(ws, server):
    path = ws.path(stage.plan("amazon-2014-beauty", {}))
    path.mkdir(parents=True)
    (path / f"{REVIEWS}.part").write_bytes(CONTENT[REVIEWS])
    known = {
        "url": f"{server.url}/{REVIEWS}",
        "validator": server.shelf.etag(REVIEWS),
        "total": len(CONTENT[REVIEWS]),
    }
    (path / f"{REVIEWS}.part.json").write_text(json.dumps(known))
    get(ws, server)
    assert ranges(server) == []


@pytest.mark.parametrize("sidecar", ["", "[]", "{}", '{"url": 1, "validator": [], "total": "x"}', "\x00"])
def test_a_part_of_unknown_origin_is_not_used(ws, server, sidecar):
    path = ws.path(stage.plan("amazon-2014-beauty", {}))
    path.mkdir(parents=True)
    (path / f"{REVIEWS}.part").write_bytes(b"\x1f\x8b other bytes")
    (path / f"{REVIEWS}.part.json").write_text(sidecar)
    get(ws, server)
    assert ranges(server) == [None]


def test_a_damaged_artifact_is_mended_to_the_recorded_content(ws, server):
    artifact = get(ws, server)
    (artifact.path / REVIEWS).write_bytes(OTHER)
    server.shelf.asked.clear()
    assert get(ws, server).digest == artifact.digest
    assert server.shelf.asked == [(REVIEWS, None)]


def test_a_recorded_checksum_is_enforced_until_forced(ws, server):
    before = get(ws, server)
    (before.path / REVIEWS).unlink()
    server.shelf.files[REVIEWS] = OTHER
    assert "has the SHA-256" in refused(ws, server)
    after = get(ws, server, force=True)
    assert after.key == before.key and after.digest != before.digest


# ---- files at hand --------------------------------------------------------------------------------------


def test_from_dir(ws, folder):
    plan = stage.plan("amazon-2014-beauty", {})
    artifact = stage.download(ws, plan, from_dir=folder)
    assert artifact.key == plan.key and ws.done(plan)
    assert all((artifact.path / name).read_bytes() == body for name, body in CONTENT.items())
    assert not stage.changed(ws, plan, folder)
    (folder / META).write_bytes(gzip.compress(b"{'asin': 'B2'}\n"))  # written through: the same file on disk
    assert ws.done(plan), "the artifact holds copies, not the user's own files"
    assert (artifact.path / META).read_bytes() == CONTENT[META]
    assert stage.changed(ws, plan, folder)
    again = stage.download(ws, plan, from_dir=folder)
    assert again.key == artifact.key and again.digest != artifact.digest


@pytest.mark.parametrize("can_fraction", [True, False])
def test_from_dir_shares_blocks_where_it_can_and_copies_elsewhere(tmp_path, monkeypatch, can_fraction):
    asked = []

    def ioctl(to, request, of):
        asked.append(request)
        if not can_fraction:
            raise OSError(95, "Operation not supported")

    monkeypatch.setattr(stage.fcntl, "ioctl", ioctl)
    (tmp_path / "a").write_bytes(b"content")
    stage._copy(tmp_path / "a", tmp_path / "b")
    assert asked == [stage.FICLONE] and not (tmp_path / "b").samefile(tmp_path / "a")
    assert (tmp_path / "b").read_bytes() == (b"" if can_fraction else b"content"), (
        "the kernel shares, so nothing is copied"
    )


def test_what_was_there_stays_where_another_cannot_be_placed(ws, folder, monkeypatch):
    plan = stage.plan("amazon-2014-beauty", {})
    artifact = stage.download(ws, plan, from_dir=folder)
    name, before = META, (artifact.path / META).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage.shutil, "copyfileobj", full)
    with pytest.raises(DownloadError, match="No space"):
        stage._copy(folder / name, artifact.path / name)
    assert (artifact.path / name).read_bytes() == before and not list(artifact.path.glob("*.part"))


def test_from_dir_names_the_missing_file_and_touches_nothing(ws, folder):
    plan = stage.plan("amazon-2014-beauty", {})
    digest = stage.download(ws, plan, from_dir=folder).digest
    (folder / META).unlink()
    with pytest.raises(InputError, match=r"has no meta_Beauty\.json\.gz") as caught:
        stage.download(ws, plan, from_dir=folder)
    assert "https://snap.stanford.edu/" in caught.value.hint
    (folder / META).write_bytes(CONTENT[META][:100])
    with pytest.raises(DownloadError, match="is not a whole gzip file"):
        stage.download(ws, plan, from_dir=folder)
    assert ws.done(plan).digest == digest
    with pytest.raises(InputError, match="no folder"):
        stage.download(ws, plan, from_dir=folder / "none")


@pytest.mark.parametrize("content", [b"", b"plain", CONTENT[META][:-1], CONTENT[META][:-4] + b"abcd"])
def test_damage_is_found(tmp_path, content):
    path = tmp_path / META
    path.write_bytes(content)
    assert damage(path)
    path.write_bytes(CONTENT[META])
    assert damage(path) is None


# ---- names and options ----------------------------------------------------------------------------------


def test_the_catalog_has_all_categories():
    assert len([name for name in datasets.DATASETS if name.startswith("amazon-2014-")]) == 24
    assert {"amazon-2014-beauty", "amazon-2014-toys-and-games", "amazon-2014-sports-and-outdoors"} <= set(
        datasets.DATASETS
    )
    for name, values in datasets.DATASETS.items():
        files = [] if name == "synthetic" else stage.source_of(stage.plan(name, {})).files()
        assert [len(file.urls) for file in files] == {
            "synthetic": [],
            "movielens": [1],
            "amazon-2014": [2, 2],
        }.get(values["name"], [1, 1])
    rows = {row["name"]: row for row in datasets.listed()}
    assert (
        set(rows) == set(datasets.DATASETS) and rows["ml-100k"]["MiB"] == 5 and all(r["terms"] for r in rows.values())
    )
    with pytest.raises(ConfigError, match="Did you mean 'Beauty'"):
        datasets.files("amazon-2014", "Beuty")


def test_the_name_decides_what_is_fetched():
    with pytest.raises(UsageError, match="Which data set") as caught:
        stage.plan(None, {})
    assert "genrec list datasets" in caught.value.hint and "synthetic" in caught.value.hint
    with pytest.raises(UsageError, match="Did you mean 'amazon-2014-beauty'"):
        stage.plan("amazon-2014-beaty", {})
    with pytest.raises(UsageError, match="'Beauty', not 'Baby'"):
        stage.plan("amazon-2014-beauty", {"category": "Baby"})
    with pytest.raises(UsageError, match="cannot be the name of a data set"):
        stage.plan("../elsewhere", {"name": "synthetic"})
    assert stage.plan("small-shop", {"name": "synthetic", "users": 60}).dataset == "small-shop"


def test_a_zip_file_is_fetched_checked_and_read(ws, server):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-100k/u.data", "1\t2\t5\t881250949\n" * 50)
        archive.writestr("ml-100k/u.item", "2|Misérables, Les (1995)|01-Jan-1995||http://x|0|0|1\n".encode("latin-1"))
    server.shelf.files["ml-100k.zip"] = packed.getvalue()[:-30]
    with pytest.raises(DownloadError, match="not a whole zip file"):
        stage.download(ws, stage.plan("ml-100k", {}), urls=[server.url], patience=PATIENT)
    server.shelf.files["ml-100k.zip"] = packed.getvalue()
    artifact = stage.download(ws, stage.plan("ml-100k", {}), urls=[server.url], patience=PATIENT)
    tables = stage.source_of(stage.plan("ml-100k", {})).read(artifact.path, BadRows())
    assert sum(block.height for block in tables.interactions) == 50
    assert tables.items.collect()["title"].to_list() == ["Misérables, Les (1995)"]


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "/data", "ftp://host/", "http://", "http://a b/", "http://h/x.gz"]
)
def test_a_wrong_address_is_refused_before_any_work(ws, url):
    with pytest.raises(UsageError, match="--url"):
        stage.download(ws, stage.plan("amazon-2014-beauty", {}), urls=[url])
    assert not ws.root.exists()


def test_an_address_of_one_file(ws, server):
    server.shelf.files[f"{META}"] = CONTENT[META]
    urls = [f"{server.url}/{META}?key=1", f"{server.url}/{REVIEWS}"]
    artifact = stage.download(ws, stage.plan("amazon-2014-beauty", {}), urls=urls, patience=PATIENT)
    assert artifact.result["origin"] == {META: urls[0], REVIEWS: urls[1]}


def test_two_processes_do_not_download_the_same(ws, server):
    plan = stage.plan("amazon-2014-beauty", {})
    with ws.build(plan, resumable=True), pytest.raises(InputError, match="Another process"):
        stage.download(ws, plan, urls=[server.url])


@pytest.mark.parametrize("url", ["http://[::1", "ftp://host/a.gz", "http:///a.gz", "http://höst/a.gz"])
def test_an_address_that_is_none_is_refused(ws, url):
    with pytest.raises(UsageError, match="is not an address"):
        stage.download(ws, stage.plan("amazon-2014-beauty", {}), urls=[url])


@pytest.mark.parametrize("name", ["x" * 300, "../up", ".hidden", "a/b", "é" * 65, "a\0b"])
def test_a_name_that_no_folder_can_have_is_refused(name):
    with pytest.raises(UsageError, match="cannot be the name"):
        stage.plan(name, {"name": "synthetic"})


def test_synthetic_is_generated(ws, folder):
    plan = stage.plan("synthetic", {"users": 60, "items": 200})
    artifact = stage.download(ws, plan)
    assert artifact.result["origin"] == "generated" and ws.done(plan)
    assert stage.download(ws, plan, force=True).digest == artifact.digest
    with pytest.raises(UsageError, match="nothing to download"):
        stage.download(ws, stage.plan("my-logs", {"name": "logs"}))
    assert ws.all("my-logs", "raw") == []
    with pytest.raises(UsageError, match="generated"):
        stage.download(ws, plan, from_dir=folder)
    with pytest.raises(ConfigError, match=r"source\.users"):
        stage.plan("synthetic", {"users": "many"})


def test_command_line(ws, folder, server):
    app = typer.Typer()
    app.callback()(lambda: None)
    cli.register(app)

    def genrec(*words):
        result = CliRunner().invoke(app, ["download", "--root", str(ws.root), "--json", *words])
        return json.loads(result.stdout) if result.exit_code == 0 else result.exception

    beauty = ("--dataset", "amazon-2014-beauty")
    assert genrec(*beauty, "--dry-run")["state"] == "would be made" and not ws.root.exists()
    assert genrec(*beauty, "--from-dir", str(folder))["state"] == "made"
    assert genrec(*beauty, "--from-dir", str(folder))["state"] == "up to date"
    assert genrec(*beauty)["state"] == "up to date"  # however the files came
    (folder / META).unlink()
    (folder / META).write_bytes(gzip.compress(b"{'asin': 'B2'}\n"))
    assert genrec(*beauty, "--from-dir", str(folder))["state"] == "made"
    assert genrec(*beauty, "--force", "--url", server.url, "--retries", "0", "--timeout", "5")["state"] == "made"
    assert sha256_file(ws.find("amazon-2014-beauty", "raw").path / META) == hashlib.sha256(CONTENT[META]).hexdigest()
    small = genrec("--dataset", "synthetic", "--set", "source.users=60", "--set", "source.items=200")
    assert artifacts.Workspace(ws.root).find("synthetic", "raw").config["source"]["users"] == 60
    assert small["state"] == "made"
    assert isinstance(genrec(), UsageError)
    assert isinstance(genrec("--dataset", "synthetic", "--set", "train.lr=1"), UsageError)
    assert isinstance(genrec(*beauty, "--from-dir", str(folder), "--url", server.url, "--force"), UsageError)
