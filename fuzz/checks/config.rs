//! A configuration file. The input is its text.

use nodens::config;

pub(crate) fn check(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    // Files that are named are opened: no device shall hold the fuzzer up.
    if text.contains("/dev") || text.contains("/proc") {
        return false;
    }
    match config::from_str(text, ORIGIN) {
        Ok(loaded) => {
            let yaml = loaded.config.to_yaml();
            let again = match config::from_str(&yaml, ORIGIN) {
                Ok(again) => again,
                Err(error) => panic!("what was loaded is printed, and does not load:\n{error}\n{yaml}"),
            };
            assert_eq!(again.config, loaded.config, "{yaml}");
            assert_eq!(again.hash, loaded.hash);
            assert!(config::check(&loaded.config, ORIGIN).is_ok());
            true
        }
        Err(error) => {
            assert!(error.to_string().contains(ORIGIN) || error.to_string().contains("default"), "{error}");
            false
        }
    }
}

const ORIGIN: &str = "fuzz.yaml";
