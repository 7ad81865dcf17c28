//! A Corefile to be imported. The input is its text.

use std::path::Path;

use nodens::config::{self, corefile};

pub(crate) fn check(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    // Files that are named are opened: no device shall hold the fuzzer up.
    if text.contains("/dev") || text.contains("/proc") {
        return false;
    }
    let inputs = corefile::Inputs {
        local_ips: vec!["169.254.20.10".parse().expect("an address")],
        cluster_dns: Some("10.96.0.10".parse().expect("an address")),
        ..corefile::Inputs::default()
    };
    let file = Path::new("/fuzz/Corefile");
    let import = match corefile::import(text, file, &inputs) {
        Ok(import) => import,
        Err(error) => {
            assert!(error.to_string().starts_with("/fuzz/Corefile"), "{error}");
            return false;
        }
    };
    assert_eq!(import.zone_origins.len(), import.config.zones.len());
    let yaml = match import.to_yaml(file) {
        Ok(yaml) => yaml,
        // The loader's bounds: on nesting, which counts the brackets of names as well, and on size, which findings add to.
        Err(error) => {
            let bounds = ["brackets nested deeper than 64", "found more than 1048576 bytes"];
            assert!(bounds.iter().any(|bound| error.to_string().contains(bound)), "{error}");
            return true;
        }
    };
    if config::check(&import.config, ORIGIN).is_ok() {
        match config::from_str(&yaml, ORIGIN) {
            Ok(loaded) => assert_eq!(loaded.config, import.config, "{yaml}"),
            Err(error) => panic!("an import that is valid is printed, and does not load:\n{error}\n{yaml}"),
        }
    }
    true
}

const ORIGIN: &str = "fuzz.yaml";
