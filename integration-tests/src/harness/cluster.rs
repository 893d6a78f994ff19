//! A coordinator and servers, each a process of its own.

use super::{api::Api, eventually, forebay::Forebay, setup::Setup};

/// A coordinator and its servers `server-0`, `server-1`, ….
#[derive(Debug)]
pub struct Cluster {
    /// The coordinator.
    pub coordinator: Forebay,
    /// The servers.
    pub servers: Vec<Forebay>,
}

impl Cluster {
    /// Starts a coordinator and so many servers, and waits until all are linked.
    pub async fn start(servers: usize) -> Self {
        Self::with(servers, |setup| setup).await
    }

    /// Starts them with settings: `change` is given the setup of each process.
    pub async fn with(servers: usize, change: impl Fn(Setup) -> Setup) -> Self {
        let coordinator = change(Setup::coordinator()).start().await;
        let mut started = Vec::new();
        for index in 0..servers {
            started.push(change(Setup::server(&format!("server-{index}"), &coordinator)).start().await);
        }
        let cluster = Self { coordinator, servers: started };
        cluster.linked().await;
        cluster
    }

    /// Clients to the coordinator. Its state service is none: ask the servers for that.
    pub fn api(&self) -> Api {
        self.coordinator.api()
    }

    /// Waits until all servers are linked to the coordinator.
    pub async fn linked(&self) {
        let api = self.api();
        eventually("all servers are linked", || async {
            let listed = api.servers().await.ok()?;
            (listed.iter().filter(|server| server.connected).count() == self.servers.len()).then_some(())
        })
        .await;
    }
}
