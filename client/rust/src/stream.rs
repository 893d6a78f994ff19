//! One bidirectional stream to one server, for one job and generation.
//!
//! A [`Stream`] carries the lanes of its client: it greets, hands out channel numbers, brings answers to the
//! lanes they are for, and bounds the bytes in flight by the server's credit. When it breaks it tells every
//! lane and is done; lanes look for a new one in [`Streams`].

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use forebay_proto::{
    reason::Refused,
    v1::{
        self, ErrorReason, stream_request::Message as Request, stream_response::Message as Response,
        stream_service_client::StreamServiceClient,
    },
};
use tokio::{
    sync::{OnceCell, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Streaming;

use crate::{
    channel::{Channels, MESSAGE_BYTES_MAX},
    lane::channel_of,
    shard_lane::Cell,
};

const PROTOCOL_VERSION: u32 = 1;
const GREETING_MAX: Duration = Duration::from_secs(10);
/// Messages on their way to the socket. Credit bounds batches long before; this bounds the rest.
const OUTGOING_MAX: usize = 1 << 18;
const CREDIT_DEFAULT: usize = 16 << 20;

/// A stream that stands, or did.
#[derive(Debug)]
pub(crate) struct Stream {
    shared: Arc<Shared>,
    _reader: AbortOnDropHandle<()>,
}

/// What the lanes of a stream share with its reader.
#[derive(Debug)]
pub(crate) struct Shared {
    welcome: v1::Welcome,
    outgoing: mpsc::Sender<v1::StreamRequest>,
    /// Bytes that may still be put in flight.
    pub(crate) credit: Semaphore,
    credit_bytes: usize,
    lanes: DashMap<u32, Arc<Cell>>,
    next_channel: AtomicU32,
    /// Set once the stream is broken.
    broken: OnceLock<Refused>,
}

impl Shared {
    /// Adds a lane and returns its number on this stream.
    pub(crate) fn register(&self, cell: &Arc<Cell>) -> u32 {
        let channel = self.next_channel.fetch_add(1, Ordering::Relaxed);
        self.lanes.insert(channel, cell.clone());
        channel
    }

    /// Removes a lane.
    pub(crate) fn unregister(&self, channel: u32) {
        self.lanes.remove(&channel);
    }

    /// Puts a message on its way; false if the stream is broken.
    pub(crate) fn send(&self, message: Request) -> bool {
        self.broken.get().is_none() && self.outgoing.try_send(v1::StreamRequest { message: Some(message) }).is_ok()
    }

    /// Returns how much credit a batch takes: its bytes, but never more than there is.
    pub(crate) fn charge(&self, bytes: usize) -> u32 {
        bytes.min(self.credit_bytes) as u32
    }

    /// Returns the number of batches that a lane may have in flight.
    pub(crate) fn window(&self) -> u32 {
        self.welcome.batches_in_flight.max(1)
    }

    /// Returns why the stream is broken; `None` while it stands.
    pub(crate) fn broken(&self) -> Option<&Refused> {
        self.broken.get()
    }

    fn deliver(&self, response: Response) -> Result<(), Refused> {
        let lane = |channel: u32| self.lanes.get(&channel).map(|cell| cell.value().clone());
        match response {
            Response::Answer(answer) => {
                if let Some(cell) = lane(channel_of(answer.id)) {
                    cell.answered(answer);
                }
            }
            Response::LaneOpened(opened) => {
                if let Some(cell) = lane(opened.channel) {
                    cell.opened(&opened);
                }
            }
            Response::Refusal(refusal) => {
                let channel = if refusal.id == 0 { refusal.channel } else { channel_of(refusal.id) };
                if channel == 0 {
                    return Err(Refused::from_refusal(&refusal));
                }
                if let Some(cell) = lane(channel) {
                    cell.refused(&refusal);
                }
            }
            Response::Welcome(_) => {}
        }
        Ok(())
    }

    async fn read(self: Arc<Self>, mut inbound: Streaming<v1::StreamResponse>) {
        let reason = loop {
            let response = match inbound.message().await {
                Ok(Some(response)) => response,
                Ok(None) => break closed("the server has closed the stream"),
                Err(status) => break Refused::from_status(&status),
            };
            if let Some(Err(refused)) = response.message.map(|message| self.deliver(message)) {
                break refused;
            }
        };
        tracing::debug!(reason = reason.reason.name(), message = reason.message, "stream ended");
        let _ = self.broken.set(reason.clone());
        let cells: Vec<_> = self.lanes.iter().map(|entry| (*entry.key(), entry.value().clone())).collect();
        self.lanes.clear();
        for (channel, cell) in cells {
            cell.stream_broken(channel, &reason);
        }
    }
}

fn closed(message: &str) -> Refused {
    Refused::new(ErrorReason::Draining, message)
}

/// The streams of one client for one job and generation: one per server.
#[derive(Debug)]
pub(crate) struct Streams {
    channels: Arc<Channels>,
    hello: v1::Hello,
    slots: Mutex<HashMap<String, Arc<OnceCell<Stream>>>>,
}

impl Streams {
    pub(crate) fn new(channels: Arc<Channels>, client_id: &str, job: &str, job_uid: &str, generation: u64) -> Self {
        let hello = v1::Hello {
            client_id: client_id.into(),
            job: job.into(),
            job_uid: job_uid.into(),
            generation,
            protocol_version: PROTOCOL_VERSION,
            features: Vec::new(),
        };
        Self { channels, hello, slots: Mutex::default() }
    }

    /// Returns the stream to a server, made anew if it is broken.
    pub(crate) async fn get(&self, address: &str) -> Result<Arc<Shared>, Refused> {
        let slot = {
            let mut slots = self.slots.lock().expect("no panic while locked");
            let slot = slots.entry(address.to_owned()).or_default();
            if slot.get().is_some_and(|stream| stream.shared.broken().is_some()) {
                *slot = Arc::default();
            }
            slot.clone()
        };
        // Those who come meanwhile wait for the same attempt.
        let stream = slot.get_or_try_init(|| self.connect(address)).await?;
        Ok(stream.shared.clone())
    }

    async fn connect(&self, address: &str) -> Result<Stream, Refused> {
        let channel = self.channels.get(address).map_err(|error| closed(&error.to_string()))?;
        let mut client = StreamServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
        let hello = v1::StreamRequest { message: Some(Request::Hello(self.hello.clone())) };
        outgoing.try_send(hello).map_err(|_| closed("the stream is closed"))?;
        let greet = async {
            let mut inbound = client.stream(ReceiverStream::new(messages)).await?.into_inner();
            let first = inbound.message().await?;
            Ok::<_, tonic::Status>((inbound, first))
        };
        let (inbound, first) = match timeout(GREETING_MAX, greet).await {
            Ok(greeted) => greeted.map_err(|status| Refused::from_status(&status))?,
            Err(_) => return Err(closed(&format!("no welcome from {address} within {GREETING_MAX:?}"))),
        };
        let welcome = match first.and_then(|response| response.message) {
            Some(Response::Welcome(welcome)) => welcome,
            Some(Response::Refusal(refusal)) => return Err(Refused::from_refusal(&refusal)),
            _ => return Err(closed(&format!("{address} did not answer with a welcome (is it a Forebay server?)"))),
        };
        let credit_bytes = match usize::try_from(welcome.credit_bytes) {
            Ok(0) => CREDIT_DEFAULT,
            Ok(bytes) => bytes.min(u32::MAX as usize),
            Err(_) => u32::MAX as usize,
        };
        let shared = Arc::new(Shared {
            welcome,
            outgoing,
            credit: Semaphore::new(credit_bytes),
            credit_bytes,
            lanes: DashMap::new(),
            next_channel: AtomicU32::new(1),
            broken: OnceLock::new(),
        });
        let reader = AbortOnDropHandle::new(tokio::spawn(shared.clone().read(inbound)));
        Ok(Stream { shared, _reader: reader })
    }
}
