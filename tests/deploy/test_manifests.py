"""The manifests: one truth, valid for every supported Kubernetes, and what the design promises about the DaemonSet."""

import ipaddress
import json
import re

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator
from conftest import (
    CHART, DEPLOY, OVERLAYS, ROOT, TOOLS, VARIANTS, every_rendering, helm, kustomize, output, pick, run,
)
from jsonschema import Draft202012Validator

# 1.25 is the oldest with a stable DaemonSet maxSurge (Chart.yaml says so too).
KUBERNETES = ["1.25", "1.29", "1.33", "1.37"]
RENDERINGS = list(every_rendering())
NAMES = [name for name, _ in RENDERINGS]
GIVES = [gives for _, gives in RENDERINGS]


def config_of(objects):
    return yaml.safe_load(pick(objects, "ConfigMap")["data"]["nodens.yaml"])


def pod_of(objects):
    return pick(objects, "DaemonSet")["spec"]["template"]["spec"]


def comparable(objects):
    """By kind and name; embedded YAML and JSON by meaning, not by layout."""
    found = {}
    for each in objects:
        for name, text in each.get("data", {}).items():
            each["data"][name] = yaml.safe_load(text) if name.endswith((".yaml", ".json")) else text
        found[each["kind"], each["metadata"]["namespace"], each["metadata"]["name"]] = each
    return found


def mebibytes(text):
    number, unit = re.fullmatch(r"(\d+)([KMG]i)B?", text).groups()
    return int(number) * {"Ki": 1 / 1024, "Mi": 1, "Gi": 1024}[unit]


def test_derived_files_are_up_to_date():
    output(DEPLOY / "render", "--check")


@pytest.mark.parametrize("variant", VARIANTS)
def test_overlay_and_chart_give_the_same_objects(variant):
    from_kustomize, from_helm = comparable(kustomize(variant)), comparable(helm(variant))
    assert from_kustomize.keys() == from_helm.keys()
    for key, each in from_kustomize.items():
        assert each == from_helm[key], key


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("gives", GIVES, ids=NAMES)
def test_objects_fit_the_kubernetes_schemas(gives, version):
    kinds = set()
    for each in gives():
        kinds.add(each["kind"])
        if not each["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes_validate.validate(each, version, strict=True)
    assert {"DaemonSet", "ConfigMap", "Service", "ServiceAccount"} <= kinds


def test_the_schemas_refuse_a_wrong_daemonset():
    daemonset = pick(helm("link-local"), "DaemonSet")
    daemonset["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(daemonset, KUBERNETES[0], strict=True)


def assert_nothing_unknown(given, parsed, path):
    """The operator's models take unknown keys in silence; what they did not keep is what they do not know."""
    if isinstance(given, dict):
        for key, value in given.items():
            assert isinstance(parsed, dict) and key in parsed, f"{path}.{key} is unknown to the Prometheus Operator"
            assert_nothing_unknown(value, parsed[key], f"{path}.{key}")
    elif isinstance(given, list):
        for index, value in enumerate(given):
            assert_nothing_unknown(value, parsed[index], f"{path}[{index}]")


@pytest.mark.parametrize("gives", [each for name, each in RENDERINGS if name.endswith(("/monitoring", "/everything"))])
def test_monitoring_objects_fit_the_operators_types(gives):
    for kind, model in {"PodMonitor": operator.PodMonitor, "PrometheusRule": operator.PrometheusRule}.items():
        given = pick(gives(), kind)
        parsed = json.loads(model.model_validate(given).model_dump_json(by_alias=True))
        assert_nothing_unknown(given["spec"], parsed["spec"], kind)


@pytest.mark.parametrize("gives", GIVES, ids=NAMES)
def test_daemonset(gives):
    objects = gives()
    daemonset, pod = pick(objects, "DaemonSet"), pod_of(objects)
    config = config_of(objects)
    (container,) = pod["containers"]
    security = container["securityContext"]

    # On the node, above everything else, with the node's resolv.conf.
    assert pod["hostNetwork"] is True and pod["dnsPolicy"] == "Default"
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert daemonset["metadata"]["namespace"] == "kube-system"

    # Least privilege.
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_BIND_SERVICE"]}
    assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsNonRoot"] == (pod["securityContext"]["runAsUser"] != 0)
    assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
    assert not any("hostPath" in volume for volume in pod["volumes"])

    # Old beside new: a surge, and nothing that claims a port of the node.
    rolling = daemonset["spec"]["updateStrategy"]["rollingUpdate"]
    assert rolling["maxUnavailable"] == 0 and rolling["maxSurge"] in (1, "10%")
    assert "ports" not in container
    assert daemonset["spec"]["minReadySeconds"] >= 10

    # Drain fits the grace period.
    assert pod["terminationGracePeriodSeconds"] == int(config["listen"]["drain"].removesuffix("s")) + 10

    # The directory is mounted: a subPath would never see an update.
    (mount,) = container["volumeMounts"]
    assert mount == {"name": "config", "mountPath": "/etc/nodens", "readOnly": True}
    assert container["args"] == ["run", "--config", "/etc/nodens/nodens.yaml"]


@pytest.mark.parametrize("gives", GIVES, ids=NAMES)
def test_probes_ask_where_health_listens(gives):
    objects = gives()
    config = config_of(objects)
    host, port = re.fullmatch(r"\[?([^\]]+?)\]?:(\d+)", config["observe"]["health"]).groups()
    assert host in config["listen"]["addresses"]
    (container,) = pod_of(objects)["containers"]
    for probe, path in {"startupProbe": "/health", "livenessProbe": "/health", "readinessProbe": "/ready"}.items():
        asked = container[probe]["httpGet"]
        assert (asked["host"], asked["port"], asked["path"]) == (host, int(port), path), probe
    # A start may wait node.upstream_wait (10s by default) and must not be killed for it.
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 30


@pytest.mark.parametrize("gives", GIVES, ids=NAMES)
def test_memory_limit_holds_what_the_configuration_allows(gives):
    objects = gives()
    config = config_of(objects)
    cache, listen = config["cache"], config["listen"]
    sockets = len(listen["addresses"]) * listen["workers"]
    budget = sum(mebibytes(cache[key]) for key in ("size", "negative_size", "failure_size"))
    # The kernel doubles a receive buffer (socket(7), SO_RCVBUF) and charges it to the pod; 8MiB is the default.
    budget += sockets * (mebibytes(cache["near_size"]) + 2 * mebibytes(listen.get("receive_buffer", "8MiB")))
    (container,) = pod_of(objects)["containers"]
    limit = mebibytes(container["resources"]["limits"]["memory"])
    assert limit == budget + 64
    assert container["resources"]["requests"] == {"cpu": "25m", "memory": "32Mi"}
    assert "cpu" not in container["resources"]["limits"]


@pytest.mark.parametrize("gives", GIVES, ids=NAMES)
def test_the_way_to_coredns_does_not_lead_back(gives):
    objects = gives()
    config = config_of(objects)
    addresses = config["listen"]["addresses"]
    upstream = {to for zone in config["zones"] for to in zone.get("forward", {}).get("to", []) if zone["name"] != "."}
    assert not upstream & set(addresses)
    services = [each for each in objects if each["kind"] == "Service" and each["metadata"]["name"] == "kube-dns-upstream"]
    for service in services:
        spec = service["spec"]
        assert set(spec["clusterIPs"]) == upstream and spec["clusterIP"] == spec["clusterIPs"][0]
        assert spec["ipFamilies"] == [f"IPv{ipaddress.ip_address(ip).version}" for ip in spec["clusterIPs"]]
        assert spec["selector"] == {"k8s-app": "kube-dns"}
        assert {(port["protocol"], port["port"]) for port in spec["ports"]} == {("UDP", 53), ("TCP", 53)}


@pytest.mark.parametrize("variant", VARIANTS + ["everything"])
def test_helm_lint(variant):
    output(TOOLS / "bin/helm", "lint", "--strict", CHART, "--values", CHART / f"ci/{variant}.values.yaml")


def test_values_fit_their_schema():
    schema = json.loads((CHART / "values.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    validator.validate(defaults)
    # Every key of values.yaml is described, so that a misspelt one is refused.
    assert defaults.keys() == schema["properties"].keys() - {"global"}
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("wrong", [
    "locall[0]=169.254.20.10",
    "local[0]=169.254.20.300",
    "local[0]=node-local",
    "upstream.clusterIPs[0]=kube-dns",
    "upstream.clusterIps[0]=10.96.0.11",
    "config.listen.drain=5m",
    "config.listen.workers=0",
    "config.listen.port=5353",
    "config.cache.size=32Mi",
    "config.cahce.size=32MiB",
    "image.digest=latest",
    "updateStrategy.maxSurge=0",
    "resources.limits.memory=lots",
    "monitoring.rules.runbookBase=https://runbooks.example",
])
def test_the_schema_refuses(wrong):
    done = run(TOOLS / "bin/helm", "template", "nodens", CHART, "--set", wrong)
    assert done.returncode != 0, f"--set {wrong} was accepted"
    assert "values don't meet the specifications of the schema" in done.stderr, done.stderr


def test_versions_agree():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    cargo = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert chart["appVersion"] == cargo
    for kustomization in OVERLAYS.parent.rglob("kustomization.yaml"):
        for image in yaml.safe_load(kustomization.read_text()).get("images", []):
            assert image["newTag"] == cargo, kustomization


def test_runbook_base_reaches_every_alert():
    rules = pick(helm("everything"), "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert rules and all(
        rule["annotations"]["runbook_url"].startswith("https://runbooks.example/nodens/runbooks.md#") for rule in rules
    )
