//! `ElectionService`, and the side of it that calls: a coordinator that stands by tells the leader so.

use std::{sync::Arc, time::Duration};

use forebay_proto::v1;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};
use tracing::{debug, warn};
use v1::{election_service_client::ElectionServiceClient, election_service_server::ElectionService};

use crate::coordinator::office::Office;

/// Serves those that stand by.
#[derive(Debug)]
pub(super) struct ElectionEdge {
    office: Arc<Office>,
}

impl ElectionEdge {
    pub(super) fn new(office: Arc<Office>) -> Self {
        Self { office }
    }
}

#[tonic::async_trait]
impl ElectionService for ElectionEdge {
    async fn stand_by(&self, request: Request<v1::StandByRequest>) -> Result<Response<v1::StandByResponse>, Status> {
        Ok(Response::new(self.office.stands_by(&request.into_inner())?))
    }
}

/// Tells whoever leads that this coordinator stands by, while it does; until `stop` is cancelled.
pub async fn keep_standing_by(office: Arc<Office>, stop: CancellationToken) {
    let mut known: Option<(String, ElectionServiceClient<Channel>)> = None;
    let pause = office.pause();
    loop {
        if let Some((address, request)) = office.stand_by() {
            let same = known.take().filter(|(of, _)| *of == address);
            let client = same.map_or_else(|| client(&address, pause), |(_, client)| Ok(client));
            match client {
                Ok(mut client) => {
                    tell(&office, &mut client, &address, request, pause * 2).await;
                    known = Some((address, client));
                }
                Err(error) => warn!(address, %error, "the leader has no address that can be called"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn tell(
    office: &Office,
    client: &mut ElectionServiceClient<Channel>,
    address: &str,
    request: v1::StandByRequest,
    patience: Duration,
) {
    let epoch = request.epoch;
    match timeout(patience, client.stand_by(request)).await {
        Ok(Ok(answer)) => office.answered(epoch, answer.get_ref()),
        Ok(Err(status)) if status.code() == tonic::Code::Unavailable => {
            debug!(address, message = status.message(), "the leader does not hear this coordinator");
        }
        Ok(Err(status)) => warn!(address, message = status.message(), "the leader refuses this coordinator"),
        Err(_) => debug!(address, "the leader does not answer"),
    }
}

fn client(address: &str, patience: Duration) -> Result<ElectionServiceClient<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(address.to_owned())?.connect_timeout(patience).tcp_nodelay(true);
    Ok(ElectionServiceClient::new(endpoint.connect_lazy()))
}
