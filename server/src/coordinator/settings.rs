//! `[coordinator]` of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest that a coordinator's office lasts without renewal, unless the config says otherwise.
const LEASE_MAX: Duration = Duration::from_secs(5);

/// `[coordinator]`: leases and patience.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Time that a coordinator leads without renewing its office, and that another waits before it follows; at most a
    /// third of `server_lease`, so that servers serve on meanwhile. By default that third, and at most 5s.
    #[serde(with = "humantime_serde")]
    pub lease: Option<Duration>,
    /// Time after which a coordinator that stood by and is silent may follow no more.
    #[serde(with = "humantime_serde")]
    pub standby_forget: Duration,
    /// Name of a leader that is gone for good: this coordinator may follow it though it never stood by.
    pub succeeds: Option<String>,
    /// Length of a server's lease; it sends a heartbeat five times in that time.
    #[serde(with = "humantime_serde")]
    pub server_lease: Duration,
    /// Time after its lease that a server may stay away before its shards are lost with it.
    #[serde(with = "humantime_serde")]
    pub server_return_wait: Duration,
    /// Time from one collection of garbage to the next; 0s collects only when asked.
    #[serde(with = "humantime_serde")]
    pub collect_interval: Duration,
    /// Age, by the object store's clock, before which no object is deleted.
    #[serde(with = "humantime_serde")]
    pub collect_min_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: None,
            standby_forget: Duration::from_secs(600),
            succeeds: None,
            server_lease: Duration::from_secs(15),
            server_return_wait: Duration::from_secs(30),
            collect_interval: Duration::from_secs(300),
            collect_min_age: Duration::from_secs(600),
        }
    }
}

impl Config {
    /// Length of a coordinator's lease.
    pub fn lease(&self) -> Duration {
        self.lease.unwrap_or_else(|| (self.server_lease / 3).min(LEASE_MAX))
    }

    /// Everything that is wrong with it.
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let (server_lease, lease) = (self.server_lease, self.lease());
        if server_lease.as_millis() < 100 {
            problems.push(format!("coordinator.server_lease is {server_lease:?}: at least 100ms"));
        }
        if lease.as_millis() < 20 || lease * 3 > server_lease {
            let at_most = server_lease / 3;
            problems.push(format!(
                "coordinator.lease is {lease:?}: at least 20ms, and at most a third of coordinator.server_lease, \
                 {at_most:?}"
            ));
        }
        problems
    }
}
