//! A worker's `Join` stream: what it says goes to its job, what the job says comes back.

use std::{pin::Pin, sync::Arc};

use forebay_proto::{reason::Refused, v1};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};
use v1::{ErrorReason as Reason, join_request::Message};

use crate::coordinator::Coordinator;

/// Messages that may wait for a worker before it is cut off.
const QUEUE: usize = 256;

pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<v1::JoinResponse, Status>> + Send>>;

pub(super) async fn join(
    coordinator: Arc<Coordinator>,
    mut requests: Streaming<v1::JoinRequest>,
) -> Result<Response<Answers>, Status> {
    let Some(Message::Hello(hello)) = requests.message().await?.and_then(|first| first.message) else {
        return Err(Refused::new(Reason::FieldMissing, "the first message of a join is a hello").into());
    };
    let (to_worker, answers) = mpsc::channel(QUEUE);
    let worker = coordinator.join(hello, to_worker).await?;
    tokio::spawn(async move {
        while let Ok(Some(request)) = requests.message().await {
            if let Some(message) = request.message {
                worker.say(message).await;
            }
        }
        worker.disconnected().await;
    });
    let answers = ReceiverStream::new(answers).map(|message| Ok(v1::JoinResponse { message: Some(message) }));
    Ok(Response::new(Box::pin(answers)))
}
