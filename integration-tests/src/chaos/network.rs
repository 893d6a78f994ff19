//! What the processes of a cluster reach each other by, and how a pair of them loses each other.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::Result;
use rand::{Rng as _, rngs::StdRng};
use tokio::process::Command;

use super::{COORDINATORS, SERVERS, WORKERS};
use crate::{
    harness::{Namespace, Proxy, Setup},
    s3::S3Server,
};

/// One that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    Coordinator(usize),
    Server(usize),
    Worker(usize),
    Store,
}

/// How they reach each other.
#[derive(Debug)]
pub(super) enum Network {
    Namespaces(Namespaces),
    Loopback(Loopback),
}

/// Each has a namespace and an address of its own, and any pair can lose each other.
#[derive(Debug)]
pub(super) struct Namespaces {
    hosts: Vec<(Host, Arc<Namespace>)>,
    /// Who does not hear whom.
    lost: Vec<[Arc<Namespace>; 2]>,
}

/// All are on loopback, behind proxies: whoever is lost is lost to all of a kind.
#[derive(Debug)]
pub(super) struct Loopback {
    /// Workers to a server.
    streams: Vec<Proxy>,
    /// Servers to a coordinator.
    links: Vec<Proxy>,
    /// Workers to a coordinator.
    joins: Vec<Proxy>,
    /// One coordinator to the other.
    peers: Vec<Proxy>,
    /// A coordinator to the object store.
    stores: Vec<Proxy>,
}

impl Network {
    /// Namespaces on the calling thread's bridge.
    pub(super) fn of_namespaces() -> Result<Self> {
        let coordinators = (0..COORDINATORS).map(Host::Coordinator);
        let all = coordinators.chain((0..SERVERS).map(Host::Server)).chain((0..WORKERS).map(Host::Worker));
        let numbered = (2..).zip(all.chain([Host::Store]));
        let hosts = numbered.map(|(number, host)| Ok((host, Arc::new(Namespace::host(number)?))));
        Ok(Self::Namespaces(Namespaces { hosts: hosts.collect::<Result<_>>()?, lost: Vec::new() }))
    }

    /// Proxies on loopback, to nowhere until it is known where.
    pub(super) async fn of_proxies() -> Self {
        Self::Loopback(Loopback {
            streams: proxies(SERVERS).await,
            links: proxies(COORDINATORS).await,
            joins: proxies(COORDINATORS).await,
            peers: proxies(COORDINATORS).await,
            stores: proxies(COORDINATORS).await,
        })
    }

    /// Starts the object store.
    pub(super) async fn store(&self, bucket: &str) -> Result<S3Server> {
        let store = match self {
            Self::Namespaces(namespaces) => S3Server::start_on(namespaces.at(Host::Store).listen()?, bucket)?,
            Self::Loopback(_) => S3Server::start(bucket).await?,
        };
        self.is_at(Host::Store, store.address());
        Ok(store)
    }

    /// Says where a process is and whom it reaches.
    pub(super) fn place(&self, host: Host, setup: Setup) -> Setup {
        let setup = match host {
            Host::Server(_) => setup.set("server.coordinators", &self.coordinators(host)),
            _ => setup,
        };
        match (self, host) {
            (Self::Namespaces(namespaces), _) => setup.on(namespaces.at(host)),
            (Self::Loopback(to), Host::Coordinator(index)) => {
                let setup = setup.set("checkpoint.s3.endpoint", &to.stores[index].url());
                setup.set("server.advertise", &to.peers[index].url())
            }
            (Self::Loopback(to), Host::Server(index)) => setup.set("server.advertise", &to.streams[index].url()),
            (Self::Loopback(_), Host::Worker(_) | Host::Store) => setup,
        }
    }

    /// A command for a process of this host.
    pub(super) fn command(&self, host: Host, program: &Path) -> Command {
        match self {
            Self::Namespaces(namespaces) => namespaces.at(host).command(program).into(),
            Self::Loopback(_) => Command::new(program),
        }
    }

    /// The coordinators, as a host reaches them.
    pub(super) fn coordinators(&self, host: Host) -> String {
        let urls: Vec<_> = match (self, host) {
            (Self::Namespaces(namespaces), _) => {
                let at = |index| namespaces.at(Host::Coordinator(index)).address();
                (0..COORDINATORS).map(|index| format!("http://{}", at(index))).collect()
            }
            (Self::Loopback(to), Host::Server(_)) => to.links.iter().map(Proxy::url).collect(),
            (Self::Loopback(to), _) => to.joins.iter().map(Proxy::url).collect(),
        };
        urls.join(",")
    }

    /// Says where a host listens, once it does.
    pub(super) fn is_at(&self, host: Host, address: SocketAddr) {
        let Self::Loopback(to) = self else { return };
        let proxies: Vec<_> = match host {
            Host::Coordinator(index) => vec![&to.links[index], &to.joins[index], &to.peers[index]],
            Host::Server(index) => vec![&to.streams[index]],
            Host::Worker(_) => Vec::new(),
            Host::Store => to.stores.iter().collect(),
        };
        proxies.iter().for_each(|proxy| proxy.retarget(address.port()));
    }

    /// Lets a pair lose each other, in one direction or in both, and tells whom.
    pub(super) fn part(&mut self, one_way: bool, rng: &mut StdRng) -> Result<String> {
        match self {
            Self::Namespaces(namespaces) => namespaces.part(one_way, rng),
            Self::Loopback(proxies) => Ok(proxies.part(one_way, rng)),
        }
    }

    /// Everything arrives again.
    pub(super) fn heal(&mut self) -> Result<()> {
        match self {
            Self::Namespaces(namespaces) => {
                for [deaf, other] in namespaces.lost.drain(..) {
                    deaf.hear(&other)?;
                }
            }
            Self::Loopback(Loopback { streams, links, joins, peers, stores }) => {
                [streams, links, joins, peers, stores].into_iter().flatten().for_each(|proxy| proxy.pass());
            }
        }
        Ok(())
    }
}

impl Namespaces {
    fn at(&self, host: Host) -> &Arc<Namespace> {
        let found = self.hosts.iter().find(|(known, _)| *known == host);
        &found.expect("every host has a namespace").1
    }

    fn part(&mut self, one_way: bool, rng: &mut StdRng) -> Result<String> {
        let coordinator = Host::Coordinator(rng.random_range(0..COORDINATORS));
        let server = Host::Server(rng.random_range(0..SERVERS));
        let worker = Host::Worker(rng.random_range(0..WORKERS));
        // All pairs that speak, each kind as often as any other.
        let (one, other) = match rng.random_range(0..6) {
            0 => (worker, server),
            1 => (worker, coordinator),
            2 => (server, coordinator),
            3 => (Host::Coordinator(0), Host::Coordinator(1)),
            4 => (coordinator, Host::Store),
            _ => (server, Host::Store),
        };
        let (deaf, other) = if rng.random_bool(0.5) { (one, other) } else { (other, one) };
        let mut lose = |deaf, other| {
            let [deaf, other] = [deaf, other].map(|host| self.at(host).clone());
            deaf.lose(&other)?;
            self.lost.push([deaf, other]);
            anyhow::Ok(())
        };
        lose(deaf, other)?;
        if one_way {
            return Ok(format!("{deaf:?} heard nothing of {other:?}"));
        }
        lose(other, deaf)?;
        Ok(format!("{deaf:?} and {other:?} lost each other"))
    }
}

impl Loopback {
    fn part(&self, one_way: bool, rng: &mut StdRng) -> String {
        let (one, server) = (rng.random_range(0..COORDINATORS), rng.random_range(0..SERVERS));
        let (way, proxy) = match rng.random_range(0..5) {
            0 => (format!("workers to server {server}"), &self.streams[server]),
            1 => (format!("servers to coordinator {one}"), &self.links[one]),
            2 => (format!("workers to coordinator {one}"), &self.joins[one]),
            3 => (format!("the other one to coordinator {one}"), &self.peers[one]),
            _ => (format!("coordinator {one} to the store"), &self.stores[one]),
        };
        let how = match (one_way, rng.random_bool(0.5)) {
            (true, true) => {
                proxy.hold_requests();
                "without requests"
            }
            (true, false) => {
                proxy.hold_answers();
                "without answers"
            }
            (false, true) => {
                proxy.stall();
                "silent"
            }
            (false, false) => {
                proxy.refuse();
                proxy.cut();
                "cut"
            }
        };
        format!("{way}: {how}")
    }
}

async fn proxies(count: usize) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for _ in 0..count {
        proxies.push(Proxy::to(0).await);
    }
    proxies
}
