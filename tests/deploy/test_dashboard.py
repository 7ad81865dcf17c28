"""The dashboard is one that Grafana reads: held against Grafana's own types, generated from its schemas."""

import copy
import json

import pytest
from conftest import DEPLOY
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

DASHBOARD = json.loads((DEPLOY / "dashboards/nodens.json").read_text())

# Keys that the dashboard schema leaves to others: null for a dashboard to be made, the Prometheus data source's templates
# for annotations, and the text of a variable's query as Grafana shows it.
BESIDE_THE_SCHEMA = {".id", ".annotations.list[].titleFormat", ".annotations.list[].textFormat", ".templating.list[].definition"}


def unknown(given):
    """Paths of what Grafana's types do not keep: unknown keys, and values of another type."""
    # Panels and queries of each kind have types of their own.
    plugins.register_default_plugins()
    kept = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(given)))
    return sorted(set(lost(given, kept, "")) - BESIDE_THE_SCHEMA)


def lost(given, kept, path):
    if isinstance(given, dict):
        for key, value in given.items():
            if isinstance(kept, dict) and key in kept:
                yield from lost(value, kept[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(given, list):
        if not isinstance(kept, list) or len(given) != len(kept):
            yield path
            return
        for value, other in zip(given, kept):
            yield from lost(value, other, f"{path}[]")
    elif given != kept:
        yield path


def test_grafana_knows_each_key():
    assert unknown(copy.deepcopy(DASHBOARD)) == []


def panels_with_queries():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_ids_and_places_are_fit():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) and all(ids)
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] and place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells


def test_each_panel_asks_the_chosen_data_source():
    for panel in panels_with_queries():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        ref_ids = [target["refId"] for target in panel["targets"]]
        assert ref_ids and len(ref_ids) == len(set(ref_ids)), panel["title"]
    (variable,) = [each for each in DASHBOARD["templating"]["list"] if each["type"] == "datasource"]
    assert (variable["name"], variable["query"]) == ("datasource", "prometheus")


@pytest.mark.parametrize("path, break_it", [
    (".panels[].titel", lambda dashboard, panel: panel.update(titel="x")),
    (".panels[].options.legand", lambda dashboard, panel: panel["options"].update(legand={})),
    (".panels[].targets[].exper", lambda dashboard, panel: panel["targets"][0].update(exper="up")),
    (".refreshh", lambda dashboard, panel: dashboard.update(refreshh="1m")),
])
def test_a_key_that_grafana_does_not_know_is_noticed(path, break_it):
    dashboard = copy.deepcopy(DASHBOARD)
    break_it(dashboard, next(panel for panel in dashboard["panels"] if panel["type"] == "timeseries"))
    assert unknown(dashboard) == [path]
