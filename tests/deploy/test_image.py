"""The Dockerfile agrees with the rest of the repository."""

import re

from conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_toolchain_is_the_repositorys():
    channel = re.search(r'^channel = "(.+)"$', (ROOT / "rust-toolchain.toml").read_text(), re.M)[1]
    assert re.search(r"^ARG RUST_VERSION=(\S+)$", DOCKERFILE, re.M)[1] == channel


def test_final_stage_is_scratch_non_root_and_labelled():
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM "):]
    assert final.startswith("\nFROM scratch\n")
    assert re.search(r"^USER 65532:65532$", final, re.M)
    for label in ("title", "description", "licenses", "version", "revision", "created"):
        assert f"org.opencontainers.image.{label}=" in final, label
    assert not re.search(r"^RUN ", final, re.M)


def test_user_is_the_charts():
    values = (ROOT / "deploy/helm/nodens/values.yaml").read_text()
    assert re.search(r"^runAsUser: 65532$", values, re.M)


def test_context_leaves_build_output_and_history_out():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*", "name what goes in, not what stays out"
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    for needed in ("Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "src", "benches", "config"):
        assert needed in let_in, needed


def test_context_holds_what_the_source_includes():
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    # The image is built without tests: those stand last in a file, or in one named tests.rs.
    included = [
        (source.parent / path).resolve().relative_to(ROOT)
        for source in (ROOT / "src").rglob("*.rs")
        if source.name != "tests.rs"
        for path in re.findall(
            r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text().partition("#[cfg(test)]\nmod tests {")[0]
        )
    ]
    assert included
    for path in included:
        assert path.parts[0] in let_in, path
    assert (ROOT / "build.rs").exists() <= ("build.rs" in let_in)
