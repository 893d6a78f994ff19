//! A proxy on loopback through which every byte takes a while, in each direction, and no byte waits for another.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

const READ_BYTES: usize = 256 << 10;

/// The proxy. Its threads end with their connections, the one that accepts with the process.
pub struct Delay {
    address: SocketAddr,
    port: Arc<AtomicU16>,
}

impl Delay {
    /// Listens on a free port.
    pub fn new(delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let port = Arc::new(AtomicU16::new(0));
        let target = port.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client that comes too early comes again.
                let Ok(server) = TcpStream::connect(("127.0.0.1", target.load(Ordering::Relaxed))) else { continue };
                let ends = (client.try_clone(), server.try_clone());
                if let (Ok(to_client), Ok(to_server)) = ends {
                    carry(client, to_server, delay);
                    carry(server, to_client, delay);
                }
            }
        });
        Ok(Self { address, port })
    }

    /// Says where connections go.
    pub fn to(&self, port: u16) {
        self.port.store(port, Ordering::Relaxed);
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn carry(mut from: TcpStream, to: TcpStream, delay: Duration) {
    let (sender, receiver): (Sender<(Instant, Vec<u8>)>, _) = channel();
    to.set_nodelay(true).ok();
    thread::spawn(move || deliver(&receiver, to));
    thread::spawn(move || {
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + delay, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    });
}

fn deliver(receiver: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    while let Ok((due, bytes)) = receiver.recv() {
        while let Some(rest) = due.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
            thread::park_timeout(rest);
        }
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    to.shutdown(std::net::Shutdown::Both).ok();
}
