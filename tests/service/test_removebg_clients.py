"""Published clients of remove.bg against a service: the lines of docs/from-removebg.md, and each method."""

from __future__ import annotations

import os
import re
import shutil
import socketserver
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT
from filelock import FileLock
from PIL import Image
from registries import pip
from served import Process, quick, served
from small import ORANGE, brightness_model, half

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "a-key-of-ours"
HERE = "http://127.0.0.1:8000"
GUIDE = (ROOT / "docs" / "from-removebg.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- run: (\S+) as (\w+) -->\n```diff\n(.*?)```", GUIDE, re.DOTALL)
CLIENTS = list(dict.fromkeys(name for name, _, _ in BLOCKS))
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
NPM = ("remove.bg@1.3.0", "removebg-wrapper@1.0.3", "removebg-id@2.0.1")
COMMANDS = {"python": [sys.executable, "-c"], "node": ["node", "-e"], "sh": ["bash", "-euc"]}


def lines(block: str, sign: str) -> str:
    """A block as it is before (-) or after (+) the change."""
    return "\n".join(line[1:] for line in block.splitlines() if line[:1] in {sign, " ", ""})


# ---- the clients, installed once a session


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of installed clients; where a registry did not answer, why.txt stands instead."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "clients"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            for name in ("clients", "clients-other"):
                command: list[str | Path] = [*pip(), "install", "--no-deps", "--no-compile", "--quiet", "--target"]
                _install(folder / name, [*command, folder / name, *GROUPS[f"removebg-{name}"]])
            npm: list[str | Path] = [
                "npm",
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--prefix",
                folder / "npm",
                *NPM,
            ]
            _install(folder / "npm", npm)
    return folder


def _install(folder: Path, command: list[str | Path]) -> None:
    folder.mkdir(parents=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        (folder / "why.txt").write_text(f"{command[0]}: {error}")
    else:
        if done.returncode:
            (folder / "why.txt").write_text(f"{command[0]} could not install: {' '.join(done.stderr.split())[-200:]}")


class Client:
    """A client in a folder of its own: with its packages, a picture and a shell around it."""

    def __init__(self, name: str, installed: Path, folder: Path) -> None:
        self.folder = folder
        for kind in {"remove-bg": ["clients-other"], "curl": [], "requests": [], "fetch": []}.get(
            name, ["npm" if any(one.startswith(f"{name}@") for one in NPM) else "clients"]
        ):
            if (why := installed / kind / "why.txt").exists():
                pytest.skip(why.read_text())
            shutil.copytree(installed / kind, folder, dirs_exist_ok=True, copy_function=os.link, symlinks=True)
        half(folder / "photo.png").rename(folder / "photo.jpg")  # what the name says does not matter

    def run(self, kind: str, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
        if shutil.which(COMMANDS[kind][0]) is None:
            pytest.skip(f"{COMMANDS[kind][0]} is not installed")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environ = {**os.environ, "PATH": path, "PYTHONPATH": str(self.folder), **environ}
        return subprocess.run(
            [*COMMANDS[kind], code],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


# ---- the guide


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`cutout serve` as the guide starts it, with a quick model; its address."""
    folder = tmp_path_factory.mktemp("service")
    (options,) = re.findall(r"^cutout serve (.+)$", GUIDE, re.MULTILINE)
    model = ["--model", str(brightness_model(folder))]
    home = str(folder / "home")
    process = Process(folder, *options.replace("YOUR-KEY", KEY).split(), *model, CUTOUT_HOME=home)
    yield process.url
    assert process.stop() == 0


@pytest.fixture(scope="module")
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that refuses all, and what it was asked to connect to."""
    asked: list[str] = []

    class Refuse(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode().split()[1])
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


LOOK_UP = """const dns = require("node:dns");
dns.lookup = (host, options, done) => {
  console.error(`looked up ${host}`);
  done(Object.assign(new Error("no such host"), { code: "ENOTFOUND" }));
};
"""
"""For Node.js, whose clients go through no proxy."""


@pytest.mark.parametrize("name", CLIENTS)
def test_the_lines_before_the_change_call_remove_bg(
    name: str, installed: Path, tmp_path: Path, proxy: tuple[str, list[str]]
) -> None:
    """So that what the other lines change is what makes them call the service."""
    client, (address, asked) = Client(name, installed, tmp_path), proxy
    asked.clear()
    (tmp_path / "hook.js").write_text(LOOK_UP)
    found = set()
    for _, kind, block in (row for row in BLOCKS if row[0] == name):
        environ = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), address) | dict.fromkeys(("NO_PROXY", "no_proxy"), "")
        if kind == "node":
            environ = {"NODE_OPTIONS": "--require ./hook.js"}
        done = client.run(kind, lines(block, "-"), **environ)
        found |= set(re.findall(r"looked up (\S+)", done.stderr))
    assert found | {host.removesuffix(":443") for host in asked} == {"api.remove.bg"}


@pytest.mark.parametrize("name", CLIENTS)
def test_the_lines_after_the_change_cut_out(name: str, installed: Path, tmp_path: Path, service: str) -> None:
    client = Client(name, installed, tmp_path)
    for _, kind, block in (row for row in BLOCKS if row[0] == name):
        done = client.run(kind, lines(block, "+").replace(HERE, service).replace("YOUR-KEY", KEY))
        assert done.returncode == 0, done.stderr
    (cut,) = tmp_path.glob("*.png")
    is_cut(cut)


def is_cut(path: Path) -> None:
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (64, 32))
        assert image.getpixel((2, 16)) == (0, 0, 0, 0)
        assert image.getpixel((61, 16)) == (*ORANGE, 253)


def test_there_are_ten_clients_and_more() -> None:
    assert len(CLIENTS) == 12
    assert len(BLOCKS) == GUIDE.count("```diff")


# ---- what else the clients can do


@pytest.fixture(scope="module")
def fetching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that fetches pictures from this very machine too, and a web server with one; the service's address."""
    settings = quick(tmp_path_factory.mktemp("fetching"), api_keys=(KEY,), image_url=True, fetch_private=True)
    with served(*settings) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a picture on a web server."""
    data = half(tmp_path_factory.mktemp("photo") / "photo.png").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(data)

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/photo.png"
        server.shutdown()


METHODS = {
    "removebg": """
import base64, requests
import removebg.removebg
from removebg import RemoveBg
removebg.removebg.API_ENDPOINT = "HERE/v1.0/removebg"
client = RemoveBg("OUR-KEY", "errors.log")
client.remove_background_from_img_url("PHOTO", size="hd", new_file_name="url.png")
client.remove_background_from_base64_img(base64.b64encode(open("photo.jpg", "rb").read()), new_file_name="base64.png")
client.remove_background_from_img_file("photo.jpg", bg_color="0000ff")
import os; os.remove("photo.jpg_no_bg.png")
try:
    RemoveBg("another-key", "errors.log").remove_background_from_img_url("PHOTO")
except requests.HTTPError as error:
    assert error.response.status_code == 403
    assert error.response.json()["errors"][0]["title"]
else:
    raise SystemExit("the wrong key passes")
""",
    "remove-bg": """
import base64, collections.abc; collections.Callable = collections.abc.Callable
import removebg.constants
from removebg import RemoveBg, exceptions
removebg.constants.API_ENDPOINT = "HERE/v1.0/"
client = RemoveBg("OUR-KEY")
open("url.png", "wb").write(client.remove_background_from_url("PHOTO", size="preview", type="product"))
coded = base64.b64encode(open("photo.jpg", "rb").read())
open("base64.png", "wb").write(client.remove_background_from_base64(coded, format="png", channels="rgba"))
for key, options, expected in [
    ("another-key", {}, exceptions.AuthenticationFailed), ("OUR-KEY", {"size": "huge"}, exceptions.InvalidParameters)
]:
    try:
        RemoveBg(key).remove_background_from_file("photo.jpg", **options)
    except expected as error:
        assert str(error)
    else:
        raise SystemExit(f"{expected} was not raised")
""",
    "remove-bg-api": """
import base64
import remove_bg_api
from remove_bg_api import Errors, RemoveBg
remove_bg_api.API_URL = "HERE/v1.0"
client = RemoveBg("OUR-KEY")
assert client.account.balance() > 1000
before = client.account.balance()
client.remove_bg_url("PHOTO", "url.png", raw=False)
coded = base64.b64encode(open("photo.jpg", "rb").read())
client.remove_bg_base64(coded, "base64.png", raw=False, data={"size": "full", "crop": "false"})
open("bytes.png", "wb").write(client.remove_bg_bytes(open("photo.jpg", "rb").read()))
assert client.account.balance() == before, "nothing is charged"
assert client.account.get_balance_dict()["total"] == before
assert client.account.free_api_calls() > 1000
try:
    RemoveBg("another-key")
except Errors.ApiErrorCode403:
    pass
else:
    raise SystemExit("the wrong key passes")
""",
    "rembgpy": """
import rembgpy.bg
rembgpy.bg.base_url = "HERE/v1.0/removebg"
client = rembgpy.RemBg("OUR-KEY", "errors.log")
client.remove_img("PHOTO", size="4k", type="car_interior", type_level="2", nfn="url.png")
client.remove_img("PHOTO", bg_type="color", bg="ff0000", shadow=True, crop="10%", nfn="red.jpg")
client.remove_img("PHOTO", bg_type="url", bg="PHOTO", scale="50%", position="center", nfn="picture.jpg")
""",
    "RemoveBgPlus": """
import base64
from removebgplus import RemoveBg
from removebgplus.removebg import APIError
RemoveBg("OUR-KEY").remove_from_url("PHOTO", "url.png")
try:  # it sends image_base64, a field that remove.bg never had
    RemoveBg("OUR-KEY").remove_from_base64(base64.b64encode(open("photo.jpg", "rb").read()).decode(), "base64.png")
except APIError as error:
    assert str(error).startswith("400"), error
else:
    raise SystemExit("a request without a picture passes")
""",
    "removebg-cli": """
export REMOVE_BG_API_KEY=OUR-KEY
python -m removebg_cli PHOTO -o url.png -s preview
python -m removebg_cli photo.jpg -o color.jpg -f jpg -b white -c --shadow -s 50MP
python -m removebg_cli photo.jpg -o all.zip -f zip -s full
python -m removebg_cli --account | grep -q 'Credits'
! REMOVE_BG_API_KEY=another-key python -m removebg_cli --account
""",
    "remove.bg": """
const client = require("remove.bg"), url = "PHOTO", path = "photo.jpg";
const fs = require("node:fs"), assert = require("node:assert"), apiKey = "OUR-KEY";
async function main() {
  const found = await client.removeBackgroundFromImageUrl({ apiKey, url, size: "full", outputFile: "url.png" });
  assert.deepEqual([found.creditsCharged, found.resultWidth, found.resultHeight], ["0", "64", "32"]);
  assert(found.detectedType, JSON.stringify(found));
  assert(Number(found.rateLimit) > 0 && Number(found.rateLimitRemaining) > 0, JSON.stringify(found));
  const base64img = fs.readFileSync("photo.jpg", "base64");
  await client.removeBackgroundFromImageBase64({ apiKey, base64img, outputFile: "base64.png" });
  await client.removeBackgroundFromImageFile({
    apiKey, path, outputFile: "framed.jpg", size: "regular", type: "product",
    crop: true, crop_margin: "10%", scale: "80%", position: "center", bg_color: "00ff00",
    roi: "0% 0% 100% 100%", add_shadow: true, channels: "rgba",
  });
  const errors = await client.removeBackgroundFromImageFile({ apiKey: "another-key", path }).catch((it) => it);
  assert(errors[0].title, JSON.stringify(errors));
}
main();
""",
    "removebg-wrapper": 'require("removebg-wrapper").rbFromImageUrl("PHOTO", "OUR-KEY");',
    "removebg-id": 'require("removebg-id").FromUrl("PHOTO", "OUR-KEY");',
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_a_client_works(name: str, installed: Path, tmp_path: Path, fetching: str, photo: str) -> None:
    client = Client(name, installed, tmp_path)
    kinds = [(kind, lines(block, "+")) for one, kind, block in BLOCKS if one == name]
    if kinds[0][1].startswith("sed"):  # where the address is changed
        client.run("sh", kinds[0][1].splitlines()[0].replace(HERE, fetching))
    code = METHODS[name].replace("HERE", fetching).replace("PHOTO", photo).replace("OUR-KEY", KEY)
    done = client.run(kinds[-1][0], code)
    assert done.returncode == 0, done.stdout + done.stderr
    found = sorted(tmp_path.glob("*.png"))
    assert found
    for path in found:
        is_cut(path)
    for path in {*tmp_path.glob("*.jpg")} - {tmp_path / "photo.jpg"}:
        with Image.open(path) as image:
            assert image.mode == "RGB"
