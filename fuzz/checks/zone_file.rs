//! A master file. The input is its text; the zone is `corp.example`.

use std::path::Path;

use nodens::authority::ZoneFile;
use nodens::config::name::to_wire;
use nodens::wire::CLASS_IN;
use nodens::wire::answer::Answer;

pub(crate) fn check(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    // Whatever file is named would be read.
    if text.to_ascii_uppercase().contains("$INCLUDE") {
        return false;
    }
    let zone = match ZoneFile::parse("Corp.Example", Path::new("/fuzz/zone"), text) {
        Ok(zone) => zone,
        Err(error) => {
            assert!(error.to_string().starts_with("/fuzz/zone:"), "{error}");
            return false;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
    for name in ["corp.example", "www.corp.example", "alias.corp.example", "none.a.corp.example"] {
        let wire = to_wire(name).expect("a name");
        for qtype in [1, 5, 6, 16, 28, 255] {
            let reply = runtime.block_on(zone.reply(&wire, qtype, CLASS_IN));
            let reply = reply.unwrap_or_else(|error| panic!("{name} {qtype}: {error}"));
            if let Err(error) = Answer::from_reply(&reply) {
                panic!("{name} {qtype}: {error}");
            }
        }
    }
    true
}
