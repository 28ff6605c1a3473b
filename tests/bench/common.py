"""What the benches share: the program under test, a client, and how a process is measured."""

import base64
import collections
import contextlib
import hashlib
import http.client
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("SKERRY_TEST_CACHE", Path.home() / ".cache/skerry-tests"))
TICK = os.sysconf("SC_CLK_TCK")
OCI = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def binary():
    """The release binary, built if it is not there; SKERRY_BENCH_BINARY names another one."""
    if named := os.environ.get("SKERRY_BENCH_BINARY"):
        return Path(named)
    path = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/skerry"
    if not path.exists():
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
    return path


def machine():
    """One line about where and what was measured. The program may be older than the commit."""
    built = time.strftime("%Y-%m-%d %H:%M", time.gmtime(binary().stat().st_mtime))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT,
                            capture_output=True, text=True).stdout.strip()
    return (f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
            f"{time.strftime('%Y-%m-%d', time.gmtime())}, commit {commit}, "
            f"program built {built} UTC")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on {port}")


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def describe(kind, data):
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def manifest_of(config, layer, annotation=None):
    """A manifest's bytes: config and layer are descriptors."""
    body = {"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [layer]}
    if annotation is not None:
        body["annotations"] = {"org.opencontainers.image.version": annotation}
    return json.dumps(body).encode()


# How a process is measured.

def pids(pid):
    """A process and all below it."""
    found = [pid]
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += pids(int(entry.parent.name))
    return found


def cpu_seconds(pid):
    total = 0
    for one in pids(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def thread_seconds(pid):
    """CPU seconds by the names of threads, without their numbers. What ended is not among them."""
    total = collections.Counter()
    for one in pids(pid):
        for task in Path(f"/proc/{one}/task").iterdir():
            try:
                name, fields = task.joinpath("stat").read_text().split("(", 1)[1].rsplit(")", 1)
            except OSError:
                continue
            fields = fields.split()
            total[name.rstrip("-0123456789")] += (int(fields[11]) + int(fields[12])) / TICK
    return total


def rss_kib(pid, field="VmRSS"):
    """Resident memory; `VmHWM` is its peak."""
    return sum(int(re.search(field + r":\s+(\d+)", Path(f"/proc/{one}/status").read_text())[1])
               for one in pids(pid))


def forget_peak(pid):
    for one in pids(pid):
        Path(f"/proc/{one}/clear_refs").write_text("5")


def written_bytes(pid):
    """What the kernel accounts to the process as written to a disk: dirtied pages."""
    return sum(int(re.search(r"^write_bytes: (\d+)", Path(f"/proc/{one}/io").read_text(), re.M)[1])
               for one in pids(pid))


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def forget_pages(*paths):
    """Takes the clean pages of files out of the page cache."""
    os.sync()
    for path in paths:
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        for one in files:
            handle = os.open(one, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


# A client.

def request(port, method, path, body=b"", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    if answer.status >= 400:
        sys.exit(f"{method} {path}: {answer.status} {data[:300]}")
    return answer, data


class Wire:
    """One connection that is kept, with as little of its own cost as Python allows."""

    def __init__(self, port, headers):
        self.socket = socket.create_connection(("127.0.0.1", port), 300)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = [f"{name}: {value}" for name, value in {"host": "bench", **headers}.items()]
        self.head = "\r\n".join(lines).encode()
        self.left = b""

    def ask(self, method, path, body=b"", extra=b""):
        """Sends a request and reads its answer; returns status, head and body."""
        self.socket.sendall(b"%s %s HTTP/1.1\r\n%s\r\n%scontent-length: %d\r\n\r\n" % (
            method.encode(), path.encode(), self.head, extra, len(body)) + body)
        data = self.left
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self.more()
        head, data = data[:end].lower(), data[end + 4:]
        length = re.search(rb"content-length: *(\d+)", head)
        length = int(length[1]) if length else 0
        while len(data) < length:
            data += self.more()
        self.left = data[length:]
        return int(head[9:12]), head, data[:length]

    def more(self):
        got = self.socket.recv(65536)
        if not got:
            raise ConnectionError("closed")
        return got

    def close(self):
        self.socket.close()


def start_upload(port, headers, repository="bench"):
    """Starts a push; returns the path of the upload."""
    answer, _ = request(port, "POST", f"/v2/{repository}/blobs/uploads/", headers=headers)
    return re.sub(r"^https?://[^/]+", "", answer.getheader("location"))


def finish_url(where, name):
    return where + ("&" if "?" in where else "?") + "digest=" + name


def push_blob(port, headers, data, repository="bench"):
    where = finish_url(start_upload(port, headers, repository), digest(data))
    request(port, "PUT", where, data, {**headers, "content-type": "application/octet-stream"})


class Skerry:
    """A root under test in a directory of its own."""

    def __init__(self, directory, certificate=None, extra="", program=None, name="skerry"):
        self.name, self.directory, self.certificate = name, directory, certificate
        self.program = program or binary()
        self.plain, self.tls = free_port(), free_port()
        self.state = directory / "skerry"
        self.process = None
        self.headers = {}
        logins = [f'{{ address = "127.0.0.1:{self.plain}", tls = false }}']
        if certificate:
            logins.append(f'{{ address = "127.0.0.1:{self.tls}", tls = true }}')
            extra += (f'[tls]\nmode = "files"\ncertificate = "{certificate[0]}"\n'
                      f'private_key = "{certificate[1]}"\n')
        self.config = directory / "skerry.toml"
        self.config.write_text(f"""
[listen]
login = [{", ".join(logins)}]
gateway = "127.0.0.1:0"
admin = "{directory}/admin.sock"
[registry]
login_server = "bench.example"
[storage]
state_dir = "{self.state}"
{extra}""")

    def start(self):
        """Starts it and returns the seconds until it told the service manager READY."""
        told = self.directory / "notify.sock"
        told.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, \
                open(self.directory / "skerry.log", "a") as log:
            manager.bind(str(told))
            manager.settimeout(300)
            begun = time.monotonic()
            self.process = subprocess.Popen(
                [self.program, "--config", self.config, "serve"], stdout=log, stderr=log,
                # As systemd/skerry.service does.
                env={**os.environ, "NOTIFY_SOCKET": str(told), "MALLOC_ARENA_MAX": "1"})
            while b"READY=1" not in manager.recv(4096):
                pass
            return time.monotonic() - begun

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(120)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def login(self):
        """Makes a token that may push and pull `bench`; its headers are for every request."""
        made = subprocess.run(
            [self.program, "--admin-socket", self.directory / "admin.sock", "-o", "json", "token",
             "create", "--name", "bench-token", "--repository", "bench", "content/read",
             "content/write", "metadata/read"], check=True, capture_output=True, text=True)
        password = json.loads(made.stdout)["credentials"]["passwords"][0]["value"]
        basic = base64.b64encode(f"bench-token:{password}".encode()).decode()
        _, data = request(self.plain, "GET",
                          "/oauth2/token?service=x&scope=repository:bench:pull,push",
                          headers={"authorization": "Basic " + basic})
        self.headers = {"authorization": "Bearer " + json.loads(data)["access_token"]}
        return self.headers

    def content(self, name):
        """The file of content, by its digest."""
        algorithm, digits = name.split(":")
        return self.state / "blobs" / algorithm / digits[:2] / digits

    def metric(self, name):
        _, text = request(self.plain, "GET", "/metrics")
        return int(re.search(rf"^skerry_{name} (\d+)", text.decode(), re.M)[1])


# Results.

def spread(values, form="{:.2f}"):
    """The median, and the lowest and highest where there is more than one."""
    values = sorted(values)
    middle = form.format(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({form.format(values[0])} to {form.format(values[-1])})"


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def keep(path, results):
    if path:
        path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


@contextlib.contextmanager
def scratch(mib=65536):
    """The disk of one run, removed at its end."""
    with tempfile.TemporaryDirectory(prefix="skerry-bench-", ignore_cleanup_errors=True) as name:
        disk = Disk(Path(name), mib)
        try:
            yield disk
        finally:
            disk.close()


class Disk:
    """An ext4 of its own with a journal, as a device has it, on a loop device, mounted; or, without
    root, just the directory. Only what is used of `mib` takes room."""

    def __init__(self, directory, mib):
        self.at, self.stat = directory / "disk", None
        self.at.mkdir()
        if os.geteuid():
            return
        image = directory / "image"
        with open(image, "wb") as file:
            file.truncate(mib << 20)
        # Tables are written now, not in the background while something is measured.
        subprocess.run(["mkfs.ext4", "-q", "-N", "524288", "-J", "size=64",
                        "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, self.at], check=True)
        device = os.path.basename(subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", self.at], check=True, capture_output=True,
            text=True).stdout.strip())
        self.stat = Path(f"/sys/block/{device}/stat")

    def written(self):
        """Bytes written to the device so far; `None` if there is none to count at."""
        os.sync()
        return self.stat and int(self.stat.read_text().split()[6]) * 512

    def close(self):
        if self.stat:
            subprocess.run(["umount", self.at], check=True)
