//! Where and when a run took place.

use std::fs;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// What a reader must know to compare figures.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// UTC, `YYYY-MM-DD`.
    pub(crate) date: String,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) server_cpu: usize,
    pub(crate) load_cpu: usize,
}

impl Machine {
    /// Reads it from /proc.
    pub(crate) fn read(server_cpu: usize, load_cpu: usize) -> io::Result<Self> {
        let info = fs::read_to_string("/proc/cpuinfo")?;
        let cpu = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.trim().to_owned());
        let virtual_machine =
            info.lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            date: civil((since_epoch.as_secs() / 86_400).cast_signed()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: if virtual_machine { format!("{cpu} (virtual machine)") } else { cpu },
            cpus: info.lines().filter(|line| line.starts_with("processor")).count(),
            server_cpu,
            load_cpu,
        })
    }
}

/// The date of a day counted from 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> String {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
