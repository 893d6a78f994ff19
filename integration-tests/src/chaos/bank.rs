//! The bank: whoever orders pays. A payment reads and writes two accounts, so what is counted twice, left out or taken
//! back by half changes what all accounts hold together, which is nothing at the beginning.
//!
//! Under `recovery: shard` both accounts are of the order's own partition: what a record does to a shard may depend on
//! that shard alone. Under `recovery: job` the other account is of any shard that the worker holds at the time, so half
//! of a payment is in another shard, mostly on another server. Who is paid may then change when the record is processed
//! again; that he is paid once does not.

use std::collections::HashSet;

use forebay_proto::{
    codec::{Codec as _, I64},
    v1,
};

use crate::{
    harness::Api,
    orders::{CUSTOMERS, JOB, Log, PARTITIONS, customer, rows},
};

/// Where payments go.
#[derive(Debug)]
pub enum Payments {
    /// To customers of the order's own partition.
    Within,
    /// To customers of these partitions.
    Across(Vec<u32>),
}

/// What an order pays.
#[derive(Debug, PartialEq, Eq)]
pub struct Payment {
    /// Its number; no other has it.
    pub number: u64,
    /// How much.
    pub amount: i64,
    /// The partition of the one who is paid.
    pub to_group: u32,
    /// Who is paid.
    pub to: String,
}

impl Payments {
    /// The payment for the order on a line of a partition.
    pub fn of(&self, group: u32, line: u64) -> Payment {
        let to_group = match self {
            Self::Within => group,
            Self::Across(groups) => groups[(line % groups.len() as u64) as usize],
        };
        let (number, amount) = (number(group, line), amount(line));
        Payment { number, amount, to_group, to: format!("customer-{}", line * 3 % CUSTOMERS) }
    }
}

fn number(group: u32, line: u64) -> u64 {
    u64::from(group) << 40 | line
}

fn amount(line: u64) -> i64 {
    (line % 1_000).cast_signed()
}

/// Checks that every order was paid once, and that each account holds what came in and not what went out.
pub(super) async fn check(log: &Log, servers: &[Api]) -> Result<(), String> {
    let account = |group: u32, customer: u64| (u64::from(group) * CUSTOMERS + customer) as usize;
    let mut expected = vec![0; account(PARTITIONS, 0)];
    let mut open = HashSet::new();
    for group in 0..PARTITIONS {
        for line in 1..=log.lines() {
            expected[account(group, line % CUSTOMERS)] -= amount(line);
            open.insert(number(group, line));
        }
    }
    for row in rows(servers, "received").await {
        let number = row.value.as_ref().and_then(|value| value.raw[..].try_into().ok()).map(u64::from_be_bytes);
        let number = number.ok_or("a payment without a number")?;
        if !open.remove(&number) {
            return Err(format!("payment {number:#x} came in twice, or nobody made it"));
        }
        expected[account(row.key_group, customer(&row)?)] += amount(number & ((1 << 40) - 1));
    }
    if let Some(number) = open.iter().next() {
        return Err(format!("{} payments did not come in, such as {number:#x}", open.len()));
    }
    let mut held = vec![0; expected.len()];
    for row in rows(servers, "balances").await {
        let balance = row.value.as_ref().and_then(|value| I64::decode(&value.raw).ok());
        held[account(row.key_group, customer(&row)?)] += balance.ok_or("an account without a number")?;
    }
    let total: i64 = held.iter().sum();
    if total != 0 {
        return Err(format!("all accounts together hold {total}, and held nothing at first"));
    }
    match held.iter().zip(&expected).position(|(held, expected)| held != expected) {
        Some(at) => Err(format!("account {at} holds {}, paid in and out is {}", held[at], expected[at])),
        None => Ok(()),
    }
}

/// Compares what all accounts held together at two completed checkpoints, and returns the difference; `None` if they could
/// not be compared just then: one was collected, or a shard was on its way.
pub(super) async fn gained(job: &v1::JobInfo, checkpoints: [u64; 2], servers: &[Api]) -> Option<i64> {
    let mut compared = 0;
    let mut gained = 0;
    let shards = job.shards.iter().filter_map(|shard| shard.entry.as_ref());
    let places: Vec<_> = shards.map(|entry| (entry.start, entry.end, &entry.server)).collect();
    for (index, server) in servers.iter().enumerate() {
        for (start, end, _) in places.iter().filter(|(.., name)| **name == format!("s{index}")) {
            let [from, to] = checkpoints;
            let request = v1::DiffCheckpointsRequest {
                job: JOB.into(),
                from,
                to,
                operator: "count".into(),
                state: "balances".into(),
                start: *start,
                end: *end,
                notation: v1::Notation::Text.into(),
                limit: 0,
            };
            let mut answers = server.debug().diff_checkpoints(request).await.ok()?.into_inner();
            while let Some(answer) = answers.message().await.ok()? {
                for difference in answer.differences {
                    let held = |entry: Option<v1::ShownEntry>| {
                        entry.map_or(Some(0), |entry| entry.value?.text.parse::<i64>().ok())
                    };
                    gained += held(difference.after)? - held(difference.before)?;
                }
            }
            compared += 1;
        }
    }
    (compared == PARTITIONS).then_some(gained)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payments_stay_within_a_partition_or_go_to_those_that_are_held() {
        let payment = Payments::Within.of(5, 8);
        assert_eq!(payment, Payment { number: 5 << 40 | 8, amount: 8, to_group: 5, to: "customer-3".into() });
        let held = Payments::Across(vec![2, 5]);
        assert_eq!([8, 9].map(|line| held.of(5, line).to_group), [2, 5]);
    }
}
