"""Runs every dashboard expression in a real Prometheus that scrapes a nodens.

    target/deploy/venv/bin/python tests/deploy/live.py http://127.0.0.1:9253/metrics

Give nodens some load meanwhile. Prints the expressions that gave no data within the deadline and exits with 1 if there are
any. Needs `prometheus` (Debian: prometheus); it listens on a free loopback port and leaves nothing behind.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import promql
import yaml

# Seconds until every expression must have given data: two scrapes a second apart make a rate.
DEADLINE = 60


def missing(metrics_url, deadline=DEADLINE):
    """(panel, expression) of each dashboard expression without data after `deadline` seconds."""
    address = urllib.parse.urlsplit(metrics_url)
    with tempfile.TemporaryDirectory() as directory:
        with open(f"{directory}/prometheus.yaml", "w") as file:
            yaml.safe_dump({
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                "scrape_configs": [{
                    "job_name": "nodens",
                    "metrics_path": address.path,
                    "static_configs": [{"targets": [address.netloc]}],
                }],
            }, file)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with open(f"{directory}/log", "w") as log:
            prometheus = subprocess.Popen(
                ["prometheus", f"--config.file={directory}/prometheus.yaml", f"--storage.tsdb.path={directory}/data",
                 f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
                stdout=log, stderr=log,
            )
        try:
            return _wait(f"http://127.0.0.1:{port}", prometheus, f"{directory}/log", time.monotonic() + deadline)
        finally:
            prometheus.terminate()
            prometheus.wait(20)


def _wait(server, prometheus, log, end):
    left = [(title, expression.replace("[5m]", "[15s]")) for title, expression in promql.dashboard_expressions()]
    while left and time.monotonic() < end:
        if prometheus.poll() is not None:
            with open(log) as text:
                raise RuntimeError(f"prometheus has ended:\n{text.read()}")
        try:
            left = [each for each in left if not _query(server, each[1])]
        except (urllib.error.URLError, ConnectionError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code != 503:
                raise
        # The next scrape cannot change anything sooner.
        time.sleep(1)
    return left


def _query(server, expression):
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{server}/api/v1/query?{query}", timeout=5) as answer:
        return json.load(answer)["data"]["result"]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    without = missing(sys.argv[1])
    for title, expression in without:
        print(f"no data: {title}: {' '.join(expression.split())}")
    print(f"{len(list(promql.dashboard_expressions())) - len(without)} expressions gave data, {len(without)} did not")
    sys.exit(1 if without else 0)
