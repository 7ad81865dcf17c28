//! The kube-dns ConfigMap: `stubDomains` and `upstreamNameservers`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::CorefileError;
use super::parser::read;

/// What the kube-dns ConfigMap says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeDns {
    /// Where it was read from.
    pub origin: String,
    /// Domains and the nameservers that answer for them, as `ip` or `ip:port`.
    pub stub_domains: BTreeMap<String, Vec<String>>,
    /// Nameservers for all other names, in place of /etc/resolv.conf.
    pub upstream_nameservers: Vec<String>,
}

impl KubeDns {
    /// Reads a ConfigMap in YAML or JSON: the object as `kubectl get -o yaml` prints it.
    pub fn from_file(file: &Path) -> Result<Self, CorefileError> {
        let failed = |message: String| CorefileError::KubeDns { file: file.to_owned(), message };
        let map: ConfigMap = serde_norway::from_str(&read(file)?)
            .map_err(|error| failed(format!("{error}; expected a ConfigMap in YAML")))?;
        Self::from_data(file, &map.data)
    }

    /// Reads a mounted ConfigMap: one file for each of its keys. What is not there says nothing.
    pub fn from_directory(directory: &Path) -> Result<Self, CorefileError> {
        let mut data = BTreeMap::new();
        for key in [STUB_DOMAINS, UPSTREAM_NAMESERVERS] {
            let file = directory.join(key);
            if file.is_file() {
                data.insert(key.to_owned(), read(&file)?);
            }
        }
        Self::from_data(directory, &data)
    }

    fn from_data(origin: &Path, data: &BTreeMap<String, String>) -> Result<Self, CorefileError> {
        let failed = |key: &str, error: serde_json::Error, expected: &str| CorefileError::KubeDns {
            file: origin.to_owned(),
            message: format!("{key}: {error}; expected JSON such as {expected}"),
        };
        let text = |key| data.get(key).map(|text| text.trim()).filter(|text| !text.is_empty());
        let mut kube_dns = Self { origin: origin.display().to_string(), ..Self::default() };
        if let Some(text) = text(STUB_DOMAINS) {
            kube_dns.stub_domains = serde_json::from_str(text)
                .map_err(|error| failed(STUB_DOMAINS, error, r#"{"corp.example": ["10.0.0.1"]}"#))?;
        }
        if let Some(text) = text(UPSTREAM_NAMESERVERS) {
            kube_dns.upstream_nameservers = serde_json::from_str(text)
                .map_err(|error| failed(UPSTREAM_NAMESERVERS, error, r#"["192.0.2.1"]"#))?;
        }
        Ok(kube_dns)
    }
}

const STUB_DOMAINS: &str = "stubDomains";
const UPSTREAM_NAMESERVERS: &str = "upstreamNameservers";

#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_map_and_directory_say_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cm.yaml");
        let stub = r#"{"corp.example": ["10.0.0.1", "10.0.0.2:5353"]}"#;
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kube-dns}}\ndata:\n  stubDomains: |\n    {stub}\n  \
             upstreamNameservers: |\n    [\"192.0.2.1\"]\n"
        );
        std::fs::write(&file, text).unwrap();
        std::fs::write(directory.path().join("stubDomains"), stub).unwrap();
        std::fs::write(directory.path().join("upstreamNameservers"), "[\"192.0.2.1\"]\n").unwrap();
        let map = KubeDns::from_file(&file).unwrap();
        let mounted = KubeDns::from_directory(directory.path()).unwrap();
        assert_eq!(map.stub_domains["corp.example"], ["10.0.0.1", "10.0.0.2:5353"]);
        assert_eq!(map.upstream_nameservers, ["192.0.2.1"]);
        assert_eq!(
            (&map.stub_domains, &map.upstream_nameservers),
            (&mounted.stub_domains, &mounted.upstream_nameservers)
        );
    }

    #[test]
    fn nothing_is_fine_and_nonsense_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let empty = KubeDns::from_directory(&directory.path().join("gone")).unwrap();
        assert!(empty.stub_domains.is_empty() && empty.upstream_nameservers.is_empty());
        std::fs::write(directory.path().join("stubDomains"), "corp.example").unwrap();
        let message = KubeDns::from_directory(directory.path()).unwrap_err().to_string();
        assert!(message.contains("stubDomains: ") && message.contains("expected JSON"), "{message}");
    }
}
