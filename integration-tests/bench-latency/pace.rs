//! An open loop: operations are due at moments that were fixed before, whether or not answers come.
//!
//! The latency of an operation is the time from the moment it was due to its answer. One that had to wait because those
//! before it were late has waited, and that counts: leaving it out is what is called coordinated omission.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// Operations that become due within this time are sent together.
pub const WINDOW: Duration = Duration::from_micros(100);
/// Windows on their way; what becomes due beyond them is sent together once one is answered.
pub const IN_FLIGHT: usize = 8;
/// Most operations of a window.
const BATCH_MAX: u64 = 1024;
/// The first operations, one in so many, are not counted.
const WARM_UP: u64 = 10;
/// A side that has answered everything within so much more than the planned time has kept up.
const LATE_MAX: f64 = 1.02;
/// A side that takes so many times the planned time is given up.
const GIVE_UP: u32 = 3;
/// What a latency may be, in nanoseconds.
const LATENCY_MAX: u64 = 60_000_000_000;

/// How fast and how long.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Operations per second.
    pub rate: u32,
    /// Planned time.
    pub duration: Duration,
}

/// What has come of it.
#[derive(Debug)]
pub struct Measured {
    /// Latencies, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Operations that were answered, per second.
    pub rate: f64,
    /// False if the side was slower than asked for.
    pub kept_up: bool,
}

/// Somebody who sends operations and takes answers.
pub trait Client {
    /// Sends the operations of these numbers together.
    async fn send(&mut self, numbers: std::ops::Range<u64>) -> Result<()>;
    /// Waits for answers and calls with the number of each operation that was answered. Giving up waiting loses none.
    async fn answers(&mut self, answered: impl FnMut(u64)) -> Result<()>;
    /// Windows that are not wholly answered.
    fn in_flight(&self) -> usize;
}

impl Pace {
    fn total(self) -> u64 {
        (f64::from(self.rate) * self.duration.as_secs_f64()) as u64
    }

    /// When an operation is due, from the beginning.
    fn moment(self, number: u64) -> Duration {
        Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate))
    }

    /// How many operations are due after so much time.
    fn due(self, elapsed: Duration) -> u64 {
        let due = elapsed.as_nanos() * u128::from(self.rate) / 1_000_000_000 + 1;
        u64::try_from(due).unwrap_or(u64::MAX).min(self.total())
    }

    /// Runs a client at this pace.
    pub async fn run(self, client: &mut impl Client) -> Result<Measured> {
        let mut latencies = Histogram::new_with_bounds(1, LATENCY_MAX, 3)?;
        let (total, begun) = (self.total(), Instant::now());
        // Begun after the clock, so that a tick comes right behind the moment that it is for and not right before it.
        let ticks = Ticks::every(WINDOW)?;
        let (mut sent, mut done) = (0, 0);
        while done < total {
            let elapsed = begun.elapsed();
            if elapsed > self.duration * GIVE_UP {
                break;
            }
            let due = self.due(elapsed);
            while sent < due && client.in_flight() < IN_FLIGHT {
                let until = due.min(sent + BATCH_MAX);
                client.send(sent..until).await?;
                sent = until;
            }
            let answered = |number| {
                done += 1;
                if number >= total / WARM_UP {
                    let latency = begun.elapsed().saturating_sub(self.moment(number)).as_nanos();
                    latencies.saturating_record(latency as u64);
                }
            };
            tokio::select! {
                biased;
                taken = client.answers(answered), if client.in_flight() > 0 => taken?,
                ticked = ticks.next(), if sent < total => ticked?,
            }
        }
        let took = begun.elapsed().as_secs_f64();
        let kept_up = done == total && took <= self.duration.as_secs_f64() * LATE_MAX;
        while client.in_flight() > 0 {
            client.answers(|_| {}).await?;
        }
        Ok(Measured { latencies, rate: done as f64 / took, kept_up })
    }
}

/// Ticks that are as exact as the kernel's, which a runtime's timers are not.
struct Ticks(AsyncFd<OwnedFd>);

impl Ticks {
    fn every(interval: Duration) -> Result<Self> {
        ensure!(!interval.is_zero(), "an interval of nothing");
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let interval = Timespec { tv_sec: interval.as_secs().cast_signed(), tv_nsec: interval.subsec_nanos().into() };
        let ticks = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks)?;
        #[expect(deprecated, reason = "its successor is unsafe; the descriptor is owned and never replaced")]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    async fn next(&self) -> Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = |timer: &AsyncFd<OwnedFd>| Ok(rustix::io::read(timer.get_ref(), &mut [0; 8])?);
            if let Ok(read) = ready.try_io(read) {
                read?;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_due_at_moments_that_are_fixed_before() {
        let pace = Pace { rate: 1_000, duration: Duration::from_secs(1) };
        assert_eq!(pace.total(), 1_000);
        assert_eq!(pace.moment(3), Duration::from_millis(3));
        assert_eq!((pace.due(Duration::ZERO), pace.due(Duration::from_micros(2_999))), (1, 3));
        assert_eq!(pace.due(Duration::from_secs(9)), 1_000, "no more than there are");
    }

    /// Answers nothing for a while, then everything at once.
    #[derive(Default)]
    struct Stalls {
        waiting: Vec<u64>,
        begun: Option<Instant>,
    }

    impl Client for Stalls {
        async fn send(&mut self, numbers: std::ops::Range<u64>) -> Result<()> {
            self.begun.get_or_insert_with(Instant::now);
            self.waiting.extend(numbers);
            Ok(())
        }

        async fn answers(&mut self, answered: impl FnMut(u64)) -> Result<()> {
            let until = self.begun.unwrap_or_else(Instant::now) + Duration::from_millis(100);
            tokio::time::sleep_until(until.into()).await;
            self.waiting.drain(..).for_each(answered);
            Ok(())
        }

        fn in_flight(&self) -> usize {
            if self.waiting.is_empty() { 0 } else { IN_FLIGHT }
        }
    }

    #[tokio::test]
    async fn what_waited_for_a_stall_to_end_has_waited() {
        let pace = Pace { rate: 1_000, duration: Duration::from_millis(200) };
        let measured = pace.run(&mut Stalls::default()).await.unwrap();
        // A closed loop would have sent one operation during the stall and seen one latency of 100 ms.
        let late = measured.latencies.count_between(10_000_000, LATENCY_MAX);
        assert!(late >= 60, "{late} operations waited for 10 ms or longer");
    }
}
