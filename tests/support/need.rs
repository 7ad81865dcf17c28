//! What a test needs of the machine. A test that cannot run says so; in CI it fails instead.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::path::PathBuf;
use std::process::Command;
use std::thread;

/// Whether these programs are installed. If not, a line `SKIP: …` says so; with `CI=true` in the environment the test fails,
/// so that nothing goes untested unnoticed there.
pub fn programs(names: &[&str]) -> bool {
    let missing: Vec<_> = names.iter().filter(|name| find(name).is_none()).collect();
    missing.is_empty() || skip(&format!("not installed: {missing:?}; tests/setup installs what tests need"))
}

/// Whether we are root, as namespaces need. Otherwise as [`programs`].
pub fn root() -> bool {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    is_root || skip("needs root")
}

/// Where a program is.
pub fn find(name: &str) -> Option<PathBuf> {
    let sbin = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn skip(reason: &str) -> bool {
    let test = thread::current().name().unwrap_or_default().to_owned();
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} cannot run: {reason}");
    eprintln!("SKIP: {test}: {reason}");
    false
}
