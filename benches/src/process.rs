//! What a process used so far, as Linux tells it.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// `/proc` counts processor time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// What a process used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Bytes of memory that it holds now.
    pub resident: u64,
    /// Of both processors.
    pub cpu: Duration,
    /// Bytes that it had written to disks.
    pub written: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Self> {
        let stat = read(pid, "stat")?;
        // The name before may hold anything.
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("/proc/PID/stat has its fields")?;
        Ok(Self {
            resident: number(&read(pid, "status")?, "VmRSS:")? << 10,
            cpu: TICK * (user + system),
            written: number(&read(pid, "io")?, "write_bytes:")?,
        })
    }

    pub fn cpu_since(self, before: Self) -> Duration {
        self.cpu.saturating_sub(before.cpu)
    }
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("read {path}"))
}

fn number(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.with_context(|| format!("{name} is missing"))?.parse().context(name.to_owned())
}
