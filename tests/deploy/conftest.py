"""What the checks of deploy/ share: the tools, the rendered variants, the nodens binary, blocks of the docs."""

import functools
import os
import pathlib
import re
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/nodens"
OVERLAYS = DEPLOY / "kustomize/overlays"
TOOLS = ROOT / "target/deploy"

# Each is an overlay of kustomize/overlays and a values file of the chart's ci/, and both must give the same objects.
VARIANTS = sorted(path.name for path in OVERLAYS.iterdir())
# The chart's values files that have no overlay.
CHART_ONLY = ["everything"]


def run(*command, **more):
    """Runs a command; its output is in the failure message when the caller checks the code."""
    return subprocess.run([str(part) for part in command], text=True, capture_output=True, cwd=ROOT, **more)


def output(*command, **more):
    done = run(*command, **more)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def objects(text):
    return [each for each in yaml.safe_load_all(text) if each]


@functools.cache
def _helm(variant):
    return output(
        TOOLS / "bin/helm", "template", "nodens", CHART, "--namespace", "kube-system",
        "--values", CHART / f"ci/{variant}.values.yaml",
    )


@functools.cache
def _kustomize(variant):
    return output(TOOLS / "bin/kubectl", "kustomize", OVERLAYS / variant)


def helm(variant):
    """The chart's objects under ci/VARIANT.values.yaml."""
    return objects(_helm(variant))


def kustomize(variant):
    """The objects of overlays/VARIANT."""
    return objects(_kustomize(variant))


def every_rendering():
    """(name, function that gives the objects) of everything a user could apply."""
    for variant in VARIANTS:
        yield f"kustomize/{variant}", functools.partial(kustomize, variant)
    for variant in VARIANTS + CHART_ONLY:
        yield f"helm/{variant}", functools.partial(helm, variant)


def pick(all_objects, kind, name="nodens"):
    found = [each for each in all_objects if each["kind"] == kind and each["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def docs_pages():
    return sorted((ROOT / "docs").glob("*.md"))


def blocks(page):
    """(line, info string, text) of each fenced block."""
    found, info, start, lines = [], None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = re.match(r"^\s*```(.*)$", line)
        if fence and info is None:
            info, start, lines = fence[1].strip(), number, []
        elif fence:
            found.append((start, info, "\n".join(lines) + "\n"))
            info = None
        elif info is not None:
            lines.append(line)
    assert info is None, f"{page}:{start}: block without end"
    return found


@pytest.fixture(scope="session")
def nodens():
    """The binary whose `check` validates configurations: NODENS_BIN, or the newest build under target/."""
    named = os.environ.get("NODENS_BIN")
    if named:
        candidates = [pathlib.Path(named)]
    else:
        candidates = [ROOT / "target" / profile / "nodens" for profile in ("release", "debug")]
    built = sorted((path for path in candidates if path.is_file()), key=lambda path: path.stat().st_mtime)
    if not built:
        pytest.fail(f"no nodens binary at {', '.join(map(str, candidates))}: `cargo build`, or set NODENS_BIN")
    return built[-1].resolve()
