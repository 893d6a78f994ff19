//! Unary calls: one operation each, many callers over one connection.

use std::{cell::RefCell, time::Instant};

use anyhow::{Context as _, Result};
use forebay_client::{
    Client,
    v1::{self, GetRequest, GetResponse, PutRequest, state_service_client::StateServiceClient},
};
use forebay_integration_tests::{
    bench::{
        data::{Data, Random},
        lanes::STATE,
    },
    harness::{address, raw},
};
use futures::future::try_join_all;
use tonic::transport::Channel;

use crate::{
    load::Load,
    plan::{CALLERS, Op},
};

/// Returns calls per second.
pub async fn measure(client: &Client, job: &str, op: Op, load: &mut Load<'_>) -> Result<f64> {
    let (data, duration, share) = (load.data, load.duration, load.data.len() / CALLERS as u32);
    let service = client.state_service(&place(job, data, 0)).await?;
    let ledger = RefCell::new(load.books.of(op));
    let started = Instant::now();
    let callers = (0..CALLERS as u32).map(|caller| {
        let (mut random, ledger, mut service) = (Random::new(load.random.draw()), &ledger, service.clone());
        async move {
            let mut calls = 0_u64;
            while started.elapsed() < duration {
                // Each writes keys of its own, so that the last write of a key is known.
                let index = random.below(share) * CALLERS as u32 + caller;
                let address = Some(place(job, data, index));
                if op == Op::Get {
                    let found = service.get(GetRequest { address, ..Default::default() }).await?.into_inner();
                    data.check(index, value(&found))?;
                } else {
                    let stamp = ledger.borrow_mut().write(index);
                    let values = vec![raw(data.value(index, stamp))];
                    service.put(PutRequest { address, values, ..Default::default() }).await?;
                }
                calls += 1;
            }
            anyhow::Ok(calls)
        }
    });
    let calls: u64 = try_join_all(callers).await?.into_iter().sum();
    let rate = calls as f64 / started.elapsed().as_secs_f64();
    let ledger = ledger.into_inner();
    for (index, _) in ledger.sample() {
        let found = get(service.clone(), place(job, data, index)).await?;
        ledger.check(data, index, value(&found))?;
    }
    Ok(rate)
}

async fn get(mut service: StateServiceClient<Channel>, address: v1::Address) -> Result<GetResponse> {
    let request = GetRequest { address: Some(address), ..Default::default() };
    Ok(service.get(request).await.context("a sample cannot be read")?.into_inner())
}

fn place(job: &str, data: &Data, index: u32) -> v1::Address {
    address(job, "op", STATE, data.key(index))
}

fn value(found: &GetResponse) -> Option<&[u8]> {
    found.items.first().map(|item| &item.raw[..])
}
