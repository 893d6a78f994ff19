//! Coordinators and servers, each a process of its own.

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
        self.api().linked(self.servers.len()).await;
    }
}

/// Two coordinators, `c0` and `c1`, of which the first leads at first, and servers that know both.
#[derive(Debug)]
pub struct Pair {
    /// The coordinators.
    pub coordinators: [Forebay; 2],
    /// The servers.
    pub servers: Vec<Forebay>,
}

impl Pair {
    /// Starts them with settings: `change` is given the setup of each process, and its name.
    pub async fn with(servers: usize, change: impl Fn(&str, Setup) -> Setup) -> Self {
        let first = change("c0", Setup::coordinator().set("server.name", "c0")).start().await;
        let second = change("c1", Setup::standby("c1", &first)).start().await;
        let coordinators = [first, second];
        let addresses = addresses(&coordinators);
        let mut started = Vec::new();
        for index in 0..servers {
            let name = format!("server-{index}");
            let setup = Setup::server(&name, &coordinators[0]).set("server.coordinators", &addresses);
            started.push(change(&name, setup).start().await);
        }
        let pair = Self { coordinators, servers: started };
        pair.standing_by("c1", 0).await;
        pair.linked(0).await;
        pair
    }

    /// The addresses of both, separated by a comma.
    pub fn addresses(&self) -> String {
        addresses(&self.coordinators)
    }

    /// Waits until one of them leads, and returns which, with its status.
    pub async fn leader(&self) -> (usize, forebay_proto::v1::GetStatusResponse) {
        eventually("one coordinator leads", || async {
            for (index, coordinator) in self.coordinators.iter().enumerate() {
                // One that stands still does not answer.
                let asked = coordinator.api();
                let status = tokio::time::timeout(std::time::Duration::from_millis(200), asked.status()).await;
                if let Ok(Ok(status)) = status {
                    return Some((index, status));
                }
            }
            None
        })
        .await
    }

    /// Waits until the leader has taken in a coordinator of that name, which may follow it then.
    pub async fn standing_by(&self, name: &str, leader: usize) {
        let api = self.coordinators[leader].api();
        eventually("a coordinator stands by", || async {
            let status = api.status().await.ok()?;
            status.standbys.iter().any(|standby| standby.name == name).then_some(())
        })
        .await;
    }

    /// Waits until all servers are linked to the leader.
    pub async fn linked(&self, leader: usize) {
        self.coordinators[leader].api().linked(self.servers.len()).await;
    }
}

fn addresses(coordinators: &[Forebay]) -> String {
    coordinators.iter().map(Forebay::url).collect::<Vec<_>>().join(",")
}
