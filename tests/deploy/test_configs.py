"""Every nodens.yaml that a user may copy from here passes `nodens check`."""

import pathlib

import pytest
import yaml
from conftest import OVERLAYS, blocks, docs_pages, every_rendering, pick, run

RENDERINGS = list(every_rendering())
PLAIN = sorted(OVERLAYS.parent.rglob("nodens.yaml"))
DOCS = [
    pytest.param(text, id=f"{page.name}:{line}")
    for page in docs_pages()
    for line, info, text in blocks(page)
    if info == "yaml nodens"
]


def check(nodens, directory, files):
    """Lays the files of a ConfigMap out as kubelet would and runs `nodens check` on nodens.yaml."""
    directory = pathlib.Path(directory)
    for name, text in files.items():
        (directory / name).write_text(text.replace("/etc/nodens/", f"{directory}/"))
    return run(nodens, "check", "--config", directory / "nodens.yaml", timeout=30)


def accepted(done):
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    effective = yaml.safe_load(done.stdout)
    assert isinstance(effective, dict) and "listen" in effective, f"no effective configuration printed:\n{done.stdout}"
    return effective


@pytest.mark.parametrize("gives", [gives for _, gives in RENDERINGS], ids=[name for name, _ in RENDERINGS])
def test_rendered_configmaps(nodens, tmp_path, gives):
    files = pick(gives(), "ConfigMap")["data"]
    effective = accepted(check(nodens, tmp_path, files))
    assert effective["listen"]["addresses"] == yaml.safe_load(files["nodens.yaml"])["listen"]["addresses"]
    assert effective["node"]["notrack"] is True


@pytest.mark.parametrize("path", PLAIN, ids=[str(path.parent.name) for path in PLAIN])
def test_plain_files(nodens, tmp_path, path):
    accepted(check(nodens, tmp_path, {"nodens.yaml": path.read_text()}))


@pytest.mark.parametrize("text", DOCS)
def test_blocks_of_the_docs(nodens, tmp_path, text):
    accepted(check(nodens, tmp_path, {"nodens.yaml": text}))


@pytest.mark.parametrize("wrong, word", [
    ("listne: {port: 53}\n", "listne"),
    ("listen: {port: many}\n", "listen.port"),
    ("cache: {size: 32 elephants}\n", "cache.size"),
])
def test_a_wrong_one_is_refused(nodens, tmp_path, wrong, word):
    done = check(nodens, tmp_path, {"nodens.yaml": wrong})
    assert done.returncode == 64, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert word in done.stderr, done.stderr
