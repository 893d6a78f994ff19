//! Which calls fail, and how.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// PutObject without a condition.
    Put,
    /// PutObject with If-None-Match.
    PutIfAbsent,
    /// PutObject with If-Match.
    PutIfMatch,
    /// GetObject.
    Get,
    /// HeadObject.
    Head,
    /// ListObjectsV2.
    List,
    /// DeleteObject.
    Delete,
    /// DeleteObjects.
    DeleteMany,
    /// CreateMultipartUpload.
    CreateUpload,
    /// UploadPart.
    UploadPart,
    /// CompleteMultipartUpload.
    CompleteUpload,
    /// AbortMultipartUpload.
    AbortUpload,
    /// CreateBucket.
    CreateBucket,
    /// HeadBucket.
    HeadBucket,
    /// Anything else.
    Other,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Nothing happens and the answer has this status and error code.
    Status(u16, &'static str),
    /// Nothing happens and the answer is 503 `SlowDown`.
    SlowDown503,
    /// Nothing happens and the connection is cut.
    DropBefore,
    /// The effect happens, then the connection is cut.
    DropAfter,
    /// The call is carried out this much later; not at all if the client has gone away by then.
    Stall(Duration),
    /// The effect happens, the answer comes this much later.
    StallAfter(Duration),
    /// The answer says its full length and breaks off halfway.
    TruncateBody,
    /// One bit of the body flips: of what is sent for writes, of the answer for everything else.
    CorruptBody,
    /// Nothing happens and the answer is an error with status 200, as S3 does it when a
    /// CompleteMultipartUpload fails late.
    CompleteError200,
    /// If-Match and If-None-Match are not looked at.
    IgnoreConditions,
    /// Half of what the client sends is taken, then the connection is cut.
    CutUpload,
    /// The answer is half of itself and says so: only who knows how long it should be finds out.
    ShortBody,
    /// The answer says another ETag than the object has.
    WrongEtag,
    /// The effect happens and the answer is 412, as if somebody on the way had sent the request twice.
    OwnCondition,
    /// The body stands still this long in its middle: what is sent, else the answer.
    StallMid(Duration),
    /// Bodies flow at so many bytes a second in both directions.
    Slow(u64),
}

/// Which of the calls that match a rule fail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// All.
    Always,
    /// The first so many.
    First(u64),
    /// Only this one, counted from 1.
    Nth(u64),
    /// Each with this probability, by the seed of the faults.
    Probability(f64),
}

/// One fault and the calls that it befalls.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    when: When,
    operation: Option<Operation>,
    key_part: String,
    /// Matching calls so far.
    matched: u64,
}

impl Rule {
    /// A fault of every call.
    pub fn new(fault: Fault) -> Self {
        Self { fault, when: When::Always, operation: None, key_part: String::new(), matched: 0 }
    }

    /// Only of calls of one operation.
    pub fn of(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only of keys that contain this.
    pub fn on(mut self, key_part: &str) -> Self {
        self.key_part = key_part.into();
        self
    }

    /// Only of some of the matching calls.
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }
}

/// The rules in force; the first that fires decides.
#[derive(Debug)]
pub struct Faults(Mutex<State>);

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    random: StdRng,
    fired: u64,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { rules: Vec::new(), random: StdRng::seed_from_u64(0), fired: 0 }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule after those there are.
    pub fn add(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// Adds the rule that calls of one operation fail, always.
    pub fn always(&self, operation: Operation, fault: Fault) {
        self.add(Rule::new(fault).of(operation));
    }

    /// Adds the rule that the next call of one operation fails.
    pub fn once(&self, operation: Operation, fault: Fault) {
        self.add(Rule::new(fault).of(operation).when(When::First(1)));
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.state().rules.clear();
    }

    /// Makes the rules by probability repeatable.
    pub fn seed(&self, seed: u64) {
        self.state().random = StdRng::seed_from_u64(seed);
    }

    /// How many calls have failed by a rule. A test that wants faults checks that there were some.
    pub fn fired(&self) -> u64 {
        self.state().fired
    }

    pub(super) fn pick(&self, operation: Operation, key: &str) -> Option<Fault> {
        let State { rules, random, fired } = &mut *self.state();
        for rule in rules {
            if rule.operation.is_some_and(|of| of != operation) || !key.contains(&rule.key_part) {
                continue;
            }
            rule.matched += 1;
            let fires = match rule.when {
                When::Always => true,
                When::First(count) => rule.matched <= count,
                When::Nth(nth) => rule.matched == nth,
                When::Probability(probability) => random.random_bool(probability),
            };
            if fires {
                *fired += 1;
                return Some(rule.fault);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_fires_for_what_it_names() {
        let faults = Faults::new();
        faults.add(Rule::new(Fault::DropAfter).of(Operation::Put).on("head").when(When::Nth(2)));
        let picks = [
            faults.pick(Operation::Put, "jobs/head"),
            faults.pick(Operation::Get, "jobs/head"),
            faults.pick(Operation::Put, "jobs/other"),
            faults.pick(Operation::Put, "jobs/head"),
            faults.pick(Operation::Put, "jobs/head"),
        ];
        assert_eq!(picks, [None, None, None, Some(Fault::DropAfter), None]);
        assert_eq!(faults.fired(), 1);
    }

    #[test]
    fn the_same_seed_picks_the_same_calls() {
        let picks = |seed| {
            let faults = Faults::new();
            faults.seed(seed);
            faults.add(Rule::new(Fault::SlowDown503).when(When::Probability(0.3)));
            (0..100).map(|_| faults.pick(Operation::Get, "x").is_some()).collect::<Vec<_>>()
        };
        assert_eq!(picks(7), picks(7));
        assert_ne!(picks(7), picks(8));
        let fired = picks(7).into_iter().filter(|fired| *fired).count();
        assert!((10..60).contains(&fired), "{fired} of 100");
    }
}
