"""The PromQL of alerts and dashboard: extraction, and series to evaluate it on.

    target/deploy/venv/bin/python tests/deploy/promql.py   prints the dashboard's expressions, one a line, with Grafana's
                                                           variables filled in, to run against any Prometheus
"""

import json
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CATALOG = yaml.safe_load((pathlib.Path(__file__).parent / "metrics.yaml").read_text())
# Names on top of the catalog that Prometheus and kube-state-metrics make.
FOREIGN = {"up", "kube_pod_container_resource_limits"}
# Labels that scraping adds, and those of the foreign names.
TARGET_LABELS = {"job", "instance", "node", "namespace", "pod", "container", "resource", "le"}
BUCKETS = ["0.001", "0.005", "0.025", "0.1", "0.5", "2", "+Inf"]
GRAFANA = {"$__rate_interval": "5m", "$instance": ".*", "$job": ".*"}


def dashboard():
    return json.loads((ROOT / "deploy/dashboards/nodens.json").read_text())


def dashboard_expressions():
    """(panel title, expression) with Grafana's variables filled in."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in GRAFANA.items():
                expression = expression.replace(variable, value)
            assert "$" not in expression, f"{panel['title']}: variable left in {expression}"
            yield panel["title"], expression


def rules():
    document = yaml.safe_load((ROOT / "deploy/alerts/nodens.rules.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def metric_of(name):
    """The catalog's entry behind a series name, for a histogram's parts too."""
    for suffix in ("", "_bucket", "_count", "_sum"):
        base = name.removesuffix(suffix) if suffix else name
        entry = CATALOG.get(base)
        if entry and (suffix == "") != (entry["type"] == "histogram"):
            return entry
    return None


def selectors(expression):
    """(metric, label matchers) of each selector, and labels named in by, on and ignoring."""
    for name, matchers in re.findall(r"\b((?:nodens|process)_[a-z_]+)(?:\{([^}]*)\})?", expression):
        yield name, dict(re.findall(r'(\w+)\s*[!=]~?\s*"([^"]*)"', matchers))


def grouping_labels(expression):
    for labels in re.findall(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)", expression):
        yield from (label.strip() for label in labels.split(",") if label.strip())


def series(minutes=30):
    """Input series for promtool: two nodes, every metric with every label value; counters rise."""
    steps = minutes * 2
    for instance in ("n1:9253", "n2:9253"):
        target = {"job": "kube-system/nodens", "node": instance.split(":")[0], "instance": instance}
        for name, entry in CATALOG.items():
            combinations = [{}]
            for label, values in entry.get("labels", {}).items():
                combinations = [{**each, label: value} for each in combinations for value in values]
            for labels in combinations:
                if entry["type"] == "histogram":
                    for index, le in enumerate(BUCKETS, 1):
                        yield _series(f"{name}_bucket", {**target, **labels, "le": le}, f"0+{10 * index}x{steps}")
                    yield _series(f"{name}_count", {**target, **labels}, f"0+{10 * len(BUCKETS)}x{steps}")
                    yield _series(f"{name}_sum", {**target, **labels}, f"0+1x{steps}")
                else:
                    yield _series(name, {**target, **labels}, f"0+30x{steps}" if entry["type"] == "counter" else f"1x{steps}")


def _series(name, labels, values):
    inside = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"{name}{{{inside}}}", "values": values}


if __name__ == "__main__":
    for _, each in dashboard_expressions():
        print(" ".join(each.split()))
