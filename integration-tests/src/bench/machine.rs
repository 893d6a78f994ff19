//! The machine: what it is, how busy, and whether the servers have come to rest.

use std::{
    fmt, fs,
    thread::sleep,
    time::{Duration, Instant},
};

/// A server that used no more than this in [`LOOK`] is at rest; the kernel counts in ticks of 10 ms.
const RESTING_TICKS: u64 = 1;
const LOOK: Duration = Duration::from_millis(100);
/// What compaction or a rewrite takes longer is on the account of what follows.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// What figures are to be read beside.
pub struct Machine {
    processor: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    load_before: String,
    load_after: String,
}

impl Machine {
    /// Looks at the machine before anything runs.
    pub fn look() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split(':').nth(1).unwrap_or("unknown").trim().to_owned()
        };
        let kib = field("/proc/meminfo", "MemTotal");
        let kib: u64 = kib.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib.div_ceil(1 << 20),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            load_before: load(),
            load_after: String::new(),
        }
    }

    /// Looks at the load again, once everything has run.
    pub fn look_again(&mut self) {
        self.load_after = load();
    }

    /// The load averages after everything has run.
    pub fn load_after(&self) -> &str {
        &self.load_after
    }

    /// Waits until none of the processes has work left over from the last measurement, for a while.
    #[expect(clippy::disallowed_methods, reason = "the bench's own thread, which has nothing to do meanwhile")]
    pub fn settle(&self, processes: &[u32]) {
        let until = Instant::now() + SETTLE_MAX;
        let mut before = ticks(processes);
        while Instant::now() < until {
            sleep(LOOK);
            let now = ticks(processes);
            if now <= before + RESTING_TICKS {
                return;
            }
            before = now;
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, memory_gib, kernel, load_before, .. } = self;
        write!(f, "{processor}, {cores} cores, {memory_gib} GiB, Linux {kernel}; load average before: {load_before}")
    }
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Processor time that the processes have used, together.
fn ticks(processes: &[u32]) -> u64 {
    let of = |id: &u32| -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // Behind the name, which may hold anything but ends with the last bracket: fields 3 and on.
        let fields: Vec<_> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    processes.iter().filter_map(of).sum()
}
