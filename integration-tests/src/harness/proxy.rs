//! A TCP proxy that breaks connections, on loopback.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// What happens to bytes and connections.
#[derive(Debug, Clone, Copy)]
struct Rules {
    target: SocketAddr,
    requests: bool,
    answers: bool,
    accepts: bool,
    delay: Duration,
    /// Connections of an earlier one are cut.
    cuts: u64,
}

/// A proxy to one address. Dropping it cuts all its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    rules: watch::Sender<Rules>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy on a free port to a port of 127.0.0.1. Everything passes at first.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let all = Rules { target, requests: true, answers: true, accepts: true, delay: Duration::ZERO, cuts: 0 };
        let (rules, seen) = watch::channel(all);
        Self { address, rules, accepting: tokio::spawn(accept(listener, seen)) }
    }

    /// Where it listens, such as `http://127.0.0.1:7400`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts all connections now; what is on its way in either direction is lost. New ones are accepted.
    pub fn cut(&self) {
        self.rules.send_modify(|rules| rules.cuts += 1);
    }

    /// From now on requests pass and answers are held back. With [`Proxy::cut`] afterwards, a connection
    /// is cut after the request and before the answer.
    pub fn hold_answers(&self) {
        self.rules.send_modify(|rules| rules.answers = false);
    }

    /// From now on requests are held back, and answers pass.
    pub fn hold_requests(&self) {
        self.rules.send_modify(|rules| rules.requests = false);
    }

    /// From now on nothing passes, as if the cable were pulled.
    pub fn stall(&self) {
        self.rules.send_modify(|rules| (rules.requests, rules.answers) = (false, false));
    }

    /// From now on new connections are cut at once.
    pub fn refuse(&self) {
        self.rules.send_modify(|rules| rules.accepts = false);
    }

    /// From now on everything comes this much later, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.rules.send_modify(|rules| rules.delay = delay);
    }

    /// From now on everything passes again, what was held back first.
    pub fn pass(&self) {
        self.rules.send_modify(|rules| {
            *rules = Rules { requests: true, answers: true, accepts: true, delay: Duration::ZERO, ..*rules }
        });
    }

    /// New connections go to another port of 127.0.0.1.
    pub fn retarget(&self, port: u16) {
        self.rules.send_modify(|rules| rules.target.set_port(port));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort(); // and with it the connections, which it owns
    }
}

async fn accept(listener: TcpListener, rules: watch::Receiver<Rules>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                if rules.borrow().accepts {
                    connections.spawn(connection(client, rules.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(client: TcpStream, mut rules: watch::Receiver<Rules>) {
    let (target, cuts) = {
        let now = rules.borrow();
        (now.target, now.cuts)
    };
    let Ok(server) = TcpStream::connect(target).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).ok();
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let requests = pump(from_client, to_server, rules.clone(), |rules| rules.requests);
    let answers = pump(from_server, to_client, rules.clone(), |rules| rules.answers);
    // When either direction has ended, or the connection is cut, both sockets are closed.
    tokio::select! {
        () = requests => {}
        () = answers => {}
        _ = rules.wait_for(|rules| rules.cuts > cuts) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut rules: watch::Receiver<Rules>,
    passes: fn(&Rules) -> bool,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        let delay = rules.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if rules.wait_for(passes).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
