//! Time to live, as it is typed: the flags of `register` and `replace`, and moments of deadlines.

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use forebay_proto::v1::{TtlClock, TtlConfig, TtlUpdate, TtlVisibility};

/// The time to live of a state's entries.
#[derive(Debug, Args)]
pub struct TtlFlags {
    /// How long an entry lives after its last update, such as 90s or 1h [default: for ever].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// What sets the deadline anew [default: write].
    #[arg(long, value_name = "WHEN", requires = "ttl")]
    ttl_update: Option<Update>,
    /// The clock that deadlines are measured by; event is for leased operators [default: processing].
    #[arg(long, value_name = "CLOCK", requires = "ttl")]
    ttl_clock: Option<Clock>,
    /// What reads see past the deadline [default: never-expired].
    #[arg(long, value_name = "WHAT", requires = "ttl")]
    ttl_visibility: Option<Visibility>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Update {
    Write,
    ReadAndWrite,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Clock {
    Processing,
    Event,
    Writer,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Visibility {
    NeverExpired,
    IfNotCleanedUp,
}

impl TtlFlags {
    /// Returns the TTL, where one is named; what is not said of it is as it was before, or as usual.
    pub fn config(&self, before: Option<TtlConfig>) -> Option<TtlConfig> {
        let ttl = self.ttl?.try_into().ok();
        let usual = TtlConfig {
            update: TtlUpdate::OnCreateAndWrite.into(),
            clock: TtlClock::Processing.into(),
            visibility: TtlVisibility::NeverReturnExpired.into(),
            ..TtlConfig::default()
        };
        let mut config = TtlConfig { ttl, ..before.unwrap_or(usual) };
        match self.ttl_update {
            Some(Update::Write) => config.set_update(TtlUpdate::OnCreateAndWrite),
            Some(Update::ReadAndWrite) => config.set_update(TtlUpdate::OnReadAndWrite),
            None => {}
        }
        match self.ttl_clock {
            Some(Clock::Processing) => config.set_clock(TtlClock::Processing),
            Some(Clock::Event) => config.set_clock(TtlClock::Event),
            Some(Clock::Writer) => config.set_clock(TtlClock::Writer),
            None => {}
        }
        match self.ttl_visibility {
            Some(Visibility::NeverExpired) => config.set_visibility(TtlVisibility::NeverReturnExpired),
            Some(Visibility::IfNotCleanedUp) => config.set_visibility(TtlVisibility::ReturnExpiredIfNotCleanedUp),
            None => {}
        }
        Some(config)
    }
}

/// Reads a deadline: RFC 3339, or milliseconds since 1970.
pub fn deadline(typed: &str) -> Result<i64, String> {
    if let Ok(ms) = typed.parse() {
        return Ok(ms);
    }
    let wrong = || "a moment such as 2030-01-31T12:00:00Z, or milliseconds since 1970, is needed".to_owned();
    let moment = humantime::parse_rfc3339(typed).map_err(|_| wrong())?;
    let since = moment.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
    i64::try_from(since.as_millis()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        ttl: TtlFlags,
    }

    fn config(rest: &[&str], before: Option<TtlConfig>) -> Option<TtlConfig> {
        Line::try_parse_from([&["x"], rest].concat()).unwrap().ttl.config(before)
    }

    #[test]
    fn what_is_not_said_is_as_usual_or_as_before() {
        assert_eq!(config(&[], None), None);
        let usual = config(&["--ttl", "1h"], None).unwrap();
        assert_eq!(usual.ttl.map(|ttl| ttl.seconds), Some(3600));
        assert_eq!((usual.update(), usual.clock()), (TtlUpdate::OnCreateAndWrite, TtlClock::Processing));
        let event = config(&["--ttl", "1h", "--ttl-clock", "event", "--ttl-update", "read-and-write"], None).unwrap();
        let longer = config(&["--ttl", "2h", "--ttl-visibility", "if-not-cleaned-up"], Some(event)).unwrap();
        assert_eq!((longer.update(), longer.clock()), (TtlUpdate::OnReadAndWrite, TtlClock::Event));
        assert_eq!(longer.visibility(), TtlVisibility::ReturnExpiredIfNotCleanedUp);
        assert!(Line::try_parse_from(["x", "--ttl-clock", "event"]).is_err());
    }

    #[test]
    fn a_deadline_is_a_moment_or_milliseconds() {
        assert_eq!(deadline("2013-01-01T13:00:00Z"), Ok(1_357_045_200_000));
        assert_eq!((deadline("-5"), deadline("1357045200000")), (Ok(-5), Ok(1_357_045_200_000)));
        assert!(deadline("tomorrow").unwrap_err().contains("milliseconds"));
        assert!(deadline("1969-12-31T23:59:59Z").is_err());
    }
}
