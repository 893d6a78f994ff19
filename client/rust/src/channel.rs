//! Channels: one HTTP/2 connection per address, made on first use and made again when it breaks.

use std::time::Duration;

use dashmap::DashMap;
use forebay_proto::v1::ErrorReason;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};

/// The largest message that is taken from a server.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The connections of a client.
#[derive(Debug, Default)]
pub(crate) struct Channels(DashMap<String, Channel>);

impl Channels {
    /// Returns the connection to an address; it is made when it is first used.
    pub(crate) fn get(&self, address: &str) -> Result<Channel> {
        if let Some(channel) = self.0.get(address) {
            return Ok(channel.clone());
        }
        let channel = endpoint(address)?.connect_lazy();
        Ok(self.0.entry(address.to_owned()).or_insert(channel).clone())
    }
}

fn endpoint(address: &str) -> Result<Endpoint> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url).map_err(|error| {
        let message =
            format!("address {address:?}: {error} (such as http://127.0.0.1:7400 or unix:///run/forebay.sock)");
        Error::call(ErrorReason::FieldInvalid, message)
    })?;
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(3))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .buffer_size(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_scheme() {
        let channels = Channels::default();
        assert!(channels.get("127.0.0.1:7400").is_ok() && channels.get("http://localhost:7400").is_ok());
        assert!(matches!(channels.get("no address"), Err(Error::Call(_))));
    }
}
