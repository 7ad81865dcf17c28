"""The dashboard in a real Prometheus, which scrapes an exporter with the catalog's metrics, and a nodens under load."""

import http.server
import itertools
import socket
import socketserver
import struct
import subprocess
import threading

import live
import promql
import pytest
import yaml


def page(scrape, leave_out):
    """The catalog in Prometheus' text format; counters rise from scrape to scrape."""
    lines = []
    for name, entry in promql.CATALOG.items():
        if name == leave_out:
            continue
        lines.append(f"# TYPE {name} {entry['type']}")
        combinations = [{}]
        for label, values in entry.get("labels", {}).items():
            combinations = [{**each, label: value} for each in combinations for value in values]
        for labels in combinations:
            if entry["type"] == "histogram":
                for index, le in enumerate(promql.BUCKETS, 1):
                    lines.append(sample(f"{name}_bucket", {**labels, "le": le}, scrape * index))
                lines.append(sample(f"{name}_count", labels, scrape * len(promql.BUCKETS)))
                lines.append(sample(f"{name}_sum", labels, scrape))
            else:
                lines.append(sample(name, labels, scrape * 5 if entry["type"] == "counter" else 1))
    return "\n".join(lines) + "\n"


def sample(name, labels, value):
    inside = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value}"


@pytest.fixture
def exporter():
    """Starts an exporter, given a metric to leave out; gives its address."""
    servers = []

    def start(leave_out=None):
        scrapes = iter(range(1, 10_000))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = page(next(scrapes), leave_out).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/metrics"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_every_expression_gives_data(exporter):
    assert live.missing(exporter()) == []


def test_a_metric_that_is_not_exported_is_noticed(exporter):
    without = live.missing(exporter(leave_out="nodens_prefetches_total"), deadline=10)
    assert [title for title, _ in without] == ["Stale, prefetch, failures"]


class Upstream(socketserver.BaseRequestHandler):
    """Answers every question with one A record; names with `no` in them do not exist."""

    def handle(self):
        query, socket_ = self.request
        end = query.index(b"\0", 12) + 5
        question = query[12:end]
        exists = b"no" not in question
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x0a\0\0\1" if exists else b""
        header = query[:2] + (b"\x81\x80" if exists else b"\x81\x83") + struct.pack(">4H", 1, int(exists), 0, 0)
        socket_.sendto(header + question + record, self.client_address)


@pytest.fixture
def loaded(nodens, tmp_path):
    """A real nodens under load; gives the address of its metrics."""
    upstream = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    dns, metrics, health = free_port(), free_port(), free_port()
    config = {
        "listen": {"addresses": ["127.0.0.1"], "port": dns, "workers": 1},
        "zones": [{"name": ".", "forward": {"to": [f"127.0.0.1:{upstream.server_address[1]}"], "transport": "udp"}}],
        "observe": {"metrics": f"127.0.0.1:{metrics}", "health": f"127.0.0.1:{health}"},
    }
    (tmp_path / "nodens.yaml").write_text(yaml.safe_dump(config))
    stop = threading.Event()

    def load():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(1)
            for number in itertools.count():
                if stop.wait(0.002):
                    return
                label = b"%s%d" % ([b"yes", b"no"][number % 2], number % 400)
                question = bytes([len(label)]) + label + b"\7example\3org\0\0\1\0\1"
                client.sendto(struct.pack(">6H", number & 0xFFFF, 0x100, 1, 0, 0, 0) + question, ("127.0.0.1", dns))
                try:
                    client.recv(512)
                except OSError:
                    # Not there yet, or lost: the next one.
                    pass

    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [nodens, "run", "--config", tmp_path / "nodens.yaml"], stdout=log, stderr=log
        )
    loader = threading.Thread(target=load, daemon=True)
    loader.start()
    yield f"http://127.0.0.1:{metrics}/metrics"
    stop.set()
    loader.join(5)
    process.terminate()
    code = process.wait(20)
    upstream.shutdown()
    upstream.server_close()
    assert code == 0, (tmp_path / "log").read_text()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_every_expression_gives_data_of_a_real_nodens_under_load(loaded):
    assert live.missing(loaded) == []
