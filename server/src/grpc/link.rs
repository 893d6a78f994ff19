//! `ServerLinkService`: the coordinator's side of a server's link.

use std::{pin::Pin, sync::Arc};

use forebay_proto::{reason::Refused, v1};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use v1::{ErrorReason as Reason, link_request::Message, server_link_service_server::ServerLinkService};

use crate::coordinator::office::Office;

/// Messages that may wait for a server before its link is cut.
const QUEUE: usize = 1024;

/// Serves links.
#[derive(Debug)]
pub(super) struct LinkEdge {
    office: Arc<Office>,
}

impl LinkEdge {
    pub(super) fn new(office: Arc<Office>) -> Self {
        Self { office }
    }
}

#[tonic::async_trait]
impl ServerLinkService for LinkEdge {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<v1::LinkResponse, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<v1::LinkRequest>>) -> Result<Response<Self::LinkStream>, Status> {
        let mut requests = request.into_inner();
        let Some(Message::Register(register)) = requests.message().await?.and_then(|first| first.message) else {
            return Err(Refused::new(Reason::FieldMissing, "the first message of a link is a register").into());
        };
        let (coordinator, name) = (self.office.leads()?, register.name.clone());
        let (to_server, answers) = mpsc::channel(QUEUE);
        let link = coordinator.link(register, to_server).await?;
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if let Some(message) = request.message {
                    coordinator.from_server(&name, message).await;
                }
            }
            coordinator.unlink(&name, link).await;
        });
        let answers = ReceiverStream::new(answers).map(|message| Ok(v1::LinkResponse { message: Some(message) }));
        Ok(Response::new(Box::pin(answers)))
    }
}
