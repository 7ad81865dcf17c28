"""The docs: commands name what exists, links lead somewhere, and what is written as YAML is YAML."""

import re
import shlex

import pytest
import yaml
from conftest import ROOT, TOOLS, blocks, docs_pages, output, run
from promql import metric_of

PAGES = docs_pages()
SHELL = [
    pytest.param(page, line, text, id=f"{page.name}:{line}")
    for page in PAGES
    for line, info, text in blocks(page)
    if info == "sh"
]
YAML = [
    pytest.param(text, id=f"{page.name}:{line}")
    for page in PAGES
    for line, info, text in blocks(page)
    if info.startswith("yaml")
]
OWN = ["install", "kubelet", "migrate", "operate", "troubleshoot", "runbooks"]


def commands(text):
    """Each simple command of a block as words: continuation lines joined, comments dropped, pipelines taken apart."""
    text = re.sub(r"\\\n\s*", " ", text)
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                while words and re.match(r"^\w+=", words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def flags_known_to(tool, subcommands):
    """The flags in `TOOL SUBCOMMANDS --help`, with those common to all subcommands."""
    binary = TOOLS / "bin" / tool
    helps = output(binary, *subcommands, "--help")
    if tool == "kubectl":
        helps += output(binary, "options")
    return set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", helps))


@pytest.mark.parametrize("name", OWN)
def test_page_exists_and_is_short(name):
    assert 20 <= len((ROOT / f"docs/{name}.md").read_text().splitlines()) <= 260


@pytest.mark.parametrize("page, line, text", SHELL)
def test_shell_blocks_parse(page, line, text):
    done = run("bash", "-n", "-c", text)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page, line, text", SHELL)
def test_kubectl_and_helm_know_each_flag(page, line, text):
    for words in commands(text):
        if words[0] not in ("kubectl", "helm"):
            continue
        # Global flags may come before the subcommand: `kubectl -n kube-system get`.
        rest, before = words[1:], set()
        while rest and rest[0].startswith("-"):
            flag = rest.pop(0)
            before.add(flag.split("=")[0])
            if "=" not in flag:
                rest.pop(0)
        nested = words[0] == "kubectl" and rest[0] in ("rollout", "create", "config", "set", "auth")
        subcommands = rest[: 2 if nested else 1]
        used = before
        for word in rest[len(subcommands):]:
            if word == "--":
                break
            if re.match(r"^--?[a-zA-Z]", word):
                used.add(word.split("=")[0])
        unknown = used - flags_known_to(words[0], subcommands)
        assert not unknown, f"{words[0]} {' '.join(subcommands)} does not know {unknown}"


@pytest.mark.parametrize("page, line, text", SHELL)
def test_commands_name_files_that_exist(page, line, text):
    for words in commands(text):
        for word in words:
            found = re.match(r"^(?:\./)?((?:deploy|tests|docs|examples|benches)/[\w./-]+)$", word)
            if found:
                assert (ROOT / found[1]).exists(), word


@pytest.mark.parametrize("page, line, text", SHELL)
def test_helm_commands_render(page, line, text, tmp_path):
    for words in commands(text):
        if words[:2] in (["helm", "install"], ["helm", "upgrade"], ["helm", "template"]):
            settings = [word for index, word in enumerate(words) if word == "--set" or words[index - 1] == "--set"]
            # A shell variable stands for an address.
            settings = [re.sub(r"\$\{?\w+\}?", "10.96.0.11", each) for each in settings]
            output(TOOLS / "bin/helm", "template", "nodens", ROOT / "deploy/helm/nodens", *settings)


@pytest.mark.parametrize("text", YAML)
def test_yaml_blocks_parse(text):
    assert list(yaml.safe_load_all(text))


@pytest.mark.parametrize("page", [ROOT / f"docs/{name}.md" for name in OWN], ids=OWN)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"^[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path) if path else page
        assert goal.exists() or goal.name in ("corefile.md", "configure.md", "metrics.md", "faults.md"), target
        if anchor and goal.exists():
            anchors = {
                re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
                for heading in re.findall(r"^#+ (.+)$", goal.read_text(), re.M)
            }
            assert anchor in anchors, target


@pytest.mark.parametrize("page", [ROOT / f"docs/{name}.md" for name in OWN], ids=OWN)
def test_metrics_named_are_exported(page):
    for name in set(re.findall(r"\bnodens_[a-z_]+\b", page.read_text())):
        assert metric_of(name) or name.endswith("_"), name


@pytest.mark.parametrize("wrong", [
    "kubectl -n kube-system get pods --no-such-flag",
    "kubectl rollout status daemonset/nodens --wach",
    "helm upgrade nodens deploy/helm/nodens --re-use-values",
])
def test_a_wrong_flag_would_be_noticed(wrong):
    with pytest.raises(AssertionError, match="does not know"):
        test_kubectl_and_helm_know_each_flag(None, 0, wrong)


def test_a_missing_file_would_be_noticed():
    with pytest.raises(AssertionError):
        test_commands_name_files_that_exist(None, 0, "kubectl apply -k deploy/kustomize/overlays/elsewhere\n")


NAMES_TESTS = ["README.md", "ARCHITECTURE.md", "SECURITY.md", "docs/rfcs.md"]


@pytest.mark.parametrize("page", NAMES_TESTS)
def test_tests_that_are_named_exist(page):
    sources = "".join(path.read_text() for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.rs"))
    written = set(re.findall(r"\bfn (\w+)", sources))
    # Longer than any metric or key that the pages name.
    named = {name for name in re.findall(r"`([a-z]\w{24,})`", (ROOT / page).read_text())}
    named -= {"max_connections_per_client", "undocumented_unsafe_blocks", "terminationGracePeriodSeconds"}
    assert named <= written, named - written


@pytest.mark.parametrize("page", NAMES_TESTS + ["CHANGELOG.md", "docs/README.md"])
def test_front_pages_link_to_what_exists(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target
