//! Corefiles as they are found in clusters, each beside the nodens.yaml it must become.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use nodens::cli::{self, Command, ImportCorefile};
use nodens::config;

/// `UPDATE_EXPECTED=1 cargo test --test corefile` writes the expected files anew; review the difference.
const UPDATE: &str = "UPDATE_EXPECTED";

fn corefiles() -> Vec<PathBuf> {
    let directory = Path::new("tests/corefiles");
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "Corefile"));
    files.sort();
    files
}

/// The arguments that a first line `# arguments: ...` asks for.
fn arguments(file: &Path) -> ImportCorefile {
    let text = std::fs::read_to_string(file).unwrap();
    let first = text.lines().next().unwrap_or_default();
    let words = first.strip_prefix("# arguments:").unwrap_or_default().split_whitespace();
    let line = ["nodens", "import-corefile", file.to_str().unwrap()].into_iter().chain(words);
    match cli::parse(line) {
        Ok(Command::ImportCorefile(import)) => import,
        other => panic!("{}: {other:?}", file.display()),
    }
}

fn environment() -> BTreeMap<String, String> {
    BTreeMap::from([("LOCAL_DNS".to_owned(), "169.254.20.10".to_owned())])
}

#[test]
fn corefiles_become_what_is_expected_and_that_is_valid() {
    let files = corefiles();
    assert!(files.len() >= 16, "{files:?}");
    for file in files {
        let imported = cli::import_corefile(&arguments(&file), &environment()).unwrap();
        let expected_file = file.with_extension("yaml");
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(&expected_file, &imported.yaml).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_file).unwrap();
        assert_eq!(imported.yaml, expected, "{}", file.display());
        // The machine's own resolv.conf must not decide this test.
        let text = imported.yaml.replace("- /etc/resolv.conf", "- 198.51.100.1");
        if let Err(error) = config::from_str(&text, expected_file.to_str().unwrap()) {
            panic!("{error}\n{text}");
        }
    }
}

#[test]
fn strict_fails_exactly_where_something_is_lost() {
    for (name, code) in [
        ("upstream-filled", 0),
        ("upstream-flags", 0),
        ("upstream-unfilled", 2),
        ("kubespray", 0),
        ("kops", 0),
        ("gardener", 0),
        ("rke2", 0),
        ("deliveryhero", 2),
        ("aks", 2),
        ("ipv6-dns64", 2),
        ("stub-domains", 2),
        ("gke", 2),
        ("kubeadm", 2),
        ("eks", 2),
        ("k3s", 2),
        ("plugin-order", 2),
    ] {
        let file = PathBuf::from(format!("tests/corefiles/{name}.Corefile"));
        let mut arguments = arguments(&file);
        let lenient = cli::import_corefile(&arguments, &environment()).unwrap();
        arguments.strict = true;
        let strict = cli::import_corefile(&arguments, &environment()).unwrap();
        assert_eq!((lenient.code, strict.code), (0, code), "{name}: {}", strict.report);
        assert_eq!(strict.report.is_empty(), code == 0, "{name}: {}", strict.report);
    }
}

/// What the program makes of a Corefile on its standard input.
fn import_standard_input(text: &str) -> Output {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_nodens"))
        .args(["import-corefile", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn what_cannot_be_written_is_told_with_what_is_lost() {
    let zones = format!("{}.example {}.example", "[".repeat(33), "[".repeat(32));
    let output = import_standard_input(&format!("{zones} {{\n forward . 192.0.2.1\n unheard_of\n}}\n"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(stderr.contains("unheard_of"), "{stderr}");
    assert!(stderr.contains("standard input: the nodens.yaml it becomes: is not valid YAML"), "{stderr}");
}

#[test]
fn standard_input_is_taken_whole_or_not_at_all() {
    let block = ".:53 {\n forward . 192.0.2.1\n}\n";
    let text = |len: usize| format!("{block}{}", "#".repeat(len - block.len()));
    let output = import_standard_input(&text(1 << 20));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = import_standard_input(&text((1 << 20) + 1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(stderr.contains("standard input: cannot be read: it has more than 1 MiB"), "{stderr}");
}
