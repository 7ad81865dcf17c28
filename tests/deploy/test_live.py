"""The dashboard in a real Prometheus: an exporter with the catalog's metrics stands in for nodens."""

import http.server
import threading

import live
import promql
import pytest


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
