//! The server's side of its link: dials the coordinator, keeps the lease, takes up desired states and
//! sends reports.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use forebay_proto::v1;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tracing::{info, warn};
use v1::{
    link_request::Message as Up, link_response::Message as Down, server_link_service_client::ServerLinkServiceClient,
};

use crate::{lease::boot_ms, shard::Shards};

/// Messages that may wait for the coordinator.
const QUEUE: usize = 1024;
/// Pause between two tries to reach the coordinator.
const PAUSE: Duration = Duration::from_millis(250);
/// How long one is waited for that may stand still, before the next is tried.
const PATIENCE: Duration = Duration::from_secs(3);
/// Heartbeats whose sending times are remembered.
const HEARTBEATS: usize = 64;

/// Keeps the link until `stop` is cancelled.
pub async fn keep_link(
    coordinators: Vec<String>,
    register: v1::Register,
    shards: Shards,
    mut reports: mpsc::UnboundedReceiver<v1::LinkRequest>,
    stop: CancellationToken,
) {
    for address in coordinators.iter().cycle() {
        let linked = link(address, &register, &shards, &mut reports);
        tokio::select! {
            () = stop.cancelled() => return,
            ended = linked => match ended {
                Ok(()) => info!(address, "the link to the coordinator has ended"),
                Err(status) => warn!(address, status = status.message(), "no link to the coordinator"),
            },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn link(
    address: &str,
    register: &v1::Register,
    shards: &Shards,
    reports: &mut mpsc::UnboundedReceiver<v1::LinkRequest>,
) -> Result<(), tonic::Status> {
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| invalid(address, &error))?;
    let channel = endpoint.connect_timeout(PATIENCE).tcp_nodelay(true).connect().await;
    let channel = channel.map_err(|error| tonic::Status::unavailable(format!("{address}: {error}")))?;
    let (to_coordinator, outgoing) = mpsc::channel(QUEUE);
    let sent = boot_ms();
    send(&to_coordinator, Up::Register(register.clone())).await;
    let mut client = ServerLinkServiceClient::new(channel).max_decoding_message_size(super::MESSAGE_BYTES_MAX);
    let silent = |_| tonic::Status::deadline_exceeded(format!("no answer within {PATIENCE:?}"));
    let linked = timeout(PATIENCE, client.link(ReceiverStream::new(outgoing))).await.map_err(silent)?;
    let mut incoming = linked?.into_inner();
    let mut link = Link {
        shards: shards.clone(),
        to_coordinator,
        sent: VecDeque::from([(0, sent)]),
        sequence: 0,
        lease_ms: PATIENCE.as_millis() as i64,
        appliers: HashMap::new(),
    };
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            message = incoming.message() => match message? {
                Some(message) => {
                    if link.take(message, &mut beat).await {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            },
            report = reports.recv() => match report {
                Some(report) => drop(link.to_coordinator.send(report).await),
                None => return Ok(()),
            },
            _ = beat.tick() => link.heartbeat().await?,
        }
    }
}

struct Link {
    shards: Shards,
    to_coordinator: mpsc::Sender<v1::LinkRequest>,
    sent: VecDeque<(u64, i64)>,
    sequence: u64,
    lease_ms: i64,
    appliers: HashMap<String, mpsc::UnboundedSender<(v1::JobAssignment, u64)>>,
}

impl Link {
    /// Takes a message. True if the link is to be made anew: the lease had run out, and only then does the
    /// coordinator say again what this server holds.
    async fn take(&mut self, message: v1::LinkResponse, beat: &mut tokio::time::Interval) -> bool {
        match message.message {
            Some(Down::Lease(lease)) => {
                let sent = self.sent.iter().find(|(sequence, _)| *sequence == lease.sequence);
                if let Some((sequence, sent)) = sent.copied() {
                    self.lease_ms = lease.lease_ms.cast_signed();
                    let lapsed = self.shards.environment().lease.renew(sent, lease.lease_ms);
                    let fifth = Duration::from_millis((lease.lease_ms / 5).max(10));
                    if beat.period() != fifth {
                        *beat = tokio::time::interval(fifth);
                    }
                    self.sent.retain(|(known, _)| *known > sequence);
                    return lapsed && sequence > 0;
                }
            }
            Some(Down::Job(wanted)) => self.apply(wanted),
            Some(Down::Snapshot(command)) => self.shards.freeze(command).await,
            Some(Down::Prepare(prepare)) => self.shards.prepare(prepare),
            Some(Down::Flush(wanted)) => self.shards.begin_flush(&wanted).await,
            Some(Down::Started(started)) => self.shards.round_started(started),
            Some(Down::Ended(ended)) => self.shards.round_ended(ended).await,
            Some(Down::Refused(refused)) => warn!(message = refused.message, "the coordinator refuses this server"),
            None => {}
        }
        false
    }

    /// One task per job takes up desired states in their order; a restore may take long and must not
    /// hold up the lease.
    fn apply(&mut self, wanted: v1::JobAssignment) {
        let lapses = self.shards.environment().lease.lapses();
        let applier = self.appliers.entry(wanted.job_uid.clone()).or_insert_with(|| {
            let (sender, mut queue) = mpsc::unbounded_channel::<(v1::JobAssignment, u64)>();
            let (shards, to_coordinator) = (self.shards.clone(), self.to_coordinator.clone());
            tokio::spawn(async move {
                while let Some(mut newest) = queue.recv().await {
                    while let Ok(newer) = queue.try_recv() {
                        newest = newer;
                    }
                    let (wanted, lapses) = newest;
                    if let Some(applied) = shards.apply(wanted, lapses).await {
                        send(&to_coordinator, Up::Applied(applied)).await;
                    }
                }
            });
            sender
        });
        // An error means that the task has panicked; the link is then made anew by the lease running out.
        applier.send((wanted, lapses)).ok();
    }

    /// Sends a heartbeat. An error if those before it are not answered: whoever leads by then is elsewhere, and a quarter
    /// of the lease is left to find it.
    async fn heartbeat(&mut self) -> Result<(), tonic::Status> {
        if self.sent.front().is_some_and(|(_, sent)| boot_ms() - sent > self.lease_ms * 3 / 4) {
            return Err(tonic::Status::deadline_exceeded("heartbeats are not answered"));
        }
        self.sequence += 1;
        self.sent.push_back((self.sequence, boot_ms()));
        if self.sent.len() > HEARTBEATS {
            self.sent.pop_front();
        }
        let bytes = self.shards.views().iter().map(|view| (view.uid.clone(), view.bytes())).collect();
        send(&self.to_coordinator, Up::Heartbeat(v1::ServerHeartbeat { sequence: self.sequence, bytes })).await;
        Ok(())
    }
}

async fn send(to_coordinator: &mpsc::Sender<v1::LinkRequest>, message: Up) {
    // An error means that the link has ended; the next one starts with a registration.
    to_coordinator.send(v1::LinkRequest { message: Some(message) }).await.ok();
}

fn invalid(address: &str, error: &dyn std::fmt::Display) -> tonic::Status {
    tonic::Status::invalid_argument(format!("{address:?} is not an address: {error}"))
}
