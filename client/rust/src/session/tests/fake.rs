//! A server of one shard that keeps rows in a map, and tells what it was sent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use forebay_proto::{
    packed::{AnswersBuilder, Op, Ops},
    packed_list,
    reason::Refused,
    v1::{
        self, OpKind, stream_request::Message as Request, stream_response::Message as Response,
        stream_service_server::StreamService,
    },
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

/// The shard's clock.
pub(super) const CLOCK_MS: i64 = 1_000_000;

type Rows = BTreeMap<Vec<u8>, (Vec<u8>, Option<i64>)>;

#[derive(Debug, Default)]
struct Shard {
    rows: Rows,
    appends: u64,
    applied: u64,
    /// Kinds of operations, and watermarks, by batch.
    log: Vec<String>,
    /// Reads whose answers fit into one message; 0 is all.
    reads_max: usize,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Fake(Arc<Mutex<Shard>>);

impl Fake {
    /// Refuses batches of more reads, as a server does whose values are large.
    pub(super) fn refuse_reads_over(&self, reads_max: usize) {
        self.0.lock().unwrap().reads_max = reads_max;
    }

    /// What was sent since this was last asked.
    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().log)
    }
}

#[tonic::async_trait]
impl StreamService for Fake {
    type StreamStream = UnboundedReceiverStream<Result<v1::StreamResponse, Status>>;

    async fn stream(
        &self,
        request: tonic::Request<Streaming<v1::StreamRequest>>,
    ) -> Result<tonic::Response<Self::StreamStream>, Status> {
        let (answers, stream) = tokio::sync::mpsc::unbounded_channel();
        let (mut requests, shard) = (request.into_inner(), self.0.clone());
        tokio::spawn(async move {
            while let Ok(Some(v1::StreamRequest { message: Some(message) })) = requests.message().await {
                let answer = shard.lock().unwrap().answer(message);
                if let Some(message) = answer
                    && answers.send(Ok(v1::StreamResponse { message: Some(message) })).is_err()
                {
                    return;
                }
            }
        });
        Ok(tonic::Response::new(UnboundedReceiverStream::new(stream)))
    }
}

impl Shard {
    fn progress(&self) -> Option<v1::Progress> {
        Some(v1::Progress { applied: self.applied, clock_ms: CLOCK_MS, incarnation: 1, ..v1::Progress::default() })
    }

    fn answer(&mut self, message: Request) -> Option<Response> {
        Some(match message {
            Request::Hello(_) => Response::Welcome(v1::Welcome { batches_in_flight: 8, ..v1::Welcome::default() }),
            Request::OpenLane(open) => Response::LaneOpened(v1::LaneOpened {
                channel: open.channel,
                lane: vec![7; 16].into(),
                incarnation: 1,
                progress: self.progress(),
                ..v1::LaneOpened::default()
            }),
            Request::Batch(batch) => {
                if let Some(v1::batch::Order::Seq(seq)) = batch.order {
                    assert_eq!(seq, self.applied + 1);
                    self.applied = seq;
                }
                let packed = batch.ops.unwrap_or_default();
                if self.reads_max > 0 && packed.kinds.len() > self.reads_max {
                    let refused = Refused::new(v1::ErrorReason::BatchTooMany, "too much for one answer");
                    return Some(Response::Refusal(refused.to_refusal(batch.id, batch.channel)));
                }
                let mut answers = AnswersBuilder::new();
                let mut line = Vec::new();
                for op in &Ops::decode(&packed).unwrap() {
                    line.push(format!("{:?}", op.kind));
                    self.apply(&op, &mut answers);
                }
                line.extend(batch.watermark_ms.map(|watermark_ms| format!("watermark {watermark_ms}")));
                self.log.push(line.join(" "));
                let (answers, progress) = (Some(answers.finish()), self.progress());
                Response::Answer(v1::BatchAnswer { id: batch.id, answers, progress, duplicate: false })
            }
            Request::CloseLane(_) => return None,
        })
    }

    fn apply(&mut self, op: &Op<'_>, answers: &mut AnswersBuilder) {
        let row = prefix(op, op.namespace);
        let entry = [&row[..], op.map_key].concat();
        let stored = |value: &[u8]| (value.to_vec(), op.expires_at_ms);
        if op.kind.is_write() {
            answers.none();
        }
        match op.kind {
            OpKind::ValuePut | OpKind::MapPut | OpKind::SortedSetAdd => {
                self.rows.insert(entry, stored(op.value));
            }
            OpKind::ValueClear | OpKind::MapRemove | OpKind::SortedSetRemove => drop(self.rows.remove(&entry)),
            OpKind::ListAppend | OpKind::AggregatingAdd => self.append(&row, stored(op.value)),
            OpKind::ListAppendAll => packed_list::iter(op.value).for_each(|it| self.append(&row, stored(it))),
            OpKind::MapClearRange => {
                let end = [&row[..], op.value].concat();
                self.rows.retain(|key, _| *key < entry || *key >= end);
            }
            OpKind::MergeNamespaces => {
                for source in packed_list::iter(op.value) {
                    let source = prefix(op, source);
                    let moved: Rows = self.rows.extract_if(.., |key, _| key.starts_with(&source)).collect();
                    moved.into_values().for_each(|value| self.append(&row, value));
                }
            }
            OpKind::Touch => {
                let touched = self.rows.iter_mut().filter(|(key, _)| key.starts_with(&entry));
                touched.for_each(|(_, value)| value.1 = op.expires_at_ms);
            }
            OpKind::ValueGet | OpKind::MapGet => match self.rows.get(&entry) {
                Some((value, deadline_ms)) => answers.value(value, None, *deadline_ms),
                None => answers.absent(),
            },
            OpKind::AggregatingGet => {
                let count = self.rows.keys().filter(|key| key.starts_with(&row)).count();
                // Some f64; what matters is whether there is one.
                answers.items(std::iter::repeat_n([0xc0; 8], count.min(1)));
            }
            _ => self.page(op, &row, &entry, answers),
        }
    }

    fn append(&mut self, row: &[u8], value: (Vec<u8>, Option<i64>)) {
        self.appends += 1;
        self.rows.insert([row, &self.appends.to_be_bytes()].concat(), value);
    }

    fn page(&self, op: &Op<'_>, row: &[u8], entry: &[u8], answers: &mut AnswersBuilder) {
        let list = op.kind == OpKind::ListGet;
        let start = if list && !op.value.is_empty() { [row, op.value, &[0]].concat() } else { entry.to_vec() };
        let end = (!list && !op.value.is_empty()).then(|| [row, op.value].concat());
        let inside = |key: &Vec<u8>| key.starts_with(row) && end.as_ref().is_none_or(|end| key < end);
        answers.begin_items();
        for (count, (key, (value, _))) in self.rows.range(start..).take_while(|(key, _)| inside(key)).enumerate() {
            if op.limit != 0 && count == op.limit as usize {
                return answers.more();
            }
            if !list {
                answers.push_item(&key[row.len()..]);
            }
            if matches!(op.kind, OpKind::ListGet | OpKind::MapEntries) {
                answers.push_item(value);
            }
            if list {
                answers.last_number(u64::from_be_bytes(key[row.len()..].try_into().unwrap()));
            }
        }
    }
}

fn prefix(op: &Op<'_>, namespace: &[u8]) -> Vec<u8> {
    let group = op.key_group.unwrap_or(u16::MAX).to_be_bytes();
    let lengths = [op.key.len() as u8, namespace.len() as u8];
    [&[op.state_id as u8][..], &group, &lengths, op.key, namespace].concat()
}
