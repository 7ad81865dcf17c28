"""Alerts and dashboard: every expression is valid, names only what nodens exports, and gives data."""

import copy
import re

import promql
import pytest
import yaml
from conftest import DEPLOY, ROOT, helm, output, pick, run

ALERTS = DEPLOY / "alerts"
RULES = promql.rules()
EXPRESSIONS = [("alert " + rule["alert"], rule["expr"]) for rule in RULES] + list(promql.dashboard_expressions())


def test_promtool_accepts_the_rules():
    output("promtool", "check", "rules", ALERTS / "nodens.rules.yaml")


def test_promtool_accepts_the_rules_as_the_chart_renders_them(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(pick(helm("monitoring"), "PrometheusRule")["spec"]))
    assert f"{len(RULES)} rules found" in output("promtool", "check", "rules", path)


def test_the_cases_of_the_alerts_hold():
    output("promtool", "test", "rules", ALERTS / "nodens.test.yaml")


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_each_alert_has_cases_that_notice_its_loss(rule, tmp_path):
    document = yaml.safe_load((ALERTS / "nodens.rules.yaml").read_text())
    for each in document["groups"][0]["rules"]:
        if each["alert"] == rule["alert"]:
            each["expr"] = "vector(0) > 1"
    (tmp_path / "nodens.rules.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "nodens.test.yaml").write_text((ALERTS / "nodens.test.yaml").read_text())
    assert run("promtool", "test", "rules", tmp_path / "nodens.test.yaml").returncode != 0


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_each_alert_has_cases_that_notice_an_alarm_too_soon(rule, tmp_path):
    document = yaml.safe_load((ALERTS / "nodens.rules.yaml").read_text())
    for each in document["groups"][0]["rules"]:
        if each["alert"] == rule["alert"]:
            each["expr"] = "sum by (node, instance) (up) >= 0 or vector(1)"
            each["for"] = "0s"
    (tmp_path / "nodens.rules.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "nodens.test.yaml").write_text((ALERTS / "nodens.test.yaml").read_text())
    assert run("promtool", "test", "rules", tmp_path / "nodens.test.yaml").returncode != 0


def test_each_alert_has_a_runbook_and_each_runbook_an_alert():
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.M)
    assert sorted(headings) == sorted(rule["alert"] for rule in RULES)
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


@pytest.mark.parametrize("where, expression", EXPRESSIONS, ids=[f"{index}" for index in range(len(EXPRESSIONS))])
def test_only_known_metrics_and_labels(where, expression):
    known = set(promql.TARGET_LABELS)
    found = list(promql.selectors(expression))
    for name, matchers in found:
        entry = promql.metric_of(name)
        assert entry, f"{where}: {name} is not in tests/deploy/metrics.yaml"
        labels = set(entry.get("labels", {}))
        known |= labels
        assert set(matchers) <= labels | promql.TARGET_LABELS, f"{where}: labels of {name}"
    assert found or set(re.findall(r"\b[a-z_]{2,}\b", expression)) & promql.FOREIGN, f"{where}: no metric"
    assert set(promql.grouping_labels(expression)) <= known, where


def test_every_dashboard_expression_gives_data(tmp_path):
    tests = [
        {"expr": f"count({expression}) > bool 0", "eval_time": "20m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for _, expression in promql.dashboard_expressions()
    ]
    assert len(tests) > 40
    case = {"interval": "30s", "input_series": list(promql.series()), "promql_expr_test": tests}
    path = tmp_path / "dashboard.test.yaml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "30s", "tests": [case]}))
    output("promtool", "test", "rules", path)

    # The same with a name that does not exist fails, or the test above would prove nothing.
    broken = copy.deepcopy(case)
    broken["promql_expr_test"] = [{**tests[0], "expr": "count(nodens_no_such_metric) > bool 0"}]
    path.write_text(yaml.safe_dump({"evaluation_interval": "30s", "tests": [broken]}))
    assert run("promtool", "test", "rules", path).returncode != 0


def test_the_catalog_is_what_the_page_says():
    # docs/metrics.md itself is held to a scrape of the program by tests/observe_metrics.rs and src/upstream/metrics.rs.
    page = (ROOT / "docs/metrics.md").read_text()
    rows = {name: rest for name, *rest in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*) \|$", page, re.M)}
    assert len(rows) > 80
    for name, entry in promql.CATALOG.items():
        kind, labels, meaning = rows[name]
        assert kind == entry["type"], name
        assert re.findall(r"`(\w+)`", labels) == list(entry.get("labels", {})), name
        for label, values in entry.get("labels", {}).items():
            listed = re.search(rf"`{label}`: ((?:`\w+`(?: \([^)]*\))?(?:, )?)+)", meaning)
            if listed:
                assert set(values) <= set(re.findall(r"`(\w+)`", listed[1])), f"{name}: {label}"


def test_no_metric_is_left_out_of_sight():
    shown = {name for _, expression in EXPRESSIONS for name, _ in promql.selectors(expression)}
    shown |= {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    unseen = {"nodens_config_last_reload_success_timestamp_seconds", "process_start_time_seconds"}
    assert set(promql.CATALOG) - shown == unseen


def test_dashboard_is_well_formed():
    dashboard = promql.dashboard()
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids)) and dashboard["uid"] == "nodens" and dashboard["id"] is None
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"] and panel["targets"]
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
